"""The changes of a linear query over a range of times, by columns: catching up is many rows at once."""

from __future__ import annotations

import itertools
from collections import Counter
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from reconcile_standin import vectors
from reconcile_standin.batches import Batch, Numbers, transposed
from reconcile_standin.engine import ALIVE
from reconcile_standin.hashing import hash_many
from reconcile_standin.typed import Hash, Mask, Modulo, OneOf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from reconcile_standin.batches import Rows, Values
    from reconcile_standin.engine import Engine, Row
    from reconcile_standin.plan import Linear
    from reconcile_standin.typed import Typed

    Shape = Callable[[int, Counter[Row]], list[Row]]

_FETCH = 2000
_BATCH = 4000
# Changes of one time up to this number are consolidated and put in order as for a small result.
_SMALL = 200


def _hashed(expr: Typed) -> bool:
    return isinstance(expr.vector, Hash | Modulo | Mask | OneOf)


def _argument(expr: Typed) -> str:
    """What to ask the engine for: of a hash, what is to be hashed."""
    if not _hashed(expr):
        return expr.sql
    assert expr.vector is not None
    return vectors.hash_of(expr.vector).sql


def _sql(linear: Linear) -> str:
    alias, table = linear.alias, f"d{linear.table.number}"
    picks = [w for w in linear.where if _hashed(w)]
    exprs = "".join(f", {_argument(e)}" for e in (*linear.exprs, *picks))
    where = "".join(f" AND {w.sql}" for w in linear.where if not _hashed(w))
    return (
        f"SELECT {alias}.born, 1{exprs} FROM {table} AS {alias} WHERE {alias}.born>=:low AND {alias}.born<:high"
        f"{where} UNION ALL SELECT {alias}.died, -1{exprs} FROM {table} AS {alias} "
        f"WHERE {alias}.died<{ALIVE} AND {alias}.died>=:low AND {alias}.died<:high{where} ORDER BY 1"
    )


def _evaluated(linear: Linear, rows: list[Row]) -> Iterable[Row]:
    """The rows with hashes instead of their arguments, without those that conditions on hashes leave out."""
    picks = [w.vector for w in linear.where if isinstance(w.vector, Mask | OneOf)]
    first = 2 + len(linear.exprs)
    for i, pick in enumerate(picks):
        arguments = [row[first + i] for row in rows]
        flags = vectors.satisfied(pick, *hash_many(vectors.hash_of(pick).function, arguments))
        rows = list(itertools.compress(rows, flags.tolist()))
    hashes = [(i + 2, e) for i, e in enumerate(linear.exprs) if isinstance(e.vector, Hash | Modulo)]
    if not rows or not (picks or hashes):
        return rows
    columns: list[Any] = list(zip(*rows, strict=True))[:first]
    for i, expr in hashes:
        assert isinstance(expr.vector, Hash | Modulo)
        values, valid = hash_many(vectors.hash_of(expr.vector).function, columns[i])
        numbers = Numbers(vectors.numbers(expr.vector, values), valid, decimal=expr.type.affinity == "TEXT")
        columns[i] = numbers.list()
    return zip(*columns, strict=True)


def linear_changes(engine: Engine, linear: Linear, low: int, high: int, shape: Shape, head: tuple[int, ...] | None
                   ) -> Iterator[Rows]:  # fmt: skip
    """The changes at low <= time < high as rows of a SUBSCRIBE.

    shape makes rows of consolidated changes; head stands between time and diff, None where rows have another form.
    """
    chunks = engine.chunks(_sql(linear), {"low": low, "high": high}, _FETCH)
    rows = itertools.chain.from_iterable(_evaluated(linear, chunk) for chunk in chunks)
    pending: list[Row] = []
    for ts, group in itertools.groupby(rows, key=itemgetter(0)):
        found = list(group)
        columns = None if head is None or len(found) <= _SMALL else _distinct(found)
        if columns is None:
            diffs: Counter[Row] = Counter()
            for row in found:
                diffs[row[2:]] += row[1]
            pending += shape(ts, diffs)
            if len(pending) >= _BATCH // 4:
                yield pending
                pending = []
            continue
        if pending:
            yield pending
            pending = []
        constants = [[value] * len(found) for value in (b"%d" % ts, *(head or ()))]
        yield from Batch([*constants, *columns]).pieces(_BATCH)
    if pending:
        yield pending


def _distinct(rows: list[Row]) -> list[Values] | None:
    """Diffs and columns of the changes of one time, if no two are of one row: then nothing is to be consolidated."""
    columns = transposed(rows)[1:]
    distinct = len(columns) > 1 and len(set(zip(*columns[1:], strict=True))) == len(rows)
    return columns if distinct else None
