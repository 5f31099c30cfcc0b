"""Writing considerately towards Redis' other clients: a number of keys per second, small writes while anybody else is
served, and pauses while Redis answers slowly.

Slow means slower than the quickest answer so far: a distant Redis is not an overloaded one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_EVERY_KEYS = 4000
"""After this many keys without a pause Redis is asked how quick it is."""
REST_S = 0.1
PIECE_S = 0.000075
"""A round trip of this length hides a piece: what Redis stores in 0.05 ms (Layout.piece_keys)."""
MOST_PIECES = 64
COUNT_EVERY_S = 0.1
"""How often Redis is asked how many commands it has executed for others."""
COUNT_LASTS_S = 1.0
FEW = 4
FEW_PER_S = 2
"""Others are there once they send FEW commands more than FEW_PER_S. Health checks and our lease keeper send less."""
MANY = FEW + FEW_PER_S * COUNT_LASTS_S
"""However many they sent, they are gone when they have sent nothing for COUNT_LASTS_S."""
UNKNOWN = float("inf")
"""Taken for others."""
FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 1.0


class Throttle:
    """Paces the writes of one view.

    ping: returns a round trip in seconds. others: returns how many commands Redis has executed for other clients,
    counted from any moment; None if it does not tell. wait: sleeps, but not past the run's end.
    """

    def __init__(
        self,
        writes_per_second: int | None,
        latency_max_s: float | None,
        ping: Callable[[], float],
        others: Callable[[], int | None],
        wait: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = writes_per_second
        self._latency_max_s = latency_max_s
        self._ping = ping
        self._others = others
        self._wait = wait
        self._clock = clock
        self._free_at = clock()
        """When the rate allows the next write to begin."""
        self._quickest_s = float("inf")
        self._pause_s = 0.0
        self._keys = 0
        """Written since Redis was last asked, or since the last pause."""
        self._last_at = clock()
        self._counted: int | None = None
        """Commands of others, when last asked."""
        self._counted_at = clock()
        self._recent = UNKNOWN
        """Of these, what exceeds FEW_PER_S; a leaky bucket."""

    @property
    def pieces(self) -> int:
        """How many pieces one write may have. Larger ones take fewer round trips, and nobody minds while we are alone.

        Other clients, as far away as we are, wait a round trip for every answer; if Redis is busy no longer than that,
        they hardly notice."""
        if self._latency_max_s is None or self._alone:
            return MOST_PIECES
        if self._quickest_s == float("inf"):
            return 1
        return min(MOST_PIECES, max(1, int(self._quickest_s / PIECE_S)))

    @property
    def _alone(self) -> bool:
        return self._recent <= FEW and self._clock() - self._counted_at <= COUNT_LASTS_S

    def before(self, keys: int) -> None:
        """Wait until a write of this many keys may begin."""
        if self._rate is not None and keys:
            now = self._clock()
            if self._free_at > now:
                self._wait(self._free_at - now)
            self._free_at = max(self._free_at, now) + keys / self._rate
        if self._latency_max_s is not None and self._busy(keys):
            self._back_off(self._latency_max_s)
            self._look_around()

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

    def _look_around(self) -> None:
        now = self._clock()
        elapsed_s = now - self._counted_at
        if elapsed_s < COUNT_EVERY_S:
            return
        before, self._counted, self._counted_at = self._counted, self._others(), now
        if before is None or self._counted is None or self._counted < before:  # a proxy's count, or one that was reset
            self._recent = UNKNOWN
            return
        came = self._counted - before - FEW_PER_S * elapsed_s
        self._recent = min(MANY, max(0.0, came + (0.0 if self._recent == UNKNOWN else self._recent)))
