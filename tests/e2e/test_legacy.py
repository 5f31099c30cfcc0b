"""A config.yaml written for mz-redis-sync works unchanged, on a Redis that tool has filled."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support.command import PROGRAM, Command
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import check_manifest, owned, state
from tests.support.sources import Source

CONFIG = """\
materialize:
  host: {host}
  port: {port}
  user: {user}
  password: {password}
  database: {database}
  sql: "{sql}"

redis:
  host: {redis_host}
  port: {redis_port}
  db: 0
  mz_timestamp_key: mz_latest_timestamp
{prefix}
logging:
  level: INFO
  format: '%(asctime)s - %(name)s - %(levelname)s - %(message)s'
  file: {log_file}
"""


@pytest.fixture
def legacy(command: Command, source: Source, redis_server: RedisServer, tmp_path: Path) -> Command:
    """The command with a configuration file as its users have it, without a prefix."""
    write_config(command, source, redis_server, tmp_path, "")
    return command


def write_config(command: Command, source: Source, redis_server: RedisServer, tmp_path: Path, prefix: str) -> None:
    """Make the command use mz-redis-sync's form of configuration."""
    parts = conninfo_to_dict(source.url)
    address = urlsplit(redis_server.url)
    text = CONFIG.format(
        host=parts["host"], port=parts["port"], user=parts["user"], password=parts.get("password", "x"),
        database=parts["dbname"], sql=source.sql, redis_host=address.hostname, redis_port=address.port,
        prefix=f'  key_prefix: "{prefix}"\n' if prefix else "", log_file=tmp_path / "old.log",
    )  # fmt: skip
    command.write_config = lambda: command.config_path.write_text(text)  # type: ignore[method-assign,assignment]


def filled_by_mz_redis_sync(redis_server: RedisServer, prefix: str = "") -> None:
    """What the old tool leaves: values, one of them stale, one of a deleted row, and its timestamp."""
    client = redis_server.client()
    client.mset({f"{prefix}a": "1", f"{prefix}b": "stale", f"{prefix}deleted": "x"})
    client.set("mz_latest_timestamp", "1700000000000")


def test_without_prefix(legacy: Command, source: Source, redis_server: RedisServer) -> None:
    """Everything the view has becomes exactly right; a key nothing proves to be ours is left and reported."""
    source.put(a="1", b="2", c="3")
    filled_by_mz_redis_sync(redis_server)
    client = redis_server.client()
    client.set("somebody-else", "keep")
    view = legacy("run").view
    assert (client.get("a"), client.get("b"), client.get("c")) == (b"1", b"2", b"3")
    assert client.get("deleted") == b"x"
    assert client.get("somebody-else") == b"keep"
    assert any("key_prefix" in warning for warning in view["warnings"])
    assert "1 key of the view already existed with other content, overwritten: b" in view["warnings"]
    assert client.get("mz_latest_timestamp") == str(view["as_of"] + 1).encode()
    source.execute("DELETE FROM t WHERE key = 'b'")
    legacy("run")
    assert client.get("b") is None
    assert client.get("somebody-else") == b"keep"
    legacy("verify")


def test_what_init_says_of_first_contact_is_so(legacy: Command, source: Source, redis_server: RedisServer) -> None:
    """Without prefix: taken over where mz-redis-sync's timestamp key is there; else asked, by the command named."""
    source.put(a="1", b="2")
    legacy.write_config()
    printed = legacy_init(legacy)
    assert "They are taken over" in printed
    assert "--adopt" not in printed
    legacy.config_path.write_text(
        legacy.config_path.read_text().replace("  mz_timestamp_key: mz_latest_timestamp\n", "")
    )
    text = legacy.config_path.read_text()
    legacy.write_config = lambda: legacy.config_path.write_text(text)  # type: ignore[method-assign,assignment]
    assert "reconcile snapshot --adopt" in legacy_init(legacy)
    filled_by_mz_redis_sync(redis_server)
    client = redis_server.client()
    assert "--adopt" in legacy("run", expect=5).view["error"]["hint"]
    assert client.get("b") == b"stale"
    adopted = legacy("snapshot", "--adopt").view
    assert client.get("b") == b"2"
    assert any("overwritten: b" in warning for warning in adopted["warnings"])
    assert not any("overwritten" in warning for warning in legacy("snapshot", "--deep").view["warnings"])


def legacy_init(command: Command) -> str:
    words = [PROGRAM, "init", "--from", str(command.config_path)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_with_prefix(command: Command, source: Source, redis_server: RedisServer, tmp_path: Path) -> None:
    """Under the prefix the leftovers of the old tool are named, and removed when somebody says so; other keys stay."""
    write_config(command, source, redis_server, tmp_path, "app:")
    source.put(a="1", b="2", c="3")
    filled_by_mz_redis_sync(redis_server, "app:")
    client = redis_server.client()
    client.set("somebody-else", "keep")
    view = command("run", expect=5).view
    error = view["error"]
    assert "app:deleted" in error["message"]
    assert any("overwritten: app:b" in warning for warning in view["warnings"])
    assert client.mget("app:a", "app:b", "app:c", "app:deleted") == [b"1", b"2", b"3", b"x"]
    again = command("run", expect=5).view["error"]["message"]
    assert "app:deleted" in again, "it is asked until somebody answers"
    command(*error["hint"].partition("reconcile ")[2].partition(";")[0].split())
    assert sorted(client.keys("app:*")) == [b"app:a", b"app:b", b"app:c"]
    assert client.get("somebody-else") == b"keep"
    check_manifest(client, b"app:", "mz_latest_timestamp")
    command("verify")
    assert (tmp_path / "old.log").exists()


@pytest.mark.parametrize("clean", [True, False])
def test_a_key_that_waits_for_consent_outlives_a_snapshot_cut_short(
    command: Command, source: Source, redis_server: RedisServer, clean: bool
) -> None:
    """What is left over after a change that began clean is the view's own, but not what was asked about before."""
    source.put(a="1", b="2")
    client = redis_server.client()
    client.set("p:theirs", "x")
    command("run", expect=5)
    pending = {"kind": "snapshot", "until": int(state(client)["as_of"]), "clean": clean}
    client.hset("reconcile:{default}:state", "pending", json.dumps(pending))
    assert "p:theirs" in command("run", expect=5).view["error"]["message"]
    assert client.get("p:theirs") == b"x"
    client.delete("p:theirs")
    command("run")
    check_manifest(client)


def test_keys_that_waited_for_consent_and_are_gone(command: Command, source: Source, redis_server: RedisServer) -> None:
    """Whoever removes them by hand needs no further command: a delta alone would say exit 5 for ever."""
    source.retain_history()
    source.put(a="1", b="2")
    client = redis_server.client()
    client.set("p:theirs", "x")
    client.set("p:other", "x")
    command("run", expect=5)
    source.put(c="3")
    error = command("run", expect=5).view["error"]
    assert "p:theirs" in error["message"]
    assert "p:other" in error["message"]
    client.delete("p:theirs")
    assert "p:theirs" not in command("run", expect=5).view["error"]["message"]
    client.delete("p:other")
    source.put(d="4")
    assert command("run").view["reason"] == "keys that waited for consent are gone"
    assert command("run").view["action"] != "snapshot"
    check_manifest(client)


def test_foreign_key_in_the_way(command: Command, source: Source, redis_server: RedisServer) -> None:
    """Without prefix, a key of someone else with other content is not overwritten unless asked."""
    del command.config["redis"]["key_prefix"]
    source.put(a="1", b="2")
    client = redis_server.client()
    client.set("a", "someone else's")
    error = command("run", expect=5).view["error"]
    assert "a" in error["message"]
    assert client.get("a") == b"someone else's"
    assert state(client).get("as_of", "") == ""
    command("snapshot", "--adopt")
    assert client.get("a") == b"1"
    command("verify")


def test_new_key_meets_a_foreign_one_later(command: Command, source: Source, redis_server: RedisServer) -> None:
    """Without prefix, an insert whose key someone else already uses is a safety stop, not an overwrite."""
    del command.config["redis"]["key_prefix"]
    source.retain_history()
    source.put(a="1")
    command("run")
    client = redis_server.client()
    client.set("b", "someone else's")
    source.put(b="2")
    command("run", expect=5)
    assert client.get("b") == b"someone else's"


def test_a_prefix_in_a_dedicated_database(command: Command, source: Source, redis_server: RedisServer) -> None:
    """It is lasting consent to delete what lies under the prefix; keys outside it are no view's, and stay."""
    command.config["redis"]["dedicated"] = True
    source.put(a="1")
    client = redis_server.client()
    strays = [f"p:stray{n}" for n in range(9)] + ["outside"]
    for key in strays:
        client.set(key, "x")
    command("run")
    assert owned(client) == {b"p:a": b"1"}
    for key in strays:
        client.lpush(key + "!", "x")
    assert command("snapshot", "--deep").view["deletes"] == 9
    assert sorted(client.scan_iter("outside*")) == [b"outside", b"outside!"]
    command("verify")


def test_dedicated_database(command: Command, source: Source, redis_server: RedisServer) -> None:
    """With `dedicated: true` whatever the view does not have is removed."""
    del command.config["redis"]["key_prefix"]
    command.config["redis"]["dedicated"] = True
    source.put(a="1")
    client = redis_server.client()
    client.set("leftover", "x")
    client.lpush("a list", "x")
    command("run")
    assert sorted(key for key in client.scan_iter() if not key.startswith(b"reconcile:")) == [b"a"]
    command("verify")
