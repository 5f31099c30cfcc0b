"""Times as users write them, and as they are shown."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.core.times import MAX_TIMESTAMP, format_duration, format_time, frontier_after, parse_as_of, span
from reconcile.errors import ExitCode, UsageError

NOW = 1_755_860_000_000
"""2025-08-22T10:53:20Z"""


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("now", None),
        (" now ", None),
        ("0", 0),
        ("1755860000123", 1_755_860_000_123),
        (str(MAX_TIMESTAMP), MAX_TIMESTAMP),
        ("-0s", NOW),
        ("-250ms", NOW - 250),
        ("-30s", NOW - 30_000),
        ("-5m", NOW - 300_000),
        ("-2h", NOW - 7_200_000),
        ("-1d", NOW - 86_400_000),
        ("2025-08-22T10:53:20Z", NOW),
        ("2025-08-22T10:53:20.123Z", NOW + 123),
        ("2025-08-22T10:53:20.9999Z", NOW + 1000),
        ("2025-08-22T12:53:20+02:00", NOW),
        ("2025-08-22 10:53:20+00:00", NOW),
        ("1970-01-01T00:00:00Z", 0),
    ],
)
def test_times_that_are_understood(text: str, meant: int | None) -> None:
    """now, milliseconds, a span before now, RFC 3339 with zone."""
    assert parse_as_of(text, NOW) == meant


@pytest.mark.parametrize(
    "text",
    [
        "", "yesterday", "5m", "+5m", "-5", "-5w", "-m", "- 5m", "-٣m", "²", "1_000", "1e12", "NOW",
        "2025-08-22T10:53:20", "2025-08-22", "10:53", "2025-13-01T00:00:00Z", "1969-12-31T23:59:59Z", "-99999d",
        "2025-08-22Z", "2025-08-22+02:00", "2025-08-22_10:53:20Z",
        str(MAX_TIMESTAMP + 1), "9" * 21, "9" * 5000, "-" + "9" * 5000 + "d", "-1",
    ],
)  # fmt: skip
def test_times_that_are_refused(text: str) -> None:
    """A usage error (exit 2) that repeats what was written; never another exception."""
    with pytest.raises(UsageError, match=r"is not a time|no time zone|out of range") as caught:
        parse_as_of(text, NOW)
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("text", ["2025-08-22T10:53:20", "2025-08-22"])
def test_a_time_without_zone_gets_a_hint(text: str) -> None:
    """Guessing a zone would read another content: the hint shows how to write one."""
    with pytest.raises(UsageError, match="no time zone") as caught:
        parse_as_of(text, NOW)
    shown = re.findall(r"2025\S+", caught.value.hint or "")
    assert len(shown) == 2
    for one in shown:
        assert one.startswith(text)
        assert parse_as_of(one, NOW) is not None


@given(st.text(max_size=25))
def test_any_text_is_a_time_or_a_usage_error(text: str) -> None:
    """Never another exception, never a time out of range."""
    try:
        meant = parse_as_of(text, NOW)
    except UsageError:
        return
    assert meant is None or 0 <= meant <= MAX_TIMESTAMP


@given(st.integers(0, 253_402_300_799_999))
def test_what_is_shown_can_be_given_back(timestamp: int) -> None:
    """The text of a time in reports and status is a time --as-of accepts, to the millisecond, up to the year 9999."""
    shown = format_time(timestamp)
    assert parse_as_of(shown, NOW) == timestamp
    assert shown.endswith("Z")


@pytest.mark.parametrize(
    ("timestamp", "shown"),
    [
        (NOW, "2025-08-22T10:53:20.000Z"),
        (NOW + 7, "2025-08-22T10:53:20.007Z"),
        (0, "1970-01-01T00:00:00.000Z"),
        (MAX_TIMESTAMP, str(MAX_TIMESTAMP)),
        (10**400, str(10**400)),
    ],
)
def test_times_are_shown_in_utc(timestamp: int, shown: str) -> None:
    """RFC 3339 with milliseconds; the bare number where a calendar makes no sense."""
    assert format_time(timestamp) == shown


@pytest.mark.parametrize(("as_of", "frontier"), [(0, 1), (NOW, NOW + 1), (MAX_TIMESTAMP, MAX_TIMESTAMP)])
def test_the_frontier_is_one_after_as_of(as_of: int, frontier: int) -> None:
    """as_of is inclusive, a frontier exclusive; the last time there is has none after it."""
    assert frontier_after(as_of) == frontier


def test_durations_that_were_configured() -> None:
    """The largest unit that divides them, as users write them."""
    assert [format_duration(one) for one in (0.5, 45, 90, 600, 3600)] == ["500ms", "45s", "90s", "10m", "1h"]


def test_durations_that_were_measured() -> None:
    """One unit that fits, and no more digits than say something."""
    shown = [span(one) for one in (0, 840, 1000, 9949, 45_400, 99_000, 720_000, 18_000_000, 259_200_000)]
    assert shown == ["0 ms", "840 ms", "1.0 s", "9.9 s", "45 s", "99 s", "12 min", "5 h", "3 days"]
