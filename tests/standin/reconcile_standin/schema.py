"""CREATE, DROP, ALTER, GRANT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconcile_standin import syntax as s
from reconcile_standin import types, values
from reconcile_standin.catalog import DATABASE, Item
from reconcile_standin.problem import SqlError
from reconcile_standin.relations import Analyzer
from reconcile_standin.session import Notice

if TYPE_CHECKING:
    from reconcile_standin.session import Session


def _place(session: Session, name: s.Name) -> tuple[str, str]:
    if len(name) > 1:
        if name[-2] not in session.catalog.schemas:
            raise SqlError(f"unknown schema '{name[-2]}'")
        return name[-2], name[-1]
    for schema in session.search_path:
        if schema in session.catalog.schemas:
            return schema, name[0]
    raise SqlError("no schema has been selected to create in", "3F000")


def _taken(session: Session, place: tuple[str, str], if_not_exists: bool) -> bool:
    if session.catalog.find(*place) is None:
        return False
    if not if_not_exists:
        raise SqlError(f"catalog item '{place[1]}' already exists", "42710")
    session.notice(Notice(f'relation "{place[1]}" already exists, skipping', "42710"))
    return True


def _add(session: Session, item: Item) -> None:
    clock = session.store.clock
    item.since = max(item.since, clock.read_ts)
    session.catalog.items[item.id] = item
    session.store.save_catalog()


def create_table(session: Session, statement: s.CreateTable) -> str:
    """CREATE TABLE."""
    place = _place(session, statement.name)
    if _taken(session, place, statement.if_not_exists):
        return "CREATE TABLE"
    columns = [(name, types.named(kind).name) for name, kind in statement.columns]
    names = [name for name, _ in columns]
    repeated = next((n for n in names if names.count(n) > 1), None)
    if repeated is not None:
        raise SqlError(f'column "{repeated}" specified more than once', "42701")
    item = Item(
        session.catalog.new_id(),
        "table",
        *place,
        session.role,
        columns=columns,
        not_null=[*statement.not_null],
        retain_ms=statement.retain_ms,
    )
    session.store.create_table(item)
    _add(session, item)
    return "CREATE TABLE"


def create_view(session: Session, statement: s.CreateView) -> str:
    """CREATE [MATERIALIZED] VIEW."""
    kind = "materialized-view" if statement.materialized else "view"
    tag = f"CREATE {'MATERIALIZED ' if statement.materialized else ''}VIEW"
    place = _place(session, statement.name)
    existing = session.catalog.find(*place)
    if existing is not None and not statement.replace and _taken(session, place, statement.if_not_exists):
        return tag
    analyzer = Analyzer(session)
    plan = analyzer.plan(statement.query)
    session.catalog.check_read(session.role, plan.facts.reads)
    if statement.materialized:
        plan.facts.check_maintainable()
    names = [c.name for c in plan.columns]
    names[: len(statement.columns)] = statement.columns
    repeated = next((n for n in names if names.count(n) > 1), None)
    if repeated is not None:
        raise SqlError(f'column "{repeated}" specified more than once', "42701")
    if existing is not None:
        drop_item(session, existing, cascade=False)
    _add(
        session,
        Item(
            session.catalog.new_id(), kind, *place, session.role,
            columns=[(n, c.type.name) for n, c in zip(names, plan.columns, strict=True)],
            not_null=_not_null(session, statement, names),
            query=statement.text, refs=dict(plan.facts.refs), retain_ms=statement.retain_ms,
            retain_text=statement.retain_text, cluster=statement.cluster or session.cluster,
            since=_first_refresh(statement),
        ),
    )  # fmt: skip
    return tag


def _first_refresh(statement: s.CreateView) -> int:
    """The time from which on a view can be read."""
    if statement.refresh_at is None:
        return 0
    moment = values.parse_text(types.named("timestamptz"), statement.refresh_at)
    assert isinstance(moment, int)
    return moment // 1000


def _not_null(session: Session, statement: s.CreateView, names: list[str]) -> list[str]:
    """The columns that are a table's NOT NULL column as it is."""
    body = statement.query.body
    if not isinstance(body, s.Core) or not isinstance(body.source, s.Table):
        return []
    source = session.catalog.resolve(body.source.parts, session.search_path)
    exprs = [item.expr for item in body.items]
    if source is None or len(exprs) != len(names):
        return []
    return [n for n, e in zip(names, exprs, strict=True) if isinstance(e, s.Column) and e.parts[-1] in source.not_null]


def comment(session: Session, statement: s.Comment) -> str:
    """COMMENT ON a relation or one of its columns."""
    item = session.catalog.get(statement.name, session.search_path)
    names = [name for name, _ in item.columns]
    if statement.column is not None and statement.column not in names:
        raise SqlError(f'column "{item.name}.{statement.column}" does not exist')
    key = "" if statement.column is None else str(names.index(statement.column) + 1)
    item.comments.pop(key, None)
    if statement.text is not None:
        item.comments[key] = statement.text
    session.store.save_catalog()
    return "COMMENT"


def create_index(session: Session, statement: s.CreateIndex) -> str:
    """CREATE INDEX."""
    on = session.catalog.get(statement.on, session.search_path)
    keys = list(statement.keys) or [name for name, _ in on.columns]
    name = statement.name or f"{on.name}_{'_'.join(keys) if statement.keys else 'primary'}_idx"
    if _taken(session, (on.schema, name), statement.if_not_exists):
        return "CREATE INDEX"
    _add(
        session,
        Item(
            session.catalog.new_id(), "index", on.schema, name, session.role,
            cluster=statement.cluster or session.cluster, on=on.id, keys=keys,
        ),
    )  # fmt: skip
    return "CREATE INDEX"


def create_named(session: Session, statement: s.CreateNamed) -> str:
    """CREATE SCHEMA, ROLE, CLUSTER."""
    catalog, name, kind = session.catalog, statement.name[-1], statement.kind
    holder = {"schema": catalog.schemas, "role": catalog.roles, "cluster": catalog.clusters}[kind]
    if name in holder:
        if not statement.if_not_exists:
            raise SqlError(f"{kind} '{name}' already exists", "42P06" if kind == "schema" else "42710")
        session.notice(Notice(f'{kind} "{name}" already exists, skipping', "42P06"))
        return f"CREATE {kind.upper()}"
    holder[name] = catalog.new_id() if kind == "role" else session.role
    if kind == "schema":
        catalog.schema_ids[name] = catalog.new_id()
    session.store.save_catalog()
    return f"CREATE {kind.upper()}"


def scale(session: Session, statement: s.Scale) -> str:
    """ALTER CLUSTER … SET (REPLICATION FACTOR n)."""
    catalog, name = session.catalog, statement.name[-1]
    if name not in catalog.clusters:
        raise SqlError(f"unknown cluster '{name}'")
    catalog.empty_clusters = [c for c in catalog.empty_clusters if c != name] + [name] * (statement.replicas == 0)
    if statement.replicas:
        catalog.stalled.pop(name, None)
    else:
        catalog.stalled.setdefault(name, session.store.clock.upper)
    session.store.save_catalog()
    return "ALTER CLUSTER"


def drop_item(session: Session, item: Item, *, cascade: bool) -> None:
    """Drop a relation or index, its indexes, and with cascade whatever reads it."""
    catalog = session.catalog
    for dependent in catalog.dependents(item):
        if dependent.kind != "index" and not cascade:
            raise SqlError(
                f'cannot drop {item.kind.replace("-", " ")} "{item.name}": still depended upon by '
                f'{dependent.kind.replace("-", " ")} "{dependent.name}"',
                "2BP01",
            )
    for dependent in catalog.dependents(item):
        if dependent.id in catalog.items:
            drop_item(session, dependent, cascade=cascade)
    del catalog.items[item.id]
    if item.kind == "table":
        session.store.drop_table(item)


def drop(session: Session, statement: s.Drop) -> str:
    """DROP anything."""
    tag = f"DROP {statement.kind.upper()}"
    for name in statement.names:
        if statement.kind in ("schema", "role", "cluster"):
            _drop_named(session, statement, name[-1])
            continue
        item = session.catalog.resolve(name, session.search_path)
        if item is None:
            if not statement.if_exists:
                raise SqlError(f"unknown catalog item '{'.'.join(name)}'")
            session.notice(Notice(f'{statement.kind} "{name[-1]}" does not exist, skipping'))
            continue
        if item.label.lower() != statement.kind:
            raise SqlError(f'"{item.full_name}" is a {item.label.lower()} not a {statement.kind}', "42809")
        drop_item(session, item, cascade=statement.cascade)
    session.store.save_catalog()
    session.store.clock.wake()
    return tag


def _drop_named(session: Session, statement: s.Drop, name: str) -> None:
    catalog, kind = session.catalog, statement.kind
    holder = {"schema": catalog.schemas, "role": catalog.roles, "cluster": catalog.clusters}[kind]
    if name not in holder:
        if statement.if_exists:
            session.notice(Notice(f'{kind} "{name}" does not exist, skipping'))
            return
        raise SqlError(f"unknown {kind} '{name}'")
    if kind == "schema":
        inside = [i for i in list(catalog.items.values()) if i.schema == name]
        if inside and not statement.cascade:
            raise SqlError(f"schema '{DATABASE}.{name}' cannot be dropped without CASCADE while it contains objects",
                           "2BP01")  # fmt: skip
        for item in inside:
            if item.id in catalog.items:
                drop_item(session, item, cascade=True)
        catalog.schema_ids.pop(name)
    del holder[name]


def retain(session: Session, statement: s.Retain) -> str:
    """ALTER … SET | RESET (RETAIN HISTORY)."""
    item = session.catalog.get(statement.name, session.search_path)
    if item.kind == "view":
        raise SqlError("VIEW does not support RETAIN HISTORY")
    # What the old window has let go is gone: a longer one does not bring it back.
    session.store.since(item)
    item.retain_ms, item.retain_text = statement.window_ms, statement.text
    session.store.save_catalog()
    return f"ALTER {statement.kind.upper()}"


def rename(session: Session, statement: s.Rename) -> str:
    """ALTER … RENAME TO, SWAP WITH. Ids stay, so whoever runs keeps reading the old object."""
    catalog, kind, other = session.catalog, statement.kind, statement.other
    if kind == "schema":
        _rename_schema(session, statement.name[-1], other, statement.swap)
    elif kind in ("cluster", "role"):
        raise SqlError.unsupported(f"ALTER {kind.upper()} … RENAME or SWAP")
    else:
        item = catalog.get(statement.name, session.search_path)
        target = catalog.find(item.schema, other)
        if statement.swap:
            if target is None:
                raise SqlError(f"unknown catalog item '{other}'")
            target.name = item.name
        elif target is not None:
            raise SqlError(f"catalog item '{other}' already exists", "42710")
        item.name = other
    session.store.save_catalog()
    return f"ALTER {kind.upper()}"


def _rename_schema(session: Session, name: str, other: str, swap: bool) -> None:
    catalog = session.catalog
    if name not in catalog.schemas or (swap and other not in catalog.schemas):
        raise SqlError(f"unknown schema '{name if name not in catalog.schemas else other}'")
    if not swap and other in catalog.schemas:
        raise SqlError(f"schema '{other}' already exists", "42P06")
    names = {name: other, other: name} if swap else {name: other}
    for item in list(catalog.items.values()):
        item.schema = names.get(item.schema, item.schema)
    catalog.schemas = {names.get(n, n): owner for n, owner in catalog.schemas.items()}
    catalog.schema_ids = {names.get(n, n): i for n, i in catalog.schema_ids.items()}


_ALL = {"table": ("SELECT", "INSERT", "UPDATE", "DELETE"), "schema": ("USAGE", "CREATE"), "cluster": ("USAGE",)}


def grant(session: Session, statement: s.Grant) -> str:
    """GRANT and REVOKE."""
    for name in statement.names:
        key, owner, shown = _grantable(session, statement.kind, name)
        if session.role != owner and not (session.is_superuser and owner != "mz_system"):
            raise SqlError(f"must be owner of {shown}", "42501")
        for role in statement.roles:
            if role not in session.catalog.roles and role != "public":
                raise SqlError(f"unknown role '{role}'")
            for privilege in statement.privileges:
                _change(session, statement, key, role, privilege.upper())
    session.store.save_catalog()
    return "REVOKE" if statement.revoke else "GRANT"


def _change(session: Session, statement: s.Grant, key: str, role: str, privilege: str) -> None:
    granted = session.catalog.privileges.setdefault(key, [])
    for one in _ALL.get(statement.kind, ()) if privilege == "ALL" else (privilege,):
        entry = f"{role}={one}"
        if statement.revoke and entry in granted:
            granted.remove(entry)
        elif not statement.revoke and entry not in granted:
            granted.append(entry)


def _grantable(session: Session, kind: str, name: s.Name) -> tuple[str, str, str]:
    catalog = session.catalog
    if kind == "schema":
        if name[-1] not in catalog.schemas:
            raise SqlError(f"unknown schema '{name[-1]}'")
        return f"schema {name[-1]}", catalog.schemas[name[-1]], f"SCHEMA {DATABASE}.{name[-1]}"
    if kind == "cluster":
        if name[-1] not in catalog.clusters:
            raise SqlError(f"unknown cluster '{name[-1]}'")
        return f"cluster {name[-1]}", catalog.clusters[name[-1]], f"CLUSTER {name[-1]}"
    if kind == "database":
        return f"database {name[-1]}", "materialize", f"DATABASE {name[-1]}"
    item = catalog.get(name, session.search_path)
    return item.key, item.owner, f"{item.label} {item.full_name}"
