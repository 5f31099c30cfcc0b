"""The syntax tree of statements; with it, that of the expressions and queries in them."""

from __future__ import annotations

from dataclasses import dataclass, field

from reconcile_standin.tree import (
    Between,
    Binary,
    Call,
    Case,
    Cast,
    Column,
    Core,
    Derived,
    Elements,
    Exists,
    Expr,
    Function,
    In,
    Is,
    Item,
    Join,
    Literal,
    OrderItem,
    Param,
    Query,
    SetOperation,
    Source,
    Star,
    Subquery,
    Table,
    Unary,
    Values,
    Window,
)  # fmt: skip

__all__ = (
    "AsOf", "Between", "Binary", "Call", "Case", "Cast", "Close", "Column", "Comment", "Copy", "Core", "CreateIndex",
    "CreateNamed", "CreateTable", "CreateView", "Declare", "Delete", "Derived", "Discard", "Drop", "Elements",
    "Exists", "Explain", "Expr", "Fetch", "Function", "Grant", "In", "Insert", "Is", "Item", "Join", "Literal",
    "Name", "OrderItem", "Param", "Parsed", "Query", "Rename", "Retain", "Scale", "Select", "SetOperation",
    "SetVariable", "Show", "ShowObjects", "Source", "Star", "Statement", "Subquery", "Subscribe", "Table",
    "Transaction", "Unary", "Update", "Values", "Window",
)  # fmt: skip

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
class ExplainPlan(Statement):
    """EXPLAIN OPTIMIZED PLAN."""

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
    not_null: tuple[str, ...]
    if_not_exists: bool
    retain_ms: int | None


@dataclass(frozen=True, slots=True)
class Comment(Statement):
    """COMMENT ON kind name IS text; column for COMMENT ON COLUMN, text None takes it away."""

    name: Name
    column: str | None
    text: str | None


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
    refresh_at: str | None


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
class Scale(Statement):
    """ALTER CLUSTER … SET (REPLICATION FACTOR n)."""

    name: Name
    replicas: int


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
