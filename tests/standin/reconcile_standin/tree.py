"""The syntax tree of expressions and queries."""

from __future__ import annotations

from dataclasses import dataclass


class Expr:
    """Any expression."""


@dataclass(frozen=True, slots=True)
class Literal(Expr):
    """kind: string (type not known yet), int, numeric, bool, null."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Param(Expr):
    """$1, $2, …"""

    number: int


@dataclass(frozen=True, slots=True)
class Column(Expr):
    """A possibly qualified column name."""

    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Star(Expr):
    """`*` or `q.*`."""

    qualifier: str | None


@dataclass(frozen=True, slots=True)
class Unary(Expr):
    """op is -, + or not."""

    op: str
    operand: Expr


@dataclass(frozen=True, slots=True)
class Binary(Expr):
    """Any infix operator."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Cast(Expr):
    """`e::type` or `CAST(e AS type)`."""

    operand: Expr
    type: str


@dataclass(frozen=True, slots=True)
class Window:
    """OVER (…)"""

    partition: tuple[Expr, ...]
    order: tuple[OrderItem, ...]


@dataclass(frozen=True, slots=True)
class Call(Expr):
    """A function call; star for count(*)."""

    name: str
    args: tuple[Expr, ...]
    distinct: bool = False
    star: bool = False
    where: Expr | None = None
    over: Window | None = None


@dataclass(frozen=True, slots=True)
class Case(Expr):
    """CASE, searched or simple."""

    operand: Expr | None
    whens: tuple[tuple[Expr, Expr], ...]
    otherwise: Expr | None


@dataclass(frozen=True, slots=True)
class In(Expr):
    """`e [NOT] IN (…)`, of expressions or a query."""

    operand: Expr
    items: tuple[Expr, ...]
    query: Query | None
    negated: bool


@dataclass(frozen=True, slots=True)
class Is(Expr):
    """`e IS [NOT] NULL | TRUE | FALSE | UNKNOWN | DISTINCT FROM e`."""

    operand: Expr
    what: str
    negated: bool
    other: Expr | None = None


@dataclass(frozen=True, slots=True)
class Between(Expr):
    """`e [NOT] BETWEEN low AND high`."""

    operand: Expr
    low: Expr
    high: Expr
    negated: bool


@dataclass(frozen=True, slots=True)
class Exists(Expr):
    """EXISTS (query)."""

    query: Query


@dataclass(frozen=True, slots=True)
class Subquery(Expr):
    """A query used as a value."""

    query: Query


@dataclass(frozen=True, slots=True)
class Elements(Expr):
    """ARRAY[…] or LIST[…]."""

    kind: str
    items: tuple[Expr, ...]


class Source:
    """Anything in FROM."""


@dataclass(frozen=True, slots=True)
class Table(Source):
    """A named relation; start and end are its place in the text."""

    parts: tuple[str, ...]
    alias: str | None
    columns: tuple[str, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Derived(Source):
    """A query in FROM."""

    query: Query
    alias: str | None
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Function(Source):
    """A table function in FROM."""

    call: Call
    alias: str | None
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Join(Source):
    """kind: inner, left, right, full, cross."""

    kind: str
    left: Source
    right: Source
    on: Expr | None
    using: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a select list."""

    expr: Expr
    alias: str | None


@dataclass(frozen=True, slots=True)
class OrderItem:
    """One entry of ORDER BY."""

    expr: Expr
    descending: bool
    nulls_first: bool | None


@dataclass(frozen=True, slots=True)
class Core:
    """SELECT … FROM … WHERE … GROUP BY … HAVING."""

    items: tuple[Item, ...]
    source: Source | None
    where: Expr | None
    group: tuple[Expr, ...]
    having: Expr | None
    distinct: bool
    distinct_on: tuple[Expr, ...] = ()


@dataclass(frozen=True, slots=True)
class SetOperation:
    """UNION, INTERSECT, EXCEPT."""

    op: str
    all: bool
    left: Query
    right: Query


@dataclass(frozen=True, slots=True)
class Values:
    """VALUES (…), (…)."""

    rows: tuple[tuple[Expr, ...], ...]


@dataclass(frozen=True, slots=True)
class Query:
    """A whole query."""

    body: Core | SetOperation | Values
    order: tuple[OrderItem, ...] = ()
    limit: Expr | None = None
    offset: Expr | None = None
    ctes: tuple[tuple[str, tuple[str, ...], Query], ...] = ()
