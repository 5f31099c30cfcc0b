"""Materialize timestamps: unsigned 64-bit milliseconds. A constant view lives at the largest of them."""

from __future__ import annotations

import datetime
import re

from reconcile.errors import UsageError

MAX_TIMESTAMP = 2**64 - 1
"""Time of content that never changes (`SUBSCRIBE (SELECT 1)`: recorded in subscribe_bounds)."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MILLISECOND = datetime.timedelta(milliseconds=1)
_NUMBER = re.compile(r"[0-9]{1,20}")
_RELATIVE = re.compile(r"-([0-9]{1,20})(ms|s|m|h|d)")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_as_of(text: str, now_ms: int) -> int | None:
    """Milliseconds meant by a time as people write it: now (None) | <ms> | RFC 3339 | -5m. Raises UsageError."""
    text = text.strip()
    if text == "now":
        return None
    if _NUMBER.fullmatch(text):
        value = int(text)
    elif match := _RELATIVE.fullmatch(text):
        value = now_ms - int(match[1]) * _UNIT_MS[match[2]]
    else:
        try:
            moment = datetime.datetime.fromisoformat(text)
        except ValueError:
            raise UsageError(
                f"{text!r} is not a time", hint="use now, milliseconds, RFC 3339 with zone, or -5m"
            ) from None
        if moment.tzinfo is None:
            raise UsageError(f"{text!r} has no time zone", hint=f"write {text}Z or {text}+02:00")
        value = round((moment - _EPOCH) / _MILLISECOND)
    if not 0 <= value <= MAX_TIMESTAMP:
        raise UsageError(f"{text!r} is out of range")
    return value


def frontier_after(as_of: int) -> int:
    """The exclusive frontier that says 'everything up to and including as_of is known'."""
    return min(as_of + 1, MAX_TIMESTAMP)


def format_time(timestamp: int) -> str:
    """For people: RFC 3339 in UTC with milliseconds; the bare number where that makes no sense."""
    try:
        moment = _EPOCH + timestamp * _MILLISECOND  # exact, where seconds as a float are not
    except OverflowError:
        return str(timestamp)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
