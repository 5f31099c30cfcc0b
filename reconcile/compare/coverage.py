"""When each slice of a view was last compared with what Redis really holds, and when all will have been again. Pure.

The rolling compare records its slices in the turn; a whole `verify` or a deep snapshot covers all slices at once.
"""

from __future__ import annotations

from collections.abc import Iterable

from reconcile.core.state import State
from reconcile.report.audit import MAX_SLICES, Coverage, PastAudit, SliceCompared


def coverage(state: State, audits: Iterable[PastAudit], every_ms: int | None) -> Coverage:
    """Return the coverage of a view.

    audits: earlier ones, in any order; those that read no rows (fast), or left some unjudged, compared nothing.
    every_ms: time within which a whole turn is promised; None: the rolling compare is off.
    """
    turn = state.turn
    subsets = [(audit, _subset(audit.subset)) for audit in audits if not (audit.fast or audit.incomplete)]
    n = max([turn.n, *(subset[1] for _, subset in subsets if subset is not None)])
    n = min(n, MAX_SLICES, max(1, state.buckets))
    at: dict[int, SliceCompared] = {}
    for i in range(n):
        compared_ms = _turn_ms(state, i)
        if compared_ms:
            at[i] = SliceCompared(i, compared_ms, "compare")
    for audit, subset in subsets:
        if subset is None or subset[1] > n:
            continue
        for i in range(subset[0], n, subset[1]):
            if i not in at or at[i].at_ms < audit.at_ms:
                at[i] = SliceCompared(i, audit.at_ms, "verify")
    return Coverage(n, [at[i] for i in sorted(at)], _all_by_ms(state, every_ms))


def _turn_ms(state: State, i: int) -> int:
    """Return when the rolling compare read slice i of any n ≥ turn.n, at the latest; 0: never."""
    turn = state.turn
    done_in_this_turn = turn.began_ms and i % turn.n < turn.i
    return turn.began_ms if done_in_this_turn else turn.done_ms


def _all_by_ms(state: State, every_ms: int | None) -> int | None:
    """Return when all will be compared: a turn begins when the last is as old as promised, and ends well within as much
    again.
    """
    turn = state.turn
    if every_ms is None:
        return None
    if turn.began_ms:
        return turn.began_ms + every_ms
    return turn.done_ms + every_ms if turn.done_ms else None


def _subset(text: str) -> tuple[int, int] | None:
    i, slash, n = text.partition("/")
    if not (slash and i.isdigit() and n.isdigit()) or not 0 <= int(i) < int(n) or int(n) & (int(n) - 1):
        return None
    return int(i), int(n)
