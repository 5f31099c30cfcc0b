"""Expressions of a query to typed expressions of the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from reconcile_standin import functions, operators, types
from reconcile_standin import syntax as s
from reconcile_standin.plan import Facts
from reconcile_standin.problem import SqlError
from reconcile_standin.typed import Typed, cast, constant, known, quote, unify
from reconcile_standin.types import BOOL, FLOAT8, INT4, INT8, NUMERIC, TEXT, UINT8
from reconcile_standin.values import parse_decimal

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconcile_standin.plan import Relation
    from reconcile_standin.scope import Scope
    from reconcile_standin.values import Value


class Session(Protocol):
    """What a query may ask about who runs it."""

    def fact(self, name: str) -> Value:
        """current_role, mz_version, … by function name."""
        ...


@dataclass(frozen=True, slots=True)
class Parameter:
    """A bound value, as text, and the oid the client declared (0: unknown)."""

    text: str | None
    oid: int


_SESSION_FACTS = frozenset((
    "mz_version", "mz_environment_id", "current_database", "current_catalog", "current_schema", "current_role",
    "current_user", "session_user", "version", "user", "mz_uptime",
))  # fmt: skip
AGGREGATES = frozenset(
    ["count", "sum", "min", "max", "avg", "bool_and", "bool_or", "string_agg", "jsonb_agg", "array_agg", "list_agg"]
)
_WINDOW = frozenset(["row_number", "rank", "dense_rank", "lag", "lead", "first_value", "last_value"])


class Expressions:
    """Translates expressions. Queries inside them come from the subclass."""

    def __init__(self, session: Session, params: tuple[Parameter, ...] = ()) -> None:
        self.session = session
        self.params = params
        self.facts = Facts()
        self.param_types: dict[int, int] = {}

    def relation(self, query: s.Query, outer: Scope | None) -> Relation:
        """A query inside an expression."""
        raise NotImplementedError

    def expr(self, node: s.Expr, scope: Scope) -> Typed:
        """Any expression."""
        handler: Callable[[s.Expr, Scope], Typed] | None = getattr(self, f"_{type(node).__name__.lower()}", None)
        if handler is None:
            raise SqlError.unsupported("this expression")
        return handler(node, scope)

    def boolean(self, node: s.Expr, scope: Scope, where: str) -> Typed:
        """An expression that must be a condition."""
        found = self.expr(node, scope)
        if found.unknown:
            found = known(found, BOOL)
        if found.type is not BOOL:
            raise SqlError(f"{where} clause must have type boolean, not type {types.long_name(found.type)}")
        return found

    def _literal(self, node: s.Literal, _scope: Scope) -> Typed:
        if node.kind == "null":
            return Typed("NULL", TEXT, constant=None, unknown=True)
        if node.kind == "string":
            return Typed(quote(node.text), TEXT, constant=node.text, unknown=True)
        if node.kind == "bool":
            return constant(int(node.text == "true"), BOOL)
        if node.kind == "int":
            number = int(node.text)
            if number < 2**63:
                return constant(number, INT4 if number < 2**31 else INT8)
        return constant(parse_decimal(node.text), NUMERIC)

    def _param(self, node: s.Param, _scope: Scope) -> Typed:
        if node.number > len(self.params):
            raise SqlError(f"there is no parameter ${node.number}", "42P02")
        param = self.params[node.number - 1]
        declared = types.by_oid(param.oid)
        literal = Typed("NULL" if param.text is None else quote(param.text), TEXT, constant=param.text, unknown=True)
        return literal if declared is None else known(literal, declared)

    def _column(self, node: s.Column, scope: Scope) -> Typed:
        return scope.lookup(node.parts)

    def _star(self, _node: s.Star, _scope: Scope) -> Typed:
        raise SqlError("* is only allowed in a select list", "42601")

    def _unary(self, node: s.Unary, scope: Scope) -> Typed:
        if node.op == "not":
            return Typed(f"(NOT {self.boolean(node.operand, scope, 'NOT').sql})", BOOL)
        operand = self.expr(node.operand, scope)
        if operand.unknown:
            operand = known(operand, FLOAT8)
        if node.op == "+":
            return operand
        if operand.is_constant and isinstance(operand.constant, int):
            return constant(-operand.constant, operand.type)
        if operand.is_constant and isinstance(operand.constant, str) and operand.type is NUMERIC:
            negated = parse_decimal("-" + operand.constant)
            if negated == str(-(2**63)):
                return constant(-(2**63), INT8)
            return constant(negated, NUMERIC)
        if operand.type.is_decimal:
            return Typed(f"mz_num_sub('0',{operand.sql})", operand.type)
        return Typed(f"(-{operand.sql})", operand.type)

    def _binary(self, node: s.Binary, scope: Scope) -> Typed:
        if node.op in ("and", "or"):
            word = node.op.upper()
            left = self.boolean(node.left, scope, word)
            right = self.boolean(node.right, scope, word)
            return Typed(f"({left.sql} {word} {right.sql})", BOOL)
        return operators.infix(node.op, self.expr(node.left, scope), self.expr(node.right, scope))

    def _cast(self, node: s.Cast, scope: Scope) -> Typed:
        return cast(self.expr(node.operand, scope), types.named(node.type))

    def _case(self, node: s.Case, scope: Scope) -> Typed:
        conditions = []
        for condition, _ in node.whens:
            if node.operand is None:
                conditions.append(self.boolean(condition, scope, "CASE"))
            else:
                left, right = self.expr(node.operand, scope), self.expr(condition, scope)
                conditions.append(operators.compare("=", left, right))
        results = [self.expr(result, scope) for _, result in node.whens]
        otherwise = node.otherwise or s.Literal("null", "null")
        results = unify([*results, self.expr(otherwise, scope)])
        parts = [f"WHEN {c.sql} THEN {r.sql}" for c, r in zip(conditions, results, strict=False)]
        return Typed(f"CASE {' '.join(parts)} ELSE {results[-1].sql} END", results[0].type)

    def _in(self, node: s.In, scope: Scope) -> Typed:
        operand = self.expr(node.operand, scope)
        if node.query is None:
            found = operators.one_of(operand, [self.expr(item, scope) for item in node.items])
        else:
            inner = self._inner(node.query, scope, 1)
            operand = known(operand, inner.columns[0].type)
            column = cast(Typed("c0", inner.columns[0].type), operand.type)
            found = Typed(f"({operand.sql} IN (SELECT {column.sql} FROM ({inner.sql})))", BOOL)
        return Typed(f"(NOT {found.sql})", BOOL) if node.negated else found

    def _inner(self, query: s.Query, scope: Scope, width: int | None) -> Relation:
        self.facts.impure += 1
        inner = self.relation(query, scope)
        if width is not None and len(inner.columns) != width:
            raise SqlError(f"Expected subselect to return {width} column, got {len(inner.columns)} columns")
        return inner

    def _exists(self, node: s.Exists, scope: Scope) -> Typed:
        return Typed(f"EXISTS ({self._inner(node.query, scope, None).sql})", BOOL)

    def _subquery(self, node: s.Subquery, scope: Scope) -> Typed:
        inner = self._inner(node.query, scope, 1)
        return Typed(f"({inner.sql})", inner.columns[0].type)

    def _is(self, node: s.Is, scope: Scope) -> Typed:
        operand = known(self.expr(node.operand, scope))
        negation = "NOT " if node.negated else ""
        if node.what == "null":
            return Typed(f"({operand.sql} IS {negation}NULL)", BOOL)
        if node.what in ("true", "false"):
            return Typed(f"({operand.sql} IS {negation}{int(node.what == 'true')})", BOOL)
        assert node.other is not None
        left, right = unify([operand, self.expr(node.other, scope)])
        # IS in the engine is IS NOT DISTINCT FROM.
        return Typed(f"({left.sql} IS {'' if node.negated else 'NOT '}{right.sql})", BOOL)

    def _between(self, node: s.Between, scope: Scope) -> Typed:
        operand = self.expr(node.operand, scope)
        low = operators.compare(">=", operand, self.expr(node.low, scope))
        high = operators.compare("<=", operand, self.expr(node.high, scope))
        sql = f"({low.sql} AND {high.sql})"
        return Typed(f"(NOT {sql})" if node.negated else sql, BOOL)

    def _elements(self, node: s.Elements, scope: Scope) -> Typed:
        items = unify([self.expr(i, scope) for i in node.items]) if node.items else []
        element = items[0].type.name if items else "text"
        kind = types.named(f"{element}[]" if node.kind == "array" else f"{element} list")
        texts = ",".join(cast(i, TEXT).sql for i in items)
        return Typed(f"mz_elements({texts})", kind)

    def _call(self, node: s.Call, scope: Scope) -> Typed:
        if node.over is not None or node.name in _WINDOW:
            return self._windowed(node, scope)
        if node.name in AGGREGATES:
            self.facts.impure += 1
            return self._aggregate(node, scope)
        if node.name in _SESSION_FACTS:
            self.facts.momentary = node.name
            value = self.session.fact(node.name)
            return Typed(quote(value), TEXT, constant=value)
        if node.name == "mz_now":
            self.facts.temporal = True
            self.facts.impure += 1
            return Typed(":t", types.MZ_TIMESTAMP)
        if node.name in ("now", "current_timestamp"):
            self.facts.momentary = "current_timestamp"
            return Typed(quote(self.session.fact("now")), types.TIMESTAMPTZ)
        if node.name == "pg_backend_pid":
            self.facts.momentary = node.name
            return constant(self.session.fact("pg_backend_pid"), INT4)
        args = [self.expr(a, scope) for a in node.args]
        return functions.call(node.name, args)

    def _windowed(self, node: s.Call, scope: Scope) -> Typed:
        self.facts.impure += 1
        over = node.over or s.Window((), ())
        args = [known(self.expr(a, scope)) for a in node.args]
        if node.name in ("row_number", "rank", "dense_rank"):
            result = INT8
            call = f"{node.name}()"
        elif node.name in _WINDOW:
            result = args[0].type
            call = f"{node.name}({','.join(a.sql for a in args)})"
        else:
            inner = self._aggregate(node, scope)
            result, call = inner.type, inner.sql
        parts = []
        if over.partition:
            parts.append("PARTITION BY " + ",".join(self.expr(p, scope).sql for p in over.partition))
        if over.order:
            parts.append("ORDER BY " + ",".join(self.order_item(i, self.expr(i.expr, scope)) for i in over.order))
        return Typed(f"{call} OVER ({' '.join(parts)})", result)

    def order_item(self, item: s.OrderItem, expr: Typed) -> str:
        """One ORDER BY term; NULL is larger than everything, as in PostgreSQL."""
        collate = " COLLATE mz_decimal" if expr.type.is_decimal else ""
        first = item.descending if item.nulls_first is None else item.nulls_first
        return f"{expr.sql}{collate}{' DESC' if item.descending else ''} NULLS {'FIRST' if first else 'LAST'}"

    def _aggregate(self, node: s.Call, scope: Scope) -> Typed:
        args = [known(self.expr(a, scope)) for a in node.args]
        suffix = ""
        if node.where is not None:
            suffix = f" FILTER (WHERE {self.boolean(node.where, scope, 'FILTER').sql})"
        if node.name == "count":
            inner = "*" if node.star else ("DISTINCT " if node.distinct else "") + args[0].sql
            return Typed(f"count({inner}){suffix}", INT8)
        if not args:
            raise functions.no_function(node.name, args)
        engine, result = _aggregate_of(node.name, args)
        arguments = ",".join(a.sql for a in args)
        # The vector of a sum is that of what is summed: shapes.grouped knows the difference by the call.
        vector = args[0].vector if node.name == "sum" and args[0].type.is_number else None
        return Typed(f"{engine}({'DISTINCT ' if node.distinct else ''}{arguments}){suffix}", result, vector)


def _aggregate_of(name: str, args: list[Typed]) -> tuple[str, types.Type]:
    arg = args[0]
    kind = arg.type
    if name == "sum":
        return _sum_of(arg)
    if name == "avg":
        return ("avg", FLOAT8) if kind.name in ("float8", "float4") else ("mz_avg", NUMERIC)
    if name in ("min", "max"):
        return (f"mz_{name}" if kind.is_decimal else name), kind
    if name in ("bool_and", "bool_or"):
        return ("min" if name == "bool_and" else "max"), BOOL
    if name == "string_agg":
        return "group_concat", TEXT
    if name == "jsonb_agg":
        args[0] = functions.call("to_jsonb", [arg])
        return "mz_json_agg", types.JSONB
    args[0] = cast(arg, TEXT)
    return "mz_array_agg", types.named(f"{kind.name}[]" if name == "array_agg" else f"{kind.name} list")


def _sum_of(arg: Typed) -> tuple[str, types.Type]:
    name = arg.type.name
    if name in ("int2", "int4"):
        return "sum", INT8
    if name in ("float8", "float4"):
        return "sum", arg.type
    if name in ("uint2", "uint4"):
        return "mz_sum", UINT8
    if arg.type.is_number:
        return "mz_sum", NUMERIC
    raise functions.no_function("sum", [arg])
