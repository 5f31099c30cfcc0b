"""After a snapshot that was cut short: what Redis really holds decides, and nothing is taken for done that is not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from reconcile.runs.repair import Repair

from reconcile.errors import Incomplete
from reconcile.runs import resume
from reconcile.runs.entry import execute
from reconcile.runs.request import Request
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
    monkeypatch.setattr(resume, "PART_ROWS", 10)
    with small_pages(), new_history(source_server, redis_process) as made:
        made.scene.write(f"INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, {ROWS}) AS n")
        made.scene.ok("run")
        yield made


def cut_short(history: History) -> None:
    """As if a snapshot had died before it wrote anything but its mark."""
    scene = history.scene
    pending = {"kind": "snapshot", "until": int(scene.see().state["as_of"])}
    scene.client.hset(STATE + "state", "pending", json.dumps(pending))


def test_what_redis_holds_decides(history: History) -> None:
    """The source has not changed, so its fingerprints say nothing is to be done; but others have changed Redis."""
    scene = history.scene
    cut_short(history)
    scene.client.set("p:k1", "edited")
    scene.client.delete("p:k2")
    scene.client.set("p:stray", "x")
    report = scene.ok("run")
    assert (report.puts, report.deletes, report.deep) == (2, 1, True)
    assert report.rows_read < ROWS  # of the buckets of these three
    scene.check()


def test_verify_says_nothing_about_a_redis_between_two_times(history: History) -> None:
    """Some keys hold a later value than the checkpoint's: that is no drift. Exit 4, until the next run is through."""
    scene = history.scene
    cut_short(history)
    scene.write("UPDATE t SET value = 'later' WHERE key = 'k1'")
    scene.client.set("p:k1", "later")
    report = scene.execute("verify")
    assert (report.exit_code, report.drift) == (4, None)
    assert report.error is not None
    assert "between two times" in report.error.message
    scene.ok("run")
    scene.ok("verify")


def test_what_is_done_is_not_read_again(history: History) -> None:
    """Neither side has changed: no row is read."""
    cut_short(history)
    report = history.scene.ok("run")
    assert (report.rows_read, report.puts, report.deletes) == (0, 0, 0)
    history.scene.check()


@pytest.mark.parametrize("lost", ["manifest", "fingerprints"])
def test_a_state_that_lost_its_parts_is_not_needed(lost: str, history: History) -> None:
    """Without manifest or fingerprints every bucket is repaired."""
    scene = history.scene
    cut_short(history)
    scene.client.delete(STATE + lost)
    scene.client.set("p:k1", "edited")
    report = scene.ok("run")
    assert (report.puts, report.rows_read) == (1, ROWS)
    scene.check()


def test_other_keys_are_compared_anew(history: History) -> None:
    """What was stored is of rows under another mapping: it says nothing about these."""
    scene = history.scene
    cut_short(history)
    scene.client.hset(STATE + "state", "mapping", "of another prefix")
    report = scene.ok("run")
    assert report.rows_read >= ROWS
    scene.check()


def test_surplus_keys_are_not_forgotten(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short again, after all parts were stored and before anything was deleted: the next run deletes."""
    scene = history.scene
    cut_short(history)
    scene.write("DELETE FROM t WHERE key LIKE '%7'", "UPDATE t SET value = 'w' WHERE key LIKE '%8'")

    def cut(self: Repair, *_: object) -> None:
        raise Incomplete("cut short")

    with monkeypatch.context() as patch:
        patch.setattr(Repair, "delete_surplus", cut)
        (view,) = execute(scene.settings, Request(mode="run", allow_deletes=True), Stop(600.0)).views
    assert view.exit_code == 4
    assert '"snapshot"' in scene.see().state["pending"]
    report = scene.ok("run", allow_deletes=True)
    assert (report.puts, report.deletes) == (0, ROWS // 10)
    scene.check()


def test_deletes_may_be_withheld_from_it_too(history: History) -> None:
    """The guard is asked once, for all parts together."""
    scene = history.scene
    cut_short(history)
    scene.write("DELETE FROM t WHERE key NOT LIKE '%1'")
    (view,) = execute(scene.settings, Request(mode="run"), Stop(600.0)).views
    assert view.exit_code == 5
    assert view.deletes_withheld == ROWS - 12
    assert '"withheld"' in scene.see().state["pending"]
    report = scene.ok("snapshot", allow_deletes=True)
    assert report.deletes == view.deletes_withheld
    scene.check()
