"""Statements to answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reconcile_standin import inspection, schema, types, writing
from reconcile_standin import syntax as s
from reconcile_standin.cursor import Cursor, selected, subscribed, subscription
from reconcile_standin.explain import explain_timestamp
from reconcile_standin.optimized import explain_plan
from reconcile_standin.plan import Column
from reconcile_standin.problem import SqlError
from reconcile_standin.relations import Analyzer
from reconcile_standin.session import Notice, Session, Transaction
from reconcile_standin.subscribe import Options, Subscription

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from reconcile_standin.batches import Rows
    from reconcile_standin.plan import Plan
    from reconcile_standin.translate import Parameter

Params = tuple["Parameter", ...]
_EXPLAIN = (Column("Timestamp", types.TEXT),)
_EXPLAIN_PLAN = (Column("Optimized Plan", types.TEXT),)
_DDL: dict[type, Callable[[Session, s.Statement], str]] = {
    s.CreateTable: schema.create_table,  # type: ignore[dict-item]
    s.Comment: schema.comment,  # type: ignore[dict-item]
    s.CreateView: schema.create_view,  # type: ignore[dict-item]
    s.CreateIndex: schema.create_index,  # type: ignore[dict-item]
    s.CreateNamed: schema.create_named,  # type: ignore[dict-item]
    s.Drop: schema.drop,  # type: ignore[dict-item]
    s.Retain: schema.retain,  # type: ignore[dict-item]
    s.Scale: schema.scale,  # type: ignore[dict-item]
    s.Rename: schema.rename,  # type: ignore[dict-item]
    s.Grant: schema.grant,  # type: ignore[dict-item]
}
_DML: dict[type, Callable[[Session, s.Statement, Params], str]] = {
    s.Insert: writing.insert,  # type: ignore[dict-item]
    s.Update: writing.update,  # type: ignore[dict-item]
    s.Delete: writing.delete,  # type: ignore[dict-item]
}


@dataclass
class Answer:
    """What a statement gives: rows or not, in COPY form or not, and the tag ('SELECT ' is completed by the count)."""

    tag: str
    columns: tuple[Column, ...] | None = None
    batches: Iterable[Rows] = field(default_factory=tuple)
    copy: str | None = None
    counted: bool = False


class Dispatcher:
    """Runs one session's statements."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def describe(self, statement: s.Statement, params: Params) -> tuple[Column, ...] | None:
        """The columns a statement will give, without running it."""
        if isinstance(statement, s.Select):
            return self._plan(statement.query, params).columns
        if isinstance(statement, s.Subscribe):
            return self._subscribe_columns(statement, self._plan(statement.query, params))
        if isinstance(statement, s.Explain):
            return _EXPLAIN
        if isinstance(statement, s.ExplainPlan):
            return _EXPLAIN_PLAN
        if isinstance(statement, s.Fetch):
            return self._cursor(statement.name).columns
        if isinstance(statement, s.Show):
            return (Column(statement.name, types.TEXT),)
        if isinstance(statement, s.ShowObjects):
            return inspection.show_objects(self._session, statement)[0]
        return None

    def run(self, statement: s.Statement, params: Params = ()) -> Answer:
        """Run a statement."""
        session = self._session
        if isinstance(statement, s.Transaction):
            return self._transaction(statement)
        if session.failed:
            raise SqlError("current transaction is aborted, commands ignored until end of transaction block", "25P02")
        ddl = _DDL.get(type(statement))
        if ddl is not None:
            if session.transaction is not None:
                raise SqlError(f"{_first_words(statement)} cannot be run inside a transaction block", "25001")
            with session.store.lock:
                tag = ddl(session, statement)
                # The catalog changes at a time of its own, and whoever reads a dropped relation has to learn of it.
                session.store.clock.publish(session.store.clock.next_write())
                return Answer(tag)
        dml = _DML.get(type(statement))
        if dml is not None:
            return Answer(dml(session, statement, params))
        return self._read(statement, params)

    def _read(self, statement: s.Statement, params: Params) -> Answer:
        if isinstance(statement, s.Select):
            return self._select(statement, params)
        if isinstance(statement, s.Copy):
            return self._copy(statement, params)
        if isinstance(statement, s.Subscribe):
            answer = self._subscribe(statement, params)
            self._session.notice(
                Notice("streaming SUBSCRIBE rows directly requires a client that does not buffer output", "01000")
            )
            return answer
        if isinstance(statement, s.Explain):
            plan = self._plan(statement.select.query, params)
            text = explain_timestamp(self._session, plan, statement.select.as_of)
            return Answer("SELECT ", _EXPLAIN, [[(text,)]], counted=True)
        if isinstance(statement, s.ExplainPlan):
            query = statement.select.query
            text = explain_plan(self._session, self._plan(query, params), query)
            return Answer("SELECT ", _EXPLAIN_PLAN, [[(text,)]], counted=True)
        return self._other(statement)

    def _other(self, statement: s.Statement) -> Answer:
        if isinstance(statement, s.Declare):
            return self._declare(statement)
        if isinstance(statement, s.Fetch):
            cursor = self._cursor(statement.name)
            rows = cursor.fetch(statement.count, statement.timeout_s)
            return Answer("FETCH ", cursor.columns, [rows], counted=True)
        if isinstance(statement, s.Close):
            self._cursor(statement.name).close()
            assert self._session.transaction is not None
            del self._session.transaction.cursors[statement.name]
            return Answer("CLOSE CURSOR")
        if isinstance(statement, s.SetVariable):
            return self._set(statement)
        if isinstance(statement, s.Show):
            columns, rows = inspection.show_variable(self._session, statement.name)
            return Answer("SELECT ", columns, [rows], counted=True)
        if isinstance(statement, s.ShowObjects):
            columns, rows = inspection.show_objects(self._session, statement)
            return Answer("SELECT ", columns, [rows], counted=True)
        assert isinstance(statement, s.Discard)
        return Answer(statement.tag)

    def _plan(self, query: s.Query, params: Params) -> Plan:
        return Analyzer(self._session, params).plan(query)

    def _select(self, statement: s.Select, params: Params) -> Answer:
        plan = self._plan(statement.query, params)
        batches = selected(self._session, plan, statement.as_of)
        return Answer("SELECT ", plan.columns, self._bounded(batches), counted=True)

    def _bounded(self, batches: Iterator[Rows]) -> Iterator[Rows]:
        """A result is refused as a whole, before its first row."""
        limit = self._session.variables.result_limit
        if limit is None:
            yield from batches
            return
        found = list(batches)
        size = sum(len(v) if isinstance(v, str | bytes) else 8 for rows in found for row in rows for v in row)
        if size > limit:
            power = min((limit.bit_length() - 1) // 10, 4)
            shown = f"{limit / 1024**power:.1f} {'KMGT'[power - 1]}B" if power else f"{limit} B"
            raise SqlError(f"result exceeds max size of {shown}")
        yield from found

    def _subscribe_columns(self, statement: s.Subscribe, plan: Plan) -> tuple[Column, ...]:
        options = Options(statement.snapshot, statement.progress, statement.upsert, 0, None)
        return Subscription.shape(plan, options)

    def _subscribe(self, statement: s.Subscribe, params: Params) -> Answer:
        session = self._session
        plan = self._plan(statement.query, params)
        columns = self._subscribe_columns(statement, plan)
        session.enter_subscribe(statement.as_of)
        running = subscription(session, plan, statement)
        return Answer("SELECT ", columns, subscribed(session, running), counted=True)

    def _copy(self, statement: s.Copy, params: Params) -> Answer:
        inner = statement.inner
        answer = self._select(inner, params) if isinstance(inner, s.Select) else self._subscribe(inner, params)
        answer.tag, answer.copy = "COPY ", statement.format
        return answer

    def _declare(self, statement: s.Declare) -> Answer:
        session = self._session
        transaction = session.transaction
        if transaction is None:
            raise SqlError("DECLARE CURSOR can only be used in transaction blocks", "25P01")
        if statement.name in transaction.cursors:
            raise SqlError(f'cursor "{statement.name}" already exists', "42P03")
        plan = self._plan(statement.inner.query, ())
        columns = plan.columns
        if isinstance(statement.inner, s.Subscribe):
            columns = self._subscribe_columns(statement.inner, plan)
            session.enter_subscribe(statement.inner.as_of)
        transaction.cursors[statement.name] = Cursor(session, plan, statement.inner, columns)
        return Answer("DECLARE CURSOR")

    def _cursor(self, name: str) -> Cursor:
        transaction = self._session.transaction
        found = None if transaction is None else transaction.cursors.get(name)
        if found is None:
            raise SqlError(f'cursor "{name}" does not exist', "34000")
        assert isinstance(found, Cursor)
        return found

    def _set(self, statement: s.SetVariable) -> Answer:
        self._session.variables.set(statement.name, statement.value)
        if statement.name.lower() == "cluster":
            self._session.check_cluster()
        return Answer("RESET" if statement.value is None else "SET")

    def _transaction(self, statement: s.Transaction) -> Answer:
        session = self._session
        if statement.kind == "begin":
            if session.transaction is not None:
                session.notice(Notice("there is already a transaction in progress", "25001"))
            else:
                session.transaction = Transaction()
            return Answer("BEGIN")
        commit = statement.kind == "commit" and not session.failed
        if session.transaction is None:
            session.notice(Notice("there is no transaction in progress", "25P01"))
        session.end(commit=commit)
        return Answer("COMMIT" if commit else "ROLLBACK")

    def run_all(self, statements: list[s.Parsed]) -> Iterator[Answer]:
        """The statements of one simple query. Several INSERTs are one transaction, as between BEGIN and COMMIT."""
        together = len(statements) > 1 and all(isinstance(p.statement, s.Insert) for p in statements)
        if not together or self._session.transaction is not None:
            for parsed in statements:
                yield self.run(parsed.statement)
            return
        self._session.transaction = Transaction()
        try:
            answers = [self.run(parsed.statement) for parsed in statements]
            self._session.end(commit=True)
        finally:
            self._session.end(commit=False)
        yield from answers


_WORDS = {"Grant": "GRANT", "CreateView": "CREATE VIEW", "CreateTable": "CREATE TABLE", "CreateIndex": "CREATE INDEX"}


def _first_words(statement: s.Statement) -> str:
    name = type(statement).__name__
    return _WORDS.get(name, name.upper())
