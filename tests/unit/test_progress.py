"""Progress: counted by the runs, shown by a thread of its own, never on stdout."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest

from reconcile.report import watch
from reconcile.report.progress import Board
from reconcile.report.run_report import ViewReport


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_phase_rows_rate_and_time_left() -> None:
    """A line says where a view is, how fast, and how long it will take."""
    clock = Clock()
    board = Board(clock)
    board.begin("prices")
    assert watch.log_line(board) == "prices: connecting, for 0 s"
    board.phase("prices", "read", 3_000_000)
    clock.now_s += 10
    board.advance("prices", 1_000_000)
    assert watch.log_line(board) == "prices: read, 1,000,000 of 3,000,000 rows, 100,000 rows/s, 20 s left"
    board.phase("prices", "delta", None)
    clock.now_s += 2
    board.advance("prices", 50)
    assert watch.log_line(board) == "prices: delta, 50 rows, 25 rows/s, for 2 s"


def test_many_views_are_one_bounded_line() -> None:
    """Of more views than can be told it says how many, and how many are done."""
    board = Board()
    for n in range(100):
        board.begin(f"v{n}")
    board.end("v0")
    line = watch.log_line(board)
    assert line.count("connecting") == watch.MAX_LOGGED
    assert line.endswith("91 more views are under way; 1 done")
    for n in range(100):
        board.end(f"v{n}")
    assert watch.log_line(board) == ""


def test_a_report_tells_whoever_watches() -> None:
    """Phases of a report are phases of the board, nested ones too, and rows are counted in the innermost."""
    board = Board()
    report = ViewReport("prices", progress=board)
    with report.timed():
        with report.phase("confirm", 10), report.phase("read", 5):
            report.advance(3)
            (work,) = board.under_way()
            assert (work.phase, work.rows, work.total_rows) == ("read", 3, 5)
        report.advance(1)
    assert board.under_way() == []
    assert report.phases_rows == {"read": 3}
    assert report.to_dict()["phases_rows"] == {"read": 3}


def test_threads_count_together() -> None:
    """No row is lost when several threads advance the same view."""
    board = Board()
    board.begin("v")

    def work() -> None:
        for _ in range(10_000):
            board.advance("v", 1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert board.under_way()[0].rows == 40_000


def test_a_line_in_the_log_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Off a terminal the log says where a run is, also while a phase waits."""
    monkeypatch.setattr(watch, "LOG_EVERY_S", 0.05)
    caplog.set_level(logging.INFO, "reconcile")
    monkeypatch.setattr(logging.getLogger("reconcile"), "propagate", True)
    with watch.watched(terminal=False) as progress:
        progress.begin("prices")
        progress.phase("prices", "fingerprints", None)
        until = time.monotonic() + 60
        told = "prices: fingerprints, for "
        while not any(message.startswith(told) for message in caplog.messages) and time.monotonic() < until:
            time.sleep(0.01)
    assert caplog.messages[-1].startswith(told), caplog.messages
    for thread in threading.enumerate():
        if thread.name == "progress":
            thread.join(60)
            assert not thread.is_alive()


PROGRAM = """
import logging, sys, time
import tqdm.contrib.logging  # the time of loading it is not tested here
from reconcile.report import watch
watch.BARS_AFTER_S = 0.0
logger = logging.getLogger("reconcile")
logger.addHandler(logging.StreamHandler(sys.stderr))
logger.setLevel("INFO")
with watch.watched(terminal=True) as progress:
    for view in ("prices", "stock"):
        progress.begin(view)
        progress.phase(view, "read", 1000)
    for _ in range(10):
        time.sleep(0.1)
        progress.advance("prices", 100)
        progress.advance("stock", 40)
    logger.info("a line of the log")
    sys.stdin.read()  # until all of it was seen
"""
SHOWN = (
    r"prices: read +100% \|█+\| 1\.00k of 1\.00k rows, [\d.k]+ rows/s, 00:00 left",
    r"stock: read +40% ",
    r"(\r|\x1b\[A)a line of the log\r\n",
)


def test_bars_on_a_terminal() -> None:
    """Bars of several views with percentage, rate and time left on stderr, the log between them, stdout empty."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=pipe, stdout=pipe, stderr=theirs)
    os.close(theirs)
    assert process.stdin is not None
    shown, seen, give_up_at = b"", False, time.monotonic() + 60
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
            seen = all(re.search(text, shown.decode(errors="replace")) for text in SHOWN)
            if seen or time.monotonic() > give_up_at:
                process.stdin.close()
    except OSError:  # how Linux says that the other end is closed
        pass
    process.stdin = None
    stdout, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0, shown
    assert stdout == b""
    assert seen, shown
