"""Decide when the rolling compare reads the next slice, and which. Pure; times are milliseconds by Redis' clock.

One turn covers n slices; `compare_every` promises a whole turn within that time. A ledger keeps the average cost at a
twentieth of the run time: a run may go into debt by one slice, which is paid back before the next.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from reconcile.core.state import Turn

SLICE_KEYS = 250_000
"""Approximate keys per slice; for each slice Redis lists all of its keys once."""
MAX_SLICES = 16
SHARE = 20
"""Compares may use one part in this many of the run time."""
LEDGER_MS = 3_600_000
"""Run time the ledger covers; older entries fade."""
HINT_EVERY_MS = 300_000
MUCH_FASTER = 4
"""A busy Redis may have slowed down the last slice, so the next one may take this many times less."""


def hint_counts(turn: Turn, now_ms: int) -> bool:
    """Whether a hint may buy a slice again: at most one every few minutes."""
    return not 0 <= now_ms - turn.hint_ms < HINT_EVERY_MS


def slices_for(keys: int, buckets: int) -> int:
    """Return the number of slices in a turn: a power of two, at most MAX_SLICES and the number of buckets."""
    wanted = max(1, -(-keys // SLICE_KEYS))
    return min(1 << (wanted - 1).bit_length(), MAX_SLICES, max(1, buckets))


def due(turn: Turn, now_ms: int, every_ms: int | None) -> bool:
    """Whether a slice should be compared now. A turn that ended in the future (another clock) says nothing."""
    if every_ms is None:
        return turn.began_ms > 0
    return turn.began_ms > 0 or not 0 <= now_ms - turn.done_ms < every_ms


def overdue(turn: Turn, now_ms: int, every_ms: int | None) -> bool:
    """Whether the last turn is older than twice `compare_every`."""
    return every_ms is not None and turn.done_ms > 0 and now_ms - min(turn.done_ms, now_ms) > 2 * every_ms + 60_000


def affordable(turn: Turn, ran_ms: int, left_ms: int | None, *, hinted: bool = False) -> bool:
    """Whether the ledger and the time left allow another slice.

    A slice that may not fit is tried once its cost has been saved up: one slow hour must not end all compares.
    ran_ms: of this run so far. hinted: a hint buys this slice, whatever the debt; hints that count are rare.
    """
    ran_ms += turn.ran_ms
    cost_ms = turn.slice_cost_ms
    if not hinted and turn.spent_ms * SHARE > ran_ms:
        return False
    if left_ms is None or cost_ms < left_ms:
        return True
    return cost_ms < left_ms * MUCH_FASTER and (turn.spent_ms + cost_ms) * SHARE <= ran_ms


def begun(turn: Turn, now_ms: int, keys: int, buckets: int) -> Turn:
    """Return the turn with its next slice set; a new turn if the last is complete or was made for other buckets."""
    n = slices_for(keys, buckets)
    if turn.began_ms and turn.n == n:
        return turn
    return replace(turn, i=0, n=n, first=0, began_ms=now_ms)


def advanced(turn: Turn, now_ms: int, cost_ms: int) -> Turn:
    """Return the turn after slice i was compared, at this cost."""
    return passed(charged(turn, cost_ms), now_ms)


def charged(turn: Turn, cost_ms: int) -> Turn:
    """Return the turn with the cost of a slice entered in its ledger; the slice itself is not finished."""
    return replace(turn, slice_cost_ms=cost_ms, spent_ms=turn.spent_ms + cost_ms)


def passed(turn: Turn, now_ms: int) -> Turn:
    """Return the turn, moved past slice i."""
    if turn.i + 1 < turn.n:
        return replace(turn, i=turn.i + 1, first=0)
    return turned(turn, now_ms)


def partly_passed(turn: Turn, ahead: Sequence[int], buckets: int) -> Turn:
    """Return the turn after a snapshot has looked at some of the buckets of slice i that differ. ahead: the others,
    ascending. Rows that have expired differ from the manifest however often they are looked at."""
    return replace(turn, first=ahead[0] if ahead else buckets)


def unfinished(turn: Turn, cost_ms: int, *, too_long: bool) -> Turn:
    """Return the turn after slice i was given up at this cost. too_long: the run had to end, so the whole slice's cost
    is a guess.
    """
    guess_ms = 2 * cost_ms if too_long else 0
    return replace(turn, slice_cost_ms=max(turn.slice_cost_ms, guess_ms), spent_ms=turn.spent_ms + cost_ms)


def turned(turn: Turn, now_ms: int) -> Turn:
    """Return the turn after all of Redis was compared in one go."""
    return replace(turn, i=0, n=1, first=0, began_ms=0, done_ms=now_ms)


def ran(turn: Turn, run_ms: int) -> Turn:
    """Return the ledger after a run of this many milliseconds."""
    total = turn.ran_ms + run_ms
    if total <= LEDGER_MS:
        return replace(turn, ran_ms=total)
    return replace(turn, ran_ms=LEDGER_MS, spent_ms=turn.spent_ms * LEDGER_MS // total)


def hinted(turn: Turn, run_id: str, evicted: int | None, policy: str | None, *, expiring: bool) -> bool:
    """Whether Redis' counters suggest a loss: its policy may evict our keys, and it evicted some or was restarted.

    expiring: the view's keys have an expiry.
    """
    may_evict = policy is not None and (policy.startswith("allkeys") or (expiring and policy.startswith("volatile")))
    evicted_more = bool(evicted) and evicted != turn.evicted  # CONFIG RESETSTAT lets it begin anew
    restarted = bool(turn.run_id) and run_id != turn.run_id
    return may_evict and (evicted_more or restarted)
