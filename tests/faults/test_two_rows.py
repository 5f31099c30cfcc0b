"""A key with two rows: whichever way it arrives, it is named, and the checkpoint stays."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest

from reconcile.report.run_report import ViewReport
from reconcile.runs import delta, load
from reconcile.runs.entry import execute
from reconcile.runs.request import Request
from reconcile.stop import Stop
from tests.faults.history import History, new_history
from tests.faults.rig import FOLLOWED_S, Rig
from tests.faults.scene import STATE
from tests.support.meanwhile import beside
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import state
from tests.support.sources import SourceServer

pytestmark = pytest.mark.usefixtures("small")


@pytest.mark.parametrize("block", ["same", "other"])
@pytest.mark.parametrize("mode", ["snapshot", "run", "delta", "full", "deep", "run time by time"])
@pytest.mark.parametrize("first", ["there", "new"])
def test_key_with_two_rows(
    mode: str, block: str, first: str, source_server: SourceServer, redis_process: RedisServer
) -> None:
    """Whichever way it arrives, a second row for a key stops the run with the key's name, and the checkpoint stays."""
    with new_history(source_server, redis_process) as history:
        scene = history.scene
        history.bulk(30)
        if first == "there":
            history.put("k1", "one")
        scene.ok("run")
        before = scene.see().state["as_of"]
        if mode == "full":
            scene.client.delete(STATE + "fingerprints")
        rows = ["('k1', 'two')"] if first == "there" else ["('k1', 'one')", "('k1', 'two')"]
        if block == "same":
            scene.write(f"INSERT INTO t VALUES {', '.join(rows)}")
        else:
            scene.write(*(f"INSERT INTO t VALUES {row}" for row in rows))
        report = history.run("snapshot" if mode == "full" else mode)
        assert report.exit_code == 5
        assert report.error is not None
        assert "p:k1" in report.error.message or (mode == "delta" and "a delta alone" in report.error.message)
        if mode != "run time by time":
            assert scene.see().state["as_of"] == before


@pytest.mark.parametrize("apart", [0, 2, 40])
@pytest.mark.parametrize("mode", ["run", "snapshot"])
def test_first_load_of_a_key_with_two_rows(
    mode: str, apart: int, source_server: SourceServer, redis_process: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first load notices it too, in one block of rows or far apart, and there is no checkpoint."""
    cancelled: list[object] = []
    monkeypatch.setattr(psycopg.Connection, "_try_cancel", lambda self, **_: cancelled.append(self))
    with new_history(source_server, redis_process) as history:
        scene = history.scene
        scene.write("INSERT INTO t VALUES ('k1', 'one')")
        if apart:
            history.bulk(apart)
            scene.write("INSERT INTO t SELECT 'long' || n, repeat('y', 500) FROM generate_series(1, 90) AS n")
        # Longer rows come later.
        scene.write(f"INSERT INTO t VALUES ('k1', '{'two' * (apart + 1)}')")
        report = history.run(mode)
        assert not cancelled, "a cancelled statement ends the read transaction"
        assert report.exit_code == 5
        assert report.error is not None
        assert "p:k1" in report.error.message
        assert not scene.see().state.get("as_of")
        scene.write("DELETE FROM t WHERE value LIKE 'two%'")
        scene.ok("run")
        scene.check()


@pytest.mark.parametrize("apart", [0, 100])
@pytest.mark.parametrize("live_first", [True, False])
@pytest.mark.parametrize("gone", ["'gone', '2024-01-01T00:00:00Z'", "NULL, NULL"], ids=["expired", "null"])
@pytest.mark.parametrize("other", ["'live', NULL", "NULL, NULL"], ids=["live", "null"])
def test_first_load_of_a_row_that_leaves_no_key(other: str, gone: str, live_first: bool, apart: int, rig: Rig) -> None:
    """NULL, or expired: Redis cannot show that its key has another row, and the load notices it all the same."""
    rig.source.execute("CREATE TABLE s (n int, key text, value text, until timestamptz)")
    sql = f"SELECT key, value, until FROM {rig.source.schema}.s"
    rig.view = {"sql": sql, "expires_at": "until"}
    for n, row in enumerate([other, gone] if live_first else [gone, other]):
        rig.source.execute(f"INSERT INTO s VALUES ({n}, 'x', {row})")
        rig.source.execute(f"INSERT INTO s SELECT n, 'k{n}' || n, 'v', NULL FROM generate_series(1, {apart}) AS n")
    ended = rig.run()
    assert (ended.code, "one key has several rows: p:x" in ended.told) == (5, True), ended.told
    assert not state(rig.client).get("as_of")
    rig.source.execute(f"DELETE FROM s WHERE key = 'x' AND n = {int(live_first)}")
    assert rig.run().code == 0
    assert rig.run("verify").code == 0


def test_more_rows_without_a_value_than_a_load_can_hold(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then all rows are compared, in parts."""
    monkeypatch.setattr(load, "BYTES_PER_NAME", 1 << 20)  # 48 of them
    rig.source.execute("INSERT INTO t SELECT 'k' || n, NULL FROM generate_series(1, 100) AS n")
    rig.source.execute("INSERT INTO t SELECT 'v' || n, 'x' FROM generate_series(1, 100) AS n")
    ended = rig.run()
    assert (ended.code, len(set(rig.client.scan_iter("p:*")))) == (0, 100), ended.told
    assert any("too many rows without a value to load" in warning for warning in ended.view.warnings)
    assert rig.run("verify").code == 0


@pytest.mark.parametrize("second", ["same row", "other value", "null"])
@pytest.mark.parametrize("first", ["there", "changed", "new"])
@pytest.mark.parametrize("batch", [3, 50_000])
@pytest.mark.parametrize("mode", ["snapshot", "deep"])
def test_a_key_with_two_rows_among_many(mode: str, batch: int, first: str, second: str, history: History) -> None:
    """It comes when names are not held any more, in a repair of all rows: it is named, and the checkpoint stays."""
    scene = history.scene
    key = "k77" if first != "new" else "k77x"
    value = {"same row": "'v77'" if first == "there" else "'two'", "other value": "'three'", "null": "NULL"}[second]
    if first == "changed":
        scene.write("UPDATE t SET value = 'two' WHERE key = 'k77'")
    elif first == "new":
        scene.write("INSERT INTO t VALUES ('k77x', 'two')")
    scene.write(
        "UPDATE t SET value = value || '!' WHERE key NOT LIKE 'k77%'", f"INSERT INTO t VALUES ('{key}', {value})"
    )
    before = scene.see().state["as_of"]
    scene.batch_max_keys = batch
    report = scene.execute("snapshot", deep=mode == "deep")
    assert report.exit_code == 5, report
    assert report.error is not None
    assert f"{scene.prefix.decode()}{key}" in report.error.message
    assert scene.see().state["as_of"] == before


@pytest.mark.parametrize("mode", ["run time by time", "delta time by time"])
def test_two_rows_for_a_moment_that_is_past(mode: str, history: History) -> None:
    """A later change put it right: that is no error, and no snapshot is needed, wherever the reads are cut."""
    scene = history.scene
    scene.write(
        "INSERT INTO t VALUES ('new', 'one'), ('new', 'two')",
        "UPDATE t SET value = 'meanwhile' WHERE key = 'k1'",
        "DELETE FROM t WHERE value = 'two'",
        "UPDATE t SET value = 'afterwards' WHERE key = 'k1'",
    )
    report = history.run(mode)
    assert (report.exit_code, report.action) == (0, "delta"), report.error
    scene.check()


def test_two_rows_for_a_moment_while_followed(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upstream that inserts before it deletes: the view is followed on. See also the next one."""
    monkeypatch.setattr(delta, "PATIENCE_MS", 100_000)
    report = followed_beside(
        history, "INSERT INTO t VALUES ('new', 'one'), ('new', 'two')", "DELETE FROM t WHERE value = 'two'"
    )
    assert (report.exit_code, report.action) == (0, "delta"), report.error
    history.scene.check()


def test_two_rows_while_followed(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stay: the run ends when its patience does, long before the time it was to follow."""
    monkeypatch.setattr(delta, "PATIENCE_MS", 500)
    before = history.scene.see().as_of
    began = time.monotonic()
    report = followed_beside(
        history, "INSERT INTO t VALUES ('new', 'one'), ('new', 'two')", "UPDATE t SET value = '.' WHERE key = 'k1'"
    )
    assert time.monotonic() - began < FOLLOWED_S / 2
    assert report.exit_code == 5
    assert report.error is not None
    assert "new" in report.error.message
    assert history.scene.see().as_of >= before
    assert history.scene.see().data[history.scene.prefix + b"k1"] != b".", "committed beside a key with two rows"


def followed_beside(history: History, *statements: str) -> ViewReport:
    """Follow the view; half a second after the last one each statement is carried out. Until all have come to Redis."""
    scene, stop = history.scene, Stop()

    def write(over: threading.Event) -> None:
        for statement in statements:
            time.sleep(0.5)
            scene.write(statement)
        present = scene.source.present()
        while scene.see().as_of <= present and not over.wait(0.05):
            pass
        stop.request("deadline")

    with beside(write):
        (report,) = execute(scene.settings, Request(mode="run", follow_s=FOLLOWED_S), stop).views
    return report


@pytest.mark.parametrize("layout", ["string", "hash"])
@pytest.mark.parametrize("change", ["DELETE FROM s WHERE id = 0", "UPDATE s SET value = 'closed' WHERE id = 0"])
def test_a_second_row_beside_one_that_has_expired(change: str, layout: str, rig: Rig) -> None:
    """Redis had forgotten the first row when the second came. That the first goes, or changes, takes nothing from the
    second."""
    rig.source.retain_history()
    rig.source.execute("CREATE TABLE s (id int, key text, value text, until timestamptz)")
    value: Any = ["value"] if layout == "hash" else "value"
    sql = f"SELECT key, value, until FROM {rig.source.schema}.s"
    rig.view = {"sql": sql, "expires_at": "until", "value": value, "layout": layout}
    rig.source.execute("INSERT INTO s SELECT n, 'k' || n, 'v', NULL FROM generate_series(1, 20) AS n")
    rig.source.execute("INSERT INTO s VALUES (0, 'x', 'first', '2024-01-01T00:00:00Z')")
    assert rig.run().code == 0
    rig.source.execute("INSERT INTO s VALUES (100, 'x', 'second', '2124-01-01T00:00:00Z')")
    assert rig.run().code == 0
    rig.source.execute(change)
    ended = rig.run()
    assert rig.client.exists("p:x")
    if change.startswith("DELETE"):
        assert ended.code == 0, ended.told
        assert rig.run("verify").code == 0
    else:
        assert (ended.code, "one key has several rows: p:x" in ended.told) == (5, True), ended.told


@pytest.mark.parametrize("seconds", [None, 4.0])
def test_two_rows_that_went_together(seconds: float | None, rig: Rig) -> None:
    """One had expired when the other came, and at the checkpoint there were two. Now there is none: no failure."""
    rig.source.retain_history()
    rig.source.execute("CREATE TABLE s (key text, value text, until timestamptz)")
    rig.view = {"sql": f"SELECT key, value, until FROM {rig.source.schema}.s", "expires_at": "until"}
    rig.source.execute("INSERT INTO s VALUES ('x', 'first', '2024-01-01T00:00:00Z'), ('y', 'other', NULL)")
    assert rig.run().code == 0
    rig.source.execute("INSERT INTO s VALUES ('x', 'second', '2124-01-01T00:00:00Z')")
    assert rig.run().code == 0
    rig.source.execute("DELETE FROM s WHERE key = 'x'")
    ended = rig.run("delta")
    assert (ended.code, "several rows at the checkpoint: p:x" in ended.told) == (5, True), ended.told
    ended = rig.run(follow_s=seconds)
    assert (ended.code, rig.client.exists("p:x")) == (0, 0), ended.told
    assert rig.run("verify").code == 0


def test_two_rows_in_a_range_that_was_begun(history: History) -> None:
    """A delta applied parts of it, and met the key in a later one. The range is not repeated once that is put right."""
    scene = history.scene
    scene.write("UPDATE t SET value = value || '!'", "INSERT INTO t VALUES ('k1', 'two'), ('k2', 'two')")
    report = history.run("delta in slices")
    assert report.exit_code == 5
    pending = scene.see().state["pending"]
    scene.write("DELETE FROM t WHERE value = 'two'")
    report = history.run("run")
    assert report.exit_code == 0, (report.error, pending)
    scene.check()
