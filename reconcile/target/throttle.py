"""Writing considerately towards Redis' other clients: a number of keys per second, small writes while anybody else is
served, and pauses while Redis answers slowly.

Slow means slower than the quickest answer so far: a distant Redis is not an overloaded one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from reconcile.target.company import Company

LOOK_EVERY_KEYS = 4000
"""After this many keys without a pause Redis is asked how quick it is."""
REST_S = 0.1
PIECE_S = 0.000075
"""A round trip of this length hides a piece: what Redis stores in 0.05 ms (Layout.piece_keys)."""
MOST_PIECES = 64
COUNT_EVERY_S = 0.1
"""How often we look whom Redis works for."""
COUNT_LASTS_S = 1.0
FEW = 4
FEW_PER_S = 2
"""Others are there once they send FEW commands more than FEW_PER_S. Health checks and lease keepers send less."""
MANY = FEW + FEW_PER_S * COUNT_LASTS_S
"""However many they sent, they are gone when they have sent nothing for COUNT_LASTS_S."""
UNKNOWN = float("inf")
"""Taken for others."""
FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 1.0


class Throttle:
    """Paces the writes of one view.

    ping: returns a round trip in seconds. company: whom else Redis works for. wait: sleeps, but not past the run's end.
    """

    def __init__(
        self,
        writes_per_second: int | None,
        latency_max_s: float | None,
        ping: Callable[[], float],
        company: Company,
        wait: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = writes_per_second
        self._latency_max_s = latency_max_s
        self._ping = ping
        self._company = company
        self._wait = wait
        self._clock = clock
        self._free_at = clock()
        """When the rate allows the next write to begin."""
        self._quickest_s = float("inf")
        self._pause_s = 0.0
        self._keys = 0
        """Written since Redis was last asked, or since the last pause."""
        self._last_at = clock()
        self._looked_at = clock()
        self._recent = UNKNOWN
        """Commands of others that exceed FEW_PER_S; a leaky bucket."""

    def begin(self) -> None:
        """Look around for the first time, so that the first writes can know already. Does not wait."""
        if self._latency_max_s is not None:
            self._looked_at = self._clock()
            self._company.look()

    def pieces(self) -> int:
        """Return how many pieces one write may have; looks around for that now and then.

        Larger writes take fewer round trips, and nobody minds while we are alone. Other clients, as far away as we are,
        wait a round trip for every answer; if Redis is busy no longer than that, they hardly notice."""
        if self._latency_max_s is None or self._alone():
            return MOST_PIECES
        if self._quickest_s == float("inf"):
            return 1
        return min(MOST_PIECES, max(1, int(self._quickest_s / PIECE_S)))

    def _alone(self) -> bool:
        now = self._clock()
        elapsed_s = now - self._looked_at
        if elapsed_s < COUNT_EVERY_S:
            return self._recent <= FEW
        served, self._looked_at = self._company.served(), now
        if served is None:
            self._recent = UNKNOWN
        else:
            came = served - FEW_PER_S * elapsed_s
            self._recent = min(MANY, max(0.0, came + (0.0 if self._recent == UNKNOWN else self._recent)))
        return self._recent <= FEW

    def before(self, keys: int) -> None:
        """Wait until a write of this many keys may begin."""
        if self._rate is not None and keys:
            now = self._clock()
            if self._free_at > now:
                self._wait(self._free_at - now)
            self._free_at = max(self._free_at, now) + keys / self._rate
        if self._latency_max_s is not None and self._busy(keys):
            self._back_off(self._latency_max_s)

    def _busy(self, keys: int) -> bool:
        now = self._clock()
        rested = now - self._last_at > REST_S
        self._last_at, self._keys = now, keys if rested else self._keys + keys
        if self._keys < LOOK_EVERY_KEYS:
            return False
        self._keys = 0
        return True

    def _back_off(self, latency_max_s: float) -> None:
        took_s = self._ping()
        self._quickest_s = min(self._quickest_s, took_s)
        if took_s - self._quickest_s <= latency_max_s:
            self._pause_s /= 2
            return
        self._pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
        self._wait(self._pause_s)
