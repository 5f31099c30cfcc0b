"""State, manifest and fingerprints of a view: reading them, and the commands that write them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from reconcile.core import digest, state
from reconcile.core.digest import RECORD_BYTES
from reconcile.core.state import Pending, State
from reconcile.core.times import frontier_after
from reconcile.target.connection import Command, Wire, checked, translate
from reconcile.target.keyspace import Keyspace

REWRITE_FRACTION = 8
"""When more than one bucket in so many is wanted or changed, the whole manifest is read or written at once."""


@dataclass(slots=True)
class Stored:
    """What Redis held at the start of a run.

    manifest_bytes: length of the stored manifest.
    fingerprints: UNKNOWN where nothing is known; None when there are none, or their number does not fit.
    legacy_frontier: what mz-redis-sync left in its timestamp key.
    """

    state: State | None
    manifest_bytes: int
    fingerprints: list[int] | None
    legacy_frontier: bytes | None = None

    @property
    def has_manifest(self) -> bool:
        """Whether there is a manifest that can be the state's."""
        known = self.state
        return known is not None and known.as_of is not None and self.manifest_bytes == known.buckets * RECORD_BYTES


def read_state(wire: Wire, keyspace: Keyspace) -> State | None:
    """The state alone. Raises StateError."""
    (reply,) = wire.pipeline([("HGETALL", keyspace.state)])
    return state.decode(_fields(reply, keyspace.view), keyspace.view)


def read_stored(wire: Wire, keyspace: Keyspace) -> Stored:
    """State and fingerprints as one consistent set. Raises StateError."""
    replies = wire.pipeline(
        [
            ("MULTI",),
            ("HGETALL", keyspace.state),
            ("STRLEN", keyspace.manifest),
            ("GET", keyspace.fingerprints),
            ("EXEC",),
            *([("GET", keyspace.mz_timestamp_key)] if keyspace.mz_timestamp_key else []),
        ]
    )
    (fields, manifest_bytes, fingerprints), *rest = [*checked(replies[:5])[4:], *replies[5:]]
    known = state.decode(_fields(fields, keyspace.view), keyspace.view)
    legacy = next((reply for reply in rest if isinstance(reply, bytes)), None)
    if known is None:
        return Stored(None, 0, None, legacy)
    length = 0 if isinstance(manifest_bytes, RedisError) else manifest_bytes
    return Stored(known, length, _fingerprints(known, fingerprints), legacy)


def _fields(reply: list[bytes] | RedisError, view: str) -> dict[str, str]:
    if isinstance(reply, RedisError):
        if str(reply).startswith("WRONGTYPE"):
            raise state.corrupt(view, "it is not a hash")
        raise translate(reply)
    texts = [part.decode("utf-8", "replace") for part in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _fingerprints(known: State, stored: bytes | RedisError | None) -> list[int] | None:
    if not isinstance(stored, bytes) or len(stored) != known.buckets * digest.FINGERPRINT_BYTES:
        return None
    return digest.decode_fingerprints(stored)


class Manifest:
    """The stored manifest, read bucket by bucket or whole, and what a run makes of it.

    `total` is the digest over all buckets as the state has it; a manifest read whole must add up to it.
    """

    def __init__(self, wire: Wire, keyspace: Keyspace, known: State) -> None:
        self._wire = wire
        self._keyspace = keyspace
        self.buckets = known.buckets
        self._digests: dict[int, int] = {}
        self._whole = False
        self.total = digest.added(int(known.digest, 16)) if known.digest else 0

    def read(self, wanted: Iterable[int]) -> dict[int, int] | None:
        """Digests (added-up form) of the wanted buckets at least; None when what is stored cannot be trusted."""
        missing = [bucket for bucket in wanted if bucket not in self._digests]
        if len(missing) * REWRITE_FRACTION > self.buckets:
            return self._digests if self._read_whole() else None
        commands: list[Command] = [
            ("GETRANGE", self._keyspace.manifest, b * RECORD_BYTES, (b + 1) * RECORD_BYTES - 1) for b in missing
        ]
        replies = self._wire.pipeline(commands) if commands else []
        for bucket, reply in zip(missing, replies, strict=True):
            if not isinstance(reply, bytes) or len(reply) != RECORD_BYTES:
                return None
            (self._digests[bucket],) = digest.decode_manifest(reply)
        return self._digests

    def _read_whole(self) -> bool:
        (reply,) = self._wire.pipeline([("GET", self._keyspace.manifest)])
        if not isinstance(reply, bytes) or len(reply) != self.buckets * RECORD_BYTES:
            return False
        stored = digest.decode_manifest(reply)
        # Buckets this run has changed and written already are in what was just read.
        self._digests = dict(enumerate(stored))
        self._whole = digest.normal(sum(stored)) == digest.normal(self.total)
        return self._whole

    def change(self, changed: Mapping[int, int]) -> list[Command]:
        """Set the changed buckets to new digests (added-up form); the commands that store them, as absolute values:
        a repeated transaction must change nothing. The buckets must have been read before."""
        for bucket, new in changed.items():
            self.total += new - self._digests[bucket]
            self._digests[bucket] = new
        name = self._keyspace.manifest
        if self._whole and len(changed) * REWRITE_FRACTION > self.buckets:
            return [("SET", name, digest.encode_manifest(self._digests[b] for b in range(self.buckets)))]
        return [("SETRANGE", name, b * RECORD_BYTES, digest.encode_manifest([changed[b]])) for b in sorted(changed)]

    @property
    def keys(self) -> int:
        """Keys over all buckets."""
        return digest.count(self.total)

    @property
    def stored_total(self) -> str:
        """`total` as the state stores it."""
        return total_text(self.total)


def total_text(total: int) -> str:
    """A digest as the state stores it: 32 hexadecimal digits of its normal form."""
    return f"{digest.normal(total):032x}"


def now_ms() -> int:
    """Wall clock in milliseconds, for people; no decision about data rests on it."""
    return time.time_ns() // 1_000_000


def write_state(keyspace: Keyspace, new: State) -> list[Command]:
    """Commands that make `new` the state, mz-redis-sync's timestamp key included."""
    fields: list[Any] = [part for pair in state.encode(new).items() for part in pair]
    commands: list[Command] = []
    if keyspace.mz_timestamp_key and new.as_of is not None and new.pending is None:
        commands.append(("SET", keyspace.mz_timestamp_key, frontier_after(new.as_of)))
    return [*commands, ("HSET", keyspace.state, *fields)]


def write_manifest(keyspace: Keyspace, digests: list[int]) -> list[Command]:
    """The whole manifest."""
    return [("SET", keyspace.manifest, digest.encode_manifest(digests))]


def marked(base: State, pending: Pending) -> State:
    """The same state while a larger change is being applied."""
    return dataclasses.replace(base, pending=pending, updated_at_ms=now_ms())


def write_fingerprints(keyspace: Keyspace, fingerprints: list[int] | None) -> list[Command]:
    """All fingerprints; None: nothing is known of any bucket."""
    if fingerprints is None:
        return [("DEL", keyspace.fingerprints)]
    return [("SET", keyspace.fingerprints, digest.encode_fingerprints(fingerprints))]


def clear_fingerprints(keyspace: Keyspace, touched: set[int], buckets: int) -> list[Command]:
    """Forget the touched buckets' fingerprints: their rows have changed since."""
    if len(touched) * REWRITE_FRACTION > buckets:
        return [("DEL", keyspace.fingerprints)]
    unknown = bytes(digest.FINGERPRINT_BYTES)
    return [
        ("SETRANGE", keyspace.fingerprints, bucket * digest.FINGERPRINT_BYTES, unknown) for bucket in sorted(touched)
    ]
