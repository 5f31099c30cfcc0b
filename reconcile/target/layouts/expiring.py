"""A value as a string, byte for byte, that expires at the time its row says.

The frame is the time and the value; Redis keeps both exactly, as long as the key is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reconcile.core.framing import split_expiry, with_expiry
from reconcile.target.wire import Command

LATEST_MS = 2**62
"""Redis refuses times of more than 63 bits. No timestamp of Materialize is so late."""


class ExpiringStrings:
    """Rows as strings with PXAT."""

    batch_keys = 5_000
    one_by_one = True
    new_by_itself = True

    def with_columns(self, columns: Sequence[str]) -> ExpiringStrings:
        """They have no names here."""
        return self

    def write(self, puts: Mapping[bytes, bytes], *, only_new: bool) -> list[Command]:
        """SET takes an earlier expiry away, and overwrites a key of any type."""
        new: Command = ("NX",) if only_new else ()
        commands: list[Command] = []
        for key, framed in puts.items():
            at_ms, value = split_expiry(framed)
            expiry: Command = () if at_ms is None else ("PXAT", clamped(at_ms))
            commands.append(("SET", key, value, *expiry, *new))
        return commands

    def ask(self, keys: Sequence[bytes]) -> list[Command]:
        """The value and its time."""
        return [command for key in keys for command in (("GET", key), ("PEXPIRETIME", key))]

    def found(self, keys: Sequence[bytes], replies: Sequence[Any]) -> list[bytes | None]:
        """A key of another type answers with an error."""
        return [with_time(value, at) for value, at in zip(replies[::2], replies[1::2], strict=True)]

    def sizes(self, keys: Sequence[bytes]) -> list[Command]:
        """STRLEN."""
        return [("STRLEN", key) for key in keys]


def clamped(at_ms: int) -> int:
    """A time that Redis takes; what lies before 1970 has expired by any clock."""
    return max(1, min(at_ms, LATEST_MS))


def with_time(value: Any, at_ms: Any) -> bytes | None:
    """The frame of a value and the reply to PEXPIRETIME, which is −1 for never and −2 where the key is gone."""
    if not isinstance(value, bytes) or not isinstance(at_ms, int) or at_ms < -1:
        return None
    return with_expiry(value, None if at_ms == -1 else at_ms)
