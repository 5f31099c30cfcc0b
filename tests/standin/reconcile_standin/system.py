"""The system catalog, as far as tools look at it. Its relations are computed when they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconcile_standin import types
from reconcile_standin.catalog import REPLICA, REPLICA_SIZE, SYSTEM_CLUSTER
from reconcile_standin.plan import Column, Relation
from reconcile_standin.typed import quote

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconcile_standin.storage import Store
    from reconcile_standin.values import Value

Rows = list[tuple["Value", ...]]
_SCHEMAS = ("mz_catalog", "mz_internal", "pg_catalog", "information_schema")


def _objects(store: Store) -> Rows:
    catalog = store.catalog
    own: Rows = [
        (i.id, i.number, catalog.schema_ids[i.schema], i.name, i.kind, catalog.roles.get(i.owner), i.cluster)
        for i in list(catalog.items.values())
    ]
    return [*own, ("s1", 1, "s1", "mz_objects", "view", "s1", "mz_catalog_server")]


def _relations(store: Store) -> Rows:
    return [r for r in _objects(store) if r[4] != "index"]


def _of_kind(kind: str) -> Callable[[Store], Rows]:
    return lambda store: [r for r in _objects(store) if r[4] == kind]


def _schemas(store: Store) -> Rows:
    catalog = store.catalog
    return [(catalog.schema_ids[name], "u1", name, catalog.roles.get(owner)) for name, owner in catalog.schemas.items()]


def _frontiers(store: Store) -> Rows:
    stored = [i for i in list(store.catalog.items.values()) if i.stored]
    return [(i.id, store.since(i), store.clock.upper) for i in stored]


def _strategies(store: Store) -> Rows:
    return [(i.id, "FOR", str(i.window_ms)) for i in list(store.catalog.items.values()) if i.stored]


def _indexes(store: Store) -> Rows:
    catalog = store.catalog
    return [
        (i.id, i.number, i.name, i.on, catalog_cluster_id(store, i.cluster), catalog.roles.get(i.owner))
        for i in list(catalog.items.values())
        if i.kind == "index"
    ]


def _index_columns(store: Store) -> Rows:
    found: Rows = []
    for index in list(store.catalog.items.values()):
        if index.kind == "index" and index.on is not None:
            names = [n for n, _ in store.catalog.items[index.on].columns]
            for i, key in enumerate(index.keys):
                found.append((index.id, i + 1, names.index(key) + 1 if key in names else None, key))
    return found


def catalog_cluster_id(store: Store, name: str) -> str | None:
    """The id of a cluster."""
    names = list(store.catalog.clusters)
    return f"u{names.index(name) + 1}" if name in names else None


def _clusters(store: Store) -> Rows:
    own: Rows = [
        (
            catalog_cluster_id(store, name),
            name,
            store.catalog.roles.get(owner, "s1"),
            1,
            REPLICA_SIZE,
            int(name not in store.catalog.empty_clusters),
        )
        for name, owner in store.catalog.clusters.items()
    ]
    return [*own, ("s2", SYSTEM_CLUSTER, "s1", 1, REPLICA_SIZE, 1)]


def _replicas(store: Store) -> Rows:
    return [(row[0], REPLICA, row[0], REPLICA_SIZE) for row in _clusters(store) if row[5]]


def _columns(store: Store) -> Rows:
    return [
        (i.id, name, str(position + 1), int(name not in i.not_null), kind, types.named(kind).oid)
        for i in list(store.catalog.items.values())
        for position, (name, kind) in enumerate(i.columns)
    ]


def _roles(store: Store) -> Rows:
    return [(role_id, number, name) for number, (name, role_id) in enumerate(store.catalog.roles.items())]


def _dependencies(store: Store) -> Rows:
    return [
        (i.id, ref)
        for i in list(store.catalog.items.values())
        for ref in dict.fromkeys([*i.refs.values(), *([i.on] if i.on else [])])
    ]


def _sessions(store: Store) -> Rows:
    return [(pid, store.catalog.roles.get(role)) for pid, role in list(store.sessions.items())]


def _comments(store: Store) -> Rows:
    return [
        (i.id, i.kind, int(key) if key else None, text)
        for i in list(store.catalog.items.values())
        for key, text in i.comments.items()
    ]


def _hydrated(store: Store) -> Rows:
    return [(i.id, REPLICA, 1) for i in list(store.catalog.items.values()) if i.kind in ("index", "materialized-view")]


def _databases(_store: Store) -> Rows:
    return [("u1", 1, "materialize")]


def _nothing(_store: Store) -> Rows:
    return []


_OBJECT = "id text, oid oid, schema_id text, name text, type text, owner_id text, cluster_id text"
_RELATIONS: dict[str, tuple[str, Callable[[Store], Rows]]] = {
    "mz_objects": (_OBJECT, _objects),
    "mz_relations": (_OBJECT, _relations),
    "mz_tables": (_OBJECT, _of_kind("table")),
    "mz_views": (_OBJECT, _of_kind("view")),
    "mz_materialized_views": (_OBJECT, _of_kind("materialized-view")),
    "mz_sources": (_OBJECT, _nothing),
    "mz_schemas": ("id text, database_id text, name text, owner_id text", _schemas),
    "mz_databases": ("id text, oid oid, name text", _databases),
    "mz_frontiers": ("object_id text, read_frontier mz_timestamp, write_frontier mz_timestamp", _frontiers),
    "mz_history_retention_strategies": ("id text, strategy text, value jsonb", _strategies),
    "mz_indexes": ("id text, oid oid, name text, on_id text, cluster_id text, owner_id text", _indexes),
    "mz_index_columns": ("index_id text, index_position int8, on_position int8, on_expression text", _index_columns),
    "mz_clusters": ("id text, name text, owner_id text, managed bool, size text, replication_factor uint4", _clusters),
    "mz_cluster_replicas": ("id text, name text, cluster_id text, size text", _replicas),
    "mz_columns": ("id text, name text, position uint8, nullable bool, type text, type_oid oid", _columns),
    "mz_roles": ("id text, oid oid, name text", _roles),
    "mz_object_dependencies": ("object_id text, referenced_object_id text", _dependencies),
    "mz_subscriptions": (
        "id text, session_id uuid, cluster_id text, created_at timestamptz, referenced_object_ids text list",
        _nothing,
    ),
    "mz_sessions": ("connection_id uint4, role_id text", _sessions),
    "mz_comments": ("id text, object_type text, object_sub_id int4, comment text", _comments),
    "mz_hydration_statuses": ("object_id text, replica_id text, hydrated bool", _hydrated),
}  # fmt: skip


def relation(store: Store, parts: tuple[str, ...]) -> Relation | None:
    """A system relation as it is now."""
    if len(parts) > 1 and parts[-2] not in _SCHEMAS:
        return None
    found = _RELATIONS.get(parts[-1])
    if found is None:
        return None
    rows = found[1](store)
    columns = []
    for definition in found[0].split(", "):
        name, kind = definition.split(" ", 1)
        columns.append(Column(name, types.named(kind)))
    width = len(columns)
    outputs = ", ".join(f"column{i + 1} AS c{i}" for i in range(width))
    values = ",".join("(" + ",".join(map(quote, row)) + ")" for row in rows)
    if not values:
        return Relation(tuple(columns), "SELECT " + ", ".join(f"NULL AS c{i}" for i in range(width)) + " WHERE 0")
    return Relation(tuple(columns), f"SELECT {outputs} FROM (VALUES {values})")
