"""After a snapshot that was cut short: what is done is not read again, nothing is taken for done that is not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from reconcile.report.run_report import ViewReport
from reconcile.runs import scope
from reconcile.runs.entry import execute
from reconcile.runs.request import Request
from reconcile.runs.snapshot import _Snapshot
from reconcile.stop import Stop
from tests.faults.support_crash import small_pages
from tests.faults.support_scene import STATE
from tests.faults.test_histories import History, new_history
from tests.support.redis_servers import RedisServer
from tests.support.sources import SourceServer

ROWS = 120


@pytest.fixture
def history(
    source_server: SourceServer, redis_process: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[History]:
    """A view that has been loaded, and parts of about ten rows."""
    monkeypatch.setattr(scope, "PART_ROWS", 10)
    with small_pages(), new_history(source_server, redis_process) as made:
        made.scene.write(f"INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, {ROWS}) AS n")
        made.scene.ok("run")
        yield made


def cut_after(history: History, parts: int, mode: str = "snapshot", *, allow_deletes: bool = True) -> ViewReport:
    """A run with a deadline that is told to end as soon as it has stored so many parts."""
    stop, stored = Stop(600.0), [0]
    store = _Snapshot._save

    def storing(snapshot: _Snapshot, *arguments: object) -> None:
        store(snapshot, *arguments)  # type: ignore[arg-type]
        stored[0] += 1
        if stored[0] == parts:
            stop.request("deadline")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Snapshot, "_save", storing)
        request = Request(mode=mode, allow_deletes=allow_deletes)  # type: ignore[arg-type]
        (view,) = execute(history.scene.settings, request, stop).views
    history.scene.look()
    return view


def mark(history: History, *, clean: bool) -> None:
    """As if a snapshot had died before it wrote anything but its mark."""
    scene = history.scene
    pending = {"kind": "snapshot", "until": int(scene.see().state["as_of"]), "clean": clean}
    scene.client.hset(STATE + "state", "pending", json.dumps(pending))


def in_parts(history: History, mode: str) -> list[ViewReport]:
    """Runs that have time for one part each, to the end. There are fewer parts than buckets."""
    views: list[ViewReport] = []
    while not views or views[-1].exit_code == 4:
        assert len(views) <= 16, "the runs do not converge"
        views.append(cut_after(history, 1, mode))
    assert views[-1].exit_code == 0, views[-1].error
    return views


@pytest.mark.parametrize("mode", ["snapshot", "run"])
def test_runs_too_short_for_it_converge(mode: str, history: History) -> None:
    """Every run goes on where the last one stopped: each row is read about once, each key written once."""
    scene = history.scene
    scene.client.delete(STATE + "fingerprints")
    scene.write("UPDATE t SET value = 'w'")
    if mode == "run":
        scene.source.forget_history()
    views = in_parts(history, mode)
    assert len(views) > 3
    assert all(view.puts for view in views[:-1])
    assert sum(view.puts for view in views) == ROWS
    assert sum(view.rows_read for view in views) < 3 * ROWS  # a chunk more than the part that was stored, each time
    scene.check()


def test_deletes_of_all_parts_come_last(history: History) -> None:
    """Not before the guard has seen all of them; what was put by then is not put again."""
    scene = history.scene
    scene.write("DELETE FROM t WHERE key LIKE '%7'", "UPDATE t SET value = 'w'")
    cut = cut_after(history, 3)
    assert (cut.exit_code, cut.deletes) == (4, 0)
    report = scene.ok("run", allow_deletes=True)
    assert (cut.puts + report.puts, report.deletes) == (ROWS - ROWS // 10, ROWS // 10)
    scene.check()


def test_a_source_that_changes_meanwhile(history: History) -> None:
    """Parts of several times are brought to one; rows that come and go, and keys that nobody wants any more, too."""
    scene = history.scene
    scene.client.delete(STATE + "fingerprints")
    scene.write("UPDATE t SET value = 'w'")
    for n in range(1, 4):
        assert cut_after(history, n).exit_code == 4
        scene.write(
            f"DELETE FROM t WHERE key LIKE '%{n}'",
            f"INSERT INTO t VALUES ('new{n}', '{n}')",
            f"UPDATE t SET value = 'at {n}' WHERE key LIKE '%{n + 4}'",
        )
    scene.ok("run", allow_deletes=True)
    scene.check()


@pytest.mark.parametrize("lost", ["manifest", "fingerprints"])
def test_a_cut_snapshot_that_lost_its_parts(lost: str, history: History) -> None:
    """Without manifest or fingerprints every bucket is looked at again."""
    scene = history.scene
    scene.write("UPDATE t SET value = 'w'", "DELETE FROM t WHERE key LIKE '%7'")
    assert cut_after(history, 2).exit_code == 4
    scene.client.delete(STATE + lost)
    report = scene.ok("run", allow_deletes=True)
    assert report.rows_read >= ROWS - ROWS // 10
    scene.check()


def test_what_redis_holds_decides(history: History) -> None:
    """Buckets whose fingerprints were forgotten are compared row by row, though the source has not changed."""
    scene = history.scene
    mark(history, clean=True)
    scene.client.delete(STATE + "fingerprints")
    scene.client.set("p:k1", "edited")
    scene.client.delete("p:k2")
    report = scene.ok("run")
    assert (report.puts, report.deletes) == (2, 0)
    scene.check()


def test_what_is_done_is_not_read_again(history: History) -> None:
    """Every fingerprint is that of the source: no row is read."""
    mark(history, clean=True)
    report = history.scene.ok("run")
    assert (report.rows_read, report.puts, report.deletes) == (0, 0, 0)
    history.scene.check()


def test_verify_says_nothing_about_a_redis_between_two_times(history: History) -> None:
    """Some keys hold a later value than the checkpoint's: that is no drift. Exit 4, until the next run is through."""
    scene = history.scene
    scene.write("UPDATE t SET value = 'later'")
    assert cut_after(history, 1).exit_code == 4
    report = scene.execute("verify")
    assert (report.exit_code, report.drift) == (4, None)
    assert report.error is not None
    assert "between two times" in report.error.message
    scene.ok("run")
    scene.ok("verify")


def test_other_keys_are_compared_anew(history: History) -> None:
    """What was stored is of rows under another mapping: it says nothing about these."""
    scene = history.scene
    mark(history, clean=True)
    scene.client.hset(STATE + "state", "mapping", "of another prefix")
    report = scene.ok("run")
    assert report.rows_read >= ROWS
    scene.check()


def test_deletes_may_be_withheld_from_it_too(history: History) -> None:
    """The guard is asked once, for all parts together."""
    scene = history.scene
    scene.write("DELETE FROM t WHERE key NOT LIKE '%1'")
    for n in range(1, 2 * scope.PARTS):
        view = cut_after(history, n, allow_deletes=False)
        if view.exit_code != 4:
            break
    assert view.exit_code == 5
    assert view.deletes_withheld == ROWS - 12
    assert '"withheld"' in scene.see().state["pending"]
    report = scene.ok("snapshot", allow_deletes=True)
    assert report.deletes == ROWS - 12
    scene.check()
