"""stdout and stderr that never decide how a run ends.

The exit code is an interface: it says what the run did, not whether somebody read its output. So a reader that went
away (`| true`), a full disk, a stream that was closed (`2>&-`) or one that cannot encode a key are taken care of here,
once, for results, logs, help, usage errors and the interpreter's own ending.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import Any, TextIO


class _Descriptor(io.RawIOBase):
    """A file descriptor for writing. From the first failure on it takes everything and writes nothing."""

    def __init__(self, number: int, name: str) -> None:
        self._number = number
        self._name = name
        self._failed = False

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        while not self._failed:
            try:
                return os.write(self._number, data)
            except BlockingIOError:  # whoever gave us the stream made it non-blocking: wait for the reader
                select.select([], [self._number], [])
            except OSError as error:
                self._failed = True
                if error.errno != errno.EPIPE:
                    self._complain(error)
        return memoryview(data).nbytes

    def _complain(self, error: OSError) -> None:
        """Who asked for a file and got none should know; who stopped reading knows."""
        if self._number != sys.stderr.fileno():
            with contextlib.suppress(OSError):
                os.write(sys.stderr.fileno(), f"error: cannot write to {self._name}: {error.strerror}\n".encode())


def guard() -> None:
    """Replace sys.stdout and sys.stderr. First thing in a process, before anything is opened."""
    for number in (0, 1, 2):
        _fill(number)
    sys.stderr = _stream(2, "stderr", sys.stderr)
    sys.stdout = _stream(1, "stdout", sys.stdout)


def _fill(number: int) -> None:
    """A standard stream that is closed becomes /dev/null: else the next file or socket would get its number, and
    whatever prints there would write into it."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)


def _stream(number: int, name: str, before: Any) -> TextIO:
    # None: it was closed when the interpreter started.
    encoding = getattr(before, "encoding", None) or "utf-8"
    buffer = io.BufferedWriter(_Descriptor(number, name))
    return io.TextIOWrapper(buffer, encoding=encoding, errors="backslashreplace", line_buffering=True)
