"""Check a query's columns, and whether they can be stored as configured. Reads no rows."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from reconcile.config.settings import ViewSettings
from reconcile.core.keys import KeyShape
from reconcile.errors import SchemaError
from reconcile.source import query
from reconcile.source.query import BYTEA, Column, Mapping, identifier
from reconcile.source.session import Session

EVERY = "*"
"""Stands for all columns but those of the key and expires_at."""
UNNAMED = "?column?"
"""Materialize's name for a column without one."""
JSONB = 3802
EXPIRY_TYPES = (1114, 1184)
"""timestamp, timestamptz."""
_NUMERIC = {
    20: "bigint",
    21: "smallint",
    23: "integer",
    1700: "numeric",
    16460: "uint2",
    16462: "uint4",
    16464: "uint8",
}
_TEXT = {18: "char", 19: "name", 25: "text", 1042: "char(n)", 1043: "varchar"}
_TIME = {1082: "date", 1083: "time", 1114: "timestamp", 1184: "timestamptz", 1186: "interval", 16552: "mz_timestamp"}
_OTHER = {16: "boolean", 700: "real", 701: "double precision", 2950: "uuid", BYTEA: "bytea", JSONB: "jsonb"}
VALUE_TYPES = _NUMERIC | _TEXT | _TIME | _OTHER
KEY_TYPES = {oid: name for oid, name in VALUE_TYPES.items() if oid not in (700, 701, 1186, JSONB)}


def map_columns(
    sql: str,
    columns: list[Column],
    key: KeyShape,
    values: Sequence[str] = ("value",),
    *,
    layout: str = "string",
    expires_at: str | None = None,
    view: str,
) -> Mapping:
    """Check the query's columns against the configuration. values: names, or ("*",): all others. Raises SchemaError."""
    found = {column.name: column for column in columns}
    chosen = [*key.columns, *([expires_at] if expires_at is not None else [])]
    if tuple(values) == (EVERY,):
        values = [column.name for column in columns if column.name not in chosen]
    roles = dict.fromkeys(values, "value") | dict.fromkeys(chosen, "expires_at") | dict.fromkeys(key.columns, "key")
    for name, role in roles.items():
        _check_found(name, role, columns, view)
    extra = [column.name for column in columns if column.name not in roles]
    if extra:
        raise SchemaError(
            f"the query of view {view} has unused columns: {', '.join(extra)}",
            hint='name them in `value:` (or value: "*") with layout json or hash, or leave them out of the query',
        )
    mapping = Mapping(
        sql,
        key,
        tuple(found[name] for name in key.columns),
        tuple(found[name] for name in values),
        layout,
        None if expires_at is None else found[expires_at],
        in_order=[column.name for column in columns] == [*key.columns, *values],
    )
    _check_values(mapping, view)
    _check_types(mapping, view)
    return mapping


def _check_found(name: str, role: str, columns: list[Column], view: str) -> None:
    """Raise SchemaError unless the query has exactly one column of this name."""
    times = sum(column.name == name for column in columns)
    if times > 1:
        raise SchemaError(f"the query of view {view} has several columns {name!r}", hint="give them different names")
    if not times:
        names = ", ".join(column.name for column in columns) or "none"
        setting = "`key:` (or `key_template:`)" if role == "key" else f"`{role}:`"
        raise SchemaError(
            f"the query of view {view} has no column {name!r}, which {setting} names; its columns are: {names}",
            hint=f"name it in the query (… AS {identifier(name)}) or change {setting} in the configuration",
        )


def _check_values(mapping: Mapping, view: str) -> None:
    names = [column.name for column in mapping.values]
    if not names:
        raise SchemaError(f"view {view} has no value column", hint="select more than its key")
    if mapping.layout == "string" and len(names) != 1:
        raise SchemaError(
            f"view {view} has {len(names)} value columns, and layout string stores one",
            hint="layout: json or hash, or name one column in `value:`",
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SchemaError(f"`value:` of view {view} names column {twice[0]!r} twice", hint="name it once")
    if mapping.layout != "string" and UNNAMED in names:
        raise SchemaError(
            f"the query of view {view} has a column without a name, and layout {mapping.layout} stores names",
            hint="give it one in the query (… AS name)",
        )


def _check_types(mapping: Mapping, view: str) -> None:
    for column in mapping.keys:
        _check_type(column, KEY_TYPES, "a Redis key", view)
        if column.oid == BYTEA and len(mapping.keys) > 1:
            raise SchemaError(
                f"column {column.name!r} of view {view} is bytea, which cannot be one of several in a key",
                hint=f"encode({identifier(column.name)}, 'hex') in the query",
            )
    for column in mapping.values:
        _check_type(column, VALUE_TYPES, "a Redis value", view)
        if column.oid == BYTEA and mapping.layout == "json":
            raise SchemaError(
                f"column {column.name!r} of view {view} is bytea, which JSON cannot hold",
                hint=f"encode({identifier(column.name)}, 'base64') in the query, or layout: hash",
            )
    expires_at = mapping.expires_at
    if expires_at is not None and expires_at.oid not in EXPIRY_TYPES:
        raise SchemaError(
            f"column {expires_at.name!r} of view {view}, which `expires_at:` names, is {_type_name(expires_at)}",
            hint="it has to be timestamptz, or timestamp in UTC: cast it in the query",
        )


def _check_type(column: Column, supported: dict[int, str], role: str, view: str) -> None:
    if column.oid not in supported:
        name = identifier(column.name)
        as_json = f" or to_jsonb({name})" if JSONB in supported else ""
        raise SchemaError(
            f"column {column.name!r} of view {view} has a type that cannot be {role} ({_type_name(column)})",
            hint=f"cast it in the query, e.g. {name}::text{as_json}",
        )


def _type_name(column: Column) -> str:
    return VALUE_TYPES.get(column.oid, f"oid {column.oid}")


def describe_mapping(session: Session, view: ViewSettings) -> Mapping:
    """Return a view's columns, checked against its settings. Reads no rows. Raises SchemaError, UsageError."""
    key = KeyShape(view.key_prefix, view.key_columns, view.key_literals)
    columns = session.columns(query.describe(view.sql))
    mapping = map_columns(
        view.sql,
        columns,
        key,
        view.value_columns,
        layout=view.layout,
        expires_at=view.expires_at,
        view=view.name,
    )
    return mapping if view.shard is None else replace(mapping, shard=view.shard)
