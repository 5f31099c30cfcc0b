"""Delta or snapshot, and how deep: pure decisions over the stored state and the source's frontiers."""

from __future__ import annotations

from dataclasses import dataclass

from reconcile.core.state import Identity, State

AHEAD_TOLERANCE_MS = 60_000
"""A checkpoint further ahead of the source than this belongs to another history (restored backup, other clock)."""


@dataclass(frozen=True, slots=True)
class Frontiers:
    """The source is readable at t iff since <= t, without waiting iff t < upper. upper None: complete, never changes.

    now: the time a read of the present would get.
    """

    since: int
    upper: int | None
    now: int


@dataclass(frozen=True, slots=True)
class Delta:
    """Continue by SUBSCRIBE from the checkpoint."""

    as_of: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Read the view at one time. deep: also compare every row with what Redis really holds."""

    reason: str
    deep: bool
    history_lost: bool = False


Decision = Delta | Snapshot


def decide(state: State | None, identity: Identity, frontiers: Frontiers) -> Decision:
    """What a run has to do to reach the present. Pure."""
    withheld = state is not None and state.pending is not None and state.pending.kind == "withheld"
    if state is None or state.identity is None or (state.as_of is None and not withheld):
        return Snapshot("first contact", deep=True)
    if state.identity.mapping != identity.mapping:
        return Snapshot("the mapping to keys and values has changed", deep=True)
    if state.pending is not None and state.pending.kind == "snapshot":
        return Snapshot("an earlier snapshot was not finished", deep=True)
    if withheld or state.as_of is None:
        return Snapshot("deletes were withheld", deep=False)
    in_doubt = state.pending is not None
    if state.identity.source != identity.source:
        return Snapshot("the query, or an object it reads, is not the one of the checkpoint", deep=in_doubt)
    if state.as_of < frontiers.since:
        return Snapshot("history lost", deep=in_doubt, history_lost=True)
    if frontiers.upper is not None and state.as_of > frontiers.upper + AHEAD_TOLERANCE_MS:
        return Snapshot("the checkpoint is ahead of the source", deep=in_doubt)
    return Delta(state.as_of)


def due_deep(state: State | None, now_ms: int, every_s: float | None) -> bool:
    """Whether the next snapshot should compare every row with Redis because the last one that did is old."""
    if state is None or every_s is None:
        return False
    return now_ms - state.deep_at_ms >= every_s * 1000
