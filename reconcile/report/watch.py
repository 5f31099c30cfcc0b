"""Show a run's progress: bars on a terminal, elsewhere a line in the log now and then. Nothing goes to stdout.

A separate thread reads the board, so that a phase waiting for a server is seen to wait, and runs pay only for their
counters. tqdm is imported there, and only for a run long enough to be watched.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from reconcile.report.progress import Board, Progress

if TYPE_CHECKING:
    from tqdm import tqdm

logger = logging.getLogger(__name__)

LOG_EVERY_S = 30.0
BARS_AFTER_S = 1.0
"""A shorter run shows no bars."""
BARS_EVERY_S = 0.2
MAX_BARS = 8
"""Views shown at once; of the others, their number."""
MAX_LOGGED = 8
"""Views per line of the log."""
JOIN_S = 2.0
_KNOWN = "{desc} {percentage:3.0f}% |{bar:30}| {n_fmt} of {total_fmt} rows, {rate_noinv_fmt}, {remaining} left"
_OPEN = "{desc} {n_fmt} rows, {rate_noinv_fmt}, {elapsed}"
_WAITING = "{desc} {elapsed}"


@contextlib.contextmanager
def watched(*, terminal: bool) -> Iterator[Progress]:
    """Yield a board that is shown until the block ends. terminal: stderr is one, and bars are wanted."""
    board, over = Board(), threading.Event()
    show = _bars if terminal else _log_lines
    thread = threading.Thread(target=show, args=(board, over), name="progress", daemon=True)
    thread.start()
    try:
        yield board
    finally:
        over.set()
        thread.join(JOIN_S)


def _log_lines(board: Board, over: threading.Event) -> None:
    while not over.wait(LOG_EVERY_S):
        line = log_line(board)
        if line:
            logger.info("%s", line)


def log_line(board: Board) -> str:
    """Return the progress of every view in one line; empty if none is under way."""
    now_s, works = board.clock(), board.under_way()
    lines = [one.describe(now_s) for one in works[:MAX_LOGGED]]
    if len(works) > MAX_LOGGED:
        lines.append(f"{len(works) - MAX_LOGGED} more views are under way")
    if lines and board.ended:
        lines.append(f"{board.ended} done")
    return "; ".join(lines)


def _bars(board: Board, over: threading.Event) -> None:
    if over.wait(BARS_AFTER_S):
        return
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    tqdm.set_lock(threading.RLock())  # its default imports multiprocessing
    tqdm.monitor_interval = 0  # no second thread
    with logging_redirect_tqdm([logging.getLogger("reconcile")]), _Bars(board) as bars:
        while True:
            bars.draw()
            if over.wait(BARS_EVERY_S):
                return


class _Bars:
    """One line per view under way."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._shown: dict[str, tuple[tqdm[NoReturn], tuple[str, float]]] = {}
        """View → its bar, and the phase the bar shows."""

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        for bar, _phase in self._shown.values():
            bar.close()

    def draw(self) -> None:
        """Update all bars."""
        works = self._board.under_way()
        seen = {one.view for one in works[:MAX_BARS]}
        for view in [view for view in self._shown if view not in seen]:
            self._shown.pop(view)[0].close()
        for one in works[:MAX_BARS]:
            bar = self._bar_of(one.view, (one.phase, one.phase_began_s), one.total_rows)
            more = len(works) - MAX_BARS
            last = one is works[MAX_BARS - 1] if more > 0 else False
            bar.set_description_str(
                f"{one.view}: {one.phase or 'connecting'}{f' (+{more} views)' if last else ''}", refresh=False
            )
            bar.bar_format = _WAITING if not one.rows else _OPEN if one.total_rows is None else _KNOWN
            if not bar.update(one.rows - bar.n):
                bar.refresh()

    def _bar_of(self, view: str, phase: tuple[str, float], total_rows: int | None) -> tqdm[NoReturn]:
        from tqdm import tqdm

        if view not in self._shown:
            bar: tqdm[NoReturn] = tqdm(
                desc=view,
                total=total_rows,
                bar_format=_WAITING,
                unit=" rows",
                unit_scale=True,
                file=sys.stderr,
                leave=False,
                dynamic_ncols=True,
            )
            self._shown[view] = (bar, phase)
        elif self._shown[view][1] != phase:
            self._shown[view][0].reset(total_rows)
            self._shown[view] = (self._shown[view][0], phase)
        return self._shown[view][0]
