"""Every value, key and number of updates that a view may hold."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import redis

from tests.faults.scene import Scene, check_manifest_of
from tests.support.command import PROGRAM, Command
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import check_manifest, owned, state
from tests.support.sources import Source

MAX_RSS_MB = 150
MEASURE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""
"""A small process in between: a child's peak counts from its parent's size at the fork."""
LAST_TIME = 2**64 - 1

TEXTS = [
    "", " ", "\\N", "\\\\N", "\\", "\\\\", "a\tb", "a\nb", "a\r\nb", "\b\f\v", "'", '"', "$1", "%s", "{}", "\u00e9",
    "\u2603", "\U0001f600", "\ufeff", "\u202e", "e\u0301", "\x01\x7f", "NULL", "t", "x" * 70_000,
]  # fmt: skip


def sql(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def measured(command: Command, *arguments: str, expect: int = 0) -> tuple[dict[str, Any], float]:
    """The view's report, and the peak resident memory of the process in MB."""
    command.write_config()
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, PROGRAM, *arguments, "--config", str(command.config_path), "--json"],
        capture_output=True, cwd=command.directory, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert process.returncode == expect, process.stdout
    (view,) = json.loads(process.stdout)["views"]
    return view, int(process.stderr.splitlines()[-1]) / 1024


def both_ways(statements: list[str], source: Source, redis_server: RedisServer) -> dict[bytes, bytes]:
    """Bring rows to Redis by delta, then compare with what a deep snapshot and a first load make of them."""
    scene = Scene(source, redis_server, buckets=None)
    client = redis_server.client()
    source.retain_history()
    scene.ok("run")
    for statement in statements:
        source.execute(statement)
    assert scene.ok("delta").action == "delta"
    by_delta = scene.see().data
    check_manifest_of(scene.see())
    deep = scene.ok("snapshot", deep=True)
    assert (deep.puts, deep.deletes) == (0, 0)
    scene.ok("verify")
    client.flushall()
    scene.ok("snapshot")
    assert scene.see().data == by_delta
    check_manifest_of(scene.see())
    return by_delta


def test_any_text(source: Source, redis_server: RedisServer) -> None:
    """Any text as value and as key arrives byte for byte, by load, snapshot and delta alike."""
    rows = {f"v{n}": text for n, text in enumerate(TEXTS)} | dict.fromkeys(TEXTS, "key")
    inserts = [f"INSERT INTO t VALUES ({sql(key)}, {sql(value)})" for key, value in rows.items()]
    found = both_ways(inserts, source, redis_server)
    assert found == {b"p:" + key.encode(): value.encode() for key, value in rows.items()}


def test_any_bytes(source: Source, redis_server: RedisServer) -> None:
    """bytea keys and values are stored as the bytes they are."""
    rows = {bytes([n]): bytes(range(256)) * (n % 3) + bytes([n]) for n in range(256)}
    rows |= {b"": b"\x00", b"\x00\xff" * 40_000: b"", b"\\N": b"\\x"}
    source.execute("DROP MATERIALIZED VIEW v")
    source.execute("CREATE TABLE b (key bytea, value bytea)")
    source.execute("CREATE MATERIALIZED VIEW v AS SELECT key, value FROM b")
    values = [f"('\\x{key.hex()}', '\\x{value.hex()}')" for key, value in rows.items()]
    inserts = ["INSERT INTO b VALUES " + ", ".join(values[n::7]) for n in range(7)]
    found = both_ways(inserts, source, redis_server)
    assert found == {b"p:" + key: value for key, value in rows.items()}


TYPED = {
    "boolean": ["true", "false"],
    "numeric": ["1.50", "-0.000001", "123456789012345678901234567890.5", "0"],
    "timestamptz": [
        "'2024-02-29 23:59:59.123456+02'",
        "'1999-12-31 00:00:00Z'",
        "'2024-01-01 00:00:00.5Z'",
        "'12024-02-29 23:59:59.5Z'",
        "'0044-03-15 12:00:00Z BC'",
    ],
    "timestamp": ["'2024-02-29 23:59:59.1'"],
    "date": ["'2024-02-29'", "'12024-02-29'", "'0044-03-15 BC'"],
    "uuid": ["'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'"],
    "jsonb": ["""'{"b": [1, 2.50, null], "a": "\\u00e9\\"\\\\"}'""", "'null'", "'\"text\"'"],
    "double precision": ["1.5", "'NaN'", "1e300", "0.1"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
}


@pytest.mark.parametrize("kind", TYPED)
def test_typed_columns(kind: str, source: Source, redis_server: RedisServer) -> None:
    """A column of any type has the same text by snapshot and by delta: the server's own cast to text."""
    source.execute("DROP MATERIALIZED VIEW v")
    source.execute(f"CREATE TABLE b (key text, value {kind})")
    source.execute("CREATE MATERIALIZED VIEW v AS SELECT key, value FROM b")
    inserts = [f"INSERT INTO b VALUES ('k{n}', {value})" for n, value in enumerate(TYPED[kind])]
    found = both_ways([*inserts, "INSERT INTO b VALUES ('null', NULL)"], source, redis_server)
    rows = source.execute("SELECT key, value::text FROM b WHERE value IS NOT NULL")
    assert found == {b"p:" + key.encode(): text.encode() for key, text in rows}


@pytest.mark.parametrize("kind", ["boolean", "numeric", "timestamptz", "uuid", "bigint", "date"])
def test_typed_keys(kind: str, source: Source, redis_server: RedisServer) -> None:
    """A key of any type that can be one is its text, by snapshot and by delta."""
    source.execute("DROP MATERIALIZED VIEW v")
    source.execute(f"CREATE TABLE b (key {kind}, value text)")
    source.execute("CREATE MATERIALIZED VIEW v AS SELECT key, value FROM b")
    inserts = [f"INSERT INTO b VALUES ({key}, 'v{n}')" for n, key in enumerate(TYPED[kind])]
    found = both_ways(inserts, source, redis_server)
    rows = source.execute("SELECT key::text, value FROM b")
    assert found == {b"p:" + key.encode(): text.encode() for key, text in rows}


def test_large_value(
    source: Source, redis_server: RedisServer, command: Command, request: pytest.FixtureRequest
) -> None:
    """A value of 64 MB (8 in CI) arrives whole, by load and by delta."""
    size = (64 if request.config.getoption("--soak") else 8) << 20
    source.execute(f"INSERT INTO t SELECT 'big', repeat('abcdefgh', {size // 8})")
    command("run")
    client = redis_server.client()
    assert client.get("p:big") == b"abcdefgh" * (size // 8)
    source.retain_history()
    command("run")
    source.execute(f"UPDATE t SET value = repeat('hgfedcba', {size // 8})")
    assert command("run").view["puts"] == 1
    assert client.get("p:big") == b"hgfedcba" * (size // 8)
    check_manifest(client)
    command("verify")


def test_constant_view(source: Source, redis_server: RedisServer, command: Command) -> None:
    """A view that never changes lives at the last of all times: run, delta, snapshot and verify all agree."""
    command.config["materialize"]["sql"] = "SELECT 'a' AS key, '1' AS value UNION ALL SELECT 'b', '2'"
    client = redis_server.client()
    for arguments in (["run"], ["run"], ["verify"], ["delta"], ["run", "--for", "1s"], ["delta", "--for", "1s"],
                      ["snapshot"], ["snapshot", "--deep"], ["verify", "--fast"], ["verify"]):  # fmt: skip
        command(*arguments)
        assert owned(client) == {b"p:a": b"1", b"p:b": b"2"}
        assert state(client)["as_of"] == str(LAST_TIME)
    check_manifest(client)
    client.set("p:a", "edited")
    command("verify", expect=3)
    command("snapshot", "--deep")
    command("verify")
    command.config["materialize"]["sql"] = source.sql
    source.put(c="3")
    command("run")
    assert owned(client) == {b"p:c": b"3"}
    assert int(state(client)["as_of"]) < LAST_TIME


def test_complete_view(source: Source, redis_server: RedisServer, command: Command) -> None:
    """A stored view that nothing will ever change again has times like any other, but there is nothing to follow:
    Materialize ends a subscription to it without a word."""
    source.execute("CREATE MATERIALIZED VIEW done WITH (RETAIN HISTORY FOR '1hr') AS SELECT 'a' AS key, '1' AS value")
    command.config["materialize"]["sql"] = f"SELECT key, value FROM {source.schema}.done"
    client = redis_server.client()
    times = []
    for arguments in (["run", "--for", "1s"], ["run"], ["run", "--for", "1s"], ["delta", "--for", "1s"], ["verify"]):
        command(*arguments)
        assert owned(client) == {b"p:a": b"1"}
        times.append(int(state(client)["as_of"]))
    assert times == sorted(times)
    assert times[-1] < LAST_TIME
    check_manifest(client)


@pytest.mark.parametrize("mode", ["delta", "run", "snapshot"])
def test_many_updates_at_one_time(
    mode: str, source: Source, redis_server: RedisServer, command: Command, request: pytest.FixtureRequest
) -> None:
    """A million updates at one time (60,000 in CI) are applied in bounded memory."""
    rows = 1_000_000 if request.config.getoption("--soak") else 60_000
    pad = "repeat('x', 60)"
    source.retain_history()
    source.execute("INSERT INTO t VALUES ('first', '1')")
    command("run")
    source.execute(f"INSERT INTO t SELECT 'k' || n, n::text || {pad} FROM generate_series(1, {rows}) AS n")
    client = redis_server.client()
    view, peak_mb = measured(command, mode)
    print(f"{mode}: {peak_mb:.0f} MB", view["phases_ms"], file=sys.stderr)
    assert peak_mb <= MAX_RSS_MB
    assert count(client) == rows + 1
    if mode != "snapshot":
        source.execute("UPDATE t SET value = 'y' || value")
        view, peak_mb = measured(command, mode)
        print(f"{mode}: {peak_mb:.0f} MB", view["phases_ms"], file=sys.stderr)
        assert view["puts"] == rows + 1
        assert peak_mb <= MAX_RSS_MB
    command("verify")


def count(client: redis.Redis) -> int:
    """Keys of the view, as the state says."""
    return int(state(client)["keys"])
