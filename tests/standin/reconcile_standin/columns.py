"""A table's times and hashes as arrays.

Computing two hashes for a million rows in Python functions takes minutes; a real Materialize takes seconds. Rows never
change once born, so what was hashed once stays right: the arrays only grow (and shrink when rows are compacted away).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from reconcile_standin import vectors
from reconcile_standin.engine import ALIVE
from reconcile_standin.hashing import crc32_many, hash_many, seahash_many
from reconcile_standin.plan import ALIAS, FLAG
from reconcile_standin.problem import EVALUATION, SqlError
from reconcile_standin.totals import Events, Groups
from reconcile_standin.typed import Hash, Mask, Modulo, OneOf

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from reconcile_standin.engine import Engine, Row
    from reconcile_standin.plan import Definition

    Ints = NDArray[np.int64]
    Hashes = NDArray[np.uint64]
    Flags = NDArray[np.bool_]

_LOAD = 16384
_LOAD_BYTES = 4_000_000
# Hashes of expressions nobody maintains a view over: of so many the numbers are kept.
_KEEP = 12


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
            grown = np.empty(max(needed, len(self.data) * 3 // 2), dtype=self.data.dtype)
            grown[: self.size] = self.view
            self.data = grown
        self.data[self.size : needed] = more
        self.size = needed

    def keep(self, flags: Flags) -> None:
        kept = self.view[flags]
        self.data = kept
        self.size = len(kept)


class Columns:
    """The vectors of one table: row ids, births, deaths, hashes as asked for, and groups kept up to date."""

    def __init__(self, table: str, engine: Engine) -> None:
        self._table = table
        self._engine = engine
        self._lock = threading.RLock()
        self._rids = _Growing(np.int64)
        self._born = _Growing(np.int64)
        self._died = _Growing(np.int64)
        self._hashes: dict[Hash, tuple[_Growing, _Growing]] = {}
        self._failed: dict[tuple[Hash, int], SqlError] = {}
        self._groups: dict[Definition, Groups] = {}
        self._known_to = self._last_born = -1

    def refresh(self, t: int) -> None:
        """Learn of all births and deaths up to t, which must be committed."""
        with self._lock:
            if t <= self._known_to:
                return
            start = self._rids.size
            self._engine.execute("BEGIN")
            try:
                self._learn_births()
                died = self._learn_deaths()
            finally:
                self._engine.execute("COMMIT")
            self._known_to = t
            for definition, groups in list(self._groups.items()):
                try:
                    groups.apply(np.arange(start, self._rids.size), died, self._events)
                except SqlError:
                    # Made again, or failing again, when it is asked for.
                    del self._groups[definition]

    def _learn_births(self) -> None:
        # Rows of one commit have consecutive ids, unless some are gone by now.
        runs = self._engine.all(
            f"SELECT born, min(rid), max(rid), count(*) FROM {self._table} WHERE born > ? GROUP BY born",
            (self._last_born,),
        )
        rids = []
        for born, first, last, count in runs:
            if last - first + 1 == count:
                rids.append(np.arange(first, last + 1))
            else:
                found = self._engine.all(f"SELECT rid FROM {self._table} WHERE born = ? ORDER BY rid", (born,))
                rids.append(np.array(found, dtype=np.int64)[:, 0])
        if runs:
            self._last_born = runs[-1][0]
            self._rids.extend(np.concatenate(rids))
            self._born.extend(np.repeat([r[0] for r in runs], [r[3] for r in runs]))
            self._died.extend(np.full(self._rids.size - self._died.size, ALIVE, dtype=np.int64))

    def _learn_deaths(self) -> Ints:
        """Positions of the rows whose death is news."""
        known: list[Ints] = [np.empty(0, dtype=np.int64)]
        for rows in self._engine.chunks(
            f"SELECT rid, died FROM {self._table} WHERE died < {ALIVE} AND died > ?", (self._known_to,), _LOAD
        ):
            block = np.array(rows, dtype=np.int64)
            at = np.searchsorted(self.rids, block[:, 0])
            known.append(at[self._died.data[at] == ALIVE])
            self._died.data[at] = block[:, 1]
        return np.concatenate(known)

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

    def prune(self, rids: Ints) -> None:
        """Forget rows, all of which are dead."""
        with self._lock:
            keep = np.ones(self._rids.size, dtype=np.bool_)
            keep[self.positions(rids)] = False
            for values, valid in self._hashes.values():
                # Hashes may lag behind births; what there is stands at the same positions.
                values.keep(keep[: values.size])
                valid.keep(keep[: valid.size])
            for array in (self._rids, self._born, self._died):
                array.keep(keep)
            gone = set(rids.tolist()) if self._failed else set()
            self._failed = {key: problem for key, problem in self._failed.items() if key[1] not in gone}

    # Hashes

    def hashes(self, wanted: Hash, alias: str) -> tuple[Hashes, Flags]:
        """A hash of every row, and whether it is not NULL."""
        key = Hash(wanted.function, wanted.sql.replace(alias, ALIAS))
        with self._lock:
            # The one asked for last stands last.
            found = self._hashes.pop(key) if key in self._hashes else (_Growing(np.uint64), _Growing(np.bool_))
            values, valid = self._hashes[key] = found
            if values.size < self._rids.size:
                self._hash_more(key, values, valid)
            if len(self._hashes) > _KEEP:
                self._forget_hashes()
            return values.view, valid.view  # type: ignore[return-value]

    def _forget_hashes(self) -> None:
        needed = {vectors.hash_of(v) for d in self._groups for v in (*d.picks, d.key, *d.sums)}
        needed |= {d.flag for d in self._groups if d.flag is not None}
        oldest = next((key for key in self._hashes if key not in needed), None)
        if oldest is not None:
            del self._hashes[oldest]

    def _hash_more(self, key: Hash, values: _Growing, valid: _Growing) -> None:
        rows = 256
        while values.size < self._rids.size:
            start = values.size
            rids = self.rids[start : start + rows]
            fresh, known, size = self._hashed_block(key, rids) or self._hashed_rows(key, rids)
            values.extend(fresh)
            valid.extend(known)
            rows = min(_LOAD, max(16, _LOAD_BYTES * len(rids) // max(size, 1)))

    def _hashed_block(self, key: Hash, rids: Ints) -> tuple[Hashes, Flags, int] | None:
        """Hashes of consecutive rows from one long text, so that no row is a Python object of its own."""
        if key.function == FLAG or len(rids) < 64:
            return None
        sql = (
            f"SELECT count(*), sum(rid), group_concat(e, ''), group_concat(coalesce(length(CAST(e AS BLOB)), -1)) "
            f"FROM (SELECT rid, {key.sql} AS e FROM {self._table} AS {ALIAS} WHERE rid >= ? AND rid <= ? ORDER BY rid)"
        )
        try:
            count, total, data, sizes = self._engine.all(sql, (int(rids[0]), int(rids[-1])))[0]
        except SqlError as problem:
            if not problem.message.startswith(EVALUATION):
                raise
            return None
        # Compaction removes rows here and there a moment apart.
        if count != len(rids) or total != int(rids.sum()):
            return None
        lengths = np.array(sizes.split(b","), dtype=np.int64)
        valid = lengths >= 0
        data = data or b""
        compute = crc32_many if key.function == "crc32" else seahash_many
        return compute(data, np.maximum(lengths, 0)), valid, len(data)

    def _hashed_rows(self, key: Hash, rids: Ints) -> tuple[Hashes, Flags, int]:
        fresh = np.zeros(len(rids), dtype=np.uint64)
        known = np.zeros(len(rids), dtype=np.bool_)
        size = 0
        for rows in self._evaluated(key, int(rids[0]) - 1, int(rids[-1])):
            found = np.fromiter((r[0] for r in rows), dtype=np.int64, count=len(rows))
            at = np.searchsorted(rids, found)
            here = rids[np.minimum(at, len(rids) - 1)] == found
            if key.function == FLAG:
                numbers = np.array([r[1] or 0 for r in rows], dtype=np.uint64)
                valid = np.ones(len(rows), dtype=np.bool_)
            else:
                numbers, valid = hash_many(key.function, [r[1] for r in rows])
                size += sum(len(r[1] or b"") for r in rows)
            fresh[at[here]], known[at[here]] = numbers[here], valid[here]
        return fresh, known, size

    def _evaluated(self, key: Hash, last: int, end: int) -> Iterator[list[Row]]:
        """(rid, text to hash) of the rows after last; those that fail are noted: they count only where they live."""
        sql = f"SELECT rid, {key.sql} FROM {self._table} AS {ALIAS} WHERE rid > ? AND rid <= ? ORDER BY rid"
        ranges = [(last, end)]
        while ranges:
            low, high = ranges.pop()
            try:
                yield self._engine.all(sql, (low, high))
            except SqlError as problem:
                if not problem.message.startswith(EVALUATION):
                    raise
                if high - low == 1:
                    self._failed[key, high] = problem
                else:
                    middle = (low + high) // 2
                    ranges += [(low, middle), (middle, high)]

    def check(self, vector: Hash | Modulo, alias: str, rids: Ints) -> None:
        """Raise what went wrong with the hash of one of these rows."""
        if not self._failed:
            return
        of = vectors.hash_of(vector)
        key = Hash(of.function, of.sql.replace(alias, ALIAS))
        for (failed, rid), problem in list(self._failed.items()):
            if failed == key and rid in rids:
                raise problem

    def unchecked(self, vector: Hash | Modulo, alias: str, at: Ints) -> tuple[Hashes, Flags]:
        """A hash, or its remainder, of some rows; NULL where it failed."""
        values, valid = self.hashes(vectors.hash_of(vector), alias)
        return vectors.numbers(vector, values[at]), valid[at]

    def evaluate(self, vector: Hash | Modulo, alias: str, at: Ints) -> tuple[Hashes, Flags]:
        """A hash, or its remainder, of some rows."""
        with self._lock:
            found = self.unchecked(vector, alias, at)
            self.check(vector, alias, self.rids[at])
            return found

    def satisfied(self, vector: Mask | OneOf, alias: str, at: Ints) -> Flags:
        """Which of some rows satisfy a condition on a hash."""
        return vectors.satisfied(vector, *self.evaluate(vectors.hash_of(vector), alias, at))

    # Maintained groups

    def groups(self, definition: Definition, t: int, since: int) -> Groups | None:
        """A view's groups, which know of everything up to t; None when only looking at all rows can tell.

        since: the earliest time at which it may still be asked for. The caller holds the lock while it reads them.
        """
        with self._lock:
            self.refresh(t)
            groups = self._groups.get(definition)
            if groups is None:
                groups = Groups(definition, since)
                died = np.flatnonzero(self._died.view != ALIVE)
                groups.apply(np.arange(self._rids.size), died, self._events)
                self._groups[definition] = groups
            groups.forget(since)
            failed = {key for key, _ in self._failed}
            if failed and any(hash_ in failed for hash_ in _parts(definition)):
                return None
            return groups if t >= groups.floor else None

    def reading(self) -> AbstractContextManager[bool]:
        """To be held while several arrays are read that have to fit together, or groups."""
        return self._lock

    def keep_groups(self, wanted: Iterable[Definition]) -> None:
        """Stop maintaining all others."""
        with self._lock:
            self._groups = {d: self._groups[d] for d in wanted if d in self._groups}

    def _events(self, definition: Definition, born: Ints, died: Ints) -> Events:
        at = np.concatenate([born, died])
        signs = np.repeat(np.array([1, -1]), [len(born), len(died)])
        times = np.concatenate([self._born.view[born], self._died.view[died]])
        member = np.ones(len(at), dtype=np.bool_)
        if definition.flag is not None:
            member &= self.unchecked(definition.flag, ALIAS, at)[0] == 1
        for pick in definition.picks:
            assert isinstance(pick, Mask | OneOf)
            member &= vectors.satisfied(pick, *self.unchecked(vectors.hash_of(pick), ALIAS, at))
        at, signs, times = at[member], signs[member], times[member]
        # What failed counts as NULL: death takes away what birth has added.
        keys, valid = self.unchecked(definition.key, ALIAS, at)
        slots = np.where(valid, keys, definition.key.by).astype(np.int64)
        return Events(times, slots, signs, tuple(self.unchecked(of, ALIAS, at) for of in definition.sums))


def _parts(definition: Definition) -> list[Hash]:
    found = [vectors.hash_of(v) for v in (*definition.picks, definition.key, *definition.sums)]
    return found if definition.flag is None else [*found, definition.flag]
