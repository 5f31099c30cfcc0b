"""stdout and stderr that never decide how a run ends.

The exit code says what the run did, not whether its output was read. A reader that has gone (`| true`), a full disk, a
closed stream (`2>&-`) and an encoding without the characters of a key are handled here, for results, logs, help, usage
errors and interpreter shutdown.
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
    """A file descriptor for writing. After the first failure it discards everything."""

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
            except BlockingIOError:  # the stream was made non-blocking: wait for the reader
                select.select([], [self._number], [])
            except OSError as error:
                self._failed = True
                if error.errno != errno.EPIPE:
                    self._complain(error)
        return memoryview(data).nbytes

    def _complain(self, error: OSError) -> None:
        """Report the failure on stderr if output went to a file; a reader that closed its pipe knows already."""
        if self._number != sys.stderr.fileno():
            with contextlib.suppress(OSError):
                os.write(sys.stderr.fileno(), f"error: cannot write to {self._name}: {error.strerror}\n".encode())


def guard() -> None:
    """Replace sys.stdout and sys.stderr. Must run before anything else is opened."""
    for number in (0, 1, 2):
        _fill(number)
    sys.stderr = _stream(2, "stderr", sys.stderr)
    sys.stdout = _stream(1, "stdout", sys.stdout)


def _fill(number: int) -> None:
    """Open /dev/null in place of a closed standard stream, or output would go to the next file or socket opened."""
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
