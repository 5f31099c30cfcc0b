"""INSERT, UPDATE, DELETE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconcile_standin import syntax as s
from reconcile_standin import types
from reconcile_standin.problem import SqlError
from reconcile_standin.relations import Analyzer, assigned
from reconcile_standin.scope import Scope
from reconcile_standin.typed import Typed, cast

if TYPE_CHECKING:
    from reconcile_standin.catalog import Item
    from reconcile_standin.session import Session
    from reconcile_standin.translate import Parameter

_ALIAS = "ŧ0ŧ"


def _table(session: Session, name: tuple[str, ...], privilege: str) -> Item:
    item = session.catalog.get(name, session.search_path)
    if item.kind != "table":
        raise SqlError(f"cannot mutate {item.label.lower()} '{item.full_name}'")
    session.catalog.check(session.role, item.key, privilege, item.owner, f'{item.label} "{item.full_name}"')
    return item


def _positions(item: Item, columns: tuple[str, ...]) -> list[int]:
    names = [name for name, _ in item.columns]
    for column in columns:
        if column not in names:
            raise SqlError(f'column "{column}" does not exist')
    return [names.index(c) for c in columns] if columns else list(range(len(names)))


def insert(session: Session, statement: s.Insert, params: tuple[Parameter, ...]) -> str:
    """Run an INSERT; gives its tag."""
    session.enter_write("INSERT")
    item = _table(session, statement.name, "INSERT")
    positions = _positions(item, statement.columns)
    plan = Analyzer(session, params).plan(statement.query)
    session.permit(plan.facts)
    targets = [types.named(item.columns[i][1]) for i in positions]
    source = assigned(plan, targets)
    given = {p: f"c{i}" for i, p in enumerate(positions[: len(plan.columns)])}
    outputs = ", ".join(f"{given.get(i, 'NULL')} AS c{i}" for i in range(len(item.columns)))
    sql = f"SELECT {outputs} FROM ({source})"
    transaction = session.transaction
    if transaction is not None:
        if plan.facts.tables:
            raise SqlError("INSERT INTO ... SELECT that reads relations cannot run in a transaction block", "25001")
        with session.store.lock:
            rows = session.store.writer.all(sql, {"t": session.store.clock.read_ts})
        transaction.writes.append((item, rows))
        return f"INSERT 0 {len(rows)}"
    count = 0

    def work(ts: int) -> list[Item]:
        nonlocal count
        count = session.store.insert_query(item, sql, {"t": ts - 1}, ts)
        return [item]

    session.store.commit(work)
    return f"INSERT 0 {count}"


def _row_scope(item: Item, alias: str | None) -> Scope:
    scope = Scope()
    for i, (name, kind) in enumerate(item.columns):
        scope.add(alias or item.name, name, Typed(f"{_ALIAS}.c{i}", types.named(kind)))
    return scope


def _looked_up(node: s.Expr | None, names: list[str]) -> list[int]:
    """Positions of the columns that a condition compares with constants."""
    if isinstance(node, s.Binary) and node.op in ("and", "or"):
        return _looked_up(node.left, names) + _looked_up(node.right, names)
    if isinstance(node, s.Binary) and node.op == "=" and isinstance(node.right, s.Literal | s.Param):
        column = node.left
    elif isinstance(node, s.In) and node.query is None and not node.negated:
        column = node.operand
    else:
        return []
    return [names.index(column.parts[-1])] if isinstance(column, s.Column) and column.parts[-1] in names else []


def _where(session: Session, item: Item, analyzer: Analyzer, node: s.Expr | None, scope: Scope) -> str:
    if node is None:
        return "1"
    sql = analyzer.boolean(node, scope, "WHERE").sql
    for position in _looked_up(node, [name for name, _ in item.columns]):
        session.store.index_column(item, position)
    return sql


def update(session: Session, statement: s.Update, params: tuple[Parameter, ...]) -> str:
    """Run an UPDATE; gives its tag."""
    session.enter_write("UPDATE")
    item = _table(session, statement.name, "UPDATE")
    analyzer = Analyzer(session, params)
    scope = _row_scope(item, statement.alias)
    exprs = [f"{_ALIAS}.c{i}" for i in range(len(item.columns))]
    for (name, node), position in zip(
        statement.sets, _positions(item, tuple(n for n, _ in statement.sets)), strict=True
    ):
        exprs[position] = cast(analyzer.expr(node, scope), types.named(item.columns[position][1])).sql
        del name
    where = _where(session, item, analyzer, statement.where, scope)
    count = 0

    def work(ts: int) -> list[Item]:
        nonlocal count
        count = session.store.update(item, _ALIAS, exprs, where, ts)
        return [item]

    session.store.commit(work)
    return f"UPDATE {count}"


def delete(session: Session, statement: s.Delete, params: tuple[Parameter, ...]) -> str:
    """Run a DELETE; gives its tag."""
    session.enter_write("DELETE")
    item = _table(session, statement.name, "DELETE")
    analyzer = Analyzer(session, params)
    scope = _row_scope(item, statement.alias)
    where = _where(session, item, analyzer, statement.where, scope)
    count = 0

    def work(ts: int) -> list[Item]:
        nonlocal count
        count = session.store.delete(item, _ALIAS, where, ts)
        return [item]

    session.store.commit(work)
    return f"DELETE {count}"
