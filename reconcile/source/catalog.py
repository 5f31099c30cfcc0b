"""Query the catalog and row counts: objects, clusters, keys. For doctor, explain and init.

Catalog relations are read one by one if possible: joins over them are what differs most between versions.
"""

from __future__ import annotations

import re

from msgspec import Struct

from reconcile.source.frontiers import parse_explanation
from reconcile.source.query import BYTEA, Mapping, bytes_literal, current_of, identifier, literal
from reconcile.source.session import Session


class CatalogObject(Struct, frozen=True):
    """One object of the catalog. window_ms: the history it keeps; None: unknown."""

    id: str
    kind: str
    name: str
    """Quoted and qualified, for use in statements."""
    on_id: str | None
    """The relation of an index."""
    window_ms: int | None


def find_object(session: Session, object_id: str) -> CatalogObject | None:
    """Return an object by its id from EXPLAIN TIMESTAMP; None if the catalog does not show it."""
    at = literal(object_id)
    rows = session.fetch(f"SELECT name, type, schema_id FROM mz_catalog.mz_objects WHERE id = {at}")
    if not rows:
        return None
    name, kind, schema_id = (_text(value) for value in rows[0])
    parts = [*_place(session, schema_id), name]
    on = session.fetch(f"SELECT on_id FROM mz_catalog.mz_indexes WHERE id = {at}") if kind == "index" else []
    kept = session.fetch(f"SELECT value::text FROM mz_internal.mz_history_retention_strategies WHERE id = {at}")
    window = _text(kept[0][0]) if kept else ""
    return CatalogObject(
        id=object_id,
        kind=kind,
        name=".".join(identifier(part) for part in parts),
        on_id=_text(on[0][0]) if on else None,
        window_ms=int(window) if window.isdigit() else None,
    )


def _place(session: Session, schema_id: str) -> list[str]:
    """Return database and schema, as far as known."""
    rows = session.fetch(f"SELECT name, database_id FROM mz_catalog.mz_schemas WHERE id = {literal(schema_id)}")
    if not rows:
        return []
    schema, database_id = (_text(value) for value in rows[0])
    found = session.fetch(f"SELECT name FROM mz_catalog.mz_databases WHERE id = {literal(database_id)}")
    return [_text(found[0][0]), schema] if found else [schema]


def cluster_replicas(session: Session, cluster: str) -> int | None:
    """Return a cluster's number of replicas; None if there is no such cluster."""
    found = session.fetch(f"SELECT id FROM mz_catalog.mz_clusters WHERE name = {literal(cluster)}")
    if not found:
        return None
    cluster_id = literal(_text(found[0][0]))
    return len(session.fetch(f"SELECT id FROM mz_catalog.mz_cluster_replicas WHERE cluster_id = {cluster_id}"))


def version_cluster_role(session: Session) -> tuple[str, str, str]:
    """Return Materialize's version, the session's cluster and the role."""
    ((version, role),) = session.fetch("SELECT mz_version(), current_role()")
    ((cluster,),) = session.fetch("SHOW cluster")
    return _text(version), _text(cluster), _text(role)


def answered_by_index(session: Session, relation: str) -> bool:
    """Whether a relation is read from indexes of the session's cluster alone."""
    ((text,),) = session.fetch(current_of(f"SELECT * FROM {relation}"))
    return all(source.kind == "compute" for source in parse_explanation(_text(text)).objects)


def count_rows(session: Session, mapping: Mapping) -> tuple[int, int]:
    """Return (rows, rows without a key) of the query at present."""
    ((rows, keyed),) = session.fetch(f"SELECT count(*), count({mapping.key_sql}) FROM {mapping.source}")
    return int(rows or 0), int(rows or 0) - int(keyed or 0)


def repeated_keys(mapping: Mapping, within: str = "") -> str:
    """Return a query for the keys with several rows: (key, rows)."""
    return (
        f"SELECT {mapping.key_sql} AS key, count(*) AS rows FROM {mapping.source}{within} "
        "GROUP BY 1 HAVING count(*) > 1"
    )


def first_row(mapping: Mapping) -> str:
    """Return a query for one key, the cheapest test of whether the view can be read."""
    return f"SELECT {mapping.key_sql} AS key FROM {mapping.source} LIMIT 1"


def rows_of_key(mapping: Mapping, key: bytes) -> str | None:
    """Return a query for the rows of one Redis key, in the mapping's form; None for bytes that no text key can be."""
    if mapping.keys[0].oid == BYTEA:
        wanted = bytes_literal(key)
    else:
        try:
            text = key.decode()
        except UnicodeDecodeError:
            return None
        if "\0" in text:
            return None
        wanted = literal(text)
    return f"{mapping.mapped()} WHERE {mapping.key_sql} = {wanted} LIMIT 3"


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", "replace")


STORABLE_KINDS = ("materialized-view", "view", "table", "source")
"""Kinds of relations that a view can be made of, likeliest first."""


class Relation(Struct, frozen=True):
    """A relation that can be read. name: as in the configuration, each part quoted only if necessary."""

    name: str
    kind: str


def relations(session: Session) -> list[Relation]:
    """Return the users' relations in this Materialize, by kind and name."""
    rows = session.fetch("SELECT name, type, schema_id FROM mz_catalog.mz_objects WHERE id LIKE 'u%'")
    places: dict[str, list[str]] = {}
    found = []
    for row in rows:
        name, kind, schema_id = (_text(value) for value in row)
        if kind not in STORABLE_KINDS:
            continue
        if schema_id not in places:
            places[schema_id] = _place(session, schema_id)
        found.append(Relation(".".join(plain_identifier(part) for part in [*places[schema_id], name]), kind))
    return sorted(found, key=lambda one: (STORABLE_KINDS.index(one.kind), one.name))


def plain_identifier(name: str) -> str:
    """Return a name as people write it: quoted only if it would otherwise mean something else."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_$]*", name) else identifier(name)
