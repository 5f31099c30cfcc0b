"""Framed values: whatever the layout, a row outside the source is (Redis key, framed value or None).

    string, json    the value itself
    hash            for each column 4 bytes length, big-endian, and its text; NULL is the length 2^32 − 1
    expires_at      8 bytes before that: milliseconds since 1970, big-endian; 2^64 − 1 for a row that never expires

None is a row that Redis does not hold: a NULL value, or a hash of nothing but NULLs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import add

from msgspec import Struct

from reconcile.core.changes import null_key

EXPIRY_BYTES = 8
EXPIRY_TOLERANCE_MS = 1000
"""A row that expires within this time may have gone before anybody looks for it."""
_LENGTH, _NULL, _NULL_LENGTH = struct.Struct(">I"), b"\xff\xff\xff\xff", 0xFFFFFFFF
_MILLISECONDS, _NEVER = struct.Struct(">Q"), b"\xff" * EXPIRY_BYTES

Row = tuple[bytes, bytes | None]
"""(Redis key, framed value)."""


def frame(columns: Sequence[Sequence[bytes | None]]) -> list[bytes | None]:
    """Encode rows, given by column; None for a row of nothing but NULLs. `unframe` is the inverse.

    Column by column, since a loop over each row's values would cost as much as all that is done with a string.
    """
    pack = _LENGTH.pack
    parts: list[Iterable[bytes]] = []
    for column in columns:
        if None in column:
            parts.append([_NULL if value is None else pack(len(value)) for value in column])
            parts.append([value or b"" for value in column])
        else:
            parts += [map(pack, map(len, column)), column]  # type: ignore[arg-type, list-item]
    framed: list[bytes | None] = list(map(b"".join, zip(*parts, strict=True)))
    nothing = _NULL * len(columns)
    return [None if row == nothing else row for row in framed] if nothing in framed else framed


def unframe(rows: Sequence[bytes]) -> list[list[bytes | None]]:
    """Return framed rows by column. Raises ValueError for bytes that `frame` cannot have made, and for rows of
    different widths."""
    columns: list[list[bytes | None]] = []
    sizes, ends = list(map(len, rows)), [0] * len(rows)
    try:
        while ends != sizes:
            starts = [end + _LENGTH.size for end in ends]
            lengths = list(chain.from_iterable(map(_LENGTH.unpack_from, rows, ends)))
            if _NULL_LENGTH in lengths:
                there = [length != _NULL_LENGTH for length in lengths]
                ends = [at + length * has for at, length, has in zip(starts, lengths, there, strict=True)]
                cut = zip(rows, starts, ends, there, strict=True)
                columns.append([row[at:end] if has else None for row, at, end, has in cut])
            else:
                ends = list(map(add, starts, lengths))
                columns.append([row[at:end] for row, at, end in zip(rows, starts, ends, strict=True)])
    except struct.error as broken:
        raise ValueError("a framed value ends within a column, or has fewer columns than another") from broken
    return columns


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
        values = frame(columns[: self.values]) if self.several else columns[0]
        if not self.expires:
            return values
        times = columns[-1]
        return [
            None if value is None else with_expiry(value, None if at is None else int(at))
            for value, at in zip(values, times, strict=True)
        ]
