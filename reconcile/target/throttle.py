"""Writing slowly enough for Redis' other clients: a number of keys per second, and less while Redis answers slowly.

Slow means slower than the quickest answer so far: a distant Redis is not an overloaded one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_EVERY_KEYS = 4000
"""After this many keys without a pause Redis is asked how quick it is."""
REST_S = 0.1
PIECE_S = 0.00015
"""A round trip of this length hides a piece: what Redis stores in 0.1 ms (Layout.piece_keys)."""
MOST_PIECES = 32
FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 1.0


class Throttle:
    """Paces the writes of one view. ping: returns a round trip in seconds. wait: sleeps, but not past the run's end."""

    def __init__(
        self,
        writes_per_second: int | None,
        latency_max_s: float | None,
        ping: Callable[[], float],
        wait: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = writes_per_second
        self._latency_max_s = latency_max_s
        self._ping = ping
        self._wait = wait
        self._clock = clock
        self._free_at = clock()
        """When the rate allows the next write to begin."""
        self._quickest_s = float("inf")
        self._pause_s = 0.0
        self._keys = 0
        """Written since Redis was last asked, or since the last pause."""
        self._last_at = clock()

    @property
    def pieces(self) -> int:
        """How many pieces one write may have. Other clients, as far away as we are, wait a round trip for every answer;
        if Redis is busy no longer than that, they hardly notice. And larger writes take fewer round trips."""
        if self._latency_max_s is None:
            return MOST_PIECES
        if self._quickest_s == float("inf"):
            return 1
        return min(MOST_PIECES, max(1, int(self._quickest_s / PIECE_S)))

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
