"""Parser of what defines things: CREATE, DROP, ALTER, GRANT, and SHOW, which looks at them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconcile_standin import syntax as s
from reconcile_standin.problem import SqlError
from reconcile_standin.statements import StatementParser, duration_ms

if TYPE_CHECKING:
    from collections.abc import Callable

_PLURALS = frozenset((
    "tables", "views", "indexes", "schemas", "clusters", "roles", "objects", "databases", "sources", "sinks",
))  # fmt: skip


class Parser(StatementParser):
    """The complete parser."""

    def _show(self) -> s.Statement:
        self.expect("show")
        if self.accept("create"):
            kind = self._kind()
            return s.ShowObjects(f"create {kind}", self.qualified())
        if self.is_word("materialized", "views"):
            self.at += 2
            return self._show_objects("materialized views")
        if self.is_word("columns"):
            self.at += 1
            _ = self.accept("from") or self.accept("in")
            return s.ShowObjects("columns", self.qualified())
        if self.accept("cluster", "replicas"):
            return s.ShowObjects("cluster replicas", None)
        if self.token.text in _PLURALS:
            return self._show_objects(self.next().text)
        if self.accept("time", "zone"):
            return s.Show("timezone")
        if self.accept("transaction", "isolation", "level"):
            return s.Show("transaction_isolation")
        return s.Show(self.name())

    def _show_objects(self, what: str) -> s.Statement:
        name = cluster = None
        while self.token.kind == "word" and self.token.text in ("on", "from", "in"):
            self.at += 1
            if self.accept("cluster"):
                cluster = self.name()
            else:
                name = self.qualified()
        return s.ShowObjects(what, name, cluster)

    def _kind(self) -> str:
        if self.accept("materialized"):
            self.expect("view")
            return "materialized view"
        return self.name()

    def _if_not_exists(self) -> bool:
        if self.accept("if"):
            self.expect("not", "exists")
            return True
        return False

    def _create(self) -> s.Statement:
        self.expect("create")
        replace = False
        if self.accept("or"):
            self.expect("replace")
            replace = True
        _ = self.accept("temporary") or self.accept("temp")
        kind = self._kind()
        if kind == "default":
            self.expect("index")
            return self._create_index(named=False)
        reader: Callable[[], s.Statement] | None = {
            "table": self._create_table,
            "view": lambda: self._create_view(materialized=False, replace=replace),
            "materialized view": lambda: self._create_view(materialized=True, replace=replace),
            "index": lambda: self._create_index(named=True),
            "schema": lambda: self._create_named("schema"),
            "role": lambda: self._create_named("role"),
            "cluster": lambda: self._create_named("cluster"),
        }.get(kind)
        if reader is None:
            raise SqlError.unsupported(f"CREATE {kind.upper()}")
        return reader()

    def _create_named(self, kind: str) -> s.Statement:
        exists = self._if_not_exists()
        name = self.qualified()
        self._skip_rest()
        return s.CreateNamed(kind, name, exists)

    def _comment(self) -> s.Statement:
        self.expect("comment", "on")
        kind = self._kind()
        name, column = self.qualified(), None
        if kind == "column":
            name, column = name[:-1], name[-1]
        self.expect("is")
        return s.Comment(name, column, None if self.accept("null") else self.string())

    def _create_table(self) -> s.Statement:
        exists = self._if_not_exists()
        name = self.qualified()
        self.expect_op("(")
        columns = []
        not_null = []
        while not self.accept_op(")"):
            column = self.name()
            columns.append((column, self.type_name()))
            while self.token.kind != "end" and not self.is_op(",") and not self.is_op(")"):
                if self.is_word("primary") or self.is_word("unique") or self.is_word("references"):
                    raise SqlError("CREATE TABLE with a primary key or unique constraint is not supported", "0A000")
                if self.is_word("not", "null"):
                    not_null.append(column)
                self.next()
            _ = self.accept_op(",")
        return s.CreateTable(name, tuple(columns), tuple(not_null), exists, self._with_options()[0])

    def _with_options(self) -> tuple[int | None, str | None, str | None]:
        """RETAIN HISTORY, in milliseconds and as it was said, and the time of REFRESH AT."""
        retain: tuple[int | None, str | None] = (None, None)
        refresh = None
        if not self.accept("with"):
            return *retain, refresh
        self.expect_op("(")
        while not self.accept_op(")"):
            if self.is_word("retain"):
                retain = self._retain_history()
            elif self.accept("refresh", "at"):
                refresh = self.string()
            else:
                self.next()
            _ = self.accept_op(",")
        return *retain, refresh

    def _retain_history(self) -> tuple[int, str]:
        self.expect("retain", "history")
        _ = self.accept_op("=")
        self.expect("for")
        text = self.string()
        window = duration_ms(text)
        if window == 0:
            raise SqlError("RETAIN HISTORY cannot be disabled or set to 0")
        if window < 1000:
            raise SqlError(
                "RETAIN HISTORY cannot be set lower than 1000ms",
                hint="Use ALTER ... RESET (RETAIN HISTORY) to set the retain history to its default and lowest value.",
            )
        return window, text

    def _create_view(self, materialized: bool, replace: bool) -> s.Statement:
        exists = self._if_not_exists()
        name = self.qualified()
        columns = self._column_aliases()
        cluster = None
        if self.accept("in", "cluster"):
            cluster = self.name()
        retain, text, refresh = self._with_options() if materialized else (None, None, None)
        self.expect("as")
        start = self.token.start
        query = self.query()
        body = self.sql[start : self.tokens[self.at - 1].end]
        kept = (retain, text, refresh)
        return s.CreateView(name, columns, query, body, start, materialized, replace, exists, cluster, *kept)

    def _create_index(self, named: bool) -> s.Statement:
        exists = self._if_not_exists()
        name = None
        if named and not self.is_word("on") and not self.is_word("in"):
            name = self.name()
        cluster = self.name() if self.accept("in", "cluster") else None
        self.expect("on")
        on = self.qualified()
        keys: list[str] = []
        if self.accept_op("("):
            while not self.accept_op(")"):
                start = self.token.start
                self.expr()
                keys.append(self.sql[start : self.tokens[self.at - 1].end])
                _ = self.accept_op(",")
        self._with_options()
        return s.CreateIndex(name, on, tuple(keys), cluster, exists)

    def _drop(self) -> s.Statement:
        self.expect("drop")
        kind = self._kind()
        exists = False
        if self.accept("if"):
            self.expect("exists")
            exists = True
        names = [self.qualified()]
        while self.accept_op(","):
            names.append(self.qualified())
        cascade = self.accept("cascade")
        _ = self.accept("restrict")
        return s.Drop(kind, tuple(names), exists, cascade)

    def _alter(self) -> s.Statement:
        self.expect("alter")
        kind = self._kind()
        name = self.qualified()
        if self.accept("rename", "to"):
            return s.Rename(kind, name, self.name(), swap=False)
        if self.accept("swap", "with"):
            return s.Rename(kind, name, self.qualified()[-1], swap=True)
        if kind == "cluster" and self.accept("set"):
            self.expect_op("(")
            self.expect("replication", "factor")
            _ = self.accept_op("=")
            replicas = int(self.next().text)
            self.expect_op(")")
            return s.Scale(name, replicas)
        if self.accept("set"):
            self.expect_op("(")
            window, text = self._retain_history()
            self.expect_op(")")
            return s.Retain(kind, name, window, text)
        if self.accept("reset"):
            self.expect_op("(")
            self.expect("retain", "history")
            self.expect_op(")")
            return s.Retain(kind, name, None)
        raise SqlError.unsupported(f"this ALTER {kind.upper()}")

    def _grant(self) -> s.Statement:
        revoke = self.next().text == "revoke"
        privileges = [self.name()]
        while self.accept_op(","):
            privileges.append(self.name())
        _ = self.accept("privileges")
        self.expect("on")
        kind = "table"
        for word in ("table", "schema", "cluster", "database", "type"):
            if self.accept(word):
                kind = word
                break
        names = [self.qualified()]
        while self.accept_op(","):
            names.append(self.qualified())
        self.expect("from" if revoke else "to")
        return s.Grant(revoke, tuple(privileges), kind, tuple(names), tuple(self.names()))


def parse(sql: str) -> list[s.Parsed]:
    """All statements of a text."""
    return Parser(sql).statements()
