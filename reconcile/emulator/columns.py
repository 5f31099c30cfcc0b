"""A table's times and hashes as arrays.

Computing two hashes for a million rows in Python functions takes minutes; a real Materialize takes seconds. Rows never
change once born, so what was hashed once stays right: the arrays only grow (and shrink when rows are compacted away).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from reconcile.emulator.engine import ALIVE
from reconcile.emulator.hashing import crc32_many, seahash_many
from reconcile.emulator.problem import SqlError
from reconcile.emulator.typed import Hash, Mask, Modulo, OneOf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from reconcile.emulator.engine import Engine, Row
    from reconcile.emulator.typed import Vector

    Ints = NDArray[np.int64]
    Hashes = NDArray[np.uint64]
    Flags = NDArray[np.bool_]

_ALIAS = "ŧ"
_LOAD = 16384


class _Growing:
    """An array with room to grow."""

    def __init__(self, dtype: type) -> None:
        self.data: NDArray[np.generic] = np.empty(1024, dtype=dtype)
        self.size = 0

    @property
    def view(self) -> NDArray[np.generic]:
        return self.data[: self.size]

    def extend(self, more: NDArray[np.generic]) -> None:
        needed = self.size + len(more)
        if needed > len(self.data):
            grown = np.empty(max(needed, len(self.data) * 2), dtype=self.data.dtype)
            grown[: self.size] = self.view
            self.data = grown
        self.data[self.size : needed] = more
        self.size = needed

    def keep(self, flags: Flags) -> None:
        kept = self.view[flags]
        self.data = kept.copy()
        self.size = len(kept)


class Columns:
    """The vectors of one table: row ids, births, deaths, and hashes as asked for."""

    def __init__(self, table: str, engine: Engine) -> None:
        self._table = table
        self._engine = engine
        self._lock = threading.RLock()
        self._rids = _Growing(np.int64)
        self._born = _Growing(np.int64)
        self._died = _Growing(np.int64)
        self._hashes: dict[Hash, tuple[_Growing, _Growing]] = {}
        self._failed: dict[tuple[Hash, int], SqlError] = {}
        self._known_to = -1

    def refresh(self, t: int) -> None:
        """Learn of all births and deaths up to t, which must be committed."""
        with self._lock:
            if t <= self._known_to:
                return
            last = int(self.rids[-1]) if self._rids.size else -1
            self._engine.execute("BEGIN")
            try:
                self._learn(last)
            finally:
                self._engine.execute("COMMIT")
            self._known_to = t

    def _learn(self, last: int) -> None:
        for rows in self._engine.chunks(
            f"SELECT rid, born, died FROM {self._table} WHERE rid > ? ORDER BY rid", (last,), _LOAD
        ):
            block = np.array(rows, dtype=np.int64)
            self._rids.extend(block[:, 0])
            self._born.extend(block[:, 1])
            self._died.extend(block[:, 2])
        for rows in self._engine.chunks(
            f"SELECT rid, died FROM {self._table} WHERE died < {ALIVE} AND died > ?", (self._known_to,), _LOAD
        ):
            block = np.array(rows, dtype=np.int64)
            at = np.searchsorted(self.rids, block[:, 0])
            self._died.data[at] = block[:, 1]

    @property
    def rids(self) -> Ints:
        """Row ids, ascending."""
        return self._rids.view  # type: ignore[return-value]

    def visible(self, t: int) -> Ints:
        """Positions of the rows that live at t."""
        with self._lock:
            self.refresh(t)
            return np.flatnonzero((self._born.view <= t) & (self._died.view > t))  # type: ignore[operator]

    def positions(self, rids: Ints) -> Ints:
        """Positions of known rows."""
        return np.searchsorted(self.rids, rids)

    def prune(self, bound: int) -> None:
        """Forget rows that died at or before a time."""
        with self._lock:
            keep = self._died.view > bound  # type: ignore[operator]
            for values, valid in self._hashes.values():
                # Hashes may lag behind births; what there is stands at the same positions.
                values.keep(keep[: values.size])
                valid.keep(keep[: valid.size])
            for array in (self._rids, self._born, self._died):
                array.keep(keep)

    def hashes(self, wanted: Hash, alias: str) -> tuple[Hashes, Flags]:
        """A hash of every row, and whether it is not NULL."""
        key = Hash(wanted.function, wanted.sql.replace(alias, _ALIAS))
        with self._lock:
            values, valid = self._hashes.setdefault(key, (_Growing(np.uint64), _Growing(np.int8)))
            if values.size < self._rids.size:
                self._hash_more(key, values, valid)
            return values.view, valid.view == 1  # type: ignore[return-value]

    def _hash_more(self, key: Hash, values: _Growing, valid: _Growing) -> None:
        compute = crc32_many if key.function == "crc32" else seahash_many
        start = values.size
        last = int(self.rids[start - 1]) if start else -1
        end = int(self.rids[-1])
        fresh = np.zeros(self._rids.size - start, dtype=np.uint64)
        known = np.zeros(len(fresh), dtype=np.int8)
        for rows in self._evaluated(key, last, end):
            rids = np.fromiter((r[0] for r in rows), dtype=np.int64, count=len(rows))
            at = np.searchsorted(self.rids, rids) - start
            fresh[at] = compute([r[1] or b"" for r in rows])
            known[at] = np.fromiter((r[1] is not None for r in rows), dtype=np.int8, count=len(rows))
        values.extend(fresh)
        valid.extend(known)

    def _evaluated(self, key: Hash, last: int, end: int) -> Iterator[list[Row]]:
        """(rid, text to hash) of the rows after last; those that fail are noted: they count only where they live."""
        sql = f"SELECT rid, {key.sql} FROM {self._table} AS {_ALIAS} WHERE rid > ? AND rid <= ? ORDER BY rid"
        ranges = [(last, end)]
        while ranges:
            low, high = ranges.pop()
            try:
                yield from self._engine.chunks(sql, (low, high), _LOAD)
            except SqlError as problem:
                if not problem.message.startswith("Evaluation error"):
                    raise
                if high - low == 1:
                    self._failed[key, high] = problem
                else:
                    middle = (low + high) // 2
                    ranges += [(low, middle), (middle, high)]

    def _check_failed(self, vector: Hash, alias: str, at: Ints) -> None:
        """Raise what went wrong with one of these rows."""
        key = Hash(vector.function, vector.sql.replace(alias, _ALIAS))
        for (of, rid), problem in self._failed.items():
            if of == key and rid in self.rids[at]:
                raise problem

    def evaluate(self, vector: Hash | Modulo, alias: str, at: Ints) -> tuple[Hashes, Flags]:
        """A hash, or its remainder, of some rows."""
        if isinstance(vector, Modulo):
            values, valid = self.hashes(vector.of, alias)
            self._check_failed(vector.of, alias, at)
            return values[at] % np.uint64(vector.by), valid[at]
        values, valid = self.hashes(vector, alias)
        self._check_failed(vector, alias, at)
        return values[at], valid[at]

    def satisfied(self, vector: Vector, alias: str, at: Ints) -> Flags:
        """Which of some rows satisfy a condition on a hash."""
        if isinstance(vector, OneOf):
            values, valid = self.evaluate(vector.of, alias, at)
            wanted = np.array([n for n in vector.numbers if 0 <= n < 2**64], dtype=np.uint64)
            return np.isin(values, wanted) & valid
        assert isinstance(vector, Mask)
        values, valid = self.evaluate(vector.pick.index, alias, at)
        table = np.frombuffer(vector.pick.mask, dtype=np.uint8) == vector.byte
        outside = (values >= np.uint64(len(table))) & valid
        if outside.any():
            index = int(values[outside][0])
            raise SqlError.evaluation(f"index {index} out of valid range, 0..{len(table) - 1}")
        chosen: Flags = table[np.where(valid, values, 0).astype(np.int64)]
        return chosen & valid
