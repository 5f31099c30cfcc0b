"""Framed values: whatever the layout, a row outside the source is (Redis key, framed value or None).

    string, json    the value itself
    hash            for each column 4 bytes length, big-endian, and its text; NULL is the length 2^32 − 1
    expires_at      8 bytes before that: milliseconds since 1970, big-endian; 2^64 − 1 for a row that never expires

None is a row that Redis does not hold: a NULL value, or a hash of nothing but NULLs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from msgspec import Struct

from reconcile.core.changes import null_key

EXPIRY_BYTES = 8
EXPIRY_TOLERANCE_MS = 1000
"""A row that expires within this time may have gone before anybody looks for it."""
_LENGTH, _NULL = struct.Struct(">I"), b"\xff\xff\xff\xff"
_MILLISECONDS, _NEVER = struct.Struct(">Q"), b"\xff" * EXPIRY_BYTES

Row = tuple[bytes, bytes | None]
"""(Redis key, framed value)."""


def frame(columns: Sequence[bytes | None]) -> bytes:
    """Encode several columns as one value; `unframe` is the inverse."""
    pack = _LENGTH.pack
    parts = [_NULL if column is None else pack(len(column)) + column for column in columns]
    return b"".join(parts)


def unframe(framed: bytes) -> tuple[bytes | None, ...]:
    """Return the columns of a framed value. Raises ValueError for bytes that `frame` cannot have made."""
    columns: list[bytes | None] = []
    at = 0
    while at < len(framed):
        head, at = framed[at : at + 4], at + 4
        if head == _NULL:
            columns.append(None)
            continue
        try:
            (length,) = _LENGTH.unpack(head)
        except struct.error as broken:
            raise ValueError("a framed value ends within a length") from broken
        if at + length > len(framed):
            raise ValueError("a framed value ends within a column")
        columns.append(framed[at : at + length])
        at += length
    return tuple(columns)


def with_expiry(value: bytes, milliseconds: int | None) -> bytes:
    """Prepend the expiry time (milliseconds since 1970; earlier times count as 1970; None: never) to a value."""
    return (_NEVER if milliseconds is None else _MILLISECONDS.pack(max(0, milliseconds))) + value


def split_expiry(framed: bytes) -> tuple[int | None, bytes]:
    """Return (expiry in milliseconds or None, value): the inverse of `with_expiry`. Raises ValueError."""
    head = framed[:EXPIRY_BYTES]
    if len(head) < EXPIRY_BYTES:
        raise ValueError("a framed value ends within its time")
    return None if head == _NEVER else _MILLISECONDS.unpack(head)[0], framed[EXPIRY_BYTES:]


class RowForm(Struct, frozen=True):
    """How received columns (key, values …, and milliseconds if rows expire) become rows."""

    prefix: bytes = b""
    """Prepended to each key here; the rest of the key comes from the source."""
    values: int = 1
    several: bool = False
    """Whether value columns are framed."""
    expires: bool = False
    """The last column is decimal milliseconds, or NULL."""
    binary: tuple[bool, ...] = (False, False)
    """Which of the received columns are bytea, and so hexadecimal in text."""

    @property
    def width(self) -> int:
        """Number of columns received."""
        return 1 + self.values + self.expires

    def rows(self, chunk: Sequence[Sequence[bytes | None]]) -> list[Row]:
        """Return the rows of a result. Raises DataError for a row without a key."""
        prefix = self.prefix
        try:
            if not self.several and not self.expires:
                return [(prefix + key, value) for key, value in chunk]  # type: ignore[operator]
            columns = list(zip(*chunk, strict=True))
            keys = [prefix + key for key in columns[0]]
        except TypeError:
            raise null_key() from None
        return list(zip(keys, self.framed(columns[1:]), strict=True))

    def framed(self, columns: Sequence[Sequence[bytes | None]]) -> Sequence[bytes | None]:
        """Return the framed values of rows, from the columns after the key."""
        values: Sequence[bytes | None] = columns[0]
        if self.several:
            rows = zip(*columns[: self.values], strict=True)
            values = [frame(row) if any(column is not None for column in row) else None for row in rows]
        if not self.expires:
            return values
        times = columns[-1]
        return [
            None if value is None else with_expiry(value, None if at is None else int(at))
            for value, at in zip(values, times, strict=True)
        ]
