"""More than memory, or one result of Materialize, holds: where a delta or a repair meets it, whatever else is true."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from reconcile.errors import ExitCode, ResultTooLarge
from reconcile.runs import large
from reconcile.runs.delta import Follower
from reconcile.runs.entry import execute
from reconcile.runs.request import Request
from reconcile.source.errors import translate
from reconcile.source.reading import Reading
from reconcile.stop import Stop
from tests.faults.io_calls import Died, Io
from tests.faults.rig import FOLLOWED_S
from tests.faults.scene import STATE, Scene
from tests.support.meanwhile import beside
from tests.support.redis_servers import RedisServer
from tests.support.sources import Source

ROWS = 40


@pytest.fixture
def scene(source: Source, redis_server: RedisServer) -> Scene:
    """A view of ROWS rows that a run has followed."""
    made = Scene(source, redis_server)
    made.write(f"INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, {ROWS}) AS n")
    made.ok("run")
    return made


@pytest.mark.parametrize("what", ["deletes", "foreign key"])
def test_a_large_time_in_doubt_while_following(what: str, scene: Scene) -> None:
    """`delta --for` meets a time too large for memory which no delta may apply: exit 5 with what to do, as without
    --for, and nothing of it is in Redis."""
    scene.memory_max_bytes = 1500
    if what == "deletes":
        change = "DELETE FROM t WHERE key <> 'k1'"
    else:
        scene.client.set("p:new1", "somebody's")
        change = f"INSERT INTO t SELECT 'new' || n, 'v' FROM generate_series(1, {ROWS}) AS n"
    before, stop = scene.see().data, Stop()

    def work(_: threading.Event) -> None:
        scene.await_following()
        scene.source.execute(change)

    with beside(work):
        (report,) = execute(scene.settings, Request(mode="delta", follow_s=FOLLOWED_S), stop).views
    assert report.exit_code == ExitCode.SAFETY_STOP, report.error
    assert report.error is not None
    assert report.error.hint is not None
    assert "reconcile snapshot" in report.error.hint
    assert scene.see().data == before


def test_a_dry_run_goes_no_further_than_what_it_read_in_parts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is in Redis: what comes later cannot be judged by that."""
    scene.memory_max_bytes = 1500
    before = scene.everything()
    really = large.apply_range

    def apply_range(*given: Any, **more: Any) -> None:
        really(*given, **more)
        scene.write("UPDATE t SET value = value || ' even later'")

    monkeypatch.setattr(large, "apply_range", apply_range)
    scene.write("UPDATE t SET value = value || ' later'", "INSERT INTO t VALUES ('new', 'x')")
    report = scene.execute("delta", dry_run=True, follow_s=5.0)
    assert report.exit_code == 0, report.error
    assert (report.puts, report.commits) == (ROWS + 1, 1)
    assert scene.everything() == before


def begin_and_die(scene: Scene) -> None:
    """A delta of the whole view, which dies in the middle of it."""
    io = Io(lambda: None)

    def half_done() -> None:
        seen = scene.see()
        if seen.state["pending"] and 0 < sum(b"later" in value for value in seen.data.values()) < ROWS:
            raise Died

    io.look = half_done
    with io.installed(), contextlib.suppress(Died):
        scene.execute("delta")
    assert io.dead
    scene.expire_lease()


def test_a_dry_run_goes_no_further_than_a_change_that_was_begun(scene: Scene) -> None:
    """The same for what an earlier run had begun."""
    scene.batch_max_keys = 5
    scene.write("UPDATE t SET value = value || ' later'")
    begin_and_die(scene)
    scene.write("DELETE FROM t WHERE key = 'k1'", "INSERT INTO t VALUES ('k1', 'again')")
    before = scene.everything()
    for mode in ("delta", "run"):
        report = scene.execute(mode, dry_run=True)
        assert (report.exit_code, report.action, report.commits) == (0, "delta", 1), (report.error, report.reason)
        assert any("what came after it" in told for told in report.warnings)
        assert scene.everything() == before


def refusing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Materialize refuses every range of changes as one result."""
    refused: list[str] = []

    def step(self: Follower, *, idle: bool) -> bool:
        refused.append(self.run.view.name)
        raise ResultTooLarge("result exceeds max size of 1.0 GB")

    monkeypatch.setattr(Follower, "step", step)
    return refused


def test_changes_too_large_for_one_result(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run takes a snapshot at once: to read the view in parts makes no subscription's result smaller."""
    scene.write("UPDATE t SET value = value || ' later'")
    refused = refusing(monkeypatch)
    report = scene.ok("run")
    assert len(refused) == 1
    assert (report.action, report.puts) == ("snapshot", ROWS)
    assert report.reason == "more changed at one time than memory_max holds"
    scene.check()


@pytest.mark.parametrize("mode", ["run", "delta"])
@pytest.mark.parametrize("following", [True, False])
def test_a_subscription_that_fell_behind(
    mode: str, following: bool, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Materialize ends it, as its changes are not read fast enough: the same invocation goes on, by a snapshot or, if
    only a delta is allowed, in parts."""
    really, stop, behind = Follower.step, Stop(), 0
    text = "SUBSCRIBE fell behind: the client did not read results fast enough, so its backlog reached 130.0 MiB"

    def step(self: Follower, *, idle: bool) -> bool:
        nonlocal behind
        if following:
            if self.frontier <= changed:
                return really(self, idle=idle)
            if behind:
                stop.request("deadline")
                return really(self, idle=idle)
        behind += 1
        raise translate(psycopg.errors.lookup("53200")(text))

    monkeypatch.setattr(Follower, "step", step)
    scene.write("UPDATE t SET value = value || ' later'")
    changed = scene.source.present()
    report = execute(
        scene.settings,
        Request(mode=mode, follow_s=FOLLOWED_S if following else None),
        stop,  # type: ignore[arg-type]
    ).views[0]
    assert behind == 1
    assert report.exit_code == 0, report.error
    assert report.reason == ("changes came faster than they could be read" if mode == "run" else "")
    scene.check()


def test_a_repair_too_large_for_one_result(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the rolling compare found is repaired in parts, where Materialize refuses the rows as one result."""
    scene.client.delete("p:k1", "p:k2")
    turn = json.loads(scene.see().state["turn"])
    scene.client.hset(STATE + "state", "turn", json.dumps(turn | {"done_ms": 0}))
    really = Reading.rows_of

    def rows_of(self: Reading, chosen: list[int], buckets: int) -> Iterator[Any]:
        if self.mapping.parts == 1:
            raise ResultTooLarge("result exceeds max size of 1.0 GB")
        return really(self, chosen, buckets)

    monkeypatch.setattr(Reading, "rows_of", rows_of)
    scene.write("UPDATE t SET value = 'later' WHERE key = 'k7'")
    report = scene.ok("run")
    assert [one for one in report.warnings if one.startswith("drift:")], report.warnings
    scene.check()
