"""The syntax tree: expressions, queries, statements."""

from __future__ import annotations

from dataclasses import dataclass, field


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


Name = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AsOf:
    """AS OF [AT LEAST] e."""

    expr: Expr
    at_least: bool


class Statement:
    """Any statement."""


@dataclass(frozen=True, slots=True)
class Select(Statement):
    """A query run for its rows."""

    query: Query
    as_of: AsOf | None


@dataclass(frozen=True, slots=True)
class Subscribe(Statement):
    """SUBSCRIBE and all its clauses."""

    query: Query
    relation: Name | None
    snapshot: bool
    progress: bool
    upsert: tuple[str, ...] | None
    as_of: AsOf | None
    up_to: Expr | None


@dataclass(frozen=True, slots=True)
class Copy(Statement):
    """COPY (…) TO STDOUT."""

    inner: Select | Subscribe
    format: str


@dataclass(frozen=True, slots=True)
class Explain(Statement):
    """EXPLAIN TIMESTAMP."""

    select: Select


@dataclass(frozen=True, slots=True)
class Declare(Statement):
    """DECLARE c CURSOR FOR."""

    name: str
    inner: Select | Subscribe


@dataclass(frozen=True, slots=True)
class Fetch(Statement):
    """FETCH; count None is ALL."""

    name: str
    count: int | None
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Close(Statement):
    """CLOSE c."""

    name: str


@dataclass(frozen=True, slots=True)
class Transaction(Statement):
    """kind: begin, commit, rollback."""

    kind: str


@dataclass(frozen=True, slots=True)
class SetVariable(Statement):
    """SET x = y; value None resets."""

    name: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Show(Statement):
    """SHOW x."""

    name: str


@dataclass(frozen=True, slots=True)
class ShowObjects(Statement):
    """SHOW INDEXES ON v, SHOW COLUMNS FROM v, SHOW CREATE … v, SHOW TABLES, …"""

    what: str
    name: Name | None
    cluster: str | None = None


@dataclass(frozen=True, slots=True)
class CreateTable(Statement):
    """CREATE TABLE."""

    name: Name
    columns: tuple[tuple[str, str], ...]
    if_not_exists: bool
    retain_ms: int | None


@dataclass(frozen=True, slots=True)
class CreateView(Statement):
    """CREATE [MATERIALIZED] VIEW; text is the query's text, offset its place in the statement."""

    name: Name
    columns: tuple[str, ...]
    query: Query
    text: str
    offset: int
    materialized: bool
    replace: bool
    if_not_exists: bool
    cluster: str | None
    retain_ms: int | None
    retain_text: str | None


@dataclass(frozen=True, slots=True)
class CreateIndex(Statement):
    """CREATE [DEFAULT] INDEX."""

    name: str | None
    on: Name
    keys: tuple[str, ...]
    cluster: str | None
    if_not_exists: bool


@dataclass(frozen=True, slots=True)
class CreateNamed(Statement):
    """CREATE SCHEMA | ROLE | CLUSTER."""

    kind: str
    name: Name
    if_not_exists: bool


@dataclass(frozen=True, slots=True)
class Drop(Statement):
    """DROP kind names."""

    kind: str
    names: tuple[Name, ...]
    if_exists: bool
    cascade: bool


@dataclass(frozen=True, slots=True)
class Retain(Statement):
    """ALTER kind name SET | RESET (RETAIN HISTORY); window None resets."""

    kind: str
    name: Name
    window_ms: int | None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Rename(Statement):
    """ALTER kind name RENAME TO | SWAP WITH other."""

    kind: str
    name: Name
    other: str
    swap: bool


@dataclass(frozen=True, slots=True)
class Grant(Statement):
    """GRANT or REVOKE privileges on one kind of objects."""

    revoke: bool
    privileges: tuple[str, ...]
    kind: str
    names: tuple[Name, ...]
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Insert(Statement):
    """INSERT INTO."""

    name: Name
    columns: tuple[str, ...]
    query: Query


@dataclass(frozen=True, slots=True)
class Update(Statement):
    """UPDATE … SET."""

    name: Name
    alias: str | None
    sets: tuple[tuple[str, Expr], ...]
    where: Expr | None


@dataclass(frozen=True, slots=True)
class Delete(Statement):
    """DELETE FROM."""

    name: Name
    alias: str | None
    where: Expr | None


@dataclass(frozen=True, slots=True)
class Discard(Statement):
    """DISCARD, DEALLOCATE: nothing to do but to answer with a tag."""

    tag: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """One statement, its text, and how many parameters it has."""

    statement: Statement
    text: str
    params: int = field(default=0)
