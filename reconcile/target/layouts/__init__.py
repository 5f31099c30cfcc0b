"""How a row is stored: one module per layout. A new layout takes a module here and a line in `opening.layout_of`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from reconcile.target.packing import Many


class Layout(Protocol):
    """Packs framed values into commands and unpacks what Redis holds, without losing a byte."""

    batch_keys: int
    """The most keys one transaction may have, so that Redis answers other clients within 20 ms."""
    piece_keys: int
    """Keys that Redis stores in about 0.05 ms."""
    verbs: frozenset[str]
    """The names of the commands that `write` returns."""
    one_by_one: bool
    """Whether each key takes commands of its own; otherwise one MGET or MSET takes many."""
    adds: bool
    """Whether the commands of `write` add to what a key holds, and spare none: the caller has to delete the keys in the
    same step, and with only_new to look first."""

    def with_columns(self, columns: Sequence[str]) -> Layout:
        """Return the layout for these value columns, once the query has been described."""
        ...

    def write(self, puts: Mapping[bytes, bytes], *, only_new: bool) -> list[Many]:
        """Return commands that store these rows."""
        ...

    def ask(self, keys: Sequence[bytes]) -> list[Many]:
        """Return commands that read these keys, the same number for each key."""
        ...

    def found(self, keys: Sequence[bytes], replies: Sequence[Any]) -> list[bytes | None]:
        """Return framed values from the replies to `ask`. None: absent, or not something that `write` makes."""
        ...

    def sizes(self, keys: Sequence[bytes]) -> list[Many]:
        """Return commands that give lengths, the same number for each key; their sum is about the size of the value."""
        ...
