"""A row as a hash: a field per column, none for NULL. With expires_at the whole key expires.

A row is replaced in one step, never edited: no reader sees half a row, and no field of an earlier row stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, compress
from typing import Any

from reconcile.core.framing import frame, split_expiry, unframe
from reconcile.target.layouts.expiring import clamped, with_time
from reconcile.target.packing import Alike, Many, Shape

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

    def write(self, puts: Mapping[bytes, bytes], *, only_new: bool) -> list[Many]:
        """Return HSET of each key, and PEXPIREAT of those that expire. None of the keys may exist any more."""
        if not puts:
            return []
        times, values = _split(puts.values()) if self._expires else ([], list(puts.values()))
        columns = unframe(values)
        if len(columns) != len(self._fields):
            raise ValueError(f"framed values have {len(columns)} columns, not {len(self._fields)}")
        commands: list[Many] = [*self._sets(list(puts), columns)]
        expiring = [(key, b"%d" % clamped(at)) for key, at in zip(puts, times, strict=False) if at is not None]
        if expiring:
            commands.append(Alike([key for key, _ in expiring], (("PEXPIREAT", [at for _, at in expiring]),)))
        return commands

    def _sets(self, keys: list[bytes], columns: list[list[bytes | None]]) -> Iterator[Alike]:
        """Yield HSET of the keys that have values in the same columns."""
        if not any(None in column for column in columns):
            yield self._set(keys, zip(self._fields, columns, strict=True))
            return
        places: dict[tuple[bool, ...], list[int]] = {}
        for place, row in enumerate(zip(*columns, strict=True)):
            places.setdefault(tuple([value is not None for value in row]), []).append(place)
        for there, some in places.items():
            held = compress(zip(self._fields, columns, strict=True), there)
            yield self._set([keys[n] for n in some], ((name, [column[n] for n in some]) for name, column in held))

    def _set(self, keys: list[bytes], pairs: Iterable[tuple[bytes, list[Any]]]) -> Alike:
        arguments: list[Any] = list(chain.from_iterable(pairs))
        return Alike(keys, (("HSET", *arguments),))

    def ask(self, keys: Sequence[bytes]) -> list[Many]:
        """Return HMGET of our fields, and HLEN, which shows whether there are others."""
        expiry: tuple[Shape, ...] = (("PEXPIRETIME",),) if self._expires else ()
        return [Alike(list(keys), (("HMGET", *self._fields), ("HLEN",), *expiry))]

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

    def sizes(self, keys: Sequence[bytes]) -> list[Many]:
        """Return HSTRLEN of each field."""
        return [Alike(list(keys), tuple(("HSTRLEN", field) for field in self._fields))]


def _split(framed: Iterable[bytes]) -> tuple[list[int | None], list[bytes]]:
    """Return the expiry times of rows, and what remains of their values."""
    pairs = list(map(split_expiry, framed))
    return [at_ms for at_ms, _ in pairs], [values for _, values in pairs]
