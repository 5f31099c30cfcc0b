"""A value as a string, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reconcile.target.commands import msets
from reconcile.target.wire import Command


class Strings:
    """Rows as plain strings."""

    batch_keys = 50_000
    one_by_one = False
    new_by_itself = True

    def with_columns(self, columns: Sequence[str]) -> Strings:
        """They have no names here."""
        return self

    def write(self, puts: Mapping[bytes, bytes], *, only_new: bool) -> list[Command]:
        """MSET overwrites a key of any type, and takes its expiry away."""
        return list(msets("MSETNX" if only_new else "MSET", puts))

    def ask(self, keys: Sequence[bytes]) -> list[Command]:
        """In a cluster, where MGET takes keys of one slot only."""
        return [("GET", key) for key in keys]

    def found(self, keys: Sequence[bytes], replies: Sequence[Any]) -> list[bytes | None]:
        """A key of another type answers with an error."""
        return [reply if isinstance(reply, bytes) else None for reply in replies]

    def sizes(self, keys: Sequence[bytes]) -> list[Command]:
        """STRLEN."""
        return [("STRLEN", key) for key in keys]
