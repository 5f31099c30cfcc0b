"""Progress of each view: updated by runs per chunk of rows, read by a renderer now and then.

    progress.begin(view) ─▶ phase(view, name, total_rows) ─▶ advance(view, rows) … ─▶ phase … ─▶ end(view)

Runs get `SILENT` if nothing shows it; `watch.watched` shows a `Board` on a terminal or in the log.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

MIN_RATE_S = 0.5
"""No rate is shown earlier in a phase, since it would mean nothing."""


class Progress:
    """Receives progress; this one discards it. May be called from any thread."""

    def begin(self, view: str) -> None:
        """Work on a view begins."""

    def phase(self, view: str, name: str, total_rows: int | None) -> None:
        """Begin a phase of the view with this many rows; None: unknown."""

    def advance(self, view: str, rows: int) -> None:
        """Count this many more rows in the view's phase."""

    def end(self, view: str) -> None:
        """Work on the view has ended."""


SILENT = Progress()


class Work(Struct):
    """One view under way; times are by the board's clock."""

    view: str
    began_s: float
    phase: str = ""
    phase_began_s: float = 0.0
    rows: int = 0
    """Rows of this phase so far."""
    total_rows: int | None = None

    def rate(self, now_s: float) -> float | None:
        """Return rows per second in this phase; None: too early to say, or no rows pass."""
        spent_s = now_s - self.phase_began_s
        return self.rows / spent_s if self.rows and spent_s >= MIN_RATE_S else None

    def left_s(self, now_s: float) -> float | None:
        """Return seconds left in this phase at that rate; None if total or rate is unknown."""
        rate = self.rate(now_s)
        return None if rate is None or self.total_rows is None else max(0, self.total_rows - self.rows) / rate

    def describe(self, now_s: float) -> str:
        """Return `prices: read, 1,200,000 of 3,000,000 rows, 80,000 rows/s, 23 s left`."""
        parts = [self.phase or "connecting"]
        if self.rows or self.total_rows:
            total = "" if self.total_rows is None else f" of {self.total_rows:,}"
            parts.append(f"{self.rows:,}{total} rows")
        rate, left_s = self.rate(now_s), self.left_s(now_s)
        if rate is not None:
            parts.append(f"{rate:,.0f} rows/s")
        parts.append(f"{left_s:,.0f} s left" if left_s is not None else f"for {now_s - self.phase_began_s:,.0f} s")
        return f"{self.view}: {', '.join(parts)}"


class Board(Progress):
    """Records the progress of each view. A call takes a lock and adds: cheap enough for every chunk of rows."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._under_way: dict[str, Work] = {}
        self._ended = 0

    def begin(self, view: str) -> None:
        now_s = self.clock()
        with self._lock:
            self._under_way[view] = Work(view, now_s, phase_began_s=now_s)

    def phase(self, view: str, name: str, total_rows: int | None) -> None:
        now_s = self.clock()
        with self._lock:
            known = self._under_way.get(view)
            began_s = known.began_s if known is not None else now_s
            self._under_way[view] = Work(view, began_s, name, now_s, 0, total_rows)

    def advance(self, view: str, rows: int) -> None:
        with self._lock:
            if view in self._under_way:
                self._under_way[view].rows += rows

    def end(self, view: str) -> None:
        with self._lock:
            if self._under_way.pop(view, None) is not None:
                self._ended += 1

    def under_way(self) -> list[Work]:
        """Return copies of the views under way, in the order in which they began."""
        with self._lock:
            return sorted((replace(one) for one in self._under_way.values()), key=lambda one: one.began_s)

    @property
    def ended(self) -> int:
        """Number of views that have ended."""
        with self._lock:
            return self._ended
