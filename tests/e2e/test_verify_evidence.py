"""What verify knows beside the drift: Redis' counters, whose the surplus is, keys with several rows in the source."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import PROGRAM, Command
from tests.support.redis_servers import RedisServer, evict, start_redis
from tests.support.sources import Source


def audit(command: Command, *arguments: str, expect: int) -> dict[str, Any]:
    found: dict[str, Any] = command("verify", *arguments, expect=expect).view["audit"]
    return found


def printed(command: Command, *arguments: str) -> str:
    """As a person reads it."""
    words = [PROGRAM, "verify", *arguments, "--config", str(command.config_path)]
    return subprocess.run(words, capture_output=True, text=True, cwd=command.directory).stdout


@pytest.mark.parametrize("how", ["--fast", "--deep"])
def test_keys_of_a_slice(command: Command, source: Source, how: str) -> None:
    """The report counts the keys that were compared, not all of the view."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 100) AS n")
    command("snapshot")
    counts = [command("verify", how, "--subset", f"{i}/4").view["keys"] for i in range(4)]
    assert (sum(counts), max(counts) < 100) == (100, True)


def test_evicted_since_a_run_last_looked(command: Command, source: Source, tmp_path: Path) -> None:
    """Evictions and expiries are counted from the last run's look on; a restart says when, and begins anew."""
    source.execute("INSERT INTO t SELECT 'k' || n, repeat('v', 100) FROM generate_series(1, 3000) AS n")
    with start_redis(tmp_path, "--save", "3600 1000000") as server, server.client() as client:
        command.config["redis"]["url"] = server.url
        before_ms = time.time_ns() // 1_000_000
        command("run")
        assert audit(command, expect=0)["counters"] == {
            "since_ms": pytest.approx(before_ms, abs=60_000),
            "restarted_ms": None,
            "evicted": 0,
            "expired": 0,
            "policy": "noeviction",
        }
        client.set("p:k1", "x", px=1)
        time.sleep(0.1)
        client.get("p:k1")
        kept = {key: client.dump(key) for key in client.scan_iter("reconcile:*")}
        evicted = evict(client, "allkeys-random", 100_000)
        for key, value in kept.items():  # what a run noted may have been among the evicted keys
            client.restore(key, 0, value, replace=True)
        found = audit(command, expect=3)["counters"]
        assert (found["evicted"], found["expired"], found["policy"]) == (evicted, 1, "allkeys-random")
        assert before_ms <= found["since_ms"] <= time.time_ns() // 1_000_000
        shown = printed(command)
        assert f"evidence: Redis evicted {evicted:,} keys since 20" in shown
        assert "evidence: Redis expired 1 key since 20" in shown
        client.save()
        server.stop()
        server.start()
        restarted = audit(command, expect=3)["counters"]
        assert restarted["restarted_ms"] == restarted["since_ms"] >= found["since_ms"]
        assert restarted["evicted"] == 0
        assert "evidence: Redis restarted at 20" in printed(command)


def test_whose_the_surplus_is(command: Command, source: Source, redis_server: RedisServer, tmp_path: Path) -> None:
    """Keys that nobody explains stand under the view that claims them, or under none; in text, JSON and both pages."""
    source.put(a="1", b="2")
    command("run")
    with redis_server.client() as client:
        client.hset("reconcile:{claims}", "users", f"prefix {b'p:users:'.hex()} ")
        client.mset({f"p:users:{n}": "x" for n in range(12)})
        client.set("p:stray", "x")
    html, markdown = tmp_path / "page.html", tmp_path / "page.md"
    theirs, ours = audit(command, "--html", str(html), "--markdown", str(markdown), expect=3)["surplus"]
    assert (theirs["claim"], theirs["range"], theirs["keys"]) == ("users", "the prefix 'p:users:'", 12)
    assert len(theirs["names"]) == 10
    assert all(name.startswith("p:users:") for name in theirs["names"])
    assert ours == {"claim": None, "range": "the prefix 'p:'", "keys": 1, "names": ["p:stray"]}
    text = printed(command)
    assert "12 keys that neither source nor manifest knows; view users claims the prefix 'p:users:': p:users:" in text
    assert "claimed by no other view (this one has the prefix 'p:'): p:stray\n" in text
    for page in (html, markdown):
        told = page.read_text("utf-8").replace("\\", "")
        assert "view users claims" in told
        assert "claimed by no other view" in told


def test_keys_that_a_missed_delete_left_are_no_surplus(
    command: Command, source: Source, redis_server: RedisServer
) -> None:
    """What waits for consent is surplus; a key the manifest counts is not, whatever else is wrong with it."""
    source.retain_history()
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 50) AS n")
    with redis_server.client() as client:
        client.mset({f"p:old{n}": "x" for n in range(15)})
        command("run", expect=5)
        (surplus,) = audit(command, expect=3)["surplus"]
        assert (surplus["claim"], surplus["keys"]) == (None, 15)
        command("snapshot", "--allow-deletes")
        client.delete("p:k1")
        client.set("p:k2", "edited")
        found = command("verify", expect=3).view
        assert (found["drift"]["missing"], found["drift"]["stale"], found["drift"]["extra"]) == (1, 1, 0)
        assert found["audit"]["surplus"] == []


def test_keys_with_several_rows(command: Command, source: Source, redis_server: RedisServer) -> None:
    """They stop every run, so that their buckets lag: that is no drift, and verify says which keys they are."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 200) AS n")
    command("run")
    assert audit(command, expect=0)["duplicates"] == {"keys": 0, "names": []}
    source.execute("INSERT INTO t SELECT 'k' || n, 'w' FROM generate_series(1, 13) AS n")
    source.await_oblivion()
    command("run", expect=5)
    with redis_server.client() as client:
        client.delete("p:k100")
    found = command("verify", expect=3).view
    assert (found["drift"]["missing"], found["drift"]["stale"]) == (1, 0)
    assert found["audit"]["duplicates"]["keys"] == 13
    assert {*found["audit"]["duplicates"]["names"]} < {f"p:k{n}" for n in range(1, 14)}
    assert "13 keys have several rows in the source: p:k" in printed(command)
    assert audit(command, "--fast", expect=3)["duplicates"] is None


def test_several_rows_before_anything_was_synchronised(command: Command, source: Source) -> None:
    """All of it is missing, once; evidence says why no run will put it there."""
    source.execute("INSERT INTO t VALUES ('a', '1'), ('a', '2'), ('b', '3')")
    found = command("verify", expect=3).view
    assert found["drift"]["missing"] == 2
    assert found["audit"]["duplicates"] == {"keys": 1, "names": ["p:a"]}
    assert found["audit"]["counters"]["evicted"] is not None


def test_fast_sees_keys_that_a_view_without_prefix_lost(
    command: Command, source: Source, redis_server: RedisServer
) -> None:
    """A remembered name is not yet a key."""
    del command.config["redis"]["key_prefix"]
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 50) AS n")
    command("run")
    command("verify", "--fast")
    with redis_server.client() as client:
        client.delete("k7", "k8")
    assert command("verify", "--fast", expect=3).view["drift"]["missing"] == 2
