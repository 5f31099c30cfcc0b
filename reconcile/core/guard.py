"""Refuse suspicious mass deletes: an empty but successful read must not empty the cache.

The guard judges by what would remain. A view may replace all of its keys, all day long, as long as it does not shrink
below (1 − max_delete_fraction) of its largest size within the last hour.
"""

from __future__ import annotations

from msgspec import Struct

from reconcile.core.state import Peak
from reconcile.errors import SafetyStop
from reconcile.texts import plural

HANDFUL = 10
"""Deleting this many keys is never suspicious."""
WINDOW_MS = 3_600_000
DAY_MS = 86_400_000


class Guard(Struct, frozen=True):
    """The facts by which deletes are judged. replaced: the checkpoint belongs to another source."""

    peak: int
    max_fraction: float
    replaced: bool = False
    allowed: bool = False
    """Whether --allow-deletes was given."""

    def objects(self, deletes: int, before: int, after: int) -> bool:
        """Whether so many deletes need consent. before, after: number of keys of the view."""
        if self.allowed or deletes <= HANDFUL:
            return False
        largest = max(self.peak, before)
        shrinks = after < (1 - self.max_fraction) * largest and largest - after > HANDFUL
        return shrinks or (self.replaced and deletes > self.max_fraction * before)


def largest(peak: Peak) -> int:
    """Return the largest number of keys within the last hour (at least) to two hours (at most)."""
    return max(peak.keys, peak.before)


def seen(peak: Peak, keys: int, now_ms: int) -> Peak:
    """Return the peak, updated with this number of keys. A clock that goes back a little opens no new window."""
    age_ms = now_ms - peak.since_ms
    if age_ms < -WINDOW_MS:  # another clock: its window would not end for as long as it was ahead
        return Peak(now_ms, keys, largest(peak))
    if age_ms >= 2 * WINDOW_MS or not peak.since_ms:
        return Peak(now_ms, keys, 0)
    if age_ms >= WINDOW_MS:
        return Peak(now_ms, keys, peak.keys)
    return Peak(peak.since_ms, max(peak.keys, keys), peak.before)


def mass_delete(deletes: int, keys: int, max_fraction: float, view: str) -> SafetyStop:
    """Return the error for withheld deletes, with the command that allows them."""
    return SafetyStop(
        f"{deletes:,} of {plural(keys, 'key')} would be deleted, more than max_delete_fraction = {max_fraction:g} "
        "allows; deletes are withheld and the checkpoint stays",
        hint=f"if the view is right, run: reconcile snapshot --view {view} --allow-deletes",
    )


def still_withheld(view: str) -> SafetyStop:
    """Return the error of an audit while deletes are withheld: nothing is in sync until a human has decided."""
    return SafetyStop(
        f"deletes are withheld: Redis holds keys that view {view} lacks, and its checkpoint stays",
        hint=f"if the view is right, run: reconcile snapshot --view {view} --allow-deletes",
    )


def handful_left(removed: tuple[tuple[int, int], ...], now_ms: int) -> int:
    """Return how many more unexplained keys may be deleted today. removed: (milliseconds, number)."""
    used = sum(number for at_ms, number in removed if abs(now_ms - at_ms) < DAY_MS)
    return max(0, HANDFUL - used)


def note_removed(removed: tuple[tuple[int, int], ...], number: int, now_ms: int) -> tuple[tuple[int, int], ...]:
    """Return `removed` with these deletes added and entries older than a day dropped."""
    recent = tuple((min(at_ms, now_ms), n) for at_ms, n in removed if abs(now_ms - at_ms) < DAY_MS)
    return (*recent, (now_ms, number)) if number else recent


def consent_needed(unexplained: int, names: list[str], view: str) -> SafetyStop:
    """Return the error for unexplained keys in the view's range."""
    shown = f" ({', '.join(names)}{', …' if unexplained > len(names) else ''})" if names else ""
    are, them = ("is", "it") if unexplained == 1 else ("are", "them")
    return SafetyStop(
        f"{plural(unexplained, 'key')} in the range of view {view} {are} unexplained: nothing shows that the view "
        f"wrote {them}{shown}; left alone, everything else goes on",
        hint=f"to delete {them}, run: reconcile snapshot --view {view} --allow-deletes; to keep {them}, choose another "
        "prefix",
    )
