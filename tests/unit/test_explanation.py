"""Why a key is as it is: every combination of what was seen has a sensible verdict."""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from reconcile.core.explanation import KeyVerdict, Seen, explain_key

SAME = Seen(
    synced=True,
    then_known=True,
    then=b"1",
    now=b"1",
    held=b"1",
    held_kind="string",
    owned=True,
    source_moved=False,
    redis_as_recorded=True,
)


def verdict(**changes: object) -> KeyVerdict:
    return explain_key(replace(SAME, **changes))[0]  # type: ignore[arg-type]


GONE = {"held": None, "held_kind": "none"}
CASES = [
    ({}, KeyVerdict.IN_SYNC),
    ({"now": b"2"}, KeyVerdict.LAGS),
    ({"now": None}, KeyVerdict.LAGS),
    ({**GONE, "then": None}, KeyVerdict.LAGS),
    ({**GONE, "then": None, "now": None}, KeyVerdict.ABSENT),
    ({**GONE, "redis_as_recorded": False}, KeyVerdict.MISSING),
    ({**GONE, "redis_as_recorded": None}, KeyVerdict.MISSING),
    ({"held": b"x", "redis_as_recorded": False}, KeyVerdict.CHANGED_OUTSIDE),
    ({"then": None, "now": None, "redis_as_recorded": False}, KeyVerdict.EXTRA),
    ({"held": b"x"}, KeyVerdict.MISSED),
    ({"held": None, "held_kind": "hash"}, KeyVerdict.CHANGED_OUTSIDE),
    ({**GONE, "expired": True}, KeyVerdict.EXPIRED),
    ({"owned": False}, KeyVerdict.FOREIGN),
    ({"owned": False, **GONE, "then": None, "now": None}, KeyVerdict.ABSENT),
    ({"synced": False}, KeyVerdict.NOT_SYNCED),
    # The checkpoint's time cannot be read any more.
    ({"then_known": False, "then": None}, KeyVerdict.IN_SYNC),
    ({"then_known": False, "then": None, "now": b"2", "source_moved": True}, KeyVerdict.LAGS),
    ({"then_known": False, "then": None, "now": None, "source_moved": True}, KeyVerdict.LAGS),
    ({"then_known": False, "then": None, **GONE, "redis_as_recorded": False}, KeyVerdict.MISSING),
    ({"then_known": False, "held": b"x", "redis_as_recorded": False}, KeyVerdict.CHANGED_OUTSIDE),
    ({"then_known": False, "held": b"x", "source_moved": True, "redis_as_recorded": False}, KeyVerdict.CHANGED_OUTSIDE),
    ({"then_known": False, "now": None, "source_moved": True, "redis_as_recorded": False}, KeyVerdict.EXTRA),
    ({"then_known": False, **GONE, "source_moved": True, "redis_as_recorded": False}, KeyVerdict.MISSING),
    # Rows of the bucket may have expired.
    (
        {"then_known": False, "now": b"2", "source_moved": True, "redis_as_recorded": False, "gone": True},
        KeyVerdict.LAGS,
    ),
    ({"then_known": False, **GONE, "source_moved": True, "redis_as_recorded": False, "gone": True}, KeyVerdict.LAGS),
]


@pytest.mark.parametrize(("changes", "expected"), CASES)
def test_verdicts(changes: dict[str, object], expected: KeyVerdict) -> None:
    """One case per line of the design's table of source, manifest and Redis."""
    assert verdict(**changes) is expected


def test_lag_is_never_called_drift() -> None:
    """While Redis is as the last run left it and the source moved, nothing is said against Redis."""
    values = (None, b"1", b"2")
    for now, held in itertools.product(values, values):
        seen = replace(
            SAME,
            then_known=False,
            then=None,
            now=now,
            held=held,
            held_kind="none" if held is None else "string",
            source_moved=True,
        )
        assert explain_key(seen)[0] in (KeyVerdict.LAGS, KeyVerdict.IN_SYNC, KeyVerdict.ABSENT)


def test_every_verdict_has_a_sentence() -> None:
    """Whatever was seen, there are words for it."""
    for synced, known, then, now, held, moved, recorded in itertools.product(
        (True, False), (True, False), (None, b"1"), (None, b"1"), (None, b"1", b"x"), (True, False), (True, False, None)
    ):
        seen = Seen(synced, known, then, now, held, "none" if held is None else "string", True, moved, recorded)
        assert explain_key(seen)[1]
