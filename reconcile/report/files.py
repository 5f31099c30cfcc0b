"""Files that others read while we write: complete or not there."""

from __future__ import annotations

import contextlib
import os
import secrets


def replace_file(path: str, text: str) -> None:
    """Write `text` so that a reader sees the old content or the new, never a part. Raises OSError.

    Unlike tempfile's, the new file gets the rights every other new file gets: a metrics collector runs as another user.
    """
    directory, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(6)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
