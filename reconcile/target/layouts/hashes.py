"""A row as a hash: a field per column, none for NULL. With expires_at the whole key expires.

A row is replaced in one step, never edited: no reader sees half a row, and no field of an earlier row stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
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

    verbs = frozenset(["UNLINK", "HSET", "PEXPIREAT"])
    one_by_one = True
    new_by_itself = False

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
        """Return UNLINK and HSET of each key. With only_new the caller has made sure that none exists."""
        commands: list[Command] = []
        for key, framed in puts.items():
            at_ms, values = split_expiry(framed) if self._expires else (None, framed)
            pairs = zip(self._fields, unframe(values), strict=True)
            there = chain.from_iterable((name, value) for name, value in pairs if value is not None)
            commands += [("UNLINK", key), ("HSET", key, *there)]
            if at_ms is not None:
                commands.append(("PEXPIREAT", key, clamped(at_ms)))
        return commands

    def ask(self, keys: Sequence[bytes]) -> list[Command]:
        """Return HMGET of our fields, and HLEN, which shows whether there are others."""
        commands: list[Command] = []
        for key in keys:
            commands += [("HMGET", key, *self._fields), ("HLEN", key)]
            if self._expires:
                commands.append(("PEXPIRETIME", key))
        return commands

    def found(self, keys: Sequence[bytes], replies: Sequence[Any]) -> list[bytes | None]:
        """See Layout. None for a key of another type, and for a hash with other fields than the view's."""
        width = 3 if self._expires else 2
        times = replies[2::3] if self._expires else [None] * len(keys)
        rows = zip(replies[::width], replies[1::width], times, strict=True)
        return [self._framed(values, number, at_ms) for values, number, at_ms in rows]

    def _framed(self, values: Any, number: Any, at_ms: Any) -> bytes | None:
        if not isinstance(values, list) or not number or number != len(values) - values.count(None):
            return None
        framed = frame(values)
        return with_time(framed, at_ms) if self._expires else framed

    def sizes(self, keys: Sequence[bytes]) -> list[Command]:
        """Return HSTRLEN of each field."""
        return [("HSTRLEN", key, field) for key in keys for field in self._fields]
