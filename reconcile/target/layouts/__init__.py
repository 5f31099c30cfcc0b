"""How a row is stored: one module per layout. A new layout is one file, and its line in `opening.layout_of`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from reconcile.target.wire import Command


class Layout(Protocol):
    """Packs framed values into commands, and unpacks what Redis holds. Both exactly."""

    batch_keys: int
    """Most keys of one transaction, so that Redis answers others within 20 ms."""
    one_by_one: bool
    """Each key takes commands of its own; else one MGET or MSET takes many."""
    new_by_itself: bool
    """`write` with only_new leaves alone what exists, without a look before."""

    def with_columns(self, columns: Sequence[str]) -> Layout:
        """The same for the value columns of a query that has been described."""
        ...

    def write(self, puts: Mapping[bytes, bytes], *, only_new: bool) -> list[Command]:
        """Commands that store these rows."""
        ...

    def ask(self, keys: Sequence[bytes]) -> list[Command]:
        """Commands that read these keys, as many for each key."""
        ...

    def found(self, keys: Sequence[bytes], replies: Sequence[Any]) -> list[bytes | None]:
        """Framed values out of the replies to `ask`; None: nothing there, or nothing that `write` would have made."""
        ...

    def sizes(self, keys: Sequence[bytes]) -> list[Command]:
        """Commands that answer with lengths, as many for each key; their sum is about the size of the value."""
        ...
