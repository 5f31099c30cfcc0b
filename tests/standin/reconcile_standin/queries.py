"""Parser of queries."""

from __future__ import annotations

from reconcile_standin import syntax as s
from reconcile_standin.expressions import RESERVED, ExpressionParser


class QueryParser(ExpressionParser):
    """SELECT, VALUES, set operations, WITH, FROM."""

    def query(self) -> s.Query:
        """A whole query with its ORDER BY, LIMIT and OFFSET."""
        ctes = self._ctes() if self.accept("with") else ()
        body = self._set_operation(0)
        order: tuple[s.OrderItem, ...] = ()
        limit = offset = None
        if self.accept("order", "by"):
            order = self.order_items()
        while True:
            if self.accept("limit"):
                limit = None if self.accept("all") else self.expr()
            elif self.accept("offset"):
                offset = self.expr()
                _ = self.accept("rows") or self.accept("row")
            elif self.accept("fetch"):
                _ = self.accept("first") or self.accept("next")
                limit = s.Literal("int", "1") if self.is_word("row") or self.is_word("rows") else self.expr()
                _ = self.accept("rows") or self.accept("row")
                self.expect("only")
            else:
                break
        if not order and limit is None and offset is None and not ctes and isinstance(body, s.Query):
            return body
        if isinstance(body, s.Query):
            body = self.whole(s.Derived(body, "q", ()))
        return s.Query(body, order, limit, offset, ctes)

    def _ctes(self) -> tuple[tuple[str, tuple[str, ...], s.Query], ...]:
        found = []
        while True:
            name = self.name()
            columns = self._column_aliases()
            self.expect("as")
            self.expect_op("(")
            found.append((name, columns, self.query()))
            self.expect_op(")")
            if not self.accept_op(","):
                return tuple(found)

    def _set_operation(self, floor: int) -> s.Core | s.SetOperation | s.Values | s.Query:
        left = self._primary()
        while True:
            power = 2 if self.is_word("intersect") else 1
            if not (self.is_word("union") or self.is_word("except") or self.is_word("intersect")) or power <= floor:
                return left
            op = self.next().text
            every = self.accept("all")
            _ = self.accept("distinct")
            right = self._set_operation(power)
            left = s.SetOperation(op, every, _as_query(left), _as_query(right))

    def _primary(self) -> s.Core | s.SetOperation | s.Values | s.Query:
        if self.accept_op("("):
            query = self.query()
            self.expect_op(")")
            return query
        if self.accept("values"):
            return self._values()
        if self.accept("table"):
            return self.whole(self._named_table())
        self.expect("select")
        return self._core()

    def _named_table(self) -> s.Table:
        start = self.token.start
        parts = self.qualified()
        return s.Table(parts, None, (), start, self.tokens[self.at - 1].end)

    @staticmethod
    def whole(source: s.Source) -> s.Core:
        """SELECT * FROM source."""
        return s.Core((s.Item(s.Star(None), None),), source, None, (), None, distinct=False)

    def _values(self) -> s.Values:
        rows = []
        while True:
            self.expect_op("(")
            rows.append(self.exprs())
            self.expect_op(")")
            if not self.accept_op(","):
                return s.Values(tuple(rows))

    def _core(self) -> s.Core:
        distinct = False
        on: tuple[s.Expr, ...] = ()
        if self.accept("distinct"):
            distinct = True
            if self.accept("on"):
                self.expect_op("(")
                on = self.exprs()
                self.expect_op(")")
        else:
            _ = self.accept("all")
        items = [] if self.is_word("from") else [self._item()]
        while self.accept_op(","):
            items.append(self._item())
        source = self._from() if self.accept("from") else None
        where = self.expr() if self.accept("where") else None
        group = self.exprs() if self.accept("group", "by") else ()
        having = self.expr() if self.accept("having") else None
        return s.Core(tuple(items), source, where, group, having, distinct and not on, on)

    def _item(self) -> s.Item:
        expr = self.expr()
        if self.is_word("as") and self.peek().text not in ("of",):
            self.at += 1
            return s.Item(expr, self.name())
        return s.Item(expr, self._bare_alias())

    def _bare_alias(self) -> str | None:
        token = self.token
        if token.kind == "ident" or (token.kind == "word" and token.text not in RESERVED):
            self.at += 1
            return token.text
        return None

    def _from(self) -> s.Source:
        left = self._joined()
        while self.accept_op(","):
            left = s.Join("cross", left, self._joined(), None, ())
        return left

    def _joined(self) -> s.Source:
        left = self._relation()
        while True:
            kind = self._join_kind()
            if kind is None:
                return left
            right = self._relation()
            on = None
            using: tuple[str, ...] = ()
            if kind != "cross":
                if self.accept("using"):
                    self.expect_op("(")
                    using = tuple(self.names())
                    self.expect_op(")")
                else:
                    self.expect("on")
                    on = self.expr()
            left = s.Join(kind, left, right, on, using)

    def _join_kind(self) -> str | None:
        if self.accept("join") or self.accept("inner", "join"):
            return "inner"
        if self.accept("cross", "join"):
            return "cross"
        for side in ("left", "right", "full"):
            if self.is_word(side):
                self.at += 1
                _ = self.accept("outer")
                self.expect("join")
                return side
        return None

    def _relation(self) -> s.Source:
        _ = self.accept("lateral")
        if self.accept_op("("):
            return self._parenthesized()
        start = self.token.start
        parts = self.qualified("identifier")
        end = self.tokens[self.at - 1].end
        if self.is_op("("):
            call = self._call(parts[-1])
            assert isinstance(call, s.Call)
            alias, columns = self._alias()
            return s.Function(call, alias, columns)
        alias, columns = self._alias()
        return s.Table(parts, alias, columns, start, end)

    def _parenthesized(self) -> s.Source:
        if self.starts_query() or self.is_op("("):
            opened = self.at
            query = self.query()
            if not self.is_op(")"):
                # Materialize then tries a joined table, and says where that attempt failed.
                self.at = opened
                self.qualified()
                self._bare_alias()
                self.fail("joined table")
            self.expect_op(")")
            alias, columns = self._alias()
            return s.Derived(query, alias, columns)
        inner = self._joined()
        if not self.accept_op(")"):
            self.fail("joined table")
        return inner

    def _alias(self) -> tuple[str | None, tuple[str, ...]]:
        alias = None
        if self.is_word("as") and self.peek().text != "of":
            self.at += 1
            alias = self.name()
        elif not self.is_word("as") and not self.is_word("up", "to"):
            alias = self._bare_alias()
        return alias, self._column_aliases() if alias else ()

    def _column_aliases(self) -> tuple[str, ...]:
        if not self.accept_op("("):
            return ()
        names = tuple(self.names())
        self.expect_op(")")
        return names

    def order_items(self) -> tuple[s.OrderItem, ...]:
        """The list behind ORDER BY."""
        found = []
        while True:
            expr = self.expr()
            descending = self.accept("desc")
            if not descending:
                _ = self.accept("asc")
            nulls = None
            if self.accept("nulls"):
                nulls = self.accept("first")
                if not nulls:
                    self.expect("last")
            found.append(s.OrderItem(expr, descending, nulls))
            if not self.accept_op(","):
                return tuple(found)


def _as_query(body: s.Core | s.SetOperation | s.Values | s.Query) -> s.Query:
    return body if isinstance(body, s.Query) else s.Query(body)
