"""Time: the oracle that hands out timestamps, and what readers hold back."""

from __future__ import annotations

import itertools
import threading
import time


class Clock:
    """Every relation is complete up to the same frontier: upper, one after the oracle's read time.

    Commits and ticks move the read time; both wake those who wait in `wait_past`.
    """

    def __init__(self, start: int = 0) -> None:
        self.read_ts = max(start, self.now())
        self.condition = threading.Condition()
        self._holds: dict[int, int] = {}
        self._hold_ids = itertools.count()
        self._closed = threading.Event()

    @staticmethod
    def now() -> int:
        """Wall-clock milliseconds."""
        return time.time_ns() // 1_000_000

    @property
    def upper(self) -> int:
        """The frontier of everything."""
        return self.read_ts + 1

    def next_write(self) -> int:
        """The time of the next commit; the caller is the only writer."""
        return max(self.now(), self.read_ts + 1)

    def publish(self, ts: int) -> None:
        """Make everything up to and including ts readable."""
        with self.condition:
            self.read_ts = max(self.read_ts, ts)
            self.condition.notify_all()

    def wake(self) -> None:
        """Let everybody who waits look again."""
        with self.condition:
            self.condition.notify_all()

    def wait_past(self, frontier: int, timeout_s: float) -> bool:
        """Wait until the upper is beyond a frontier, or a wake-up; False when neither came in time."""
        with self.condition:
            if self.upper > frontier:
                return True
            return self.condition.wait(timeout_s)

    def hold(self, ts: int) -> int:
        """Keep the content at ts readable until released; gives a handle."""
        with self.condition:
            handle = next(self._hold_ids)
            self._holds[handle] = ts
            return handle

    def move_hold(self, handle: int, ts: int) -> None:
        """A hold that follows its reader."""
        with self.condition:
            self._holds[handle] = ts

    def release(self, handle: int) -> None:
        """Give a hold back."""
        with self.condition:
            self._holds.pop(handle, None)

    def held(self) -> int | None:
        """The earliest time anybody holds."""
        with self.condition:
            return min(self._holds.values(), default=None)
