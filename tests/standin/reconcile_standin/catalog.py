"""What exists: schemas, relations, indexes, roles, clusters, privileges."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, TypeVar, cast

from reconcile_standin.problem import SqlError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

_T = TypeVar("_T")

DATABASE = "materialize"
SUPERUSER = "materialize"
SYSTEM_CLUSTER = "mz_catalog_server"
REPLICA, REPLICA_SIZE = "r1", "25cc"
DEFAULT_WINDOW_MS = 1000
LABELS = {"table": "TABLE", "view": "VIEW", "materialized-view": "MATERIALIZED VIEW", "index": "INDEX"}


@dataclass
class Item:
    """A relation or index. since: a time. refs: what each name in the query's text means.

    comments: by the column's position, counted from 1 (JSON has no numbers for keys); the item's own under "".
    """

    id: str
    kind: str
    schema: str
    name: str
    owner: str
    columns: list[tuple[str, str]] = field(default_factory=list)
    not_null: list[str] = field(default_factory=list)
    comments: dict[str, str] = field(default_factory=dict)
    query: str = ""
    refs: dict[str, str] = field(default_factory=dict)
    since: int = 0
    retain_ms: int | None = None
    retain_text: str | None = None
    cluster: str = "quickstart"
    on: str | None = None
    keys: list[str] = field(default_factory=list)

    @property
    def number(self) -> int:
        """The id without its letter."""
        return int(self.id[1:])

    @property
    def full_name(self) -> str:
        """As messages show it."""
        return f"{DATABASE}.{self.schema}.{self.name}"

    @property
    def label(self) -> str:
        """The kind in capitals."""
        return LABELS[self.kind]

    @property
    def stored(self) -> bool:
        """Whether it has a since of its own."""
        return self.kind != "view"

    @property
    def window_ms(self) -> int:
        """How much history it keeps."""
        return self.retain_ms or DEFAULT_WINDOW_MS

    @property
    def key(self) -> str:
        """What privileges on it are filed under."""
        return f"item {self.id}"


class Catalog:
    """All names. Not thread-safe by itself: changed under the engine's write lock only."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.schemas: dict[str, str] = {"public": SUPERUSER}
        self.schema_ids: dict[str, str] = {"public": "u3"}
        self.roles: dict[str, str] = {SUPERUSER: "u1"}
        self.clusters: dict[str, str] = {"quickstart": "mz_system"}
        self.empty_clusters: list[str] = []
        self.stalled: dict[str, int] = {}
        """Clusters that lost their replicas, and how far they had come: their views are complete up to there."""
        self.privileges: dict[str, list[str]] = {}
        self.next_id = 4
        self.version = 0
        self._found: tuple[tuple[int, int], dict[Hashable, object]] = (0, 0), {}
        """What was found out since the last change: with hundreds of views everything would be quadratic."""

    def to_json(self) -> str:
        """Everything, to be stored."""
        kept = {name: value for name, value in vars(self).items() if name not in ("items", "version", "_found")}
        return json.dumps({**kept, "items": [asdict(item) for item in self.items.values()]})

    @classmethod
    def from_json(cls, text: str) -> Catalog:
        """The reverse."""
        loaded = json.loads(text)
        catalog = cls()
        for fields in loaded.pop("items"):
            fields["columns"] = [tuple(c) for c in fields["columns"]]
            catalog.items[fields["id"]] = Item(**fields)
        for name, value in loaded.items():
            setattr(catalog, name, value)
        return catalog

    def new_id(self) -> str:
        """The next user id."""
        self.next_id += 1
        return f"u{self.next_id - 1}"

    def find(self, schema: str, name: str) -> Item | None:
        """An item by its place."""
        for item in list(self.items.values()):
            if item.name == name and item.schema == schema:
                return item
        return None

    def resolve(self, parts: tuple[str, ...], search_path: list[str]) -> Item | None:
        """An item by a possibly qualified name; None when there is no such name."""
        if len(parts) > 1:
            schema = parts[-2]
            if len(parts) > 2 and parts[-3] != DATABASE:
                raise SqlError(f"unknown database '{parts[-3]}'")
            if schema not in self.schemas:
                raise SqlError(f"unknown schema '{schema}'")
            return self.find(schema, parts[-1])
        for schema in search_path:
            found = self.find(schema, parts[0])
            if found is not None:
                return found
        return None

    def get(self, parts: tuple[str, ...], search_path: list[str]) -> Item:
        """An item by name, or the error for a missing one."""
        found = self.resolve(parts, search_path)
        if found is None:
            raise SqlError(f"unknown catalog item '{'.'.join(parts)}'")
        return found

    def dependents(self, item: Item) -> list[Item]:
        """What reads an item directly, its indexes included."""
        return [i for i in list(self.items.values()) if i.on == item.id or item.id in i.refs.values()]

    def _once(self, key: Hashable, find: Callable[[], _T]) -> _T:
        """What `find` found since the catalog last changed. The number of items tells of a change in progress."""
        now = self.version, len(self.items)
        known, found = self._found
        if known != now:
            found = {}
            self._found = now, found
        if key not in found:
            found[key] = find()
        return cast("_T", found[key])

    def indexes(self, item: Item, cluster: str | None = None) -> list[Item]:
        """The indexes on a relation, of one cluster or of all."""
        return [i for i in self._once("indexes", self._indexes).get(item.id, []) if cluster in (None, i.cluster)]

    def _indexes(self) -> dict[str | None, list[Item]]:
        found: dict[str | None, list[Item]] = {}
        for item in list(self.items.values()):
            if item.kind == "index":
                found.setdefault(item.on, []).append(item)
        return found

    def tables_of(self, item: Item) -> frozenset[str]:
        """The tables whose rows an item is made of."""
        return self._once(("tables", item.id), lambda: self._tables_of(item))

    def _tables_of(self, item: Item) -> frozenset[str]:
        if item.kind == "table":
            return frozenset((item.id,))
        below = [item.on] if item.on is not None else list(item.refs.values())
        found: set[str] = set()
        for ref in below:
            if ref is not None and ref in self.items:
                found |= self.tables_of(self.items[ref])
        return frozenset(found)

    def readers(self, table: Item) -> list[Item]:
        """Everything stored that is made of a table's rows, itself included."""
        return self._once("readers", self._readers).get(table.id, [])

    def _readers(self) -> dict[str, list[Item]]:
        found: dict[str, list[Item]] = {}
        for item in list(self.items.values()):
            for table in self.tables_of(item) if item.stored else ():
                found.setdefault(table, []).append(item)
        return found

    def storage_inputs(self, item: Item, cluster: str) -> list[Item]:
        """The collections a read of an item is served from: its indexes in the cluster, itself, or its inputs."""
        return self._once(("inputs", item.id, cluster), lambda: self._storage_inputs(item, cluster))

    def _storage_inputs(self, item: Item, cluster: str) -> list[Item]:
        indexes = self.indexes(item, cluster)
        if indexes:
            return indexes
        if item.stored:
            return [item]
        found: list[Item] = []
        for ref in dict.fromkeys(item.refs.values()):
            found += [i for i in self.storage_inputs(self.items[ref], cluster) if i not in found]
        return found

    def allowed(self, role: str, key: str, privilege: str, owner: str) -> bool:
        """Whether a role may use something. Owners and the superuser may."""
        if role in (SUPERUSER, owner):
            return True
        granted = self.privileges.get(key, [])
        return f"{role}={privilege}" in granted or f"public={privilege}" in granted

    def check_read(self, role: str, items: list[Item]) -> None:
        """Raise unless the role may read these relations."""
        for item in items:
            self.check(role, f"schema {item.schema}", "USAGE", self.schemas[item.schema],
                       f"SCHEMA \"{DATABASE}.{item.schema}\"")  # fmt: skip
        for item in items:
            self.check(role, item.key, "SELECT", item.owner, f'{item.label} "{item.full_name}"')

    def check(self, role: str, key: str, privilege: str, owner: str, shown: str) -> None:
        """Raise unless the role has a privilege."""
        if not self.allowed(role, key, privilege, owner):
            raise SqlError(
                f"permission denied for {shown}",
                "42501",
                detail=f"The '{role}' role needs {privilege} privileges on {shown}",
            )
