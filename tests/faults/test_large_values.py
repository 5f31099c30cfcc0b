"""Memory is bounded in bytes, not in rows: values of a megabyte, the view's own and others' under its prefix."""

from __future__ import annotations

import pytest

from reconcile.compare import repair
from tests.faults.rig import Rig
from tests.faults.test_values import measured
from tests.support.command import Command
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import check_manifest
from tests.support.sources import Source

VALUE_BYTES = 1 << 20
MAX_RSS_MB = 120
ROWS, SOAK_ROWS = 100, 400
SMALL_ROWS = 3000
"""Rows that teach a run how large a page may be, before it meets the values of others."""


@pytest.fixture
def rows(request: pytest.FixtureRequest) -> int:
    """Their values are as large, together, as would show."""
    return SOAK_ROWS if request.config.getoption("--soak") else ROWS


def test_rows_of_a_megabyte(rows: int, source: Source, redis_server: RedisServer, command: Command) -> None:
    """Peak memory of a first load, a verify, a change and a deep snapshot that puts much back."""
    source.retain_history()
    numbers = f"generate_series(1, {rows}) AS n"
    source.execute(f"INSERT INTO t SELECT 'k' || n, n::text || repeat('x', {VALUE_BYTES}) FROM {numbers}")
    client = redis_server.client()
    peaks = {"load": measured(command, "run")[1]}
    assert client.strlen("p:k7") == VALUE_BYTES + 1
    peaks["verify"] = measured(command, "verify")[1]
    source.execute(f"UPDATE t SET value = repeat('y', {VALUE_BYTES}) || key WHERE substring(key, 2)::int % 4 = 0")
    view, peaks["change"] = measured(command, "run")  # with --soak too much for a delta
    assert view["puts"] == rows // 4
    client.delete(*[f"p:k{n}" for n in range(1, rows // 2)])
    view, peaks["repair"] = measured(command, "snapshot", "--deep")
    assert view["puts"] == rows // 2 - 1
    check_manifest(client)
    print(peaks)
    assert max(peaks.values()) <= MAX_RSS_MB, peaks


def test_lists_of_keys_in_errors_are_short(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many keys of the view are somebody else's, or have two rows: all are counted, few are held."""
    held: list[int] = []
    not_ours, duplicates = repair._not_ours, repair.duplicate_keys
    monkeypatch.setattr(repair, "MAX_NAMED", 20)
    monkeypatch.setattr(repair, "_not_ours", lambda part, view: held.append(len(part.foreign)) or not_ours(part, view))
    monkeypatch.setattr(repair, "duplicate_keys", lambda keys: held.append(len(keys)) or duplicates(keys))
    rig.view = {"key_prefix": ""}
    rig.fill(200)
    rig.client.mset({f"k{n}": "theirs" for n in range(1, 201)})
    ended = rig.run()
    assert (ended.code, "(200)" in ended.told) == (5, True), ended.told
    rig.source.execute("INSERT INTO t SELECT key, 'again' FROM t")
    ended = rig.run()
    assert (ended.code, "several rows" in ended.told) == (5, True), ended.told
    assert held == [20, 20]


def test_values_of_others_under_our_prefix(
    rows: int, source: Source, redis_server: RedisServer, command: Command
) -> None:
    """Nobody knows how large they are, nor of what type, before they are read."""
    edited = rows
    source.execute(f"INSERT INTO t SELECT 'k' || n, 'small' FROM generate_series(1, {SMALL_ROWS}) AS n")
    command("run")
    client = redis_server.client()
    for name in [f"p:k{n + 1}" for n in range(edited)] + [f"p:theirs{n}" for n in range(rows)]:
        client.set(name, b"z" * VALUE_BYTES)
    client.rpush("p:list", *[b"z" * VALUE_BYTES] * 20)
    view, peak = measured(command, "verify", expect=3)
    assert (view["drift"]["extra"], view["drift"]["stale"]) == (rows + 1, edited)
    peaks = {"verify": peak}
    peaks["verify --fast"] = measured(command, "verify", "--fast", expect=3)[1]
    view, peaks["deep"] = measured(command, "snapshot", "--deep", expect=5)
    assert (view["puts"], view["deletes_withheld"]) == (edited, rows + 1)
    view, peaks["consent"] = measured(command, "snapshot", "--allow-deletes")
    assert view["deletes"] == rows + 1
    print(peaks)
    assert max(peaks.values()) <= MAX_RSS_MB, peaks
