"""Runs a planned query at one time."""

from __future__ import annotations

from dataclasses import replace
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from reconcile_standin import bulk, shapes
from reconcile_standin.batches import Batch, Numbers, Rows, Values, transposed
from reconcile_standin.totals import Events, Totals
from reconcile_standin.typed import Hash, Mask, Modulo, OneOf, Typed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from reconcile_standin.columns import Columns
    from reconcile_standin.engine import Engine
    from reconcile_standin.plan import Definition, Grouped, Linear, Plan
    from reconcile_standin.storage import Store

    Ints = NDArray[np.int64]
    Hashed = dict[int, tuple[Hash | Modulo, NDArray[np.uint64], NDArray[np.bool_]]]

CHUNK = 1000
# Up to this share of the table's rows, they are looked up one by one instead of scanning the table.
_SPARSE = 0.15
_LOOKUP = 500
# Rows of numbers are encoded so many at a time.
_PIECE = 8192


def rows_at(store: Store, engine: Engine, plan: Plan, t: int) -> Iterator[Rows]:
    """The rows of a query at t, in batches; text as bytes."""
    relation = plan.relation
    if relation.grouped is not None:
        return _grouped_rows(_grouped(store, engine, relation.grouped, t), relation.grouped)
    linear = relation.linear
    if linear is not None and any(e.vector is not None for e in (*linear.exprs, *linear.where)):
        return _linear(store, engine, linear, t)
    sql, binds = _with_groups(store, engine, plan, t)
    return engine.chunks(sql, {"t": min(t, 2**63 - 2), **binds}, CHUNK)


def _with_groups(store: Store, engine: Engine, plan: Plan, t: int) -> tuple[str, Mapping[str, Any]]:
    """The query's SQL, with the content of maintained views in it instead of what they are made of."""
    sql = plan.relation.sql
    binds: dict[str, str] = {}
    for inner in sorted(plan.facts.groups, key=len, reverse=True):
        if f"({inner})" not in sql:
            continue
        rows = _grouped(store, engine, plan.facts.groups[inner], t)
        name = f"g{len(binds)}"
        columns = ", ".join(f"value->>{i} AS c{i}" for i in range(len(rows.columns)))
        sql = sql.replace(f"({inner})", f"(SELECT {columns} FROM json_each(:{name}))")
        binds[name] = _json(rows)
    return sql, binds


def _json(rows: Batch) -> str:
    numbers = [c for c in rows.columns if isinstance(c, Numbers)]
    texts = []
    for start in range(0, len(rows), _PIECE):
        part = [c.part(slice(start, start + _PIECE)) for c in numbers]
        if all(c.valid.all() for c in part):
            texts.append(bulk.json_rows(part).decode())
        else:
            for row in Batch([*part]):
                quoted = (f'"{v.decode()}"' if isinstance(v, bytes) else v for v in row)
                texts.append(f"[{','.join('null' if v is None else str(v) for v in quoted)}],")
    return f"[{''.join(texts)[:-1]}]"


def _split(linear: Linear) -> tuple[list[Mask | OneOf], tuple[Typed, ...]]:
    """The WHERE terms that are computed over arrays, and the others."""
    vectors = [w.vector for w in linear.where if isinstance(w.vector, Mask | OneOf)]
    plain = tuple(w for w in linear.where if not isinstance(w.vector, Mask | OneOf))
    return vectors, plain


def _without_vectors(linear: Linear, plain: tuple[Typed, ...]) -> str:
    reduced = replace(linear, where=plain)
    return f"FROM {shapes.table_sql(reduced)} WHERE {' AND '.join(shapes.conditions(reduced))}"


def _selected(columns: Columns, linear: Linear, t: int) -> Ints:
    """Positions of the rows that live at t and satisfy the terms that are computed over arrays."""
    at = columns.visible(t)
    for vector in _split(linear)[0]:
        at = at[columns.satisfied(vector, linear.alias, at)]
    return at


def _linear(store: Store, engine: Engine, linear: Linear, t: int) -> Iterator[Rows]:
    columns = store.columns(linear.table)
    alias = linear.alias
    with columns.reading():
        at = _selected(columns, linear, t)
        sparse = len(at) < max(len(columns.rids), 1) * _SPARSE
        rids = columns.rids[at]
        hashed = {
            i: (e.vector, *columns.unchecked(e.vector, alias, at))
            for i, e in enumerate(linear.exprs)
            if isinstance(e.vector, Hash | Modulo)
        }
    plain = [e.sql for i, e in enumerate(linear.exprs) if i not in hashed]
    if plain and not linear.where:
        yield from _whole(columns, engine, linear, plain, hashed, rids, t)
        return
    base = f"SELECT {', '.join([f'{alias}.rid', *plain])} {_without_vectors(linear, _split(linear)[1])}"
    batches = _lookups(engine, base, alias, rids, t) if sparse else engine.chunks(base, {"t": t}, CHUNK)
    for rows in batches:
        where, kept = _aligned(rids, rows)
        if not len(where):
            continue
        values = transposed(kept)[1:]
        _insert(columns, linear, hashed, values, rids, where)
        yield Batch(values)


def _whole(columns: Columns, engine: Engine, linear: Linear, plain: list[str], hashed: Hashed, rids: Ints, t: int
           ) -> Iterator[Rows]:  # fmt: skip
    """All rows: in the order of their ids the engine's are those of the arrays."""
    sql = f"SELECT {', '.join(plain)} {_without_vectors(linear, ())} ORDER BY {linear.alias}.rid"
    start = 0
    for rows in engine.chunks(sql, {"t": t}, CHUNK):
        values = transposed(rows)
        _insert(columns, linear, hashed, values, rids, slice(start, start + len(rows)))
        yield Batch(values)
        start += len(rows)


def _insert(columns: Columns, linear: Linear, hashed: Hashed, values: list[Values], rids: Ints, where: Ints | slice
            ) -> None:  # fmt: skip
    """Put the hashes of some rows in their columns."""
    for i, (vector, numbers, valid) in hashed.items():
        columns.check(vector, linear.alias, rids[where])
        decimal = linear.exprs[i].type.affinity == "TEXT"
        values.insert(i, Numbers(numbers[where], valid[where], decimal=decimal))


def _lookups(engine: Engine, base: str, alias: str, rids: Ints, t: int) -> Iterator[list[tuple[Any, ...]]]:
    marks = ",".join(f":r{i}" for i in range(_LOOKUP))
    sql = f"{base} AND {alias}.rid IN ({marks})"
    names = [f"r{i}" for i in range(_LOOKUP)]
    for start in range(0, len(rids), _LOOKUP):
        wanted = rids[start : start + _LOOKUP].tolist()
        wanted += [-1] * (_LOOKUP - len(wanted))
        yield engine.all(sql, {"t": t, **dict(zip(names, wanted, strict=True))})


def _aligned(rids: Ints, rows: list[tuple[Any, ...]]) -> tuple[Ints, list[tuple[Any, ...]]]:
    """Which of the wanted rows these are, and those that are."""
    found = np.fromiter((r[0] for r in rows), dtype=np.int64, count=len(rows))
    if not len(rids):
        return found[:0], []
    where = np.minimum(np.searchsorted(rids, found), len(rids) - 1)
    keep = rids[where] == found
    return (where, rows) if keep.all() else (where[keep], list(compress(rows, keep.tolist())))


def _grouped_rows(rows: Batch, grouped: Grouped) -> Iterator[Rows]:
    keys = [i for i, o in enumerate(grouped.outputs) if o.kind == "key"]
    # That is their order already.
    if not grouped.order or (keys and grouped.order[0] == (keys[0], False, False)):
        return rows.pieces(_PIECE)
    ordered = list(rows)
    for index, descending, nulls_first in reversed(grouped.order):
        ordered.sort(key=lambda row: int(row[index] or 0), reverse=descending)
        ordered.sort(key=lambda row: (row[index] is None) != nulls_first)
    return iter([ordered[i : i + CHUNK] for i in range(0, len(ordered), CHUNK)])


def _grouped(store: Store, engine: Engine, grouped: Grouped, t: int) -> Batch:
    columns = store.columns(grouped.source.table)
    definition = shapes.definition(grouped)
    if definition is not None and grouped.kept is not None:
        since = store.readable(grouped.kept.item)
        with columns.reading():
            kept = columns.groups(definition, t, since)
            if kept is not None:
                places: dict[object, int] = {of: i for i, of in enumerate(grouped.kept.sums)}
                return kept.at(t).rows(grouped.outputs, None, places)
    return _computed(columns, engine, grouped, t)


def _computed(columns: Columns, engine: Engine, grouped: Grouped, t: int) -> Batch:
    """The groups from all rows."""
    source = grouped.source
    plain = _split(source)[1]
    wanted = dict.fromkeys(o.of for o in grouped.outputs if o.kind == "sum" and o.of is not None)
    found = None
    if plain:
        sql = f"SELECT {source.alias}.rid {_without_vectors(source, plain)}"
        found = np.array([r[0] for r in engine.all(sql, {"t": t})], dtype=np.int64)
    with columns.reading():
        at = _selected(columns, source, t)
        if found is not None:
            at = at[np.isin(columns.rids[at], found)]
        keys, valid = columns.evaluate(grouped.key, source.alias, at)
        sums = tuple(columns.evaluate(of, source.alias, at) for of in wanted)
    labels, slots = None, keys
    size = grouped.key.by if isinstance(grouped.key, Modulo) else shapes.DENSE + 1
    if size > shapes.DENSE:
        labels, places = np.unique(keys[valid], return_inverse=True)
        slots, size = np.zeros_like(keys), len(labels)
        slots[valid] = places
    totals = Totals(size + 1, len(sums))
    ones = np.ones(len(at), dtype=np.int64)
    totals.add(Events(ones, np.where(valid, slots, size).astype(np.int64), ones, sums))
    return totals.rows(grouped.outputs, labels, {of: i for i, of in enumerate(wanted)})


def definition_of(plan: Plan) -> Definition | None:
    """What has to be maintained to answer a query at once."""
    return None if plan.relation.grouped is None else shapes.definition(plan.relation.grouped)
