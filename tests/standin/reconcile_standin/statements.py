"""Parser of statements: everything a session may send."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconcile_standin import syntax as s
from reconcile_standin.problem import SqlError
from reconcile_standin.queries import QueryParser

if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS_MS = {
    "ms": 1, "millisecond": 1, "milliseconds": 1, "s": 1000, "sec": 1000, "second": 1000, "seconds": 1000,
    "m": 60_000, "min": 60_000, "minute": 60_000, "minutes": 60_000, "h": 3_600_000, "hr": 3_600_000,
    "hour": 3_600_000, "hours": 3_600_000, "d": 86_400_000, "day": 86_400_000, "days": 86_400_000,
}  # fmt: skip


def duration_ms(text: str) -> int:
    """'1hr', '10 minutes', '500ms', '2s', '1.5h'."""
    stripped = text.strip()
    digits = len(stripped) - len(stripped.lstrip("0123456789."))
    unit = stripped[digits:].strip().lower()
    if digits == 0 or unit not in _UNITS_MS:
        raise SqlError(f'invalid INTERVAL "{text}"')
    return round(float(stripped[:digits]) * _UNITS_MS[unit])


class StatementParser(QueryParser):
    """One text, any number of statements."""

    def statements(self) -> list[s.Parsed]:
        """All statements of the text."""
        found: list[s.Parsed] = []
        while True:
            while self.accept_op(";"):
                pass
            if self.token.kind == "end":
                return found
            start = self.token.start
            statement = self.statement()
            if self.token.kind != "end" and not self.is_op(";"):
                self.fail("end of statement")
            found.append(s.Parsed(statement, self.sql[start : self.token.start].strip(), self.params))

    def statement(self) -> s.Statement:
        """The next statement."""
        token = self.token
        if token.kind == "op" and token.text == "(":
            return self.select()
        reader: Callable[[], s.Statement] | None = {
            "select": self.select, "values": self.select, "with": self.select, "table": self.select,
            "subscribe": self.subscribe, "comment": self._comment, "copy": self._copy, "explain": self._explain,
            "declare": self._declare, "fetch": self._fetch, "close": self._close, "begin": self._begin,
            "start": self._begin, "commit": self._end, "end": self._end,
            "rollback": self._end, "abort": self._end, "set": self._set, "reset": self._reset, "show": self._show,
            "create": self._create, "drop": self._drop, "alter": self._alter, "grant": self._grant,
            "revoke": self._grant, "insert": self._insert, "update": self._update, "delete": self._delete,
            "discard": self._discard, "deallocate": self._discard,
        }.get(token.text if token.kind == "word" else "")  # fmt: skip
        if reader is None:
            raise SqlError.syntax(
                f"Expected a keyword at the beginning of a statement, found {token.describe()}", token.start
            )
        return reader()

    def select(self) -> s.Select:
        """A query with AS OF."""
        return s.Select(self.query(), self._as_of())

    def _as_of(self) -> s.AsOf | None:
        if not self.accept("as", "of"):
            return None
        at_least = self.accept("at", "least")
        return s.AsOf(self.expr(), at_least)

    def subscribe(self) -> s.Subscribe:
        """SUBSCRIBE, with its clauses in either order."""
        self.expect("subscribe")
        _ = self.accept("to")
        relation = None
        if self.accept_op("("):
            query = self.query()
            self.expect_op(")")
        else:
            table = self._named_table()
            relation, query = table.parts, s.Query(self.whole(table))
        upsert = self._envelope()
        options = {"snapshot": True, "progress": False}
        if self.accept("with"):
            self.expect_op("(")
            while not self.accept_op(")"):
                option = self.name()
                if option not in options:
                    self.at -= 1
                    self.fail("one of PROGRESS or SNAPSHOT")
                options[option] = self._flag()
                _ = self.accept_op(",")
        as_of = self._as_of()
        up_to = self.expr() if self.accept("up", "to") else None
        upsert = upsert or self._envelope()
        return s.Subscribe(query, relation, options["snapshot"], options["progress"], upsert, as_of, up_to)

    def _flag(self) -> bool:
        _ = self.accept_op("=")
        if self.token.kind in ("word", "string") and self.token.text in ("true", "false", "on", "off"):
            return self.next().text in ("true", "on")
        return True

    def _envelope(self) -> tuple[str, ...] | None:
        if not self.accept("envelope"):
            return None
        if not self.accept("upsert"):
            raise SqlError("ENVELOPE DEBEZIUM is not available", "0A000")
        self.expect_op("(")
        self.expect("key")
        self.expect_op("(")
        keys = tuple(self.names())
        self.expect_op(")")
        self.expect_op(")")
        return keys

    def _select_or_subscribe(self) -> s.Select | s.Subscribe:
        return self.subscribe() if self.is_word("subscribe") else self.select()

    def _copy(self) -> s.Statement:
        self.expect("copy")
        if not self.accept_op("("):
            self.qualified()
            if self.accept("to"):
                raise SqlError("named with COPY TO STDOUT unsupported")
            raise SqlError.unsupported("COPY FROM")
        inner = self._select_or_subscribe()
        self.expect_op(")")
        self.expect("to")
        self.expect("stdout")
        return s.Copy(inner, self._copy_options())

    def _copy_options(self) -> str:
        kind = "text"
        if self.accept("with") or self.is_op("("):
            self.expect_op("(")
            while not self.accept_op(")"):
                option = self.name()
                if option == "format":
                    _ = self.accept_op("=")
                    kind = self.next().text.lower()
                elif option in ("delimiter", "quote", "null", "escape"):
                    raise SqlError(f"COPY TO does not support {option.upper()} option yet")
                else:
                    self._flag()
                _ = self.accept_op(",")
        if kind not in ("text", "csv", "binary"):
            raise SqlError(f"unknown FORMAT: {kind}", "22023")
        return kind

    def _explain(self) -> s.Statement:
        self.expect("explain")
        if self.accept("optimized", "plan"):
            if self.accept("with"):
                self.expect_op("(")
                self.expect("no", "fast", "path")
                self.expect_op(")")
            self.expect("as", "json", "for")
            return s.ExplainPlan(self.select())
        if not self.accept("timestamp"):
            raise SqlError.unsupported("EXPLAIN other than EXPLAIN TIMESTAMP and EXPLAIN OPTIMIZED PLAN")
        if self.accept("as"):
            if self.accept("text"):
                raise SqlError.unsupported("EXPLAIN TIMESTAMP AS TEXT")
            self.expect("json")
        self.expect("for")
        return s.Explain(self.select())

    def _declare(self) -> s.Statement:
        self.expect("declare")
        name = self.name()
        self.expect("cursor")
        _ = self.accept("without", "hold")
        self.expect("for")
        return s.Declare(name, self._select_or_subscribe())

    def _fetch(self) -> s.Statement:
        self.expect("fetch")
        _ = self.accept("forward")
        count: int | None = 1
        if self.accept("all"):
            count = None
        elif self.token.kind == "number":
            count = self.integer()
        _ = self.accept("from")
        name = self.name()
        timeout = None
        if self.accept("with"):
            self.expect_op("(")
            self.expect("timeout")
            _ = self.accept_op("=")
            timeout = duration_ms(self.next().text) / 1000
            self.expect_op(")")
        return s.Fetch(name, count, timeout)

    def _close(self) -> s.Statement:
        self.expect("close")
        return s.Close(self.name())

    def _begin(self) -> s.Statement:
        self._skip_rest()
        return s.Transaction("begin")

    def _end(self) -> s.Statement:
        word = self.next().text
        self._skip_rest()
        return s.Transaction("commit" if word in ("commit", "end") else "rollback")

    def _skip_rest(self) -> None:
        while self.token.kind != "end" and not self.is_op(";"):
            self.next()

    def _set(self) -> s.Statement:
        self.expect("set")
        _ = self.accept("session") or self.accept("local")
        if self.accept("time", "zone"):
            return s.SetVariable("timezone", self.next().text)
        if self.is_word("transaction"):
            self._skip_rest()
            return s.Discard("SET")
        name = self.name()
        if not self.accept_op("="):
            # `SET schema x` and `SET schema TO x`.
            _ = self.accept("to")
        values = []
        while self.token.kind != "end" and not self.is_op(";"):
            sign = "-" if self.accept_op("-") else ""
            token = self.next()
            if token.text != ",":
                values.append(sign + token.text)
        if values == ["default"]:
            return s.SetVariable(name, None)
        return s.SetVariable(name, ", ".join(values))

    def _reset(self) -> s.Statement:
        self.expect("reset")
        return s.SetVariable(self.name(), None)

    def _discard(self) -> s.Statement:
        tag = "DISCARD ALL" if self.token.text == "discard" else "DEALLOCATE"
        self._skip_rest()
        return s.Discard(tag)

    def _comment(self) -> s.Statement:
        raise NotImplementedError

    def _show(self) -> s.Statement:
        raise NotImplementedError

    def _create(self) -> s.Statement:
        raise NotImplementedError

    def _drop(self) -> s.Statement:
        raise NotImplementedError

    def _alter(self) -> s.Statement:
        raise NotImplementedError

    def _grant(self) -> s.Statement:
        raise NotImplementedError

    def _insert(self) -> s.Statement:
        self.expect("insert", "into")
        name = self.qualified()
        columns: tuple[str, ...] = ()
        if self.is_op("(") and not (self.peek().kind == "word" and self.peek().text in ("select", "values", "with")):
            columns = self._column_aliases()
        if self.accept("default", "values"):
            raise SqlError.unsupported("INSERT … DEFAULT VALUES")
        return s.Insert(name, columns, self.query())

    def _update(self) -> s.Statement:
        self.expect("update")
        name = self.qualified()
        alias, _ = (None, ()) if self.is_word("set") else self._alias()
        self.expect("set")
        sets = []
        while True:
            column = self.name()
            self.expect_op("=")
            sets.append((column, self.expr()))
            if not self.accept_op(","):
                break
        where = self.expr() if self.accept("where") else None
        return s.Update(name, alias, tuple(sets), where)

    def _delete(self) -> s.Statement:
        self.expect("delete", "from")
        name = self.qualified()
        alias, _ = self._alias()
        where = self.expr() if self.accept("where") else None
        return s.Delete(name, alias, where)
