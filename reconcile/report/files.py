"""Write files that others read meanwhile, and handle whatever else a path may name.

A regular file is replaced: readers see the old content or the new, never a part. A symlink is followed to its target.
Pipes, terminals and devices (`/dev/stdout`, `>(gzip)`, a FIFO) are written to in place, with a time limit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import select
import stat
import time

from reconcile.errors import UsageError

PATIENCE_S = 4.0
"""Time limit for writing to a pipe; less than that of all sinks together (sinks.TIMEOUT_S), so that the reason can
still be reported.
"""
_LOOK_EVERY_S = 0.05
_UNREAD = f"nothing has read it for {PATIENCE_S:g} s"
_PRIVATE, _SHARED = 0o600, 0o666


def refuse_unsuitable(option: str, path: str | None) -> None:
    """Raise UsageError for a path that takes no text: a directory, a disk, a socket. Nothing is opened."""
    if path is None:
        return
    if not path or "\0" in path:
        raise UsageError(f"{option}: {path!r} is no file name")
    if (kind := _unsuitable(path)) is not None:
        raise UsageError(f"{option}: {path} is {kind}", hint="name a file, a pipe or a character device")


def write_file(path: str, text: str, *, private: bool = False) -> None:
    """Make `text` the content of a regular file, or write it to whatever else is there. Raises OSError.

    private: only the owner may read it. Otherwise a file keeps its permissions, and a new one gets the default ones,
    since a metrics collector runs as another user.
    """
    content = text.encode("utf-8", "backslashreplace")
    if (kind := _unsuitable(path)) is not None:
        raise OSError(errno.EINVAL, f"it is {kind}")
    if is_replaceable(path):
        _replace(os.path.realpath(path), content, private=private)
    else:
        _send(path, content)


def is_replaceable(path: str) -> bool:
    """Whether the path is a regular file or absent. Not stdout or stderr: later output would go to the old file."""
    found = _stat(path)
    return found is None or (stat.S_ISREG(found.st_mode) and _standard_stream(found) is None)


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _standard_stream(found: os.stat_result) -> int | None:
    """Return the descriptor of stdout or stderr if that is what the path names."""
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(found, os.fstat(number)):
                return number
    return None


def _unsuitable(path: str) -> str | None:
    try:
        found = _stat(path)
    except OSError:  # reported when it is written
        return None
    if found is None:
        return None
    if stat.S_ISSOCK(found.st_mode):
        return None if _standard_stream(found) is not None else "a socket"
    return {stat.S_IFDIR: "a directory", stat.S_IFBLK: "a block device"}.get(stat.S_IFMT(found.st_mode))


def _replace(path: str, content: bytes, *, private: bool) -> None:
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(6)}.tmp")
    before = _stat(path)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE if private else _SHARED)
    try:
        with os.fdopen(handle, "wb") as file:
            if before is not None and not private:
                os.fchmod(handle, stat.S_IMODE(before.st_mode) & 0o777)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _send(path: str, content: bytes) -> None:
    """Write without blocking: there may never be a reader."""
    give_up_at = time.monotonic() + PATIENCE_S
    handle = _open(path, give_up_at)
    ready = select.poll()
    ready.register(handle, select.POLLOUT)
    try:
        rest = memoryview(content)
        while rest:
            if not ready.poll(max(0.0, give_up_at - time.monotonic()) * 1000):
                raise TimeoutError(errno.ETIMEDOUT, _UNREAD)
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(handle, rest[: select.PIPE_BUF]) :]  # a ready pipe takes this much at once
    finally:
        os.close(handle)


def _open(path: str, give_up_at: float) -> int:
    """Open a descriptor that does not block, waiting for the reader of a FIFO."""
    number = _standard_stream(os.stat(path))
    if number is not None:  # a socket (systemd's journal) cannot be opened by name
        return os.dup(number)
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        if time.monotonic() >= give_up_at:
            raise TimeoutError(errno.ETIMEDOUT, _UNREAD)
        time.sleep(_LOOK_EVERY_S)
