"""Runs whose time is always too short, and snapshots that were cut short: each makes progress, and in the end all is
right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from reconcile.core.guard import HANDFUL
from reconcile.errors import Unavailable
from reconcile.report.run_report import ViewReport
from reconcile.runs import scopes
from reconcile.runs.entry import execute
from reconcile.runs.request import Request
from reconcile.runs.snapshot import _Snapshot
from reconcile.stop import Stop
from reconcile.target.base import Base
from tests.faults.history import History, new_history
from tests.faults.io_calls import forgetful, out_of_time, small_pages
from tests.faults.rig import Rig
from tests.faults.scene import STATE
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import owned
from tests.support.sources import SourceServer

ROWS = 120
PARTS_A_RUN = 2


@pytest.fixture(params=[b"p:", b""], ids=["prefix", "remembered"])
def history(
    request: pytest.FixtureRequest,
    source_server: SourceServer,
    redis_process: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[History]:
    monkeypatch.setattr(scopes, "PART_ROWS", 10)
    with small_pages(), new_history(source_server, redis_process, prefix=request.param) as made:
        made.scene.write(f"INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, {ROWS}) AS n")
        yield made


def short_run(history: History, **options: Any) -> tuple[ViewReport, int]:
    """A run whose time is over when the source is asked for rows once more than PARTS_A_RUN times."""
    stop = Stop(600.0)
    with out_of_time(stop, PARTS_A_RUN) as asked:
        (view,) = execute(history.scene.settings, Request(mode="run", **options), stop).views
    return view, len(asked)


def short_runs(history: History, most: int, look: Callable[[], object] = lambda: None) -> int:
    """Short runs until one is not cut short, and has nothing to complain of: returns how many were before it, fewer
    than `most`. look: called after each of these."""
    runs = 0
    with forgetful():
        while (view := short_run(history)[0]).exit_code == 4:
            runs += 1
            look()
            assert runs < most, "no progress"
    assert view.exit_code == 0, view.error
    return runs


def nothing(history: History) -> None:
    """First contact, on top of a key that has the name of one of ours."""
    key = history.scene.prefix + b"k1"
    history.scene.client.set(key, "v1")


def new_mapping(history: History) -> None:
    history.scene.ok("run")
    history.scene.client.hset(STATE + "state", "mapping", "another")


def pending_delta(history: History) -> None:
    """A delta died after its mark; by now the source has forgotten."""
    scene = history.scene
    scene.ok("run")
    pending = {"kind": "delta", "until": scene.see().as_of + 1, "clean": True}
    scene.client.hset(STATE + "state", "pending", json.dumps(pending))
    scene.client.delete(STATE + "fingerprints")
    scene.write("UPDATE t SET value = value || '!'", "DELETE FROM t WHERE key LIKE '%7'")


@pytest.mark.parametrize("prepare", [
    nothing,
    new_mapping,
    pending_delta,
])  # fmt: skip
def test_time_is_always_too_short(prepare: Callable[[History], None], history: History) -> None:
    """No run can look at more than two parts; the source changes in between; yet it does not take many of them."""
    scene = history.scene
    prepare(history)
    runs = 0
    with forgetful():
        while True:
            runs += 1
            view, asked = short_run(history)
            if view.exit_code == 0:
                break
            assert view.exit_code == 4, view.error
            assert asked == PARTS_A_RUN + 1
            assert runs < 3 * ROWS // (10 * PARTS_A_RUN), "no progress"
            scene.look()
            scene.write(f"UPDATE t SET value = 'later {runs}' WHERE key = 'k{runs + 1}'")
    assert runs > 1, "it was not cut short: this proves nothing"
    scene.check()
    assert scene.execute("verify").exit_code == 0


@pytest.mark.parametrize("prepare", [nothing, new_mapping])
def test_parts_of_few_buckets(
    prepare: Callable[[History], None], history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many parts that each is less than the records which are written one by one: the manifest is whole after the
    first, and no part is done twice."""
    monkeypatch.setattr(scopes, "PART_ROWS", 2)
    monkeypatch.setattr("tests.faults.test_cut_short.PARTS_A_RUN", 10)
    scene = history.scene
    scene.buckets = 4096
    prepare(history)
    scene.memory_max_bytes = 64

    def look() -> None:
        assert len(scene.see().manifest or b"") == 16 * 4096

    runs = short_runs(history, 9, look)
    assert runs >= 3, "there were not many parts: this proves nothing"
    scene.check()


@pytest.mark.parametrize(("before", "after"), [(16, 256), (256, 16)])
def test_another_number_of_buckets_takes_too_long(before: int, after: int, history: History) -> None:
    """No run can look at all rows, so the number stays; but Redis does not stay behind."""
    scene = history.scene
    scene.buckets = before
    scene.ok("run")
    scene.buckets = after
    for turn in range(3):
        scene.write(f"UPDATE t SET value = 'later {turn}' WHERE key IN ('k{turn + 1}', 'k77')")
        short_runs(history, ROWS // (10 * PARTS_A_RUN) + 3, scene.look)
        assert scene.check().state["buckets"] == str(before)
    scene.write("UPDATE t SET value = 'last' WHERE key = 'k7'")
    with forgetful():
        for _ in range(2):  # the first finishes what is not finished
            scene.write("UPDATE t SET value = value || '!' WHERE key = 'k7'")
            scene.ok("run")
    assert scene.check().state["buckets"] == str(after)


@pytest.mark.parametrize(("before", "after"), [(16, 256), (256, 16)])
def test_a_lost_manifest_and_another_number_of_buckets(before: int, after: int, history: History) -> None:
    """Each part is stored in the new number, though the fingerprints that are left are of the former one."""
    scene = history.scene
    scene.buckets = before
    scene.ok("run")
    scene.buckets = after
    scene.client.delete(STATE + "manifest")
    scene.write("UPDATE t SET value = 'w' WHERE key LIKE '%8'")
    runs = short_runs(history, ROWS // (10 * PARTS_A_RUN) + 3)
    assert runs > 1, "it was not cut short: this proves nothing"
    assert scene.check().state["buckets"] == str(after)


def replace_view(history: History, sql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = history.scene
    scene.ok("run")
    scene.write(
        "DROP MATERIALIZED VIEW v",
        f"CREATE MATERIALIZED VIEW v AS {sql}",
        "ALTER MATERIALIZED VIEW v SET (RETAIN HISTORY FOR '1hr')",
    )
    scene.forget_what_was_seen()
    monkeypatch.setattr(scene, "look", lambda: None)


def until_done(history: History, **options: Any) -> tuple[ViewReport, int]:
    """Short runs until nothing but a human's decision is left to do, and how many came before."""
    for runs in range(ROWS // 10 + 3):
        view, _ = short_run(history, **options)
        if view.exit_code != 4 and "snapshot" not in history.scene.see().state["pending"]:
            return view, runs
    raise AssertionError("no progress")


def test_a_replaced_view_takes_too_long(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that are to go are counted before the first of them goes, however many runs that takes. Here consent is
    needed, and with it they go part by part."""
    scene = history.scene
    replace_view(history, "SELECT 'new' || key AS key, value FROM t", monkeypatch)
    before = scene.see().as_of
    with forgetful():
        view, runs = until_done(history)
        assert (view.exit_code, view.deletes_withheld) == (5, ROWS), view.error
        assert runs > 2, "it was not cut short: this proves nothing"
        scene.write("UPDATE t SET value = 'later' WHERE key = 'k7'")
        view, runs = until_done(history)
        assert (view.exit_code, view.deletes_withheld, runs) == (5, ROWS, 0), view.error
        seen = scene.see()
        wanted = {scene.prefix + f"newk{n}".encode(): f"v{n}".encode() for n in range(1, ROWS + 1)}
        wanted[scene.prefix + b"newk7"] = b"later"
        assert {key: seen.data.get(key) for key in wanted} == wanted
        assert (len(seen.data), seen.as_of) == (2 * ROWS, before)
        assert '"withheld"' in seen.state["pending"]
        view, runs = until_done(history, allow_deletes=True)
        assert runs > 2, "it was not cut short: this proves nothing"
    assert view.exit_code == 0, view.error
    monkeypatch.undo()
    scene.check()


def test_a_replaced_view_loses_few_rows(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once all keys that are to go are counted, and the guard lets them pass, they go part by part. It counts those
    that have gone when the view changes meanwhile: half of the keys in all need no consent, more do."""
    scene = history.scene
    renamed = "CASE WHEN key < 'k2' THEN 'new' ELSE '' END || key"  # 32 of 120
    replace_view(history, f"SELECT {renamed} AS key, value || '!' AS value FROM t", monkeypatch)
    gone, runs = 0, 0
    with forgetful():
        while not gone:
            view, _ = short_run(history)
            assert view.exit_code == 4, view.error
            gone, runs = view.deletes, runs + 1
            assert gone or len(scene.see().data) <= ROWS + 32
        assert runs > 2, "keys went before all were counted"
        scene.write("DELETE FROM t WHERE key >= 'k8'")
        view, _ = until_done(history)
        assert view.exit_code == 5, view.error
        assert len(scene.see().data) == ROWS + 32 - gone
        assert until_done(history, allow_deletes=True)[0].exit_code == 0
    monkeypatch.undo()
    scene.check()


def test_a_replaced_view_loses_few_rows_in_the_end(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends by itself."""
    replace_view(history, "SELECT CASE WHEN key < 'k2' THEN 'new' ELSE '' END || key AS key, value FROM t", monkeypatch)
    with forgetful():
        view, runs = until_done(history)
    assert view.exit_code == 0, view.error
    assert runs > 2, "it was not cut short: this proves nothing"
    monkeypatch.undo()
    assert history.scene.check().state["pending"] == ""


def test_many_keys_of_others_take_too_long(history: History) -> None:
    """A human is asked once all buckets were looked at, while Redis does not stay behind. Keys that somebody removed
    are not asked for any more, in whichever part they were."""
    scene = history.scene
    if not scene.prefix:
        pytest.skip("what a view remembers is its own")
    foreign = {scene.prefix + b"foreign%d" % n: b"x" for n in range(60)}
    for key, value in foreign.items():
        scene.client.set(key, value)
    with forgetful():
        view, runs = until_done(history)
        assert (view.exit_code, view.deletes_withheld) == (5, 60), view.error
        assert runs > 2, "it was not cut short: this proves nothing"
        for n in range(3):
            scene.write(f"UPDATE t SET value = 'later {n}' WHERE key = 'k7'")
            view, runs = until_done(history)
            assert (view.exit_code, view.deletes_withheld, runs) == (5, 60, 0), view.error
            seen = scene.see()
            assert seen.settled
            assert {key: value for key, value in seen.data.items() if key not in foreign} == scene.content_at(
                seen.as_of
            )
        scene.client.delete(*foreign)
        for _ in range(ROWS // 10):
            view, _ = short_run(history)
            if view.exit_code == 0:
                break
            assert view.exit_code in (4, 5), view.error
    assert view.exit_code == 0, view.error
    scene.check()


@pytest.mark.parametrize("lost", [0, 40])
def test_a_compare_of_expired_rows_takes_too_long(lost: int, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """They differ from the manifest however often they are looked at, and no run can look at all of them. What others
    have deleted among them comes back."""
    monkeypatch.setattr(scopes, "PART_ROWS", 10)
    source = rig.source
    source.execute("CREATE TABLE s (key text, value text, until timestamptz)")
    for name, until in (("e", "now() + interval '1 hour'"), ("k", "NULL::timestamptz")):
        source.execute(f"INSERT INTO s SELECT '{name}' || n, 'v', {until} FROM generate_series(1, {ROWS}) AS n")
    rig.view = {"sql": f"SELECT key, value, until FROM {source.schema}.s", "expires_at": "until", "buckets": 256}
    assert rig.run().code == 0
    an_hour_later = rig.client.time()[0] * 1000 + 2 * 3_600_000
    monkeypatch.setattr(Base, "now_ms", lambda _: an_hour_later)
    rig.client.delete(*[f"p:e{n}" for n in range(1, ROWS + 1)], *[f"p:k{n}" for n in range(1, lost + 1)])
    turn = json.loads(rig.client.hget(STATE + "state", "turn") or "")
    assert turn["done_ms"], turn
    rig.client.hset(STATE + "state", "turn", json.dumps(turn | {"done_ms": 1, "ran_ms": 3_600_000}))
    runs, drift = 0, 0
    with small_pages():
        while True:
            stop = Stop(600.0)
            with out_of_time(stop, PARTS_A_RUN):
                ended = rig.run(stop=stop)
            drift += ended.view.puts
            if ended.code == 0:
                break
            assert ended.code == 4, ended.told
            runs += 1
            assert runs < 20, "no progress"
    assert runs > 3, "it was not cut short: this proves nothing"
    assert drift == lost
    assert json.loads(rig.client.hget(STATE + "state", "turn") or "")["done_ms"] >= an_hour_later
    assert len(owned(rig.client)) == ROWS
    assert rig.run("verify").code == 0


def cut_short(history: History) -> None:
    """As if a snapshot had died before it wrote anything but its mark."""
    scene = history.scene
    scene.ok("run")
    pending = {"kind": "snapshot", "until": scene.see().as_of, "clean": True}
    scene.client.hset(STATE + "state", "pending", json.dumps(pending))


def test_what_is_done_is_not_read_again(history: History) -> None:
    """Neither side has changed, and every fingerprint is known: no row is read."""
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
    scene.client.set(scene.prefix + b"k1", "edited")
    report = scene.ok("run")
    assert report.puts == 1
    assert report.rows_read >= ROWS
    scene.check()


def test_surplus_keys_are_not_forgotten(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short again after all parts were stored: what did not go with its part the next run deletes."""
    scene = history.scene
    cut_short(history)
    scene.write("DELETE FROM t WHERE key LIKE '%7'", "UPDATE t SET value = 'w' WHERE key LIKE '%8'")

    def cut(self: _Snapshot, *_: object) -> None:
        raise Unavailable("cut short")

    with forgetful():
        with monkeypatch.context() as patch:
            patch.setattr(_Snapshot, "_finish", cut)
            (view,) = execute(scene.settings, Request(mode="run"), Stop(600.0)).views
        assert view.exit_code == 6
        assert '"snapshot"' in scene.see().state["pending"]
        report = scene.ok("run")
    assert (report.puts, view.deletes + report.deletes) == (0, ROWS // 10)
    scene.check()


def test_deletes_may_be_withheld_from_it_too(history: History) -> None:
    """The guard is asked once, for all parts together."""
    scene = history.scene
    cut_short(history)
    scene.write("DELETE FROM t WHERE key NOT LIKE '%1'")
    with forgetful():
        (view,) = execute(scene.settings, Request(mode="run"), Stop(600.0)).views
    assert view.exit_code == 5
    assert view.deletes_withheld == ROWS - 12
    assert '"withheld"' in scene.see().state["pending"]
    report = scene.ok("snapshot", allow_deletes=True)
    assert report.deletes == view.deletes_withheld
    scene.check()


@pytest.mark.parametrize("short", [False, True])
def test_what_went_with_earlier_parts_counts(short: bool, history: History) -> None:
    """Rows that lost their value go with their part as long as the guard allows. The rest is no handful, however few
    are left: neither in the same run, nor in those that continue it."""
    scene = history.scene
    scene.ok("run")
    most = int(ROWS * 0.3)
    scene.memory_max_bytes = 64
    scene.write(f"UPDATE t SET value = NULL WHERE substr(key, 2)::int <= {most + HANDFUL - 2}")
    with forgetful():
        view = until_done(history)[0] if short else scene.execute("run")
    assert (view.exit_code, "would be deleted" in str(view.error)) == (5, True), view.error
    assert len(scene.see().data) >= ROWS - most
    scene.ok("snapshot", allow_deletes=True)
    assert len(scene.check().data) == ROWS - most - HANDFUL + 2
