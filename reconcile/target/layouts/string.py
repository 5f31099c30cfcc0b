"""A value as a string, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reconcile.target.commands import msets
from reconcile.target.packing import Alike, Many


class Strings:
    """Rows as plain strings."""

    batch_keys = 50_000
    piece_keys = 60
    verbs = frozenset(["MSET", "MSETNX"])
    one_by_one = False
    adds = False

    def with_columns(self, columns: Sequence[str]) -> Strings:
        """Return the same: strings have no column names."""
        return self

    def write(self, puts: Mapping[bytes, bytes], *, only_new: bool) -> list[Many]:
        """Return MSET commands, which overwrite a key of any type and drop its expiry."""
        return list(msets("MSETNX" if only_new else "MSET", puts))

    def ask(self, keys: Sequence[bytes]) -> list[Many]:
        """Return GET of each key; used in a cluster, where MGET takes keys of one slot only."""
        return [Alike(list(keys), (("GET",),))]

    def found(self, keys: Sequence[bytes], replies: Sequence[Any]) -> list[bytes | None]:
        """See Layout. A key of another type replies with an error, so it is None."""
        return [reply if isinstance(reply, bytes) else None for reply in replies]

    def sizes(self, keys: Sequence[bytes]) -> list[Many]:
        """Return STRLEN of each key."""
        return [Alike(list(keys), (("STRLEN",),))]
