"""Recognises the two shapes of query that are worth more than handing them to the engine: linear and grouped."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TypeVar

from reconcile_standin import plan
from reconcile_standin import syntax as s
from reconcile_standin.plan import ALIAS, FLAG, Column, Definition, Grouped, Linear, Relation
from reconcile_standin.translate import AGGREGATES
from reconcile_standin.typed import Hash, Mask, Modulo, OneOf, Pick, Typed, Vector

V = TypeVar("V", bound=Vector)
# Up to so many possible groups are maintained.
DENSE = 1 << 22
Output = tuple[str, Typed, s.Expr | None]


@dataclass(frozen=True, slots=True)
class Shape:
    """The parts of a SELECT that decide its shape."""

    core: s.Core
    source: Linear | None
    relation: Relation | None
    where: Typed | None
    items: list[Output]
    group: list[Typed]
    order: tuple[s.OrderItem, ...]


def table_sql(linear: Linear) -> str:
    """The table of a linear query, under its alias."""
    return f"d{linear.table.number} AS {linear.alias}"


def conditions(linear: Linear) -> list[str]:
    """What a linear query's rows satisfy, the time included."""
    alias = linear.alias
    # Without the plus the engine would read nearly the whole table in the order of an index.
    return [f"+{alias}.born<=:t", f"+{alias}.died>:t", *(w.sql for w in linear.where)]


def linear_relation(columns: tuple[Column, ...], linear_: Linear) -> Relation:
    """A linear query as a relation."""
    outputs = ", ".join(f"{e.sql} AS c{i}" for i, e in enumerate(linear_.exprs))
    sql = f"SELECT {outputs} FROM {table_sql(linear_)} WHERE {' AND '.join(conditions(linear_))}"
    return Relation(columns, sql, linear_)


def linear(shape: Shape) -> Linear | None:
    """The linear form of SELECT … FROM <linear> WHERE …"""
    if shape.source is None:
        return None
    return Linear(shape.source.table, shape.source.alias, tuple(e for _, e, _ in shape.items), _where(shape))


def _where(shape: Shape) -> tuple[Typed, ...]:
    assert shape.source is not None
    return shape.source.where + (() if shape.where is None else (shape.where,))


def grouped(shape: Shape) -> Grouped | None:
    """The grouped form of SELECT key, count(*), sum(hash) FROM <linear> GROUP BY key."""
    if shape.source is None or len(shape.group) != 1 or shape.core.having is not None or shape.core.distinct:
        return None
    key = shape.group[0]
    if not isinstance(key.vector, Hash | Modulo):
        return None
    outputs = []
    for _, expr, node in shape.items:
        output = _group_output(expr, node, key)
        if output is None:
            return None
        outputs.append(output)
    order = _order(shape)
    if order is None:
        return None
    source = Linear(shape.source.table, shape.source.alias, (), _where(shape))
    return Grouped(source, key.vector, tuple(outputs), order)


def _group_output(expr: Typed, node: s.Expr | None, key: Typed) -> plan.Output | None:
    if expr.sql == key.sql and expr.type == key.type:
        return plan.Output("key", None, key.type.is_decimal)
    if not isinstance(node, s.Call) or node.distinct or node.where is not None or node.over is not None:
        return None
    if node.name == "count" and node.star:
        return plan.Output("count", None)
    # The only aggregate kept by columns is the sum of a hash; its SQL is sum's name around the hash's.
    if node.name == "sum" and expr.vector is not None and isinstance(expr.vector, Hash):
        return plan.Output("sum", expr.vector)
    return None


def picked_groups(shape: Shape) -> Grouped | None:
    """The grouped form of a SELECT that only picks and orders columns of a grouped query."""
    found = None if shape.relation is None else shape.relation.grouped
    plain = shape.where is None and not shape.group and shape.core.having is None and not shape.core.distinct
    if found is None or found.order or not plain:
        return None
    outputs = []
    for _, expr, _ in shape.items:
        column = expr.sql.rpartition(".c")[2]
        if not column.isdigit() or not expr.sql.startswith("ŧ") or expr.sql.count("ŧ") != 2:
            return None
        outputs.append(found.outputs[int(column)])
    order = _order(shape)
    return None if order is None else dataclasses.replace(found, outputs=tuple(outputs), order=order)


def definition(found: Grouped) -> Definition | None:
    """What to maintain for a grouped query; None when it has to be computed at every read."""
    source = found.source
    if found.kept is None or not isinstance(found.key, Modulo) or found.key.by > DENSE:
        return None
    vectors = [w.vector for w in source.where if isinstance(w.vector, Mask | OneOf)]
    plain = [w.sql for w in source.where if not isinstance(w.vector, Mask | OneOf)]
    # Conditions on the time, or on other tables, change their minds about a row.
    if any(":t" in re.sub(r"'[^']*'", "", sql) for sql in plain):
        return None
    flag = Hash(FLAG, " AND ".join(f"({sql})" for sql in plain).replace(source.alias, ALIAS)) if plain else None
    return Definition(
        flag,
        tuple(_anonymous(v, source.alias) for v in vectors),
        _anonymous(found.key, source.alias),
        tuple(_anonymous(v, source.alias) for v in found.kept.sums),
    )


def _anonymous(vector: V, alias: str) -> V:
    if isinstance(vector, Hash):
        return dataclasses.replace(vector, sql=vector.sql.replace(alias, ALIAS))
    if isinstance(vector, Pick):
        return dataclasses.replace(vector, index=_anonymous(vector.index, alias))
    if isinstance(vector, Mask):
        return dataclasses.replace(vector, pick=_anonymous(vector.pick, alias))
    if isinstance(vector, Modulo):
        return dataclasses.replace(vector, of=_anonymous(vector.of, alias))
    assert isinstance(vector, OneOf)
    return dataclasses.replace(vector, of=_anonymous(vector.of, alias))


def _order(shape: Shape) -> tuple[tuple[int, bool, bool], ...] | None:
    terms = []
    for item in shape.order:
        index = output_index(item.expr, [name for name, _, _ in shape.items])
        if index is None:
            return None
        first = item.descending if item.nulls_first is None else item.nulls_first
        terms.append((index, item.descending, first))
    return tuple(terms)


def output_index(node: s.Expr, names: list[str]) -> int | None:
    """Which output column GROUP BY or ORDER BY means by a position or a name."""
    if isinstance(node, s.Literal) and node.kind == "int" and 1 <= int(node.text) <= len(names):
        return int(node.text) - 1
    if isinstance(node, s.Column) and len(node.parts) == 1 and names.count(node.parts[0]) == 1:
        return names.index(node.parts[0])
    return None


def has_aggregate(nodes: list[s.Expr]) -> bool:
    """Whether an expression contains an aggregate of its own query."""
    return any(_aggregates(node) for node in nodes)


def _aggregates(node: object) -> bool:
    if isinstance(node, s.Call) and node.name in AGGREGATES and node.over is None:
        return True
    if isinstance(node, s.Query):
        return False
    if isinstance(node, tuple):
        return any(_aggregates(n) for n in node)
    if dataclasses.is_dataclass(node):
        return any(_aggregates(getattr(node, f.name)) for f in dataclasses.fields(node))
    return False
