"""A row as a hash: a field per column, none for NULL. With expires_at the whole key expires.

A row is replaced in one step, never edited: no reader sees half a row, and no field of an earlier row stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import Any

from reconcile.core.framing import frame, split_expiry, unframe
from reconcile.target.layouts.expiring import clamped, with_time
from reconcile.target.wire import Command

BATCH_FIELDS = 20_000
"""Redis carries out this many commands and fields in less than 20 ms."""
PIECE_FIELDS = 50
"""Redis carries out this many in about 0.05 ms."""


class Hashes:
    """Rows as hashes, their fields in frame order."""

    verbs = frozenset(["HSET", "PEXPIREAT"])
    one_by_one = True
    adds = True

    def __init__(self, columns: Sequence[str], *, expires: bool) -> None:
        """columns: names of the value columns, in frame order."""
        self._fields = [column.encode() for column in columns]
        self._expires = expires
        self.batch_keys = max(1, BATCH_FIELDS // (2 + len(columns)))
        self.piece_keys = max(1, PIECE_FIELDS // (2 + len(columns)))

    def with_columns(self, columns: Sequence[str]) -> Hashes:
        """Return the layout with these columns as fields."""
        return Hashes(columns, expires=self._expires)

    def write(self, puts: Mapping[bytes, bytes], *, only_new: bool) -> list[Command]:
        """Return HSET of each key, and PEXPIREAT of those that expire. None of the keys may exist any more."""
        if not puts:
            return []
        times, values = _split(puts.values()) if self._expires else ([], list(puts.values()))
        columns = unframe(values)
        if len(columns) != len(self._fields):
            raise ValueError(f"framed values have {len(columns)} columns, not {len(self._fields)}")
        commands = self._sets(list(puts), columns)
        expiring = zip(puts, times, strict=False)
        return commands + [("PEXPIREAT", key, clamped(at_ms)) for key, at_ms in expiring if at_ms is not None]

    def _sets(self, keys: Sequence[bytes], columns: Sequence[Sequence[bytes | None]]) -> list[Command]:
        if not any(None in column for column in columns):
            pairs = chain.from_iterable(zip(map(repeat, self._fields), columns, strict=True))
            return list(zip(repeat("HSET"), keys, *pairs, strict=False))
        rows = [zip(self._fields, row, strict=True) for row in zip(*columns, strict=True)]
        there = [chain.from_iterable(pair for pair in row if pair[1] is not None) for row in rows]
        return [("HSET", key, *pairs) for key, pairs in zip(keys, there, strict=True)]

    def ask(self, keys: Sequence[bytes]) -> list[Command]:
        """Return HMGET of our fields, and HLEN, which shows whether there are others."""
        verbs = ["HLEN", "PEXPIRETIME"] if self._expires else ["HLEN"]
        fields = zip(repeat("HMGET"), keys, *map(repeat, self._fields), strict=False)
        return list(chain.from_iterable(zip(fields, *(zip(repeat(verb), keys) for verb in verbs), strict=True)))

    def found(self, keys: Sequence[bytes], replies: Sequence[Any]) -> list[bytes | None]:
        """See Layout. None for a key of another type, and for a hash with other fields than the view's."""
        width = 3 if self._expires else 2
        nothing = [None] * len(self._fields)
        rows = [
            values if isinstance(values, list) and number == len(values) - values.count(None) else nothing
            for values, number in zip(replies[::width], replies[1::width], strict=True)
        ]
        framed = frame(list(zip(*rows, strict=True)))
        return list(map(with_time, framed, replies[2::width])) if self._expires else framed

    def sizes(self, keys: Sequence[bytes]) -> list[Command]:
        """Return HSTRLEN of each field."""
        return [("HSTRLEN", key, field) for key in keys for field in self._fields]


def _split(framed: Iterable[bytes]) -> tuple[list[int | None], list[bytes]]:
    """Return the expiry times of rows, and what remains of their values."""
    pairs = list(map(split_expiry, framed))
    return [at_ms for at_ms, _ in pairs], [values for _, values in pairs]
