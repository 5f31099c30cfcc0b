"""Names in a query: which columns can be seen, and how the engine's SQL reaches them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reconcile_standin.problem import SqlError

if TYPE_CHECKING:
    from reconcile_standin.typed import Typed


@dataclass
class Scope:
    """The columns of a FROM clause, and those of the queries around it."""

    parent: Scope | None = None
    entries: list[tuple[str | None, str, Typed]] = field(default_factory=list)
    merged: set[int] = field(default_factory=set)

    def add(self, alias: str | None, name: str, expr: Typed) -> None:
        """One more column."""
        self.entries.append((alias, name, expr))

    def lookup(self, parts: tuple[str, ...]) -> Typed:
        """A column by name."""
        found = self._find(parts)
        if found is not None:
            return found
        scope = self.parent
        while scope is not None:
            found = scope._find(parts)
            if found is not None:
                return found
            scope = scope.parent
        raise self._missing(parts)

    def _find(self, parts: tuple[str, ...]) -> Typed | None:
        name, alias = parts[-1], parts[-2] if len(parts) > 1 else None
        matches = [
            expr
            for i, (entry_alias, entry_name, expr) in enumerate(self.entries)
            if entry_name == name and (alias == entry_alias or (alias is None and i not in self.merged))
        ]
        if len(matches) > 1:
            raise SqlError(f'column reference "{name}" is ambiguous', "42702")
        return matches[0] if matches else None

    def _missing(self, parts: tuple[str, ...]) -> SqlError:
        shown = ".".join(parts)
        names = [name for _, name, _ in self.entries]
        wanted = parts[-1]
        near = [n for n in names if n in wanted or wanted in n] + difflib.get_close_matches(wanted, names, 3, 0.6)
        hint = None
        if near:
            hint = (
                f'The similarly named column "{near[0]}" does exist. '
                "Make sure to surround case sensitive names in double quotes."
            )
        return SqlError(f'column "{shown}" does not exist', hint=hint)

    def star(self, qualifier: str | None) -> list[tuple[str, Typed]]:
        """What `*` or `q.*` stands for."""
        found = [
            (name, expr)
            for i, (alias, name, expr) in enumerate(self.entries)
            if (qualifier is None and i not in self.merged) or (qualifier is not None and alias == qualifier)
        ]
        if qualifier is not None and not found:
            raise SqlError(f'no table named "{qualifier}" in scope')
        return found
