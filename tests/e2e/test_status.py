"""status: what Redis says of each view, as text, as a health check, as a page; with few rights, and for many views."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.command import PROGRAM, Command
from tests.support.redis_servers import RedisServer, start_redis
from tests.support.sources import Source
from tests.support.terminal import on_terminal


def status(command: Command, *arguments: str, expect: int = 0) -> dict[str, Any]:
    """The only view's."""
    (found,) = command("status", *arguments, expect=expect).report["views"]
    assert isinstance(found, dict)
    return found


def several_views(command: Command, source: Source, count: int) -> None:
    command.config["materialize"].pop("sql")
    command.config["redis"].pop("key_prefix")
    command.config["views"] = [{"name": f"view-{n}", "sql": source.sql, "key_prefix": f"v{n}"} for n in range(count)]


def test_fields(command: Command, source: Source) -> None:
    """Nothing before the first run; afterwards checkpoint, claim, no problem."""
    before = status(command)
    assert (before["as_of"], before["keys"], before["claim"]["claimed"]) == (None, None, False)
    source.put(a="1", b="2")
    command("snapshot")
    after = status(command)
    assert (after["keys"], after["surplus"], after["pending"], after["problem"]) == (2, 0, None, None)
    assert after["claim"] == {"range": "the prefix 'p:'", "claimed": True, "problem": None}
    assert 0 <= after["lag_ms"] < 60_000
    command("verify")
    assert status(command)["audit"]["verdict"] == "in sync"


def test_health_check(command: Command, source: Source) -> None:
    """Exit 3 with the reason in one line when a checkpoint is older than allowed, or there is none."""
    assert "never synchronised" in status(command, "--max-age", "5m", expect=3)["problem"]
    source.put(a="1")
    command("snapshot")
    assert status(command, "--max-age", "5m")["problem"] is None
    time.sleep(1.5)
    command.write_config()
    done = subprocess.run(
        [PROGRAM, "status", "--max-age", "1s", "--quiet", "--config", str(command.config_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    (line,) = done.stdout.splitlines()
    assert line.startswith("default: the checkpoint is ")
    assert line.endswith("the limit is 1s")


def test_a_state_that_cannot_be_read(command: Command, source: Source, redis_server: RedisServer) -> None:
    """It is that view's error and exit 5; the others are shown all the same."""
    several_views(command, source, 2)
    command("snapshot")
    with redis_server.client() as client:
        client.set("reconcile:{view-0}:state", "x")
    broken, well = command("status", expect=5).report["views"]
    assert "--reset-state" in broken["error"]["hint"]
    assert (well["error"], well["problem"]) == (None, None)


def test_claims_that_contradict(command: Command, source: Source, redis_server: RedisServer) -> None:
    """An overlap and another range than the configured one are told."""
    command("snapshot")
    with redis_server.client() as client:
        client.hset("reconcile:{claims}", "other", f"prefix {b'p'.hex()} ")
        assert "other" in status(command)["claim"]["problem"]
        client.hdel("reconcile:{claims}", "other")
    command.config["redis"]["key_prefix"] = "q"
    assert "configured the prefix 'q:'" in status(command)["claim"]["problem"]


def test_without_the_right_to_read_claims(command: Command, source: Source, tmp_path: Path) -> None:
    """Status lives without it: the claim is not known, everything else is."""
    source.put(a="1")
    with start_redis(tmp_path, "--maxmemory", "0") as server:
        command.config["redis"] = {"host": "127.0.0.1", "port": server.port, "key_prefix": "p"}
        command("snapshot")
        rules = ["on", ">secret", "resetkeys", "~reconcile:{default}:*", "+@all"]
        server.client().execute_command("ACL", "SETUSER", "looker", *rules)
        command.config["redis"] |= {"username": "looker", "password": "secret"}
        found = status(command)
        assert (found["keys"], found["claim"]["claimed"]) == (1, None)


def test_page_of_all_views(command: Command, source: Source, tmp_path: Path) -> None:
    """One file with every view, written as a whole; the exit code is still the health check's."""
    several_views(command, source, 3)
    command("snapshot")
    page = tmp_path / "status.html"
    command("status", "--html", str(page))
    assert all(f"view-{n}" in page.read_text() for n in range(3))
    command("status", "--html", str(page), "--max-age", "0s", expect=3)
    assert "too old" in page.read_text()


def test_many_views_take_few_round_trips(command: Command, source: Source, redis_server: RedisServer) -> None:
    """A hundred views over one connection."""
    several_views(command, source, 100)
    with redis_server.client() as client:
        before = client.info("stats")["total_connections_received"]
        assert len(command("status").report["views"]) == 100
        assert client.info("stats")["total_connections_received"] - before <= 2


def test_watch_is_for_terminals(command: Command) -> None:
    """Elsewhere it is a usage error rather than an endless output."""
    assert "terminal" in command("status", "--watch", expect=2).report["error"]["message"]


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo terminal")
def test_watch_on_a_terminal(command: Command, source: Source) -> None:
    """It shows the views again and again, and Ctrl-C ends it."""
    command("snapshot")
    with on_terminal("status", "--watch", config=command.config_path, stdout=True) as terminal:
        terminal.wait_for("default: ", times=2)
        assert terminal.end(signal.SIGINT)[0] == 0


def test_redis_is_down(command: Command) -> None:
    """Exit 6."""
    command.config["redis"]["url"] = "redis://127.0.0.1:1/0"
    command("status", expect=6)


def test_coverage(command: Command, source: Source) -> None:
    """When each slice was last compared, by whom, and when all will have been; nothing is compared for it."""
    source.put(a="1", b="2")
    (before,) = command("verify", "--coverage").report["views"]
    assert before["coverage"] is None
    command("snapshot")
    command("verify", "--subset", "3/4")
    command("verify", "--fast")
    (found,) = command("verify", "--coverage").report["views"]
    by = {one["slice"]: one["by"] for one in found["coverage"]["compared"]}
    assert found["coverage"]["slices"] == 4
    assert by == {0: "compare", 1: "compare", 2: "compare", 3: "verify"}
    assert found["coverage"]["all_by_ms"] > found["now_ms"]
    command("verify")
    audit = command("verify").view["audit"]
    assert [one["subset"] for one in audit["history"]] == ["0/1", "0/1", "3/4"]
    assert {one["by"] for one in audit["coverage"]["compared"]} == {"verify"}


def test_state_is_never_written(command: Command, source: Source, redis_server: RedisServer) -> None:
    """Looking changes nothing."""
    source.put(a="1")
    command("snapshot")
    with redis_server.client() as client:
        before = dump(client)
        status(command, "--max-age", "1h")
        assert dump(client) == before


def dump(client: redis.Redis) -> dict[Any, Any]:
    return {key: client.dump(key) for key in client.scan_iter()}
