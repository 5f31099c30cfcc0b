"""Files that others read while we write, and what else a path may lead to.

A regular file is replaced: readers see the old content or the new, never a part. A symlink is followed to its target.
Pipes, terminals and devices (`/dev/stdout`, `>(gzip)`, a FIFO) are written to as they are, and not for long.
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

PATIENCE_S = 5.0
"""How long a pipe may keep us: the time that a run's ending has in any case (GRACE_S of stop)."""
_LOOK_EVERY_S = 0.05
_PRIVATE, _SHARED = 0o600, 0o666


def refuse_unsuitable(option: str, path: str | None) -> None:
    """Raises UsageError for a path no text can be written to: a directory, a disk, a socket. Nothing is opened."""
    if path is None:
        return
    if not path or "\0" in path:
        raise UsageError(f"{option}: {path!r} is no file name")
    mode = _mode_of(path)
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFBLK: "a block device", stat.S_IFSOCK: "a socket"}
    if mode is not None and (kind := kinds.get(stat.S_IFMT(mode))):
        raise UsageError(f"{option}: {path} is {kind}", hint="name a file, a pipe or a character device")


def write_file(path: str, text: str, *, private: bool = False) -> None:
    """Make `text` the content of a regular file, or send it to whatever else is there. Raises OSError.

    private: only the owner may read it. Otherwise a file keeps its rights, and a new one gets those that every new file
    gets: a metrics collector runs as another user.
    """
    content = text.encode("utf-8", "backslashreplace")
    if is_replaceable(path):
        _replace(os.path.realpath(path), content, private=private)
    else:
        _send(path, content)


def is_replaceable(path: str) -> bool:
    """A regular file, or none yet. Not one that is stdout or stderr: what is printed later would go to the old one."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return True
    if not stat.S_ISREG(found.st_mode):
        return False
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(found, os.fstat(number)):
                return False
    return True


def _mode_of(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except OSError:  # told when it is written
        return None


def _replace(path: str, content: bytes, *, private: bool) -> None:
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(6)}.tmp")
    before = _mode_of(path)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE if private else _SHARED)
    try:
        with os.fdopen(handle, "wb") as file:
            if before is not None and not private:
                os.fchmod(handle, stat.S_IMODE(before) & 0o777)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _send(path: str, content: bytes) -> None:
    """Without blocking: nobody may ever read."""
    give_up_at = time.monotonic() + PATIENCE_S
    handle = _open(path, give_up_at)
    try:
        rest = memoryview(content)
        while rest:
            try:
                rest = rest[os.write(handle, rest) :]
            except BlockingIOError:
                left_s = give_up_at - time.monotonic()
                if left_s <= 0 or not select.select([], [handle], [], left_s)[1]:
                    raise TimeoutError(errno.ETIMEDOUT, f"nobody reads it ({PATIENCE_S:g} s)") from None
    finally:
        os.close(handle)


def _open(path: str, give_up_at: float) -> int:
    """A descriptor that does not block; a FIFO whose reader is not there yet is waited for."""
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() >= give_up_at:
                raise TimeoutError(errno.ETIMEDOUT, f"nobody reads it ({PATIENCE_S:g} s)") from None
        time.sleep(_LOOK_EVERY_S)
