"""What a query becomes: engine SQL with columns, and what is known about its shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reconcile_standin.problem import SqlError

if TYPE_CHECKING:
    from reconcile_standin.catalog import Item
    from reconcile_standin.typed import Hash, Modulo, Typed, Vector
    from reconcile_standin.types import Type

# Stands for the table where an expression is known by its SQL, whatever alias the query used.
ALIAS = "ŧ"
# Not a hash: whether a row satisfies a condition, kept in the same way.
FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a result."""

    name: str
    type: Type


@dataclass(frozen=True, slots=True)
class Linear:
    """Projection and filter of one table's rows: each row stands for itself, at any time."""

    table: Item
    alias: str
    exprs: tuple[Typed, ...]
    where: tuple[Typed, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """kind: key, count, sum (of a hash)."""

    kind: str
    of: Hash | Modulo | None
    decimal: bool = False


@dataclass(frozen=True, slots=True)
class Grouped:
    """count and sum of hashes of a linear query's rows per one hashed key: fingerprints per bucket."""

    source: Linear
    key: Hash | Modulo
    outputs: tuple[Output, ...]
    order: tuple[tuple[int, bool, bool], ...] = ()
    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A view whose groups are maintained: it is stored, or indexed where it is read. sums: all it has."""

    item: Item
    sums: tuple[Hash | Modulo, ...]


@dataclass(frozen=True, slots=True)
class Definition:
    """What decides the groups of a maintained view; the table's alias is ALIAS."""

    flag: Hash | None
    picks: tuple[Vector, ...]
    key: Modulo
    sums: tuple[Hash | Modulo, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A query's columns (c0, c1, … in the engine's SQL), the SQL, and its shape if it is a simple one."""

    columns: tuple[Column, ...]
    sql: str
    linear: Linear | None = None
    grouped: Grouped | None = None
    ordered: bool = False


@dataclass
class Facts:
    """What was learnt while a query was analysed. groups: the grouped queries in it, by their SQL."""

    reads: list[Item] = field(default_factory=list)
    inputs: list[Item] = field(default_factory=list)
    tables: set[str] = field(default_factory=set)
    refs: dict[str, str] = field(default_factory=dict)
    groups: dict[str, Grouped] = field(default_factory=dict)
    catalog: bool = False
    temporal: bool = False
    impure: int = 0
    momentary: str | None = None
    """A function of the session or of the moment."""

    def check_maintainable(self) -> None:
        """Refuse what a dataflow cannot keep up to date."""
        if self.momentary is not None:
            raise SqlError(f"cannot materialize call to {self.momentary}", "0A000")


@dataclass(frozen=True, slots=True)
class Plan:
    """A query ready to run at any time t (`:t` in its SQL)."""

    relation: Relation
    facts: Facts

    @property
    def columns(self) -> tuple[Column, ...]:
        """The result's columns."""
        return self.relation.columns

    @property
    def timeless(self) -> bool:
        """Whether the content can never change: no table, no catalog."""
        return not self.facts.tables and not self.facts.catalog and not self.facts.temporal
