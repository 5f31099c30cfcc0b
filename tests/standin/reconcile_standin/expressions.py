"""Parser of expressions: precedence climbing over tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconcile_standin import syntax as s
from reconcile_standin.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconcile_standin.lexer import Token

_INFIX = {
    "or": 1, "and": 2, "=": 5, "<": 5, ">": 5, "<=": 5, ">=": 5, "<>": 5, "!=": 5,
    "||": 7, "&": 7, "|": 7, "#": 7, "->": 7, "->>": 7, "@>": 7, "<@": 7, "~": 7, "~*": 7, "!~": 7, "!~*": 7,
    "+": 8, "-": 8, "*": 9, "/": 9, "%": 9,
}  # fmt: skip
_NOT, _IS, _IN, _ZONE, _UNARY, _CAST = 3, 4, 6, 10, 11, 13

# Words that end an expression or a relation: they are never an alias without AS.
RESERVED = frozenset((
    "from", "where", "group", "having", "order", "limit", "offset", "union", "intersect", "except", "on", "using",
    "join", "inner", "left", "right", "full", "cross", "natural", "as", "and", "or", "not", "when", "then", "else",
    "end", "case", "select", "with", "fetch", "envelope", "up", "window", "lateral", "for", "asc", "desc", "nulls",
    "in", "is", "like", "ilike", "between", "returning", "into", "values", "set", "distinct", "all",
))  # fmt: skip

_MULTIWORD = {
    ("double", "precision"): "float8",
    ("character", "varying"): "varchar",
    ("timestamp", "with", "time", "zone"): "timestamptz",
    ("timestamp", "without", "time", "zone"): "timestamp",
}
_NO_PARENTHESES = frozenset(
    ["current_timestamp", "current_date", "current_role", "current_user", "session_user", "current_catalog"]
)


class ExpressionParser(Tokens):
    """Parses expressions. Queries come from the subclass."""

    def query(self) -> s.Query:
        """A query inside an expression."""
        raise NotImplementedError

    def order_items(self) -> tuple[s.OrderItem, ...]:
        """ORDER BY inside OVER."""
        raise NotImplementedError

    def expr(self, floor: int = 0) -> s.Expr:
        """An expression whose operators bind tighter than floor."""
        left = self._prefix()
        while True:
            more = self._infix(left, floor)
            if more is None:
                return left
            left = more

    def starts_query(self) -> bool:
        """Whether a query comes next."""
        return self.token.kind == "word" and self.token.text in ("select", "with", "values", "table")

    def exprs(self) -> tuple[s.Expr, ...]:
        """A list of expressions."""
        found = [self.expr()]
        while self.accept_op(","):
            found.append(self.expr())
        return tuple(found)

    def _infix(self, left: s.Expr, floor: int) -> s.Expr | None:
        token = self.token
        if token.kind == "op" and token.text in ("::", "["):
            return self._postfix(left, token.text)
        if token.kind not in ("op", "word"):
            return None
        power = _INFIX.get(token.text)
        if power is not None:
            if power <= floor:
                return None
            self.at += 1
            op = "<>" if token.text == "!=" else token.text
            return s.Binary(op, left, self.expr(power))
        if token.kind == "word":
            return self._word_infix(left, floor)
        return None

    def _postfix(self, left: s.Expr, op: str) -> s.Expr:
        self.at += 1
        if op == "::":
            return s.Cast(left, self.type_name())
        index = self.expr()
        self.expect_op("]")
        return s.Call("mz_index", (left, index))

    def _word_infix(self, left: s.Expr, floor: int) -> s.Expr | None:
        if self.is_word("is") and floor < _IS:
            self.at += 1
            return self._is(left)
        if self.is_word("at", "time", "zone") and floor < _ZONE:
            self.at += 3
            return s.Call("timezone", (self.expr(_ZONE), left))
        if floor >= _IN:
            return None
        negated = self.is_word("not") and self.peek().text in ("in", "like", "ilike", "between")
        word = self.peek(1 if negated else 0)
        if word.kind != "word" or word.text not in ("in", "like", "ilike", "between"):
            return None
        self.at += 2 if negated else 1
        if word.text == "in":
            return self._in(left, negated)
        if word.text == "between":
            low = self.expr(_IN)
            self.expect("and")
            return s.Between(left, low, self.expr(_IN), negated)
        like: s.Expr = s.Call(f"mz_{word.text}", (left, self.expr(_IN)))
        return s.Unary("not", like) if negated else like

    def _in(self, left: s.Expr, negated: bool) -> s.Expr:
        self.expect_op("(")
        if self.starts_query():
            query = self.query()
            self.expect_op(")")
            return s.In(left, (), query, negated)
        items = self.exprs()
        self.expect_op(")")
        return s.In(left, items, None, negated)

    def _is(self, left: s.Expr) -> s.Expr:
        negated = self.accept("not")
        if self.accept("distinct", "from"):
            return s.Is(left, "distinct", negated, self.expr(_IS))
        what = self.name("NULL, TRUE, FALSE or DISTINCT FROM")
        if what not in ("null", "true", "false", "unknown"):
            self.at -= 1
            self.fail("[NOT] NULL, TRUE, FALSE, UNKNOWN or DISTINCT FROM after IS")
        return s.Is(left, "null" if what == "unknown" else what, negated)

    def _prefix(self) -> s.Expr:
        token = self.token
        reader: Callable[[Token], s.Expr] | None = {
            "string": self._string,
            "number": self._number,
            "param": self._param,
            "op": self._op_prefix,
            "word": self._word_prefix,
            "ident": self._identifier,
        }.get(token.kind)
        if reader is None:
            self.fail("an expression")
        assert reader is not None
        return reader(token)

    def _string(self, token: Token) -> s.Expr:
        self.at += 1
        return s.Literal("string", token.text)

    def _number(self, token: Token) -> s.Expr:
        self.at += 1
        return s.Literal("int" if token.text.isdigit() else "numeric", token.text)

    def _param(self, token: Token) -> s.Expr:
        self.at += 1
        number = int(token.text[1:])
        self.params = max(self.params, number)
        return s.Param(number)

    def _op_prefix(self, token: Token) -> s.Expr:
        if token.text in "+-":
            self.at += 1
            return s.Unary(token.text, self.expr(_UNARY))
        if token.text == "*":
            self.at += 1
            return s.Star(None)
        if token.text != "(":
            self.fail("an expression")
        self.at += 1
        if self.starts_query():
            query = self.query()
            self.expect_op(")")
            return s.Subquery(query)
        inner = self.expr()
        self.expect_op(")")
        return inner

    def _word_prefix(self, token: Token) -> s.Expr:
        special: Callable[[], s.Expr] | None = {
            "not": self._not, "case": self._case, "cast": self._cast, "exists": self._exists,
            "array": self._elements, "list": self._elements, "extract": self._extract, "position": self._position,
            "interval": self._typed, "timestamp": self._typed, "timestamptz": self._typed, "date": self._typed,
            "bytea": self._typed, "jsonb": self._typed, "uuid": self._typed, "text": self._typed,
        }.get(token.text)  # fmt: skip
        if special is not None:
            before = self.at
            self.at += 1
            if special not in (self._typed, self._elements) or self.token.kind == "string" or self.is_op("["):
                return special()
            self.at = before
        if token.text in ("null", "true", "false"):
            self.at += 1
            return s.Literal("null" if token.text == "null" else "bool", token.text)
        if token.text in _NO_PARENTHESES and self.peek().text != "(":
            self.at += 1
            return s.Call(token.text, ())
        if token.text in RESERVED and self.peek().text != "(":
            self.fail("an expression")
        return self._identifier(token)

    def _not(self) -> s.Expr:
        return s.Unary("not", self.expr(_NOT))

    def _typed(self) -> s.Expr:
        kind = self.tokens[self.at - 1].text
        return s.Cast(s.Literal("string", self.string()), kind)

    def _case(self) -> s.Expr:
        operand = None if self.is_word("when") else self.expr()
        whens = []
        while self.accept("when"):
            condition = self.expr()
            self.expect("then")
            whens.append((condition, self.expr()))
        otherwise = self.expr() if self.accept("else") else None
        self.expect("end")
        return s.Case(operand, tuple(whens), otherwise)

    def _cast(self) -> s.Expr:
        self.expect_op("(")
        operand = self.expr()
        self.expect("as")
        kind = self.type_name()
        self.expect_op(")")
        return s.Cast(operand, kind)

    def _exists(self) -> s.Expr:
        self.expect_op("(")
        query = self.query()
        self.expect_op(")")
        return s.Exists(query)

    def _elements(self) -> s.Expr:
        kind = self.tokens[self.at - 1].text
        self.expect_op("[")
        items = () if self.is_op("]") else self.exprs()
        self.expect_op("]")
        return s.Elements(kind, items)

    def _extract(self) -> s.Expr:
        self.expect_op("(")
        part = self.next().text
        self.expect("from")
        operand = self.expr()
        self.expect_op(")")
        return s.Call("extract", (s.Literal("string", part), operand))

    def _position(self) -> s.Expr:
        self.expect_op("(")
        needle = self.expr(_IN)
        self.expect("in")
        haystack = self.expr()
        self.expect_op(")")
        return s.Call("strpos", (haystack, needle))

    def _identifier(self, token: Token) -> s.Expr:
        parts = [self.name()]
        while self.accept_op("."):
            if self.accept_op("*"):
                return s.Star(parts[-1])
            parts.append(self.name())
        if self.is_op("("):
            return self._call(parts[-1])
        return s.Column(tuple(parts))

    def _call(self, name: str) -> s.Expr:
        self.expect_op("(")
        star = self.accept_op("*")
        distinct = self.accept("distinct")
        args: tuple[s.Expr, ...] = ()
        if not star and not self.is_op(")"):
            args = self.exprs()
            if self.accept("order", "by"):
                self.order_items()
        self.expect_op(")")
        where, over = None, None
        if self.is_word("filter") and self.peek().text == "(":
            self.at += 2
            self.expect("where")
            where = self.expr()
            self.expect_op(")")
        if self.accept("over"):
            over = self._over()
        return s.Call(name, args, distinct, star, where, over)

    def _over(self) -> s.Window:
        self.expect_op("(")
        partition = self.exprs() if self.accept("partition", "by") else ()
        order = self.order_items() if self.accept("order", "by") else ()
        self.expect_op(")")
        return s.Window(partition, order)

    def type_name(self) -> str:
        """A type's name, folded to one word, with [] or ` list` behind."""
        kind = None
        for words, name in _MULTIWORD.items():
            if self.accept(*words):
                kind = name
                break
        if kind is None:
            kind = self.qualified("a data type name")[-1]
        if self.accept_op("("):
            self.integer()
            while self.accept_op(","):
                self.integer()
            self.expect_op(")")
        while True:
            if self.is_op("[") and self.peek().text == "]":
                self.at += 2
                kind += "[]"
            elif self.accept("list"):
                kind += " list"
            else:
                return kind
