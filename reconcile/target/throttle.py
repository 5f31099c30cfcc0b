"""Writing slowly enough for Redis' other clients: a number of keys per second, and less while Redis answers slowly.

Slow means slower than the quickest answer so far: a distant Redis is not an overloaded one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LARGE_WRITE_KEYS = 500
"""Smaller writes are over too quickly to hurt other clients."""
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

    def before(self, keys: int) -> None:
        """Wait until a write of this many keys may begin."""
        if self._rate is not None and keys:
            now = self._clock()
            if self._free_at > now:
                self._wait(self._free_at - now)
            self._free_at = max(self._free_at, now) + keys / self._rate
        if self._latency_max_s is not None and keys >= LARGE_WRITE_KEYS:
            self._back_off(self._latency_max_s)

    def _back_off(self, latency_max_s: float) -> None:
        took_s = self._ping()
        self._quickest_s = min(self._quickest_s, took_s)
        if took_s - self._quickest_s <= latency_max_s:
            self._pause_s /= 2
            return
        self._pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
        self._wait(self._pause_s)
