"""SHOW: variables and objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconcile_standin import syntax as s
from reconcile_standin import types
from reconcile_standin.catalog import LABELS, REPLICA, REPLICA_SIZE, SYSTEM_CLUSTER, Item
from reconcile_standin.definitions import Parser
from reconcile_standin.plan import Column
from reconcile_standin.problem import SqlError
from reconcile_standin.values import format_elements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconcile_standin.engine import Row
    from reconcile_standin.session import Session

Table = tuple[tuple[Column, ...], list["Row"]]


def _texts(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, types.TEXT) for name in names)


def show_variable(session: Session, name: str) -> Table:
    """SHOW x."""
    value = session.variables.get(name)
    if name.lower() == "cluster":
        session.check_cluster()
    return _texts(name.lower()), [(value,)]


def show_objects(session: Session, statement: s.ShowObjects) -> Table:
    """SHOW INDEXES, COLUMNS, CREATE, TABLES, …"""
    what = statement.what
    if what.startswith("create "):
        assert statement.name is not None
        item = session.catalog.get(statement.name, session.search_path)
        wanted = what.removeprefix("create ")
        if LABELS[item.kind].lower() != wanted:  # sql/src/plan/statement/show.rs: plan_show_create_item
            raise SqlError(f"{item.full_name} is not a {wanted}")
        return _texts("name", "create_sql"), [(item.full_name, create_sql(session, item))]
    if what == "columns":
        assert statement.name is not None
        item = session.catalog.get(statement.name, session.search_path)
        columns = (*_texts("name"), Column("nullable", types.BOOL), *_texts("type", "comment"))
        return columns, [
            (n, int(n not in item.not_null), types.long_name(types.named(k)), item.comments.get(str(i), ""))
            for i, (n, k) in enumerate(item.columns, 1)
        ]
    if what == "indexes":
        return _indexes(session, statement)
    if what in ("clusters", "cluster replicas"):
        return _clusters(session, what)
    if what in ("schemas", "roles"):
        names: list[str] = sorted(getattr(session.catalog, what))
        return _texts("name"), [(n,) for n in names]
    return _items(session, statement)


_IDLE_CLUSTERS = ("mz_analytics", "mz_probe", "mz_support", "mz_system")
_KINDS = {
    "tables": ("table",),
    "views": ("view",),
    "materialized views": ("materialized-view",),
    "objects": ("table", "view", "materialized-view", "index"),
}


def _items(session: Session, statement: s.ShowObjects) -> Table:
    kinds = _KINDS.get(statement.what, ())
    schema = statement.name[-1] if statement.name else session.search_path[0]
    found = sorted(
        (i for i in list(session.catalog.items.values()) if i.schema == schema and i.kind in kinds),
        key=lambda i: i.name,
    )
    rows = [(i.name, i.cluster, i.comments.get("", "")) for i in found]
    if statement.what == "materialized views":
        return _texts("name", "cluster", "comment"), [*rows]
    return _texts("name", "comment"), [(name, comment) for name, _, comment in rows]


def _clusters(session: Session, what: str) -> Table:
    catalog = session.catalog
    sizes = {name: None if name in catalog.empty_clusters else REPLICA_SIZE for name in catalog.clusters}
    sizes |= {**dict.fromkeys(_IDLE_CLUSTERS), SYSTEM_CLUSTER: REPLICA_SIZE}
    if what == "clusters":
        shown = [(name, size and f"{REPLICA} ({size})", "") for name, size in sorted(sizes.items())]
        return _texts("name", "replicas", "comment"), [*shown]
    columns = (*_texts("cluster", "replica", "size"), Column("ready", types.BOOL), *_texts("comment"))
    return columns, [(name, REPLICA, size, 1, "") for name, size in sorted(sizes.items()) if size]


def _indexes(session: Session, statement: s.ShowObjects) -> Table:
    catalog = session.catalog
    found: list[Item] = [i for i in list(catalog.items.values()) if i.kind == "index"]
    if statement.name is not None:
        on = catalog.get(statement.name, session.search_path)
        found = [i for i in found if i.on == on.id]
    if statement.cluster is not None:
        found = [i for i in found if i.cluster == statement.cluster]
    columns = (*_texts("name", "on", "cluster"), Column("key", types.named("text[]")), *_texts("comment"))
    rows = []
    for index in sorted(found, key=lambda i: i.name):
        assert index.on is not None
        keys: list[str | None] = [*index.keys]
        rows.append((index.name, catalog.items[index.on].name, index.cluster, format_elements(keys), ""))
    return columns, rows


def create_sql(session: Session, item: Item) -> str:
    """The statement that would create an item again."""
    if item.kind == "table":
        columns = ", ".join(f"{name} {types.long_name(types.named(kind))}" for name, kind in item.columns)
        return f"CREATE TABLE {item.full_name} ({columns});"
    if item.kind == "index":
        assert item.on is not None
        on = session.catalog.items[item.on]
        return (
            f"CREATE INDEX {item.name}\n    IN CLUSTER {item.cluster}\n    ON {on.full_name} ({', '.join(item.keys)});"
        )
    body = _qualified(session, item)
    if item.kind == "view":
        return f"CREATE VIEW {item.full_name} AS {body};"
    retain = f"RETAIN HISTORY = FOR '{item.retain_text}', " if item.retain_text else ""
    return (
        f"CREATE MATERIALIZED VIEW {item.full_name}\n    IN CLUSTER {item.cluster}\n"
        f"    WITH ({retain}REFRESH = ON COMMIT)\n    AS {body};"
    )


def _qualified(session: Session, item: Item) -> str:
    """A view's query with every relation under its present full name."""
    text = item.query
    for table in sorted(_tables(Parser(text).query()), key=lambda t: -t.start):
        ref = item.refs.get(".".join(table.parts))
        if ref is not None:
            text = text[: table.start] + session.catalog.items[ref].full_name + text[table.end :]
    return text


def _tables(node: object) -> Iterator[s.Table]:
    if isinstance(node, s.Table):
        yield node
    elif isinstance(node, tuple):
        for part in node:
            yield from _tables(part)
    elif hasattr(node, "__dataclass_fields__"):
        for name in node.__dataclass_fields__:
            yield from _tables(getattr(node, name))
