"""Read what status, doctor and explain need beyond a view's own reads, for all views over one connection.

It only reads. Commands that have to be tried run on a scratch key, in one transaction that also deletes it.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from redis.exceptions import NoPermissionError, RedisError

from reconcile.config.settings import RedisSettings
from reconcile.core.ownership import Range
from reconcile.core.slots import tags_for
from reconcile.core.state import State
from reconcile.errors import AccessError, ReconcileError
from reconcile.stop import Stop
from reconcile.target import stored
from reconcile.target.claims import overwritten
from reconcile.target.fences import try_script
from reconcile.target.lease import LONGEST_MS, division_of
from reconcile.target.names import ANY_STATE, CLAIMS, Names, tag_of_state
from reconcile.target.nodes import guarded
from reconcile.target.opening import open_nodes
from reconcile.target.packing import Command
from reconcile.target.primaries import Primaries
from reconcile.target.reader import scan
from reconcile.target.translation import MAX_TEXT, checked, of_another_type, translate
from reconcile.target.wire import Wire

SCRATCH_MS = 10_000
SCAN_COUNT = 4000
MAX_CLAIMS = 100_000
TRIES_PER_NODE = 100
DISPENSABLE: tuple[Command, ...] = (("INFO", "server"), ("DBSIZE",))
"""Runs only take hints from these."""

Info = dict[str, str]
"""INFO of one server; empty if it is refused. Managed services leave fields out, so none can be relied on."""


class Standing(Struct, frozen=True):
    """What Redis holds about one view. audit: the fields that audits left, not decoded yet."""

    state: State | None
    holder: tuple[str, int] | None
    """The lease's (owner, milliseconds left). Anybody who can write to Redis chooses the name, so escape it."""
    audit: dict[str, str]
    error: ReconcileError | None = None
    """Why the state cannot be read: it is corrupt, or of a newer format."""


class KeyFacts(Struct, frozen=True):
    """One key in Redis. kind: its type, 'none' when absent. ttl_ms None: it does not expire."""

    kind: str
    ttl_ms: int | None
    idle_s: int | None
    """Seconds since it was last read or written; None: Redis does not say."""
    bytes: int | None
    """Memory it takes; None: Redis does not say."""


class Refused(Struct, frozen=True):
    """What the ACL denies. commands: by name. keys: whether keys in the view's range may not be read or written."""

    commands: tuple[str, ...]
    keys: bool
    tried: int
    """How many commands were tried."""
    missed: tuple[str, ...] = ()
    """Commands that are refused or unknown, and that runs can do without."""
    where: str = ""
    """The node that denies it, in a cluster."""


class Survey:
    """Reads one Redis, or the primaries of a cluster. Made by `open_survey`."""

    def __init__(self, settings: RedisSettings, stop: Stop) -> None:
        self._nodes = open_nodes(settings, stop)
        self.cluster = settings.cluster
        self._closing = contextlib.ExitStack()
        self._closing.enter_context(guarded(self._nodes, stop))

    def close(self) -> None:
        """Close all connections."""
        self._closing.close()
        for wire in self._nodes.opened():
            wire.close()

    def _home(self, names: Names) -> Wire:
        return self._nodes.wire(self._nodes.owner_of(names.state))

    # -- servers -------------------------------------------------------------------------------------------------

    def info(self) -> list[Info]:
        """Return INFO of every node."""
        return [_parsed(self._wire(node).send([("INFO",)]).replies()[0]) for node in range(self._nodes.count)]

    def _wire(self, node: int) -> Wire:
        return self._nodes.wire(node)

    def check_whole(self) -> None:
        """Raise Unavailable while slots of the cluster move."""
        self._nodes.identity()

    def now_ms(self) -> int:
        """Return Redis' TIME, in milliseconds."""
        seconds, microseconds = self._wire(0).call("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    # -- views ---------------------------------------------------------------------------------------------------

    def divisions(self, views: Sequence[Names]) -> list[int]:
        """Return the number of shards each view is cut into. Raises StateError."""
        tickets = [self._home(names).send([("GET", names.shards)]) for names in views]
        replies = [ticket.replies()[0] for ticket in tickets]
        return [division_of(reply, names.view) for names, reply in zip(views, replies, strict=True)]

    def standings(self, views: Sequence[Names]) -> list[Standing]:
        """Return what is stored of each view, in one round trip per node."""
        tickets = [
            self._home(names).send(
                [
                    ("HGETALL", names.state),
                    ("GET", names.lease),
                    ("PTTL", names.lease),
                    ("HGETALL", names.audit),
                ]
            )
            for names in views
        ]
        return [_standing(names, ticket.replies()) for names, ticket in zip(views, tickets, strict=True)]

    def claims(self) -> dict[str, str] | None:
        """Return tag → range as stored, of every view in the database; None if the user may not read claims."""
        wire = self._nodes.wire(self._nodes.owner_of(CLAIMS))
        (reply,) = wire.send([("HGETALL", CLAIMS)]).replies()
        if isinstance(reply, NoPermissionError):
            return None
        if of_another_type(reply):
            raise overwritten()
        (found,) = checked([reply])
        return _fields(found[: 2 * MAX_CLAIMS])

    def states(self) -> set[str]:
        """Return tags of the views that have a state. Scans the whole database."""
        found: set[str] = set()
        for node in range(self._nodes.count):
            for page in scan(self._wire(node), ANY_STATE, SCAN_COUNT):
                found |= {tag for key in page if (tag := tag_of_state(key)) is not None}
        return found

    # -- keys ----------------------------------------------------------------------------------------------------

    def key(self, key: bytes) -> KeyFacts:
        """Return facts about one key. Call it before reading the key, which would reset its idle time."""
        wire = self._nodes.wire(self._nodes.owner_of(key))
        idle, kind, ttl_ms, size = wire.send(
            [("OBJECT", "IDLETIME", key), ("TYPE", key), ("PTTL", key), ("MEMORY", "USAGE", key)]
        ).replies()
        kind, ttl_ms = checked([kind, ttl_ms])
        return KeyFacts(
            kind=kind.decode(),
            ttl_ms=ttl_ms if ttl_ms >= 0 else None,
            idle_s=idle if isinstance(idle, int) else None,
            bytes=size if isinstance(size, int) else None,
        )

    def expiring(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return the keys that have a TTL."""
        return [key for key, ttl_ms in self._asked(keys, lambda key: ("PTTL", key)) if checked([ttl_ms])[0] >= 0]

    def fields_expiring(self, keys: Sequence[bytes], fields: Sequence[str]) -> list[bytes]:
        """Return the hashes of which a field has a TTL; none where the server has no such TTLs, or may not tell."""
        asked = self._asked(keys, lambda key: ("HPTTL", key, "FIELDS", len(fields), *fields))
        return [key for key, ttls_ms in asked if isinstance(ttls_ms, list) and max(ttls_ms) >= 0]

    def _asked(self, keys: Sequence[bytes], command: Callable[[bytes], Command]) -> list[tuple[bytes, Any]]:
        """Return each key with the reply to a command about it, or the error."""
        by_node: dict[int, list[bytes]] = {}
        for key in keys:
            by_node.setdefault(self._nodes.owner_of(key), []).append(key)
        tickets = [(some, self._wire(node).send([command(key) for key in some])) for node, some in by_node.items()]
        return [pair for some, ticket in tickets for pair in zip(some, ticket.replies(), strict=True)]

    def text(self, key: bytes) -> bytes | ReconcileError | None:
        """Return a key's string; None: absent; the translated error if it is no string or may not be read."""
        (reply,) = self._nodes.wire(self._nodes.owner_of(key)).send([("GET", key)]).replies()
        return translate(reply) if isinstance(reply, RedisError) else reply

    # -- rights --------------------------------------------------------------------------------------------------

    def refused(self, names: Names, owned: Range, *, hashes: bool, expiring: bool) -> Refused:
        """Try every command that runs send, on every node. hashes, expiring: also those for hashes, and for keys that
        expire.

        Raises the translated error when a command fails for another reason than a missing right.
        """
        found = Refused((), False, 0)
        scratch = names.state.removesuffix(b"state") + b"doctor"
        for node, key in self._scratch_keys(names, scratch).items():
            found = self._refused_by(self._wire(node), key, hashes=hashes, expiring=expiring)
            if found.commands:
                return self._of_node(found, node)
        if isinstance(self._nodes, Primaries):  # data is written by scripts, which some services refuse
            try_script(self._nodes, names)
        for node, absent in self._absent_keys(owned).items():
            if self._keys_refused(self._wire(node), absent):
                return self._of_node(replace(found, keys=True), node)
        return found

    def _scratch_keys(self, names: Names, scratch: bytes) -> dict[int, bytes]:
        """Return node → a scratch key that it serves: `scratch`, and on other nodes one beside their fence."""
        found = {self._nodes.owner_of(scratch): scratch}
        if isinstance(self._nodes, Primaries):
            others = set(range(self._nodes.count)) - found.keys()
            found |= {node: names.fence(tag) + b":doctor" for node, tag in tags_for(self._nodes.slots, others)}
        return found

    def _absent_keys(self, owned: Range) -> dict[int, bytes]:
        """Return node → a key of the range that nobody has. Where the prefix has a hash tag, one node has all keys."""
        found: dict[int, bytes] = {}
        for _ in range(TRIES_PER_NODE * self._nodes.count):
            absent = owned.prefix + b"reconcile-doctor-" + secrets.token_hex(8).encode()
            found.setdefault(self._nodes.owner_of(absent), absent)
            if len(found) == self._nodes.count:
                break
        return found

    def _of_node(self, found: Refused, node: int) -> Refused:
        return replace(found, where=self._nodes.slots.address(node)) if isinstance(self._nodes, Primaries) else found

    def _refused_by(self, wire: Wire, scratch: bytes, *, hashes: bool, expiring: bool) -> Refused:
        tried, outside = _scratch_commands(scratch, hashes=hashes, expiring=expiring), _harmless_commands(scratch)
        if self.cluster:
            tried.append(("EVAL", "return redis.call('HMGET', KEYS[1], 'token', 'mark')", 1, scratch))
        if wire is self._nodes.wire(self._nodes.owner_of(CLAIMS)):
            outside.append(("HGETALL", CLAIMS))
        needed = [("MULTI",), *tried, ("EXEC",), *outside]
        replies = wire.send([*needed, *DISPENSABLE]).replies()
        answers = zip(needed, replies[: len(needed)], strict=True)
        errors = {str(command[0]): reply for command, reply in answers if isinstance(reply, RedisError)}
        denied = tuple(name for name, error in errors.items() if _is_denied(error))
        count = len({command[0] for command in needed})
        if not denied:
            for error in errors.values():
                raise translate(error)
        spared = zip(DISPENSABLE, replies[-len(DISPENSABLE) :], strict=True)
        missed = tuple(str(command[0]) for command, reply in spared if isinstance(reply, RedisError))
        return Refused(denied, False, count, missed)

    def _keys_refused(self, wire: Wire, absent: bytes) -> bool:
        # SET … XX writes only to a key that exists, which this one does not.
        replies = wire.send([("GET", absent), ("SET", absent, "", "XX"), ("UNLINK", absent)]).replies()
        errors = [reply for reply in replies if isinstance(reply, RedisError)]
        if any(_is_denied(error) for error in errors):
            return True
        for error in errors:
            raise translate(error)
        return False


def open_survey(settings: RedisSettings, stop: Stop) -> Survey:
    """Connect; the caller closes it. Raises AccessError, Unavailable, UsageError."""
    return Survey(settings, stop)


def _parsed(reply: Any) -> Info:
    if not isinstance(reply, bytes):
        return {}
    lines = reply.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def _standing(names: Names, replies: Sequence[Any]) -> Standing:
    fields, owner, left_ms, audit = replies
    holder = None
    if isinstance(owner, bytes) and isinstance(left_ms, int) and 0 <= left_ms <= LONGEST_MS:
        holder = (owner.decode("utf-8", "replace")[:MAX_TEXT], left_ms)
    known, error = None, None
    try:
        known = stored.decoded(fields, names.view)
    except AccessError:
        raise
    except ReconcileError as found:
        error = found
    return Standing(known, holder, _fields(audit), error)


def _fields(reply: Any) -> dict[str, str]:
    """Return the fields of a hash; empty if the key holds something else."""
    if not isinstance(reply, list):
        return {}
    texts = [part.decode("utf-8", "replace") for part in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _is_denied(error: RedisError) -> bool:
    text = str(error)
    return isinstance(error, NoPermissionError) or text.upper().startswith("NOPERM") or "has no permissions" in text


def _scratch_commands(key: bytes, *, hashes: bool, expiring: bool) -> list[Command]:
    """Return the commands that runs send, all on the scratch key, which the last one deletes."""
    strings: list[Command] = [("SET", key, "1", "PX", SCRATCH_MS), ("SETRANGE", key, 0, "1"), ("INCR", key)]
    strings += [("GETRANGE", key, 0, 1), ("MSETNX", key, "1"), ("MSET", key, "1"), ("PEXPIRE", key, SCRATCH_MS)]
    strings += [(name, key) for name in ("GET", "MGET", "STRLEN", "EXISTS", "PTTL", "TYPE", "UNLINK")]
    if expiring:
        strings += [("PEXPIRETIME", key)]
    state: list[Command] = [("HSET", key, "f", "1"), ("HGET", key, "f"), ("HMGET", key, "f"), ("HGETALL", key)]
    if hashes:
        state += [("HLEN", key), ("HSTRLEN", key, "f")]
        state += [("PEXPIREAT", key, 1 << 42)] if expiring else []  # a string gets its expiry with SET
    sets: list[Command] = [("SADD", key, "m"), ("SMISMEMBER", key, "m"), ("SSCAN", key, 0), ("SREM", key, "m")]
    return [*strings, *state, ("DEL", key), *sets, ("DEL", key)]


def _harmless_commands(key: bytes) -> list[Command]:
    """Return commands that cannot be tried inside a transaction."""
    return [("SCAN", 0, "COUNT", 1), ("TIME",), ("WATCH", key), ("UNWATCH",)]
