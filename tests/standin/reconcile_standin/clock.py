"""Time: the oracle that hands out timestamps, and what readers hold back."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


class Clock:
    """Every relation is complete up to the same frontier: upper, one after the oracle's read time.

    Commits and ticks move the read time. A tick wakes all who wait in `wait_past`, a commit those who wait for its
    tables: with hundreds of subscriptions a commit to one table would else wake a thread for each of them.
    """

    def __init__(self, start: int = 0) -> None:
        self.read_ts = max(start, self.now())
        self._lock = threading.Lock()
        self._waiting: dict[threading.Condition, frozenset[int] | None] = {}
        """Who waits, and for which tables; None: for any."""
        self._ticked = self.read_ts
        self._changed: dict[int, int] = {}
        """Table → its last commit."""
        self._holds: dict[int, int] = {}
        self._hold_ids = itertools.count()

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

    def publish(self, ts: int, tables: Collection[int] | None = None) -> None:
        """Make everything up to and including ts readable. tables: those that a commit has changed."""
        with self._lock:
            self.read_ts = max(self.read_ts, ts)
            if tables is None:
                self._ticked = self.read_ts
            else:
                self._changed |= dict.fromkeys(tables, ts)
            for condition, wanted in self._waiting.items():
                if wanted is None or tables is None or not wanted.isdisjoint(tables):
                    condition.notify()

    def wake(self) -> None:
        """Let everybody who waits look again."""
        with self._lock:
            for condition in self._waiting:
                condition.notify()

    def wait_past(self, frontier: int, timeout_s: float, tables: frozenset[int] | None = None) -> bool:
        """Wait until the upper is beyond a frontier, or a wake-up; False when neither came in time.

        tables: who asks hears of other tables' commits at the next tick.
        """
        with self._lock:
            if self._heard(tables) > frontier:
                return True
            condition = threading.Condition(self._lock)
            self._waiting[condition] = tables
            try:
                return condition.wait(timeout_s)
            finally:
                del self._waiting[condition]

    def changed(self, since: int) -> set[int]:
        """The tables that commits at since or later have changed."""
        with self._lock:
            return {table for table, ts in self._changed.items() if ts >= since}

    def _heard(self, tables: frozenset[int] | None) -> int:
        if tables is None:
            return self.upper
        return 1 + max(self._ticked, *(self._changed.get(table, 0) for table in tables))

    def hold(self, ts: int) -> int:
        """Keep the content at ts readable until released; gives a handle."""
        with self._lock:
            handle = next(self._hold_ids)
            self._holds[handle] = ts
            return handle

    def move_hold(self, handle: int, ts: int) -> None:
        """A hold that follows its reader."""
        with self._lock:
            self._holds[handle] = ts

    def release(self, handle: int) -> None:
        """Give a hold back."""
        with self._lock:
            self._holds.pop(handle, None)

    def held(self) -> int | None:
        """The earliest time anybody holds."""
        with self._lock:
            return min(self._holds.values(), default=None)
