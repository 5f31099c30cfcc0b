"""One framed row, made as docs/format.md says and not by reconcile's own code."""

from __future__ import annotations

from collections.abc import Sequence


def framed(columns: Sequence[bytes | None]) -> bytes:
    """The columns of a row as one value."""
    return b"".join(b"\xff" * 4 if one is None else len(one).to_bytes(4, "big") + one for one in columns)
