"""What Redis counted since a run last looked, as far as its counters tell."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from reconcile.core.state import Turn
from reconcile.report.audit import RedisCounters
from reconcile.runs.evidence import since_last_look
from reconcile.target.port import Counters

NOW_MS = 1_000_000
LOOKED = Turn(run_id="a", evicted=10, expired=5, looked_ms=900_000)


def counters(run_ids: str = "a", *, uptime_s: int | None = 400, evicted: int | None = 12) -> Counters:
    return Counters(run_ids, uptime_s, evicted, 9, "allkeys-lru", 1, 0, 1, 1)


def told(since: int | None, restarted: int | None, evicted: int | None, expired: int) -> RedisCounters:
    return RedisCounters(since, restarted, evicted, expired, "allkeys-lru")


@pytest.mark.parametrize(
    ("seen", "turn", "expected"),
    [
        (counters(), LOOKED, told(900_000, None, 2, 4)),
        (counters(evicted=3), LOOKED, told(900_000, None, 3, 4)),
        (counters("b", uptime_s=50), LOOKED, told(950_000, 950_000, 12, 9)),
        (counters("b", uptime_s=100), replace(LOOKED, looked_ms=900_700), told(900_700, 900_700, 12, 9)),
        (counters("b"), LOOKED, told(600_000, None, 12, 9)),
        (counters("b", uptime_s=None), LOOKED, told(None, None, 12, 9)),
        (counters(), Turn(), told(600_000, None, 12, 9)),
        (counters("a b"), Turn(run_id="a c", looked_ms=900_000), told(None, None, 12, 9)),
        (counters(evicted=None), LOOKED, told(900_000, None, None, 4)),
        (counters(""), LOOKED, None),
    ],
    ids=[
        "same",
        "reset",
        "restart",
        "restart in the same second",
        "failover",
        "no uptime",
        "first",
        "one of two",
        "not told",
        "refused",
    ],
)
def test_since_the_last_look(seen: Counters, turn: Turn, expected: RedisCounters | None) -> None:
    """The same process: what came since. Another one: what it counted since its start, which may have been before."""
    assert since_last_look(seen, turn, NOW_MS) == expected
