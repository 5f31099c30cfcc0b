# ruff: noqa: E501 - a table of messages
"""The guard: which deletes are suspicious, how long a peak counts, how many unexplained keys a day allows."""

from __future__ import annotations

import pytest

from reconcile.core import guard
from reconcile.core.guard import DAY_MS, HANDFUL, WINDOW_MS, Guard
from reconcile.core.state import Peak

HUNDRED = Guard(peak=100, max_fraction=0.3)
NOW = 100 * WINDOW_MS


@pytest.mark.parametrize(
    ("judge", "deletes", "before", "after", "objects"),
    [
        (HUNDRED, 30, 100, 70, False),
        (HUNDRED, 31, 100, 69, True),
        (HUNDRED, 11, 80, 69, True),
        (HUNDRED, 100, 100, 100, False),
        (HUNDRED, 40, 140, 98, False),
        (HUNDRED, 43, 140, 97, True),
        (Guard(peak=12, max_fraction=0.3), HANDFUL, 10, 0, False),
        (Guard(peak=12, max_fraction=0.3), HANDFUL + 1, 12, 2, False),
        (Guard(peak=12, max_fraction=0.3), HANDFUL + 1, 12, 1, True),
        (Guard(peak=100, max_fraction=0.3, replaced=True), 30, 100, 100, False),
        (Guard(peak=100, max_fraction=0.3, replaced=True), 31, 100, 100, True),
        (Guard(peak=100, max_fraction=0.3, replaced=True, allowed=True), 100, 100, 0, False),
    ],
    ids=["as many as allowed", "one more", "since the peak", "all replaced", "grown since, as allowed", "grown since",
         "a handful", "a handful less", "more than a handful", "another query, as allowed", "another query", "consent"],
)  # fmt: skip
def test_what_is_suspicious(judge: Guard, deletes: int, before: int, after: int, objects: bool) -> None:
    """What would remain counts, against the largest number there was; with another query also what would go."""
    assert judge.objects(deletes, before, after) is objects


@pytest.mark.parametrize(
    ("peak", "now_ms", "expected"),
    [
        (Peak(), NOW, Peak(NOW, 50, 0)),
        (Peak(NOW, 70, 90), NOW + WINDOW_MS - 1, Peak(NOW, 70, 90)),
        (Peak(NOW, 40, 90), NOW + WINDOW_MS - 1, Peak(NOW, 50, 90)),
        (Peak(NOW, 70, 90), NOW + WINDOW_MS, Peak(NOW + WINDOW_MS, 50, 70)),
        (Peak(NOW, 70, 90), NOW + 2 * WINDOW_MS - 1, Peak(NOW + 2 * WINDOW_MS - 1, 50, 70)),
        (Peak(NOW, 70, 90), NOW + 2 * WINDOW_MS, Peak(NOW + 2 * WINDOW_MS, 50, 0)),
        (Peak(NOW, 70, 90), NOW - WINDOW_MS, Peak(NOW, 70, 90)),
        (Peak(NOW, 70, 90), NOW - WINDOW_MS - 1, Peak(NOW - WINDOW_MS - 1, 50, 90)),
    ],
    ids=["first", "no more keys", "more keys", "next window", "end of the next", "long ago", "clock a little behind",
         "another clock"],
)  # fmt: skip
def test_how_long_a_peak_counts(peak: Peak, now_ms: int, expected: Peak) -> None:
    """An hour at least, two at most; whatever the clock does, it neither vanishes at once nor stays for good."""
    assert guard.seen(peak, 50, now_ms) == expected


def test_a_handful_a_day() -> None:
    """What was deleted within a day is subtracted, by clocks that were ahead as well; never below nothing."""
    removed = ((NOW - DAY_MS, 9), (NOW - DAY_MS + 1, 2), (NOW + DAY_MS - 1, 3), (NOW + DAY_MS, 9))
    assert guard.handful_left((), NOW) == HANDFUL
    assert guard.handful_left(removed, NOW) == HANDFUL - 5
    assert guard.handful_left(((NOW, HANDFUL + 5),), NOW) == 0
    assert guard.note_removed(removed, 4, NOW) == ((NOW - DAY_MS + 1, 2), (NOW, 3), (NOW, 4))
    assert guard.note_removed(removed, 0, NOW) == ((NOW - DAY_MS + 1, 2), (NOW, 3))


@pytest.mark.parametrize(
    ("number", "names", "said"),
    [
        (1, ["p:a"], "1 key in the range of view v is unexplained: nothing shows that the view wrote it (p:a); "),
        (2, ["p:a", "p:b"], "2 keys in the range of view v are unexplained: nothing shows that the view wrote them (p:a, p:b); "),
        (20, ["p:a"], "nothing shows that the view wrote them (p:a, …); "),
        (20, [], "nothing shows that the view wrote them; "),
    ],
)  # fmt: skip
def test_what_is_said_of_unexplained_keys(number: int, names: list[str], said: str) -> None:
    """How many, of which view, and some of them by name; the hint has the command that deletes them."""
    error = guard.consent_needed(number, names, "v")
    assert said in error.message
    assert "reconcile snapshot --view v --allow-deletes" in str(error.hint)
