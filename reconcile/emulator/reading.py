"""Runs a planned query at one time."""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from reconcile.emulator.shapes import conditions, table_sql
from reconcile.emulator.typed import Hash, Mask, Modulo, OneOf, Typed
from reconcile.emulator.types import RANGES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from reconcile.emulator.columns import Columns
    from reconcile.emulator.engine import Engine, Row
    from reconcile.emulator.plan import Grouped, Linear, Plan
    from reconcile.emulator.storage import Store

CHUNK = 1000
# Up to this share of the table's rows, they are looked up one by one instead of scanning the table.
_SPARSE = 0.15
_LOOKUP = 400
_DENSE = 1 << 22


def rows_at(store: Store, engine: Engine, plan: Plan, t: int) -> Iterator[list[Row]]:
    """The rows of a query at t, in batches; text as bytes."""
    relation = plan.relation
    if relation.grouped is not None:
        rows = _grouped(store, engine, relation.grouped, t)
        return iter([rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)])
    linear = relation.linear
    if linear is not None and any(e.vector is not None for e in (*linear.exprs, *linear.where)):
        return _linear(store, engine, linear, t)
    return engine.chunks(relation.sql, {"t": min(t, 2**63 - 2)}, CHUNK)


def _split(linear: Linear) -> tuple[list[Mask | OneOf], tuple[Typed, ...]]:
    """The WHERE terms that are computed over arrays, and the others."""
    vectors = [w.vector for w in linear.where if isinstance(w.vector, Mask | OneOf)]
    plain = tuple(w for w in linear.where if not isinstance(w.vector, Mask | OneOf))
    return vectors, plain


def _without_vectors(linear: Linear, plain: tuple[Typed, ...]) -> str:
    from dataclasses import replace

    reduced = replace(linear, where=plain)
    return f"FROM {table_sql(reduced)} WHERE {' AND '.join(conditions(reduced))}"


def _selected(columns: Columns, linear: Linear, engine: Engine, t: int, *, plain_too: bool) -> NDArray[np.int64]:
    """Positions of the rows of a linear query; its other WHERE terms are the caller's unless plain_too."""
    vectors, plain = _split(linear)
    at = columns.visible(t)
    for vector in vectors:
        at = at[columns.satisfied(vector, linear.alias, at)]
    if plain and plain_too:
        sql = f"SELECT {linear.alias}.rid {_without_vectors(linear, plain)}"
        rids = np.array([r[0] for r in engine.all(sql, {"t": t})], dtype=np.int64)
        at = at[np.isin(columns.rids[at], rids)]
    return at


def _linear(store: Store, engine: Engine, linear: Linear, t: int) -> Iterator[list[Row]]:
    columns = store.columns(linear.table)
    at = _selected(columns, linear, engine, t, plain_too=False)
    total = max(len(columns.rids), 1)
    vectors = [(i, e) for i, e in enumerate(linear.exprs) if isinstance(e.vector, Hash | Modulo)]
    plain = [e.sql for e in linear.exprs if not isinstance(e.vector, Hash | Modulo)]
    alias = linear.alias
    picked = ", ".join([f"{alias}.rid", *plain])
    base = f"SELECT {picked} {_without_vectors(linear, _split(linear)[1])}"
    if len(at) < total * _SPARSE:
        batches = _lookups(engine, base, alias, columns.rids[at], t)
        flags = None
    else:
        batches = engine.chunks(base, {"t": t}, CHUNK)
        flags = np.zeros(total, dtype=np.bool_)
        flags[at] = True
    for rows in batches:
        kept, where = _aligned(columns, rows, flags)
        if not kept:
            continue
        values: list[Sequence[Any]] = []
        values += list(zip(*kept, strict=True))[1:]
        for i, expr in vectors:
            values.insert(i, _column(columns, expr, alias, where))
        yield list(zip(*values, strict=True))


def _lookups(engine: Engine, base: str, alias: str, rids: NDArray[np.int64], t: int) -> Iterator[list[Row]]:
    for start in range(0, len(rids), _LOOKUP):
        wanted = ",".join(map(str, rids[start : start + _LOOKUP].tolist()))
        yield engine.all(f"{base} AND {alias}.rid IN ({wanted})", {"t": t})


def _aligned(
    columns: Columns, rows: list[Row], flags: NDArray[np.bool_] | None
) -> tuple[list[Row], NDArray[np.int64]]:
    where = columns.positions(np.fromiter((r[0] for r in rows), dtype=np.int64, count=len(rows)))
    if flags is None:
        return rows, where
    keep = flags[where]
    if keep.all():
        return rows, where
    return list(compress(rows, keep.tolist())), where[keep]


def _column(columns: Columns, expr: Typed, alias: str, where: NDArray[np.int64]) -> list[Any]:
    assert isinstance(expr.vector, Hash | Modulo)
    values, valid = columns.evaluate(expr.vector, alias, where)
    numbers = values.tolist()
    if expr.type.name not in RANGES or expr.type.name == "uint8":
        numbers = [b"%d" % n for n in numbers]
    if valid.all():
        return numbers  # type: ignore[no-any-return]
    return [n if ok else None for n, ok in zip(numbers, valid.tolist(), strict=True)]


def _grouped(store: Store, engine: Engine, grouped: Grouped, t: int) -> list[Row]:
    source = grouped.source
    columns = store.columns(source.table)
    at = _selected(columns, source, engine, t, plain_too=True)
    keys, valid = columns.evaluate(grouped.key, source.alias, at)
    labels, parts = _partition(keys, valid, grouped.key)
    size = len(labels)
    outputs = []
    for output in grouped.outputs:
        if output.kind == "key":
            outputs.append(labels)
        elif output.kind == "count":
            outputs.append(np.bincount(parts, minlength=size).tolist())
        else:
            assert output.of is not None
            outputs.append(_sums(columns, output.of, source.alias, at, parts, size))
    rows = list(zip(*outputs, strict=True))
    for index, descending, nulls_first in reversed(grouped.order):
        _sort(rows, index, descending, nulls_first)
    return rows


def _partition(
    keys: NDArray[np.uint64], valid: NDArray[np.bool_], key: Hash | Modulo
) -> tuple[list[Any], NDArray[np.int64]]:
    """The distinct keys, NULL last, and for every row the number of its key."""
    if isinstance(key, Modulo) and key.by <= _DENSE:
        # Few possible keys: counting them is cheaper than sorting all rows.
        numbers = np.where(valid, keys, key.by).astype(np.int64)
        present = np.flatnonzero(np.bincount(numbers, minlength=key.by + 1))
        place = np.zeros(key.by + 1, dtype=np.int64)
        place[present] = np.arange(len(present))
        return [None if n == key.by else n for n in present.tolist()], place[numbers]
    names, group = np.unique(keys[valid], return_inverse=True)
    parts = np.full(len(keys), len(names), dtype=np.int64)
    parts[valid] = group
    return [*names.tolist(), None][: len(names) + (0 if valid.all() else 1)], parts


def _sort(rows: list[Row], index: int, descending: bool, nulls_first: bool) -> None:
    rows.sort(key=lambda row: int(row[index] or 0), reverse=descending)
    rows.sort(key=lambda row: (row[index] is None) != nulls_first)


def _sums(
    columns: Columns, of: Hash | Modulo, alias: str, at: NDArray[np.int64], parts: NDArray[np.int64], size: int
) -> list[bytes | None]:
    """Exact sums of unsigned 64 bit numbers: bincount adds floats, 22 bits at a time stay exact (for 2^31 rows)."""
    values, valid = columns.evaluate(of, alias, at)
    parts, values = parts[valid], values[valid]
    limbs = []
    for shift in (0, 22, 44):
        limb = ((values >> np.uint64(shift)) & np.uint64(0x3FFFFF)).astype(np.float64)
        limbs.append(np.bincount(parts, weights=limb, minlength=size).astype(np.int64).tolist())
    totals = [low + (middle << 22) + (high << 44) for low, middle, high in zip(*limbs, strict=True)]
    if valid.all():
        return [b"%d" % total for total in totals]
    counts = np.bincount(parts, minlength=size).tolist()
    return [b"%d" % total if count else None for total, count in zip(totals, counts, strict=True)]
