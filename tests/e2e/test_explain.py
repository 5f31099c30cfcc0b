"""explain KEY: the verdict is the truth about one key, with history and without, and values stay private."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from reconcile.config.load import load
from reconcile.core.changes import name_of
from reconcile.inspect import explain
from reconcile.inspect.explain import explain_one
from reconcile.stop import Stop
from tests.support.command import Command
from tests.support.redis_servers import RedisServer
from tests.support.sources import Source


def explained(command: Command, key: str, *arguments: str) -> dict[str, Any]:
    return command("explain", key, *arguments).report


def verdict(command: Command, key: str) -> str:
    """In this process, for the sake of speed: many are asked for."""
    command.write_config()
    settings = load(str(command.config_path), {})
    return str(explain_one(settings, key, None, Stop()).to_dict(show_values=False)["verdict"])


@pytest.mark.parametrize("history", [True, False], ids=["history", "no history"])
def test_verdicts(command: Command, source: Source, redis_server: RedisServer, history: bool) -> None:
    """Lag, eviction, an edit and an extra key are told apart, whether the checkpoint can be read back or not."""
    with redis_server.client() as client:
        source.put(same="1", moved="1", left="1", lost="1", edited="1", null=None)
        assert verdict(command, "same") == "not synchronised"
        if history:
            source.retain_history()
        command("snapshot")
        source.put(moved="2", new="1")
        source.execute("DELETE FROM t WHERE key = 'left'")
        client.delete("p:lost")
        client.set("p:edited", "x")
        client.set("p:extra", "x", ex=1000)
        if not history:
            source.await_oblivion()
        found = explained(command, "same")
        assert found["source_at_checkpoint_readable"] is history
        assert found["verdict"] == "in sync"
        for key in ("moved", "new", "left"):
            assert verdict(command, key) == "lags", key
        assert verdict(command, "lost") == "missing"
        assert verdict(command, "edited") == "changed outside"
        assert verdict(command, "null") == "not in view"
        assert verdict(command, "nothing") == "not in view"
        extra = explained(command, "p:extra")
        assert extra["verdict"] == "extra"
        assert 0 < extra["redis"]["ttl_ms"] <= 1_000_000
        command("snapshot", "--deep")
        for key in ("same", "moved", "new", "lost", "edited"):
            assert verdict(command, key) == "in sync", key


def test_where_the_bucket_stands(command: Command, source: Source, redis_server: RedisServer) -> None:
    """The manifest agrees with whichever side was left alone."""
    source.retain_history()
    source.put(a="1")
    command("snapshot")
    both = explained(command, "a")
    assert (both["manifest_agrees_with_source"], both["manifest_agrees_with_redis"]) == (True, True)
    with redis_server.client() as client:
        client.set("p:a", "x")
    edited = explained(command, "a")
    assert (edited["manifest_agrees_with_source"], edited["manifest_agrees_with_redis"]) == (True, False)
    assert 0 <= edited["bucket"] < 16


def test_values_are_shown_on_demand_only(command: Command, source: Source) -> None:
    """By default a value is its length and digest."""
    source.put(a="secret")
    command("snapshot")
    plain = command("explain", "a")
    assert "secret" not in plain.out + plain.err
    assert plain.report["redis"]["content"] == plain.report["source_now"]
    assert plain.report["redis"]["content"]["bytes"] == 6
    assert explained(command, "a", "--show-values")["redis"]["content"]["value"] == "secret"


def test_prefix_may_be_part_of_the_key(command: Command, source: Source) -> None:
    """A row whose key begins with the prefix is found under either name."""
    source.put(**{"a": "1", "p:b": "2"})
    command("snapshot")
    assert explained(command, "p:a")["key"] == explained(command, "a")["key"] == "p:a"
    assert explained(command, "p:b")["key"] == explained(command, "p:p:b")["key"] == "p:p:b"


def test_another_type_and_odd_keys(command: Command, source: Source, redis_server: RedisServer) -> None:
    """A hash under a name of ours is named as such; quotes, newlines and other scripts are just keys."""
    odd = ["it's", 'say "hi"', "two\nlines", "Schlüssel", "a b"]
    source.put(**dict.fromkeys([*odd, "typed"], "1"))
    command("snapshot")
    for key in odd:
        assert verdict(command, key) == "in sync", key
    with redis_server.client() as client:
        client.delete("p:typed")
        client.hset("p:typed", "field", "1")
    found = explained(command, "typed")
    assert (found["verdict"], found["redis"]["type"]) == ("changed outside", "hash")
    with redis_server.client() as client:
        client.rpush("p:stray", "1")
    found = explained(command, "stray")
    assert (found["verdict"], found["manifest_agrees_with_redis"]) == ("extra", False)


def test_bytes_that_no_shell_can_pass(command: Command, source: Source) -> None:
    """Given as reports or as redis-cli show them, with or without the prefix."""
    source.execute("CREATE TABLE b (key bytea, value text)")
    source.execute(r"INSERT INTO b VALUES ('\x00ff', '1')")
    command.config["materialize"]["sql"] = f"SELECT key, value FROM {source.schema}.b"
    command("snapshot")
    for shown in (name_of(b"p:\x00\xff"), r"p:\x00\xff", r"\x00\xff"):
        assert explained(command, shown)["verdict"] == "in sync", shown


def test_several_rows_for_the_key(command: Command, source: Source) -> None:
    """There is no one value to explain: the same error as a run's."""
    source.execute("INSERT INTO t VALUES ('twice', '1'), ('twice', '2')")
    assert "p:twice" in command("explain", "twice", expect=5).report["error"]["message"]


def test_several_views(command: Command, source: Source) -> None:
    """The prefix tells the view; where it does not, --view must."""
    source.put(a="1")
    command.config["materialize"].pop("sql")
    command.config["redis"].pop("key_prefix")
    command.config["views"] = [
        {"name": "one", "sql": source.sql, "key_prefix": "x"},
        {"name": "two", "sql": source.sql, "key_prefix": "y"},
    ]
    command("snapshot")
    assert explained(command, "y:a")["view"] == "two"
    assert "--view" in command("explain", "a", expect=2).report["error"]["hint"]
    assert explained(command, "a", "--view", "one")["key"] == "x:a"
    assert "no view is named" in command("explain", "a", "--view", "three", expect=2).report["error"]["message"]


def test_keys_without_prefix_that_are_not_ours(command: Command, source: Source, redis_server: RedisServer) -> None:
    """Without a prefix the keys we wrote are remembered; any other is somebody else's."""
    command.config["redis"].pop("key_prefix")
    source.put(a="1")
    command("snapshot")
    with redis_server.client() as client:
        client.set("theirs", "1")
    assert verdict(command, "a") == "in sync"
    assert verdict(command, "theirs") == "not ours"


def test_a_row_that_changed_beside_one_that_expired(command: Command, source: Source) -> None:
    """Redis is not as the last run left it, and yet nobody else has changed it: the key lags."""
    source.execute("CREATE TABLE w (key text, value text, until timestamptz)")
    source.execute("INSERT INTO w SELECT 'k' || n, 'v', now() + interval '2 seconds' FROM generate_series(1, 200) AS n")
    source.execute("INSERT INTO w VALUES ('a', '1', NULL), ('b', '1', NULL)")
    command.config["materialize"].pop("sql")
    command.config["redis"].pop("key_prefix")
    sql = f"SELECT key, value, until FROM {source.schema}.w"
    command.config["views"] = [{"name": "w", "sql": sql, "expires_at": "until", "key_prefix": "p", "buckets": 16}]
    command("run")
    source.execute("UPDATE w SET value = '2' WHERE key = 'a'")
    source.execute("DELETE FROM w WHERE key = 'b' OR key LIKE 'k%'")
    source.execute("INSERT INTO w VALUES ('c', '1', NULL)")
    time.sleep(2.5)
    source.await_oblivion("w")
    assert [verdict(command, key) for key in ("a", "b", "c")] == ["lags"] * 3


def test_layouts_and_expiry(command: Command, source: Source, redis_server: RedisServer) -> None:
    """Hashes by their columns, rows whose time has passed, and what the layout cannot read."""
    source.execute("CREATE TABLE w (id int, name text, price int, until timestamp)")
    source.execute(
        "INSERT INTO w VALUES (1, 'a', 2, NULL), (2, NULL, 3, '2030-01-01 00:00'), (3, 'x', 1, '2020-01-01 00:00')"
    )
    command.config["materialize"].pop("sql")
    command.config["redis"].pop("key_prefix")
    view = {"name": "w", "relation": f"{source.schema}.w", "key": "id", "value": ["name", "price"], "layout": "hash"}
    command.config["views"] = [view | {"expires_at": "until", "key_prefix": "w"}]
    command("run")
    found = explained(command, "w:2", "--show-values")
    assert found["verdict"] == "in sync"
    assert found["redis"]["content"]["value"] == [None, "3"]
    assert found["redis"]["content"]["expires_at"] == "2030-01-01T00:00:00.000Z"
    assert found["hint"] is None
    command("verify", "--fast")
    gone = explained(command, "w:3")
    assert (gone["verdict"], gone["manifest_agrees_with_redis"]) == ("expired", True)
    with redis_server.client() as client:
        client.hset("w:1", "name", "other")
        client.set("w:stray", "1")
        client.persist("w:2")
    assert verdict(command, "w:1") == "changed outside"
    assert verdict(command, "w:2") == "changed outside"
    assert verdict(command, "w:stray") == "extra"


@pytest.mark.parametrize("expires", [False, True], ids=["", "expiring"])
def test_hashes_of_every_column(command: Command, source: Source, redis_server: RedisServer, expires: bool) -> None:
    """Columns that only the source names are read all the same."""
    source.execute('CREATE TABLE w (id int, "na\'m""e %s" text, price int, until timestamp)')
    source.execute("INSERT INTO w VALUES (1, 'a', 2, '2030-01-01 00:00'), (2, NULL, 3, NULL)")
    command.config["materialize"].pop("sql")
    command.config["redis"].pop("key_prefix")
    view = {"name": "w", "relation": f"{source.schema}.w", "key": "id", "value": "*", "layout": "hash"}
    command.config["views"] = [view | {"key_prefix": "w"} | ({"expires_at": "until"} if expires else {})]
    command("run")
    assert [verdict(command, key) for key in ("w:1", "w:2")] == ["in sync"] * 2
    with redis_server.client() as client:
        client.hset("w:2", "price", "4")
    assert [verdict(command, key) for key in ("w:1", "w:2")] == ["in sync", "changed outside"]


def test_who_and_when(
    command: Command, source: Source, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose claim has the key, when a run last wrote, and whether anybody came by since, however slow the source is."""
    source.put(a="1", b="2")
    command("snapshot")
    really = explain.open_reading
    monkeypatch.setattr(explain, "open_reading", lambda *given: [time.sleep(2.5), really(*given)][1])
    settings = load(str(command.config_path), {})
    untouched = explain_one(settings, "a", None, Stop()).to_dict(show_values=False)
    assert (untouched["claim"], untouched["touched_since_commit"]) == ("default", False)
    with redis_server.client() as client:
        client.set("p:b", "edited")
        client.hset("reconcile:{claims}", "other", f"prefix {b'p:b'.hex()} ")
    touched = explained(command, "b")
    assert touched["touched_since_commit"] is True
    assert touched["last_commit_ms"] <= untouched["last_commit_ms"]
    assert touched["claim"] == "other"
    assert "other" in touched["hint"]


@pytest.mark.parametrize("history", [True, False], ids=["history", "no history"])
def test_between_two_times(command: Command, source: Source, redis_server: RedisServer, history: bool) -> None:
    """What a run wrote before it was killed nobody else wrote, and what it did not come to is not lost."""
    if history:
        source.retain_history()
    source.put(written="1", left="1", same="1")
    command("snapshot")
    source.execute("UPDATE t SET value = '2' WHERE key <> 'same'")
    if not history:
        source.await_oblivion()
    with redis_server.client() as client:
        client.set("p:written", "2")
        for kind in ("delta", "snapshot"):
            pending = json.dumps({"kind": kind, "until": time.time_ns() // 1_000_000, "clean": True})
            client.hset("reconcile:{default}:state", "pending", pending)
            assert [verdict(command, key) for key in ("written", "same")] == ["in sync"] * 2
            found = explained(command, "left")
            assert (found["verdict"], "cut short" in found["why"]) == ("lags", True), found
            assert found["source_at_checkpoint_readable"] is history
        source.execute("UPDATE t SET value = '3' WHERE key = 'written'")
        assert verdict(command, "written") == "lags"


@pytest.mark.parametrize("history", [True, False], ids=["history", "no history"])
def test_while_deletes_are_withheld(command: Command, source: Source, redis_server: RedisServer, history: bool) -> None:
    """Redis is newer than the checkpoint, and keeps keys that the view lacks: neither is anybody else's work."""
    if history:
        source.retain_history()
    source.execute("INSERT INTO t SELECT 'k' || n, '1' FROM generate_series(1, 40) AS n")
    command("snapshot")
    source.execute("DELETE FROM t WHERE key NOT IN ('k1', 'k2')")
    source.put(new="1", k1="2")
    command("run", expect=5)
    if not history:
        source.await_oblivion()
    for key in ("new", "k1", "k2"):
        assert verdict(command, key) == "in sync", key
    found = explained(command, "k7")
    assert (found["verdict"], "withheld" in found["why"], "--allow-deletes" in found["hint"]) == ("lags", True, True)
    with redis_server.client() as client:
        client.set("p:k7", "edited")
    assert verdict(command, "k7") == "extra"
