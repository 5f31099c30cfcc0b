# ruff: noqa: E501 - a table of decisions
"""Delta or snapshot, which buckets drifted and why, when deletes are withheld: every branch of the pure decisions."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from reconcile.core import drift, guard
from reconcile.core.decide import (
    AHEAD_TOLERANCE_MS,
    Decision,
    Delta,
    Frontiers,
    Snapshot,
    alternation,
    decide,
    succession,
)
from reconcile.core.digest import ONE, normal
from reconcile.core.drift import Cause, Triple, Verdict
from reconcile.core.guard import HANDFUL, WINDOW_MS, Guard, mass_delete
from reconcile.core.state import Identity, Peak, Pending, State
from reconcile.errors import ExitCode

ID = Identity(source="s", mapping="m")
CLEAN = State(token=1, as_of=5_000, identity=ID, buckets=16, keys=3, digest="0" * 32)
HISTORY = Frontiers(since=1_000, upper=9_000, now=8_999)


def state(**changes: object) -> State:
    return replace(CLEAN, **changes)  # type: ignore[arg-type]


def frontiers(**changes: int | None) -> Frontiers:
    return replace(HISTORY, **changes)  # type: ignore[arg-type]


SNAPSHOT_PENDING = Pending("snapshot", 6_000)
DELTA_PENDING = Pending("delta", 6_000)
OTHER_SOURCE = Identity(source="other", mapping="m")
OTHER_MAPPING = Identity(source="s", mapping="other")

FIRST = Snapshot("first contact", everything=True, trusted=False)
MAPPING = Snapshot("the mapping to keys and values has changed", everything=True, trusted=False)
REPLACED = Snapshot("the query, or an object it reads, is not the one of the checkpoint")
BRANCHES: list[tuple[str, State | None, Identity, Frontiers, Decision]] = [
    ("no state", None, ID, HISTORY, FIRST),
    ("only a token", State(token=3), ID, HISTORY, FIRST),
    ("no identity", state(identity=None), ID, HISTORY, FIRST),
    ("first load was cut short", State(token=1, identity=ID, pending=SNAPSHOT_PENDING), ID, HISTORY, FIRST),
    ("first contact was cut short", state(as_of=None, pending=SNAPSHOT_PENDING), ID, HISTORY, Snapshot("an earlier snapshot was not finished")),
    ("another prefix", CLEAN, OTHER_MAPPING, HISTORY, MAPPING),
    ("another prefix and source", CLEAN, Identity("x", "x"), HISTORY, MAPPING),
    ("snapshot cut short", state(pending=SNAPSHOT_PENDING), ID, HISTORY, Snapshot("an earlier snapshot was not finished")),
    ("shards were joined, or Redis lost a part", state(pending=Pending("snapshot", 5_000)), ID, HISTORY, Snapshot("parts of what Redis holds may be of different times")),
    ("shards were joined, of which one never ran", state(as_of=None, pending=Pending("snapshot", 0)), ID, HISTORY, Snapshot("parts of what Redis holds may be of different times")),
    ("deletes withheld", state(pending=Pending("withheld", 6_000)), ID, HISTORY, Snapshot("deletes were withheld")),
    ("view replaced", CLEAN, OTHER_SOURCE, HISTORY, REPLACED),
    ("view replaced, delta cut short", state(pending=DELTA_PENDING), OTHER_SOURCE, HISTORY, REPLACED),
    ("history lost", CLEAN, ID, frontiers(since=5_001), Snapshot("history lost", everything=False, trusted=True)),
    ("history lost, delta cut short", state(pending=DELTA_PENDING), ID, frontiers(since=5_001), Snapshot("history lost")),
    ("just in time", CLEAN, ID, frontiers(since=5_000), Delta(5_000)),
    ("history there", CLEAN, ID, HISTORY, Delta(5_000)),
    ("delta cut short", state(pending=DELTA_PENDING), ID, HISTORY, Delta(5_000)),
    ("a constant view", CLEAN, ID, frontiers(upper=None), Delta(5_000)),
    ("a little ahead", CLEAN, ID, frontiers(upper=4_000), Delta(5_000)),
    ("as far ahead as tolerated", state(as_of=9_000 + AHEAD_TOLERANCE_MS), ID, HISTORY, Delta(9_000 + AHEAD_TOLERANCE_MS)),
    ("far ahead", state(as_of=9_001 + AHEAD_TOLERANCE_MS), ID, HISTORY, Snapshot("the checkpoint is ahead of the source")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("known", "identity", "at", "expected"), [case[1:] for case in BRANCHES], ids=[case[0] for case in BRANCHES]
)
def test_every_branch(known: State | None, identity: Identity, at: Frontiers, expected: Decision) -> None:
    """Each situation leads to its decision, scope and reason."""
    assert decide(known, identity, at) == expected


IDENTITIES = st.builds(Identity, source=st.sampled_from("ab"), mapping=st.sampled_from("mn"))
TIMES = st.integers(0, 200_000)
STATES = st.none() | st.builds(
    State,
    token=st.just(1),
    as_of=st.none() | TIMES,
    identity=st.none() | IDENTITIES,
    buckets=st.just(16),
    pending=st.none() | st.builds(Pending, kind=st.sampled_from(["snapshot", "delta"]), until=TIMES),
)
FRONTIERS = st.builds(Frontiers, since=TIMES, upper=st.none() | TIMES, now=TIMES)


@given(STATES, IDENTITIES, FRONTIERS)
def test_a_delta_is_never_silently_wrong(known: State | None, identity: Identity, at: Frontiers) -> None:
    """Delta only from the stored time, of the same source and mapping, with its history still there."""
    decision = decide(known, identity, at)
    if isinstance(decision, Delta):
        assert known is not None
        assert known.identity == identity
        assert decision.as_of == known.as_of
        assert decision.as_of >= at.since
        assert known.pending is None or known.pending.kind == "delta"


DAY_MS = 86_400_000


def test_two_configurations_that_take_turns_are_noticed() -> None:
    """A, B, A and then B again within a day is no replaced view; A, B, A alone is one that was put back."""
    known: State | None = None
    for number, source in enumerate("ABA"):
        identity = Identity(source, "m")
        assert alternation(known, identity, number, "v") is None
        known = state(identity=identity, earlier=succession(known, identity, number))
    stop = alternation(known, Identity("B", "m"), 60_000, "orders")
    assert stop is not None
    assert stop.exit_code == ExitCode.SAFETY_STOP
    assert "orders" in stop.message
    assert alternation(known, Identity("B", "m"), DAY_MS + 10, "v") is None
    assert alternation(known, Identity("B", "m"), -DAY_MS - 10, "v") is None, "a clock that was ahead"
    assert alternation(known, Identity("C", "m"), 60_000, "v") is None
    assert alternation(known, Identity("A", "m"), 60_000, "v") is None


# -- drift -----------------------------------------------------------------------------------------------------------


def expected_verdict(s: int, m: int | None, r: int, moved: bool) -> tuple[Verdict, Cause | None]:
    """The table of docs/architecture.md (verify), written out: S source, M manifest, R Redis."""
    if s == r:
        return Verdict.EQUAL, None
    if m is None:
        return Verdict.DRIFT, Cause.NO_CHECKPOINT
    table = {
        # (S = M, M = R, moved)
        (True, False, False): (Verdict.DRIFT, Cause.CHANGED_OUTSIDE),
        (True, False, True): (Verdict.DRIFT, Cause.CHANGED_OUTSIDE),
        (False, True, False): (Verdict.DRIFT, Cause.MISSED),
        (False, True, True): (Verdict.LAG, None),
        (False, False, False): (Verdict.DRIFT, Cause.BOTH),
        (False, False, True): (Verdict.DRIFT, Cause.CHANGED_OUTSIDE),
    }
    return table[s == m, m == r, moved]


@pytest.mark.parametrize(
    ("s", "m", "r", "moved"), list(itertools.product([1, 2, 3], [None, 1, 2, 3], [1, 2, 3], [False, True]))
)
def test_the_verdict_on_a_bucket(s: int, m: int | None, r: int, moved: bool) -> None:
    """Every combination of equal and unequal source, manifest and Redis has one verdict and cause."""
    verdict, cause = drift.judge(Triple(s, m, r, moved))
    assert (verdict, cause) == expected_verdict(s, m, r, moved)
    assert (cause is None) == (verdict is not Verdict.DRIFT)


@pytest.mark.parametrize(("s", "m", "r"), list(itertools.product([1, 2, 3], repeat=3)))
def test_a_bucket_that_may_merely_lag_is_never_called_missed(s: int, m: int, r: int) -> None:
    """Verify never cries wolf: where the source may have moved since the checkpoint, only what differs from the
    manifest is drift."""
    verdict, cause = drift.judge(Triple(s, m, r, moved=True))
    assert cause not in (Cause.MISSED, Cause.BOTH)
    assert (verdict is Verdict.DRIFT) == (m != r and s != r)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 100), st.data())
def test_groups_are_bounded_and_lose_no_bucket(rows_in: list[int], max_rows: int, data: st.DataObject) -> None:
    """Every chosen bucket is in exactly one group, in order; a group exceeds the limit only if it is one bucket."""
    chosen = sorted(data.draw(st.sets(st.integers(0, len(rows_in) - 1))))
    groups = list(drift.groups_of(chosen, rows_in, max_rows))
    assert [bucket for group in groups for bucket in group] == chosen
    for group in groups:
        assert len(group) == 1 or sum(rows_in[bucket] for bucket in group) <= max_rows
    for group, following in itertools.pairwise(groups):
        assert sum(rows_in[bucket] for bucket in [*group, following[0]]) > max_rows, "groups are not needlessly small"


def test_the_normal_form_keeps_count_and_sum_apart() -> None:
    """A sum that ran over 64 bits does not reach the count."""
    assert normal(3 * ONE + 2**64 + 7) == (3 << 64) + 7


# -- guard -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deletes", "before", "after", "peak", "fraction", "refused"),
    [
        (0, 0, 0, 0, 0.3, False),
        (HANDFUL, HANDFUL, 0, 0, 0.0, False),
        (HANDFUL + 1, HANDFUL + 1, 0, 0, 0.3, True),
        (30, 100, 70, 0, 0.3, False),
        (31, 100, 69, 0, 0.3, True),
        (1_000, 1_000, 0, 0, 1.0, False),
        (1_000, 1_000, 0, 0, 0.999, True),
        (1_000, 1_000, 1_000, 1_000, 0.3, False),  # a session table that replaces its keys
        (12, 25, 16, 25, 0.3, False),  # a third of few is a handful
        (25, 100, 75, 133, 0.3, True),  # a quarter, and a quarter before that
        (0, 100, 5, 100, 0.3, False),  # nothing to delete: Redis had lost them
    ],
)
def test_suspicious_mass_deletes(
    deletes: int, before: int, after: int, peak: int, fraction: float, refused: bool
) -> None:
    """What counts is how much remains of the most there was within the hour; a handful never is suspicious."""
    assert Guard(peak, fraction).objects(deletes, before, after) is refused
    assert not Guard(peak, fraction, allowed=True).objects(deletes, before, after)


def test_a_replaced_source_may_not_exchange_everything() -> None:
    """Where the source is another than the checkpoint's, even deletes that puts make up for are suspicious."""
    assert Guard(0, 0.3, replaced=True).objects(1_000, 1_000, 1_000)
    assert not Guard(0, 0.3, replaced=True).objects(300, 1_000, 1_000)
    assert not Guard(0, 0.3, replaced=True).objects(HANDFUL, HANDFUL, HANDFUL)


@given(st.lists(st.tuples(st.integers(0, 2 * WINDOW_MS), st.integers(0, 1_000)), min_size=1, max_size=30))
def test_the_peak_covers_an_hour(steps: list[tuple[int, int]]) -> None:
    """The largest number of the last hour is never forgotten, and none older than two hours is remembered."""
    now, peak, history = 1, Peak(), []
    for pause, keys in steps:
        now += pause
        peak = guard.seen(peak, keys, now)
        history.append((now, keys))
        assert guard.largest(peak) >= max(k for at, k in history if at >= now - WINDOW_MS)
        assert guard.largest(peak) <= max(k for at, k in history if at >= now - 3 * WINDOW_MS)


def test_a_handful_a_day() -> None:
    """Unexplained keys go ten a day, whatever the number of runs."""
    removed = guard.note_removed((), 7, 1_000)
    assert guard.handful_left(removed, 2_000) == 3
    removed = guard.note_removed(removed, 3, 3_000)
    assert guard.handful_left(removed, 4_000) == 0
    assert guard.handful_left(removed, DAY_MS + 2_000) == 7


def test_a_peak_noted_by_a_clock_that_was_ahead() -> None:
    """It counts for its two windows, which begin now: else it would count until that time has come."""
    peak = guard.seen(guard.seen(Peak(), 900, 10 * WINDOW_MS), 100, 1_000)
    assert guard.largest(peak) == 900
    for hours in (1, 2):
        peak = guard.seen(peak, 100, 1_000 + hours * WINDOW_MS)
    assert guard.largest(peak) == 100


def test_a_handful_that_went_by_a_clock_that_was_ahead() -> None:
    """A day, not until that time has come."""
    ahead = ((10 * DAY_MS, 10),)
    assert guard.handful_left(ahead, 1_000) == 10
    assert guard.note_removed(ahead, 0, 1_000) == ()
    assert guard.note_removed(((5_000, 3),), 0, 1_000) == ((1_000, 3),)


def test_the_refusal_says_how_to_allow_it() -> None:
    """Exit 5, with the numbers and the command to run."""
    error = mass_delete(900, 1_000, 0.3, "orders")
    assert error.exit_code == ExitCode.SAFETY_STOP
    assert "900 of 1,000" in error.message
    assert "max_delete_fraction = 0.3" in error.message
    assert error.hint is not None
    assert "reconcile snapshot --view orders --allow-deletes" in error.hint
