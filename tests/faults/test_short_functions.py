"""A function that may run for a moment only, long after its first load: syncing goes on, and so does the compare."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from reconcile.compare.rolling import Slice
from reconcile.errors import Unavailable
from reconcile.runs import snapshot
from reconcile.runs.delta import Doubt
from tests.faults.rig import FOLLOWED_S, Rig
from tests.support.redis_state import state

STATE = "reconcile:{default}:state"
PAGE_S = 0.1
"""What reading a page of 20 keys takes here: a whole compare of 1,500 keys takes seven seconds and more."""
LIMIT_S = 5.0

pytestmark = pytest.mark.usefixtures("small")


def turn_of(rig: Rig) -> dict[str, Any]:
    """The rolling compare, as stored."""
    turn: dict[str, Any] = json.loads(state(rig.client)["turn"])
    return turn


def a_day_later(rig: Rig, *, ran_ms: int = 3_600_000, slice_cost_ms: int = 0) -> int:
    """As if the last turn of the compare had ended more than a day ago, and runs had saved up for the next. Returns
    when it ended."""
    long_ago = int(time.time() * 1000) - 100_000_000
    turn = turn_of(rig) | {"done_ms": long_ago, "began_ms": 0, "i": 0, "n": 1, "ran_ms": ran_ms, "spent_ms": 0}
    rig.client.hset(STATE, "turn", json.dumps(turn | {"slice_cost_ms": slice_cost_ms}))
    return long_ago


@pytest.fixture
def slow_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading Redis for a compare is slow."""
    really = Slice.step

    def step(self: Slice) -> bool:
        time.sleep(PAGE_S)
        return really(self)

    monkeypatch.setattr(Slice, "step", step)


@pytest.mark.usefixtures("slow_compare")
@pytest.mark.parametrize("mode", ["run", "snapshot"])
def test_a_compare_that_never_fits_stops_nothing(mode: str, rig: Rig) -> None:
    """Each run brings its changes and ends with 0; the compare goes into the ledger, so one run in twenty tries."""
    if mode == "run":
        rig.source.retain_history()
    rig.fill(1500)
    assert rig.run().code == 0
    a_day_later(rig, ran_ms=0)
    tried = 0
    for n in range(5):
        rig.source.put(k1=f"change {n}")
        before = turn_of(rig)["spent_ms"]
        ended = rig.run(mode, max_runtime=LIMIT_S)
        assert ended.code == 0, ended.told
        assert rig.client.get("p:k1") == f"change {n}".encode()
        tried += turn_of(rig)["spent_ms"] > before
    assert tried == 1
    assert turn_of(rig)["slice_cost_ms"] > turn_of(rig)["spent_ms"]
    rig.in_sync()


def test_a_slow_hour_does_not_end_all_compares(rig: Rig) -> None:
    """The last slice took longer than runs may be: once that is saved up, one is tried all the same."""
    rig.fill(100)
    assert rig.run().code == 0
    for saved_ms, done in ((100_000, False), (3_000_000, True)):
        lost = a_day_later(rig, ran_ms=saved_ms, slice_cost_ms=100_000)
        rig.client.delete("p:k7")
        assert rig.run(max_runtime=60).code == 0
        assert (turn_of(rig)["done_ms"] > lost) is done
    rig.in_sync()


@pytest.mark.parametrize("follow_s", [None, FOLLOWED_S])
def test_what_a_compare_found_outlives_the_run(
    follow_s: float | None, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that found a loss cannot repair it, as the source is away just then: the next run finds it again."""
    rig.source.retain_history()
    rig.fill(100)
    assert rig.run().code == 0
    lost = a_day_later(rig)
    rig.client.delete("p:k7")

    def away(*_: object, **__: object) -> None:
        raise Unavailable("the source is away")

    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "take", away)
        assert rig.run(follow_s=follow_s).code == 6
    assert turn_of(rig)["done_ms"] == lost
    rig.client.hset(STATE, "turn", json.dumps(turn_of(rig) | {"ran_ms": 3_600_000}))  # runs later
    ended = rig.run()
    assert (ended.code, ended.view.puts) == (0, 1), ended.told
    assert any(warning.startswith("drift:") for warning in ended.view.warnings)
    assert turn_of(rig)["done_ms"] > lost
    rig.in_sync()


def test_a_commit_in_between_is_no_drift(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of a slice was read, then the follower changes all of its buckets: they wait for the next turn."""
    rig.view = {"compare_every": "1s"}
    rig.source.retain_history()
    rig.fill(1000)
    assert rig.run().code == 0
    really, changed, whole = Slice.step, False, 0

    def step(self: Slice) -> bool:
        nonlocal changed, whole
        if changed and not str(rig.client.get("p:k1")).endswith("!'"):
            return True  # not before the commit
        more = really(self)
        if not changed:
            changed = True
            rig.source.execute("UPDATE t SET value = value || '!'")
        whole += not more
        return more

    monkeypatch.setattr(Slice, "step", step)
    time.sleep(1.2)
    rig.source.put(k7="changed")
    ended = rig.follow(lambda: whole > 0)
    assert ended.code == 0, ended.told
    assert whole, "no slice was read to its end: this proves nothing"
    assert ended.view.action == "delta", ended.view.reason
    rig.in_sync()


def test_a_snapshot_in_between_is_no_drift(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a slice was read while following, then a snapshot changed other buckets: what was read is not used."""
    rig.source.retain_history()
    rig.fill(400)
    assert rig.run().code == 0
    a_day_later(rig)
    really_step, really_take = Slice.step, snapshot.take
    taken: list[object] = []

    def step(self: Slice) -> bool:
        more = really_step(self)
        if not taken:
            rig.source.execute("UPDATE t SET value = value || '!' WHERE key LIKE 'k1%'")
            raise Doubt("made up")
        return more

    def take(*arguments: Any) -> None:
        taken.append(arguments)
        really_take(*arguments)

    monkeypatch.setattr(Slice, "step", step)
    monkeypatch.setattr(snapshot, "take", take)
    lost = turn_of(rig)["done_ms"]
    ended = rig.follow(lambda: turn_of(rig)["done_ms"] > lost)
    assert ended.code == 0, ended.told
    assert len(taken) == 1
    rig.in_sync()
