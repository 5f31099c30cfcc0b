"""Build Redis keys from one or several columns, so that no two rows share a key.

    user:{tenant}:{id}    prefix 'user:', columns (tenant, id), literals (':', '')

In every column but the last, '%' and the first character of the literal that follows are escaped (%25, %3A): the
literal then ends the column at its first occurrence. In the last column, and in a single one, nothing is escaped. The
source does the same in SQL (reconcile.source.query).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct


class KeyShape(Struct, frozen=True):
    """A Redis key made of columns: prefix + column 0 + literal 0 + column 1 + literal 1 … Raises ValueError.

    prefix: constant text in front. If empty, keys cannot be recognised by name: the view then owns only the keys
    it remembers having written (or the whole database, if dedicated).
    """

    prefix: str
    columns: tuple[str, ...]
    literals: tuple[str, ...]
    """The text after each column."""

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError("names no column")
        if len(self.literals) != len(self.columns):
            raise ValueError("does not say what follows each column")
        for column in self.columns:
            if self.columns.count(column) > 1:
                raise ValueError(f"names column {column!r} twice")
        for column, literal in zip(self.columns[:-1], self.literals[:-1], strict=True):
            if not literal:
                raise ValueError(f"has nothing between column {column!r} and the next: two rows could meet in one key")
            if literal[0].isalnum() or literal[0] == "%":
                raise ValueError(
                    f"has {literal!r} after column {column!r}: what separates columns must not begin with a letter, "
                    "a digit or %"
                )

    @property
    def escapes(self) -> tuple[tuple[tuple[str, str], ...], ...]:
        """For each column, the replacements to make in it, in order."""
        some = [(("%", "%25"), (literal[0], _encoded(literal[0]))) for literal in self.literals[:-1]]
        return (*some, ())

    def key(self, values: Sequence[bytes]) -> bytes:
        """Return the Redis key of a row, given the text of its key columns."""
        key = [self.prefix.encode()]
        for value, escapes, literal in zip(values, self.escapes, self.literals, strict=True):
            for plain, escaped in escapes:
                value = value.replace(plain.encode(), escaped.encode())
            key += [value, literal.encode()]
        return b"".join(key)

    def values(self, key: bytes) -> tuple[bytes, ...] | None:
        """Return the columns a Redis key was made of; None for a key that no row can have."""
        prefix, suffix = self.prefix.encode(), self.literals[-1].encode()
        if not key.startswith(prefix) or not key.endswith(suffix) or len(key) < len(prefix) + len(suffix):
            return None
        rest = key[len(prefix) : len(key) - len(suffix)]
        found = []
        for literal, escapes in zip(self.literals[:-1], self.escapes[:-1], strict=True):
            value, separator, rest = rest.partition(literal.encode())
            if not separator:
                return None
            for plain, escaped in reversed(escapes):
                value = value.replace(escaped.encode(), plain.encode())
            found.append(value)
        values = (*found, rest)
        return values if self.key(values) == key else None


def _encoded(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())
