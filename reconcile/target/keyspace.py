"""Names in Redis, and which keys are ours.

All state keys of a view share the hash tag {view}: one slot of a cluster. Its fences (cluster_fence.py) are elsewhere.
Owned keys, in this order: those under key_prefix; all of a dedicated database; else the keys this view wrote, which
are then remembered in REMEMBERED_GROUPS sets beside the state (costs memory; prefix and `dedicated` do not).
"""

from __future__ import annotations

import contextlib
import re
from binascii import crc32
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Literal

from reconcile.errors import ReconcileError, Unavailable
from reconcile.target.connection import Command, Wire, checked

STATE_PREFIX = b"reconcile:{"
REMEMBERED_GROUPS = 256
SCAN_COUNT = 1000
NAMES_COUNT = 4000
"""Keys per page with and without their values: Redis answers nobody else for one or two milliseconds."""

Ownership = Literal["prefix", "dedicated", "remembered"]

Page = list[tuple[bytes, bytes | None]]
"""Owned keys with their values; None: not a string, or gone since."""


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The keys of one view in one Redis database."""

    view: str
    prefix: bytes
    dedicated: bool
    mz_timestamp_key: bytes | None = None

    def _name(self, what: str) -> bytes:
        return STATE_PREFIX + self.view.encode() + b"}:" + what.encode()

    @property
    def state(self) -> bytes:
        return self._name("state")

    @property
    def manifest(self) -> bytes:
        return self._name("manifest")

    @property
    def fingerprints(self) -> bytes:
        return self._name("fingerprints")

    @property
    def lease(self) -> bytes:
        return self._name("lease")

    @property
    def token(self) -> bytes:
        return self._name("token")

    @property
    def audit(self) -> bytes:
        return self._name("audit")

    @property
    def fences(self) -> bytes:
        """In a cluster: which fences there are, and what was last written under each."""
        return self._name("fences")

    def fence(self, tag: bytes) -> bytes:
        """In a cluster: the fence in the slot of this hash tag."""
        return STATE_PREFIX + tag + b"}:fence:" + self.view.encode()

    def is_state(self, key: object) -> bool:
        """Whether a key lies in the slot of the state, as one of ours."""
        return isinstance(key, bytes) and key.startswith(self._name(""))

    def remembered(self, key: bytes) -> bytes:
        """The set that remembers this key as ours."""
        return self._name(f"keys:{crc32(key) % REMEMBERED_GROUPS}")

    @property
    def remembered_sets(self) -> list[bytes]:
        return [self._name(f"keys:{group}") for group in range(REMEMBERED_GROUPS)]

    @property
    def ownership(self) -> Ownership:
        if self.prefix:
            return "prefix"
        return "dedicated" if self.dedicated else "remembered"

    def owns(self, key: bytes) -> bool:
        """Whether a key found in Redis is ours by its name (prefix or dedicated database)."""
        return key.startswith(self.prefix) and not key.startswith(STATE_PREFIX) and key != self.mz_timestamp_key

    @property
    def alone(self) -> bool:
        """Whether every key under the prefix is ours: no name of our own state can begin with it."""
        own = self.prefix.startswith(STATE_PREFIX) or STATE_PREFIX.startswith(self.prefix)
        return not own and not (self.mz_timestamp_key or b"").startswith(self.prefix)

    def conflicts(self, key: bytes) -> bool:
        """Whether a key of the view has the name of one of our own state keys."""
        return key.startswith(STATE_PREFIX) or key == self.mz_timestamp_key


def scan_keys(wire: Wire, keyspace: Keyspace) -> Iterator[list[bytes]]:
    """Owned keys in pages; a key may come twice (Redis' own guarantee), one that comes and goes may be missed."""
    if keyspace.ownership == "remembered":
        yield from _remembered_keys(wire, keyspace)
        return
    server = wire.identity()
    cursor = b"0"
    while True:
        cursor, keys = wire.call(*_scan_command(keyspace, cursor, NAMES_COUNT))
        yield _chosen(keyspace, keys, None)
        if cursor == b"0":
            break
    _check_same_server(wire, server)


def scan_rows(
    wire: Wire, keyspace: Keyspace, wanted: Callable[[bytes], bool] | None = None
) -> Generator[Page, None, None]:
    """Owned (and wanted) keys with their values in pages: MGET of one page travels with SCAN of the next, and Redis
    looks them up while the caller works on the page before. Close it before the wire is used for anything else."""
    if keyspace.ownership == "remembered":
        for page in _remembered_keys(wire, keyspace):
            keys = page if wanted is None else [key for key in page if wanted(key)]
            if keys:
                yield list(zip(keys, wire.call("MGET", *keys), strict=True))
        return
    server = wire.identity()
    cursor, found = wire.call(*_scan_command(keyspace, b"0", SCAN_COUNT))
    keys = _chosen(keyspace, found, wanted)
    under_way = _ask_for_page(wire, keyspace, keys, cursor)
    try:
        while under_way:
            replies, under_way = wire.receive(under_way), 0
            checked(replies)
            rows: Page = list(zip(keys, replies[0], strict=True)) if keys else []
            if cursor != b"0":
                cursor, found = replies[-1]
                keys = _chosen(keyspace, found, wanted)
                under_way = _ask_for_page(wire, keyspace, keys, cursor)
            if rows:
                yield rows
    finally:
        if under_way and not wire.broken:
            with contextlib.suppress(ReconcileError):
                wire.receive(under_way)
    _check_same_server(wire, server)


def _chosen(keyspace: Keyspace, found: list[bytes], wanted: Callable[[bytes], bool] | None) -> list[bytes]:
    prefix = keyspace.prefix
    if keyspace.alone:  # said shortly: this is done for every key of every scan
        ours = [key for key in found if key.startswith(prefix)]
    else:
        ours = [key for key in found if keyspace.owns(key)]
    return ours if wanted is None else [key for key in ours if wanted(key)]


def _ask_for_page(wire: Wire, keyspace: Keyspace, keys: list[bytes], cursor: bytes) -> int:
    """Ask for the values of these keys and for the next keys; how many answers will come."""
    commands: list[Command] = [("MGET", *keys)] if keys else []
    if cursor != b"0":
        commands.append(_scan_command(keyspace, cursor, SCAN_COUNT))
    if commands:
        wire.send(commands)
    return len(commands)


def _scan_command(keyspace: Keyspace, cursor: bytes, count: int) -> Command:
    if keyspace.prefix:
        pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", keyspace.prefix) + b"*"
        return ("SCAN", cursor, "MATCH", pattern, "COUNT", count)
    return ("SCAN", cursor, "COUNT", count)


def _remembered_keys(wire: Wire, keyspace: Keyspace) -> Iterator[list[bytes]]:
    for name in keyspace.remembered_sets:
        cursor = b"0"
        while True:
            cursor, keys = wire.call("SSCAN", name, cursor, "COUNT", SCAN_COUNT)
            if keys:
                yield keys
            if cursor == b"0":
                break


def _check_same_server(wire: Wire, server: bytes) -> None:
    """A SCAN cursor means nothing to another server: half a scan here and half there loses keys without an error."""
    if wire.identity() != server:
        raise Unavailable(
            "Redis was replaced by another server, or slots were moved, during a scan", hint="the next run scans again"
        )
