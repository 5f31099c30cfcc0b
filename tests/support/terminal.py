"""The installed `reconcile` on a terminal, where it asks questions and watches."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.command import PROGRAM

PATIENCE_S = 60.0


class Terminal:
    """A command whose stdin and stderr are a terminal."""

    def __init__(self, process: subprocess.Popen[str], ours: int) -> None:
        self.process = process
        self._ours = ours

    def wait_for(self, text: str, times: int = 1) -> str:
        """Return what has been shown once it contains this so many times; fails the test if it never does."""
        give_up_at = time.monotonic() + PATIENCE_S
        seen = b""
        while seen.count(text.encode()) < times:
            assert time.monotonic() < give_up_at, seen.decode(errors="replace")
            if select.select([self._ours], [], [], 1)[0]:
                seen += self._read()
        return seen.decode(errors="replace")

    def _read(self) -> bytes:
        try:
            return os.read(self._ours, 4096)  # which may end within a character
        except OSError:  # Linux says so when the command has ended
            return b""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self, signum: int | None = None) -> tuple[int, str]:
        """Send the signal, wait, and return the exit code and what went to stdout, unless that is the terminal."""
        if signum is not None:
            self.process.send_signal(signum)
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out or ""


@contextlib.contextmanager
def on_terminal(*arguments: str, config: Path, stdout: bool = False) -> Iterator[Terminal]:
    """`reconcile ARGUMENTS`. stdout: that is the terminal too."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, *arguments, "--config", str(config)],
        stdin=theirs,
        stdout=theirs if stdout else subprocess.PIPE,
        stderr=theirs,
        text=True,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
