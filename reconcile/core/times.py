"""Materialize timestamps: unsigned 64-bit milliseconds."""

from __future__ import annotations

import datetime
import re
from typing import NewType

from reconcile.errors import UsageError

MAX_TIMESTAMP = 2**64 - 1
"""The time of content that never changes, such as a constant view's (transcript subscribe_bounds)."""

Frontier = NewType("Frontier", int)
"""An exclusive bound: everything at times below it is known. as_of, a bare int, is inclusive."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MILLISECOND = datetime.timedelta(milliseconds=1)
_NUMBER = re.compile(r"[0-9]{1,20}")
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt ].*)?")
"""fromisoformat takes any character for the T: it reads 2025-01-01+02:00 as two o'clock."""
_DURATION = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?) ?(ms|s|m|h|d)?")
_UNIT_S = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001, None: 1.0}


def parse_duration(text: str) -> float:
    """Return the seconds in 500ms, 90s, 1.5h, 7d; a bare number is seconds. Raises ValueError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a duration")
    return float(match[1]) * _UNIT_S[match[2]]


def format_duration(seconds: float) -> str:
    """Return a configured duration in the largest unit that divides it: 90s, 5m, 1d."""
    for unit in ("d", "h", "m", "s"):
        if seconds >= _UNIT_S[unit] and seconds % _UNIT_S[unit] == 0:
            return f"{seconds / _UNIT_S[unit]:g}{unit}"
    return f"{seconds * 1000:g}ms" if seconds < 1 else f"{seconds:g}s"


def span(milliseconds: float) -> str:
    """Return a measured duration in one fitting unit: 840 ms, 3.2 s, 12 min, 5 h, 3 days."""
    seconds = milliseconds / 1000
    if seconds < 1:
        return f"{milliseconds:.0f} ms"
    for limit, unit, shown in ((100, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds:.1f} s" if unit == 1 and seconds < 10 else f"{seconds / unit:.0f} {shown}"
    return f"{seconds / 86_400:,.0f} days"


def parse_as_of(text: str, now_ms: int) -> int | None:
    """Return the milliseconds of a time as people write it: now (None) | <ms> | RFC 3339 | -5m. Raises UsageError."""
    text = text.strip()
    if text == "now":
        return None
    if _NUMBER.fullmatch(text):
        value = int(text)
    elif text.startswith("-") and _DURATION.fullmatch(text[1:]) and not text[-1].isdigit():
        value = now_ms - round(parse_duration(text[1:]) * 1000)
    else:
        try:
            if _MOMENT.fullmatch(text) is None:
                raise ValueError
            moment = datetime.datetime.fromisoformat(text)
        except ValueError:
            raise UsageError(
                f"{text!r} is not a time", hint="use now, milliseconds, RFC 3339 with zone, or -5m"
            ) from None
        if moment.tzinfo is None:
            whole = text if len(text) > len("2025-01-01") else f"{text}T00:00:00"
            raise UsageError(f"{text!r} has no time zone", hint=f"write {whole}Z or {whole}+02:00")
        value = round((moment - _EPOCH) / _MILLISECOND)
    if not 0 <= value <= MAX_TIMESTAMP:
        raise UsageError(f"{text!r} is out of range")
    return value


def frontier_after(as_of: int) -> Frontier:
    """Return the exclusive frontier that means 'everything up to and including as_of is known'."""
    return Frontier(min(as_of + 1, MAX_TIMESTAMP))


def format_time(timestamp: int) -> str:
    """Return RFC 3339 in UTC with milliseconds; the bare number if it is out of range."""
    try:
        moment = _EPOCH + timestamp * _MILLISECOND  # exact, where seconds as a float are not
    except OverflowError:
        return str(timestamp)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
