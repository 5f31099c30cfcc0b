"""The range of keys a view claims, and when two ranges overlap (docs/operations.md, Claims)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from reconcile.errors import SafetyStop

Ownership = Literal["prefix", "dedicated", "remembered"]

STATE_PREFIX = b"reconcile:{"
"""Prefix of all keys that reconcile keeps for itself; no view may write such a key."""


class Range(Struct, frozen=True):
    """The keys a view may write: those under a prefix, a whole database, or remembered ones.

    timestamp_key: mz-redis-sync's timestamp key, a range of one key beside it.
    """

    ownership: Ownership
    prefix: bytes = b""
    timestamp_key: bytes = b""

    def owns(self, key: bytes) -> bool:
        """Whether a key found in Redis is in the range, by its name, which says nothing about remembered keys."""
        return key.startswith(self.prefix) and not self.refuses(key)

    @property
    def prefix_suffices(self) -> bool:
        """Whether every key under the prefix is the view's, that is, none can be one of reconcile's own."""
        ours = self.prefix.startswith(STATE_PREFIX) or STATE_PREFIX.startswith(self.prefix)
        return not ours and not (self.timestamp_key or b"\0").startswith(self.prefix)

    def refuses(self, key: bytes) -> bool:
        """Whether a row with this key must not be written because it is one of reconcile's own names."""
        return key.startswith(STATE_PREFIX) or (bool(self.timestamp_key) and key == self.timestamp_key)

    def encode(self) -> str:
        """Return the stored form (claims hash, state): ownership, then prefix and timestamp key in hexadecimal."""
        return f"{self.ownership} {self.prefix.hex()} {self.timestamp_key.hex()}"

    @classmethod
    def decode(cls, text: str) -> Range:
        """Raises ValueError."""
        ownership, prefix, timestamp_key = text.split(" ")
        if ownership not in ("prefix", "dedicated", "remembered"):
            raise ValueError("ownership")
        return cls(ownership, bytes.fromhex(prefix), bytes.fromhex(timestamp_key))  # type: ignore[arg-type]

    def __str__(self) -> str:
        """For people."""
        if self.ownership == "dedicated":
            return "all of the database (redis.dedicated)"
        if self.ownership == "remembered":
            return "the keys it has written (no prefix)"
        return f"the prefix {self.prefix.decode('utf-8', 'backslashreplace')!r}"


def overlap(ours: Range, theirs: Range) -> bool:
    """Whether one key could belong to both. Two views that remember their keys may share a database."""
    if _reaches_for(ours, theirs.timestamp_key) or _reaches_for(theirs, ours.timestamp_key):
        return True
    kinds = {ours.ownership, theirs.ownership}
    if "dedicated" in kinds:
        return True
    if kinds == {"prefix"}:
        return ours.prefix.startswith(theirs.prefix) or theirs.prefix.startswith(ours.prefix)
    return False


def _reaches_for(one: Range, timestamp_key: bytes) -> bool:
    """Whether a range, or its timestamp key, covers another view's timestamp key."""
    by_name = one.ownership == "prefix" and timestamp_key.startswith(one.prefix)
    return bool(timestamp_key) and (by_name or timestamp_key == one.timestamp_key)


def owner_of(key: bytes, claims: Mapping[str, Range]) -> str | None:
    """Return the view whose range contains this key by name, longest prefix first; None: none, or it is remembered."""
    by_name = ((tag, one) for tag, one in claims.items() if one.ownership != "remembered")
    owning = [(len(one.prefix), tag) for tag, one in by_name if one.owns(key)]
    return max(owning)[1] if owning else None


def drop_command(tag: str, ours: str) -> str:
    """Return the command that forgets the view with this tag, given a configuration in the namespace of tag `ours`."""
    import shlex  # only somebody who reads the command needs it

    namespace, _, view = tag.rpartition(".")
    command = f"reconcile drop {shlex.quote(_unescaped(view))}"
    if namespace == ours.rpartition(".")[0]:
        return command
    if not namespace:
        return f"{command} --config <a configuration without redis.namespace>"
    return f"RECONCILE_REDIS__NAMESPACE={shlex.quote(_unescaped(namespace))} {command}"


def _unescaped(name: str) -> str:
    """Return a part of a tag as it was configured (target/names.py)."""
    return re.sub("%([0-9A-F]{2})", _character, name)


def _character(escaped: re.Match[str]) -> str:
    return chr(int(escaped[1], 16))


def contradiction(view: str, ours: Range, claims: Mapping[str, Range]) -> SafetyStop | None:
    """Return the error for a claim that conflicts with existing ones.

    claims: view → range for all views in the database, this one included if it has claimed before.
    """
    own = claims.get(view)
    if own is not None and own != ours and own.ownership != "remembered":
        return SafetyStop(
            f"view {view} has claimed {own}, and is now configured for {ours}: keys are not moved",
            hint=f"give it a new name, then: {drop_command(view, view)} --keys; or restore the old range",
        )
    for other, theirs in sorted(claims.items()):
        if other != view and overlap(ours, theirs):
            return SafetyStop(
                f"views {view} and {other} would write the same keys: {view} claims {ours}, {other} has {theirs}",
                hint=f"give each a prefix of its own; if {other} is no longer used: {drop_command(other, view)}",
            )
    return None
