"""When the rolling compare looks, and at what: a turn ends, the ledger holds, clocks that jump stop nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from reconcile.core import schedule
from reconcile.core.state import Turn

HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("keys", "buckets", "slices"),
    [(0, 1, 1), (250_000, 1024, 1), (250_001, 1024, 2), (600_000, 1024, 4), (10**9, 1 << 17, 16), (10**9, 4, 4)],
)
def test_slices(keys: int, buckets: int, slices: int) -> None:
    """A power of two, so that slices are whole buckets."""
    assert schedule.slices_for(keys, buckets) == slices


@given(st.integers(0, 10**10), st.integers(0, 17).map(lambda n: 1 << n), st.integers(1, 10**13))
def test_a_turn_looks_at_every_slice_once(keys: int, buckets: int, now_ms: int) -> None:
    """From any number of keys; afterwards nothing is due until compare_every has passed."""
    turn, seen = Turn(), []
    while not turn.done_ms:
        turn = schedule.begun(turn, now_ms, keys, buckets)
        seen.append(turn.i)
        turn = schedule.advanced(turn, now_ms, 5)
    assert seen == list(range(schedule.slices_for(keys, buckets)))
    assert buckets % len(seen) == 0
    assert not schedule.due(turn, now_ms + HOUR_MS - 1, HOUR_MS)
    assert schedule.due(turn, now_ms + HOUR_MS, HOUR_MS)


def test_other_slices_begin_a_new_turn() -> None:
    """Keys have grown past a slice: what was looked at was cut differently."""
    turn = schedule.advanced(schedule.begun(Turn(), 100, 500_000, 64), 100, 1)
    assert (turn.i, turn.n) == (1, 2)
    turn = schedule.begun(turn, 200, 1_000_000, 64)
    assert (turn.i, turn.n, turn.began_ms) == (0, 4, 200)


def test_an_end_in_the_future_says_nothing() -> None:
    """Redis moved to a host whose clock is behind: due at once, not after the clock has caught up."""
    turn = Turn(done_ms=10 * HOUR_MS)
    assert schedule.due(turn, 5 * HOUR_MS, HOUR_MS)
    assert not schedule.due(replace(turn, done_ms=5 * HOUR_MS), 5 * HOUR_MS, HOUR_MS)
    assert not schedule.overdue(turn, 5 * HOUR_MS, HOUR_MS)


@pytest.mark.parametrize(
    ("turn", "every_ms", "late"),
    [
        (Turn(done_ms=HOUR_MS), HOUR_MS, False),
        (Turn(done_ms=HOUR_MS - 1), HOUR_MS, True),
        (Turn(done_ms=1), None, False),
        (Turn(), HOUR_MS, False),
    ],
)
def test_overdue(turn: Turn, every_ms: int | None, late: bool) -> None:
    """Twice compare_every and a minute after the last turn; without compare_every, or before the first turn, never."""
    assert schedule.overdue(turn, 3 * HOUR_MS + 60_000, every_ms) is late


def test_all_of_redis_in_one_go_is_a_turn() -> None:
    """Whatever turn was under way, the next begins with the first slice."""
    turn = Turn(i=3, n=8, began_ms=5, done_ms=1, spent_ms=7)
    assert schedule.turned(turn, 9) == Turn(i=0, n=1, began_ms=0, done_ms=9, spent_ms=7)


def test_the_ledger_fades() -> None:
    """It covers the last hour of run time: what was spent before counts less and less."""
    half = schedule.LEDGER_MS // 2
    assert schedule.ran(Turn(ran_ms=half, spent_ms=600), half) == Turn(ran_ms=2 * half, spent_ms=600)
    assert schedule.ran(Turn(ran_ms=2 * half, spent_ms=600), 2 * half) == Turn(ran_ms=2 * half, spent_ms=300)


def test_a_hint_noted_by_a_clock_that_was_ahead() -> None:
    """It is no reason to let hints pass until that time has come."""
    turn = Turn(hint_ms=10 * HOUR_MS)
    assert schedule.hint_counts(turn, HOUR_MS)
    assert not schedule.hint_counts(turn, 10 * HOUR_MS)
    assert not schedule.hint_counts(turn, 10 * HOUR_MS + schedule.HINT_EVERY_MS - 1)
    assert schedule.hint_counts(turn, 10 * HOUR_MS + schedule.HINT_EVERY_MS)


@pytest.mark.parametrize(
    ("turn", "every_ms", "is_due"),
    [(Turn(), None, False), (Turn(began_ms=1), None, True), (Turn(), HOUR_MS, True), (Turn(done_ms=1), HOUR_MS, True),
     (Turn(began_ms=1, done_ms=5 * HOUR_MS), HOUR_MS, True)],
)  # fmt: skip
def test_due(turn: Turn, every_ms: int | None, is_due: bool) -> None:
    """Without compare_every only a turn that a hint began is finished."""
    assert schedule.due(turn, 5 * HOUR_MS, every_ms) is is_due


@pytest.mark.parametrize(
    ("turn", "ran_ms", "left_ms", "may"),
    [
        (Turn(), 0, None, True),
        (Turn(spent_ms=100, ran_ms=1000), 0, None, False),
        (Turn(spent_ms=100, ran_ms=1000), 1000, None, True),
        (Turn(slice_cost_ms=500), 0, 500, False),
        (Turn(slice_cost_ms=500), 0, 501, True),
        (Turn(slice_cost_ms=500, ran_ms=10_000), 0, 126, True),
        (Turn(slice_cost_ms=500, ran_ms=10_000), 0, 125, False),
        (Turn(slice_cost_ms=500, ran_ms=9_999), 0, 126, False),
    ],
)
def test_affordable(turn: Turn, ran_ms: int, left_ms: int | None, may: bool) -> None:
    """A twentieth of the run time; and a slice that may not end in time only once its cost was saved up, and if a
    quarter of it would do."""
    assert schedule.affordable(turn, ran_ms, left_ms) is may


def test_a_hint_buys_a_slice_in_spite_of_debt() -> None:
    """But no time that the run has not got."""
    turn = Turn(slice_cost_ms=500, spent_ms=100)
    assert not schedule.affordable(turn, 0, 1000)
    assert schedule.affordable(turn, 0, 1000, hinted=True)
    assert not schedule.affordable(turn, 0, 500, hinted=True)


def test_a_slice_that_was_given_up() -> None:
    """Its cost is entered. Only if the run had to end does it say that the whole slice costs more."""
    turn = Turn(i=1, n=4, slice_cost_ms=30, spent_ms=5)
    assert schedule.unfinished(turn, 40, too_long=True) == replace(turn, slice_cost_ms=80, spent_ms=45)
    assert schedule.unfinished(turn, 10, too_long=True) == replace(turn, spent_ms=15)
    assert schedule.unfinished(turn, 40, too_long=False) == replace(turn, spent_ms=45)


@given(st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 5_000)), max_size=40))
def test_the_ledger_keeps_to_its_share(runs: list[tuple[int, int]]) -> None:
    """However long runs and slices are, a run is in debt by one slice at most."""
    turn = Turn()
    dearest = 0
    for ran_ms, cost_ms in runs:
        if schedule.affordable(turn, ran_ms, None):
            turn = schedule.advanced(schedule.begun(turn, 1, 10**6, 64), 1, cost_ms)
            dearest = max(dearest, cost_ms)
        turn = schedule.ran(turn, ran_ms)
        assert turn.ran_ms <= schedule.LEDGER_MS
        assert turn.spent_ms * schedule.SHARE <= turn.ran_ms + (dearest + 1) * schedule.SHARE


@pytest.mark.parametrize(
    ("policy", "expiring", "run_id", "evicted", "is_hint"),
    [
        ("noeviction", False, "b", 9, False),
        ("allkeys-lru", False, "a", 1, False),
        ("allkeys-lru", False, "a", 2, True),
        ("allkeys-lru", False, "b", 1, True),
        ("volatile-ttl", False, "a", 2, False),
        ("volatile-ttl", True, "a", 2, True),
        (None, True, "b", 2, False),
        ("allkeys-lru", False, "a", None, False),
    ],
)
def test_hints(policy: str | None, expiring: bool, run_id: str, evicted: int | None, is_hint: bool) -> None:
    """Only where the policy may have taken our keys."""
    turn = Turn(run_id="a", evicted=1)
    assert schedule.hinted(turn, run_id, evicted, policy, expiring=expiring) is is_hint
    assert not schedule.hinted(Turn(), "a", 0, "allkeys-lru", expiring=True)


def test_a_counter_that_began_anew_is_a_hint() -> None:
    """After CONFIG RESETSTAT it is smaller than it was, and any eviction is a new one."""
    turn = Turn(run_id="a", evicted=1000)
    assert schedule.hinted(turn, "a", 5, "allkeys-lru", expiring=False)
    assert not schedule.hinted(turn, "a", 0, "allkeys-lru", expiring=False)
