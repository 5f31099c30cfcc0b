"""The cost of a run grows with what changed, not with the view: counted, not timed."""

from __future__ import annotations

import time

import pytest

from tests.support.command import Command
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import check_manifest, owned, prefixed, state
from tests.support.sources import Source

ROWS = 20_000


@pytest.fixture
def loaded(source: Source, redis_server: RedisServer, command: Command) -> Command:
    """A view of ROWS rows that Redis follows, its history forgotten."""
    source.execute(
        "INSERT INTO t SELECT 'key:' || lpad(n::text, 16, '0'), lpad(n::text, 100, 'v') "
        f"FROM generate_series(1, {ROWS}) AS n"
    )
    command("run")
    source.await_oblivion()
    return command


def bytes_read(redis_server: RedisServer) -> int:
    """What Redis has sent to clients so far."""
    return int(redis_server.client().info("stats")["total_net_output_bytes"])


def calls(redis_server: RedisServer) -> dict[str, int]:
    """How often each command was carried out so far."""
    stats = redis_server.client().info("commandstats")
    return {name.removeprefix("cmdstat_"): int(entry["calls"]) for name, entry in stats.items()}


def test_nothing_changed(source: Source, redis_server: RedisServer, loaded: Command) -> None:
    """No rows travel, no values are read from or written to Redis; a fixed handful of commands does it."""
    before = calls(redis_server)
    view = loaded("run").view
    after = calls(redis_server)
    assert view["action"] == "snapshot"
    assert (view["rows_read"], view["buckets_read"], view["puts"], view["deletes"]) == (0, 0, 0, 0)
    assert all(after.get(name, 0) == before.get(name, 0) for name in ("mget", "mset", "msetnx", "scan", "unlink"))
    assert view["redis_commands"] <= 50  # 39, and a PING for every three seconds that the source takes
    assert view["redis_round_trips"] <= 15
    assert view["source_statements"] <= 12


@pytest.mark.parametrize("changed", [1, 20])
def test_a_few_keys_changed(source: Source, redis_server: RedisServer, loaded: Command, changed: int) -> None:
    """k changed keys are written, rows of k buckets are read, and Redis sends little of the data."""
    source.execute(f"UPDATE t SET value = 'new' WHERE key <= 'key:' || lpad('{changed}', 16, '0')")
    sent = bytes_read(redis_server)
    view = loaded("run").view
    sent = bytes_read(redis_server) - sent
    assert (view["puts"], view["deletes"]) == (changed, 0)
    assert view["buckets_read"] <= changed
    assert view["rows_read"] <= changed * 160
    assert sent <= 0.1 * ROWS * 120 + 20_000
    assert owned(redis_server.client()) == prefixed(source.content())
    check_manifest(redis_server.client())


def test_buckets_follow_the_size_of_the_view(source: Source, redis_server: RedisServer, command: Command) -> None:
    """A view that grows far beyond what its buckets were chosen for gets more of them, and stays right."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 16) AS n")
    command("run")
    assert state(redis_server.client())["buckets"] == "16"
    source.execute("INSERT INTO t SELECT 'more' || n, 'v' || n FROM generate_series(1, 5000) AS n")
    source.await_oblivion()
    command("run")
    assert state(redis_server.client())["buckets"] == "128"
    check_manifest(redis_server.client())
    source.execute("DELETE FROM t WHERE key = 'more77'")
    source.execute("UPDATE t SET value = 'changed' WHERE key = 'k3'")
    source.await_oblivion()
    view = command("run").view
    assert (view["puts"], view["deletes"]) == (1, 1)
    assert view["buckets_read"] <= 2
    assert owned(redis_server.client()) == prefixed(source.content())
    command("verify")


def test_a_delta_forgets_the_fingerprints_it_touched(
    source: Source, redis_server: RedisServer, loaded: Command
) -> None:
    """Buckets a delta changed are looked at again by the next snapshot, the others are not."""
    source.retain_history()
    loaded("snapshot")
    source.execute("UPDATE t SET value = 'new' WHERE key = 'key:0000000000000007'")
    assert loaded("delta").view["puts"] == 1
    view = loaded("snapshot").view
    assert (view["puts"], view["buckets_read"]) == (0, 1)
    assert loaded("snapshot").view["buckets_read"] == 0


def test_writing_begins_before_reading_ends(source: Source, redis_server: RedisServer, command: Command) -> None:
    """The first keys are in Redis while the source is still being read."""
    source.execute("INSERT INTO t SELECT 'k' || n, lpad(n::text, 1000, 'v') FROM generate_series(1, 60000) AS n")
    client = redis_server.client()
    command.config["limits"] = {"writes_per_second": 20_000}  # three seconds, which no look misses
    process = command.start("run")
    seen = 0
    while process.poll() is None:
        if not state(client).get("as_of") and state(client).get("pending"):
            seen = max(seen, client.dbsize())
        time.sleep(0.005)
    assert process.returncode == 0
    assert seen > 100
    assert len(owned(client)) == 60_000


def test_verify_while_the_checkpoint_falls_out_of_history(
    source: Source, redis_server: RedisServer, command: Command
) -> None:
    """An audit begun just before the source forgets the checkpoint's time ends with a verdict all the same."""
    source.put(a="1", b="2")
    for tenths in (2, 5, 8, 11):
        command("run")
        time.sleep(tenths / 10)
        command("verify")
        redis_server.client().set("p:stray", "x")
        assert command("verify", expect=3).view["drift"]["extra"] == 1
        redis_server.client().delete("p:stray")
