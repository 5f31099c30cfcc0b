"""Choose delta or snapshot, and the scope of a snapshot: pure decisions over stored state and frontiers."""

from __future__ import annotations

from msgspec import Struct

from reconcile.core.guard import DAY_MS
from reconcile.core.state import Identity, State
from reconcile.errors import SafetyStop

AHEAD_TOLERANCE_MS = 60_000
"""A checkpoint further ahead of the source than this belongs to another history (a restored backup, another clock)."""

HISTORY_LOST = "history lost"


class Frontiers(Struct, frozen=True):
    """The source is readable at t iff since <= t, without waiting iff t < upper.

    upper: None: complete. now: the time of a read of the present.
    """

    since: int
    upper: int | None
    now: int

    @property
    def complete(self) -> bool:
        """Whether nothing will ever be written to what the query reads, such as a view after its last REFRESH.

        Materialize ends a subscription to it at once, and only a bound proves that the end is one.
        """
        return self.upper is None

    def readable(self, t: int) -> bool:
        """Whether the source is readable at t without waiting."""
        return self.since <= t and (self.upper is None or t < self.upper)


class Delta(Struct, frozen=True):
    """Continue by SUBSCRIBE from the checkpoint."""

    as_of: int


class Snapshot(Struct, frozen=True):
    """Read the view at one time. everything: compare every row with Redis, whatever the fingerprints say."""

    reason: str
    everything: bool = False
    trusted: bool = True
    """Whether the stored manifest counts what this view wrote under the current mapping."""


Decision = Delta | Snapshot


def decide(state: State | None, identity: Identity, frontiers: Frontiers) -> Decision:
    """Decide how a run reaches the present."""
    if state is None or state.identity is None or not state.digest:
        return Snapshot("first contact", everything=True, trusted=False)
    if state.identity.mapping != identity.mapping:
        return Snapshot("the mapping to keys and values has changed", everything=True, trusted=False)
    pending = state.pending
    if pending is not None and pending.kind == "snapshot":
        # Nothing was begun: shards were joined, or Redis lost a part of what it had.
        apart = pending.until <= (state.as_of or 0)
        return Snapshot(
            "parts of what Redis holds may be of different times" if apart else "an earlier snapshot was not finished"
        )
    if (pending is not None and pending.kind == "withheld") or state.as_of is None:
        return Snapshot("deletes were withheld")
    if state.identity.source != identity.source:
        return Snapshot("the query, or an object it reads, is not the one of the checkpoint")
    if state.as_of < frontiers.since:
        return Snapshot(HISTORY_LOST)
    if frontiers.upper is not None and state.as_of > frontiers.upper + AHEAD_TOLERANCE_MS:
        return Snapshot("the checkpoint is ahead of the source")
    return Delta(state.as_of)


def succession(state: State | None, identity: Identity, now_ms: int) -> tuple[tuple[str, int], ...]:
    """Return the earlier identities to store with a new one: at most two, newest first."""
    if state is None or state.identity is None or state.identity.source == identity.source:
        return () if state is None else state.earlier
    return ((state.identity.source, now_ms), *state.earlier)[:2]


def alternation(state: State | None, identity: Identity, now_ms: int, view: str) -> SafetyStop | None:
    """Return the error for two configurations that take turns: A, B, A within a day, and now B again."""
    if state is None or state.identity is None or len(state.earlier) < 2:
        return None
    (last, _), (before, at_ms) = state.earlier
    again = (identity.source, state.identity.source) == (last, before) and last != before
    if not again or abs(now_ms - at_ms) > DAY_MS:  # noted by a clock that was ahead: it would stop for as long
        return None
    return SafetyStop(
        f"two configurations write view {view} in turn: its query, or what the query reads, has changed back and forth",
        hint="find the other schedule, and give one of the two another view name and prefix",
    )
