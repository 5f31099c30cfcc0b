"""EXPLAIN OPTIMIZED PLAN AS JSON: in Materialize's own form for filters over what is stored or indexed.

Anything else is told by the engine's SQL, with the collections it reads. That form is ours; like the real one it
changes when one of them is replaced, or when a plain view, which is inlined, says something else, and only then.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

from reconcile_standin import syntax as s
from reconcile_standin import types
from reconcile_standin.definitions import Parser

if TYPE_CHECKING:
    from reconcile_standin.catalog import Item
    from reconcile_standin.plan import Plan
    from reconcile_standin.session import Session

Json = dict[str, Any]
_COMPARISONS = {"=": "Eq", "<>": "NotEq", "<": "Lt", "<=": "Lte", ">": "Gt", ">=": "Gte"}
_SCALARS: dict[str, Any] = {
    "text": "String", "bool": "Bool", "bytea": "Bytes", "jsonb": "Jsonb", "uuid": "Uuid", "date": "Date",
    "int2": "Int16", "int4": "Int32", "int8": "Int64", "uint2": "UInt16", "uint4": "UInt32", "uint8": "UInt64",
    "float4": "Float32", "float8": "Float64", "mz_timestamp": "MzTimestamp", "interval": "Interval",
    "numeric": {"Numeric": {"max_scale": None}}, "timestamp": {"Timestamp": {"precision": None}},
    "timestamptz": {"TimestampTz": {"precision": None}},
}  # fmt: skip
_NOW: Json = {"CallUnmaterializable": "MzNow"}


class _Other(Exception):  # noqa: N818 - no error: the query has another form
    """Not a filter over one collection."""


def explain_plan(session: Session, plan: Plan, query: s.Query) -> str:
    """The document, as text."""
    try:
        item, conditions = _filtered(session, query, None)
        document = _filter(session, item, [_predicate(item, one) for one in conditions])
    except _Other:
        document = _engine(session, plan)
    return json.dumps(document, indent=2)


def _document(node: Json, sources: list[Json]) -> Json:
    return {"plans": [{"id": "Explained Query", "plan": node}], "sources": sources}


def _engine(session: Session, plan: Plan) -> Json:
    inputs = plan.facts.inputs
    read = [session.catalog.items[i.on] if i.on is not None else i for i in inputs]
    gets = [_get(session, item) for item in read]
    stored = [{"id": {"User": i.number}, "op": None} for i in inputs if i.on is None]
    return _document({"Engine": plan.relation.sql, "inputs": gets}, stored)


def _filter(session: Session, item: Item, predicates: list[Json]) -> Json:
    node = _get(session, item)
    if predicates:
        node = {"Filter": {"input": node, "predicates": predicates}}
    if session.catalog.indexes(item, session.cluster):
        return _document(node, [])
    source: Json = {"id": {"User": item.number}, "op": None}
    if predicates:
        width = len(item.columns)
        source["op"] = {
            "expressions": [],
            "predicates": [[_needed(one), one] for one in predicates],
            "projection": list(range(width)),
            "input_arity": width,
        }
        source["pushdown"] = [one for one in predicates if _NOW in one["CallBinary"].values()]
    return _document(node, [source])


def _get(session: Session, item: Item) -> Json:
    indexes = session.catalog.indexes(item, session.cluster)
    columns = [_type(kind, nullable=name not in item.not_null) for name, kind in item.columns]
    return {
        "Get": {
            "id": {"Global": {"User": item.number}},
            "typ": {"column_types": columns, "keys": []},
            "access_strategy": {"Index": [[{"User": i.number}, "FullScan"] for i in indexes]} if indexes else "Persist",
        }
    }


def _type(name: str, *, nullable: bool) -> Json:
    return {"scalar_type": _SCALARS.get(name, name), "nullable": nullable}


def _filtered(session: Session, query: s.Query, refs: dict[str, str] | None) -> tuple[Item, list[s.Expr]]:
    """The one collection a query reads, and the conditions on its rows; all its columns in their order."""
    core = query.body
    if not isinstance(core, s.Core) or query != s.Query(core) or core.group or core.having or core.distinct:
        raise _Other
    if isinstance(core.source, s.Derived) and not core.source.columns:
        item, conditions = _filtered(session, core.source.query, refs)
    elif isinstance(core.source, s.Table) and not core.source.columns:
        item, conditions = _relation(session, core.source, refs)
    else:
        raise _Other
    names = [name for name, _ in item.columns]
    chosen = [one.expr.parts[-1] if isinstance(one.expr, s.Column) else None for one in core.items]
    everything = len(core.items) == 1 and isinstance(core.items[0].expr, s.Star)
    renamed = any(one.alias not in (None, name) for one, name in zip(core.items, chosen, strict=True))
    if core.distinct_on or not (everything or (chosen == names and not renamed)):
        raise _Other
    return item, conditions if core.where is None else [*conditions, core.where]


def _relation(session: Session, table: s.Table, refs: dict[str, str] | None) -> tuple[Item, list[s.Expr]]:
    catalog = session.catalog
    if refs is None:
        item = catalog.resolve(table.parts, session.search_path)
    else:
        item = catalog.items.get(refs.get(".".join(table.parts), ""))
    if item is None:
        raise _Other
    if item.stored or catalog.indexes(item, session.cluster):
        return item, []
    inner, conditions = _filtered(session, Parser(item.query).query(), item.refs)
    if [name for name, _ in inner.columns] != [name for name, _ in item.columns]:
        raise _Other
    return inner, conditions


def _predicate(item: Item, node: s.Expr) -> Json:
    if not isinstance(node, s.Binary) or node.op not in _COMPARISONS:
        raise _Other
    sides = (node.left, node.right)
    over_time = any(isinstance(side, s.Call) and side.name == "mz_now" for side in sides)
    left, right = (_operand(item, side, over_time) for side in sides)
    return {"CallBinary": {"func": _COMPARISONS[node.op], "expr1": left, "expr2": right}}


def _operand(item: Item, node: s.Expr, over_time: bool) -> Json:
    names = [name for name, _ in item.columns]
    if isinstance(node, s.Call) and node.name == "mz_now":
        return _NOW
    if isinstance(node, s.Column) and node.parts[-1] in names:
        at = names.index(node.parts[-1])
        if item.columns[at][1] == types.TEXT.name:
            return {"Column": [at, names[at]]}
    if isinstance(node, s.Literal) and node.kind == "int" and over_time:
        return _literal(bytes([35]) + struct.pack("<Q", int(node.text)), "mz_timestamp")
    if isinstance(node, s.Literal) and node.kind == "string" and not over_time and len(node.text.encode()) < 256:
        data = node.text.encode()
        return _literal(bytes([19, len(data)]) + data, "text")
    raise _Other


def _literal(data: bytes, kind: str) -> Json:
    return {"Literal": [{"Ok": {"data": list(data)}}, _type(kind, nullable=False)]}


def _needed(predicate: Json) -> int:
    """How many of the columns must be known before a predicate can be."""
    sides = predicate["CallBinary"].values()
    return max((side["Column"][0] + 1 for side in sides if isinstance(side, dict) and "Column" in side), default=0)
