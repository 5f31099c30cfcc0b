"""A value as a string, byte for byte, that expires at the time given in its row.

The frame holds the time and the value; Redis keeps both exactly, as long as the key exists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reconcile.core.framing import split_expiry, with_expiry
from reconcile.target.packing import Alike, Command, Many

LATEST_MS = 2**62
"""Redis refuses times of more than 63 bits; no timestamp of Materialize is that late."""


class ExpiringStrings:
    """Rows as strings, written with PXAT."""

    batch_keys = 5_000
    piece_keys = 25
    verbs = frozenset(["SET"])
    one_by_one = True
    adds = False

    def with_columns(self, columns: Sequence[str]) -> ExpiringStrings:
        """Return the same: strings have no column names."""
        return self

    def write(self, puts: Mapping[bytes, bytes], *, only_new: bool) -> list[Many]:
        """Return SET commands, which drop an earlier expiry and overwrite a key of any type."""
        new: Command = ("NX",) if only_new else ()
        commands: list[Many] = []
        for key, framed in puts.items():
            at_ms, value = split_expiry(framed)
            expiry: Command = () if at_ms is None else ("PXAT", clamped(at_ms))
            commands.append(("SET", key, value, *expiry, *new))
        return commands

    def ask(self, keys: Sequence[bytes]) -> list[Many]:
        """Return GET and PEXPIRETIME of each key."""
        return [Alike(list(keys), (("GET",), ("PEXPIRETIME",)))]

    def found(self, keys: Sequence[bytes], replies: Sequence[Any]) -> list[bytes | None]:
        """See Layout. A key of another type replies with an error, so it is None."""
        return [with_time(value, at) for value, at in zip(replies[::2], replies[1::2], strict=True)]

    def sizes(self, keys: Sequence[bytes]) -> list[Many]:
        """Return STRLEN of each key."""
        return [Alike(list(keys), (("STRLEN",),))]


def clamped(at_ms: int) -> int:
    """Return the time in milliseconds, as Redis accepts it. Times before 1970 have expired anyway."""
    return max(1, min(at_ms, LATEST_MS))


def with_time(value: Any, at_ms: Any) -> bytes | None:
    """Return a frame from a value and the reply to PEXPIRETIME: −1 is never, −2 means that the key has gone."""
    if not isinstance(value, bytes) or not isinstance(at_ms, int) or at_ms < -1:
        return None
    return with_expiry(value, None if at_ms == -1 else at_ms)
