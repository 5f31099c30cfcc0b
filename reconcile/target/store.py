"""State, manifest and fingerprints of a view: reading them, and the commands that write them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from reconcile.core import digest, state
from reconcile.core.digest import RECORD_BYTES, Fingerprints
from reconcile.core.state import Pending, State
from reconcile.core.times import frontier_after
from reconcile.target.connection import Command, Wire, checked, translate
from reconcile.target.keyspace import Keyspace

REWRITE_FRACTION = 32
"""When more than one bucket in so many is wanted or changed, all records are read or written at once: a command for one
bucket costs both sides as much as the records of some hundred."""


@dataclass(slots=True)
class Stored:
    """What Redis holds beside the data, as of the start of a run and kept up to date by it.

    manifest_bytes: length of the stored manifest.
    fingerprints: UNKNOWN where nothing is known; None when there are none, or their number does not fit.
    legacy_frontier: what mz-redis-sync left in its timestamp key.
    """

    state: State | None
    manifest_bytes: int
    fingerprints: Fingerprints | None
    legacy_frontier: bytes | None = None

    @property
    def has_manifest(self) -> bool:
        """Whether there is a manifest that can be the state's."""
        known = self.state
        return known is not None and bool(known.digest) and self.manifest_bytes == known.buckets * RECORD_BYTES

    def forget(self, keyspace: Keyspace, touched: Collection[int]) -> list[Command]:
        """Commands that clear the touched buckets' fingerprints: their rows have changed since."""
        known, name, size = self.fingerprints, keyspace.fingerprints, digest.FINGERPRINT_BYTES
        if known is None:
            return []
        for bucket in touched:
            known[bucket] = digest.UNKNOWN
        if len(touched) * REWRITE_FRACTION > len(known):
            return [("SET", name, digest.encode_fingerprints(known))]
        return [("SETRANGE", name, bucket * size, bytes(size)) for bucket in sorted(touched)]


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


def _fingerprints(known: State, stored: bytes | RedisError | None) -> Fingerprints | None:
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
        self._some: dict[int, int] = {}
        self._all: digest.Words | None = None
        self.total = digest.added(int(known.digest, 16)) if known.digest else 0

    def read(self, wanted: Iterable[int]) -> dict[int, int] | None:
        """Digests (added-up form) of the wanted buckets; None when what is stored cannot be trusted."""
        chosen = list(wanted)
        return {bucket: self._digest(bucket) for bucket in chosen} if self.load(chosen) else None

    def load(self, wanted: Iterable[int]) -> bool:
        """Have the wanted buckets' digests here; False when what is stored cannot be trusted."""
        if self._all is not None:
            return True
        missing = [bucket for bucket in wanted if bucket not in self._some]
        if len(missing) * REWRITE_FRACTION > self.buckets:
            return self._load_all()
        commands: list[Command] = [
            ("GETRANGE", self._keyspace.manifest, b * RECORD_BYTES, (b + 1) * RECORD_BYTES - 1) for b in missing
        ]
        replies = self._wire.pipeline(commands) if commands else []
        for bucket, reply in zip(missing, replies, strict=True):
            if not isinstance(reply, bytes) or len(reply) != RECORD_BYTES:
                return False
            (self._some[bucket],) = digest.decode_manifest(reply)
        return True

    def _load_all(self) -> bool:
        (reply,) = self._wire.pipeline([("GET", self._keyspace.manifest)])
        if not isinstance(reply, bytes) or len(reply) != self.buckets * RECORD_BYTES:
            return False
        # Buckets this run has changed and written already are in what was just read.
        self._all = digest.manifest_words(reply)
        self._some.clear()
        return digest.total_of_words(self._all) == digest.normal(self.total)

    def _digest(self, bucket: int) -> int:
        return self._some[bucket] if self._all is None else digest.digest_in_words(self._all, bucket)

    def change(self, changed: Mapping[int, int]) -> list[Command]:
        """Set the changed buckets to new digests (added-up form); the commands that store them. The buckets must have
        been read before."""
        self.add({bucket: new - self._digest(bucket) for bucket, new in changed.items()})
        return self.commands(changed)

    def add(self, more: Mapping[int, int]) -> bool:
        """Add to the digests of loaded buckets. False when one would count less than no rows: nothing is right then."""
        if self._all is not None:
            fits = digest.add_to_words(self._all, more)
        else:
            sums = {bucket: self._some[bucket] + one for bucket, one in more.items()}
            fits = all(digest.count(one) >= 0 for one in sums.values())
            self._some.update(sums)
        self.total += sum(more.values())
        return fits

    def commands(self, changed: Collection[int]) -> list[Command]:
        """Commands that store these buckets, as absolute values: a repeated transaction must change nothing."""
        name = self._keyspace.manifest
        if self._all is not None and len(changed) * REWRITE_FRACTION > self.buckets:
            return [("SET", name, digest.encode_words(self._all))]
        return [
            ("SETRANGE", name, b * RECORD_BYTES, digest.encode_manifest([self._digest(b)])) for b in sorted(changed)
        ]

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


def write_fingerprints(keyspace: Keyspace, new: Fingerprints | None, stored: Fingerprints | None) -> list[Command]:
    """What makes `new` out of what is stored. None: nothing is known of any bucket."""
    name, size = keyspace.fingerprints, digest.FINGERPRINT_BYTES
    if new == stored:
        return []
    if new is None:
        return [("DEL", name)]
    if stored is not None and len(stored) == len(new):
        changed = [bucket for bucket, (ours, theirs) in enumerate(zip(new, stored, strict=True)) if ours != theirs]
        if len(changed) * REWRITE_FRACTION <= len(new):
            return [("SETRANGE", name, b * size, digest.encode_fingerprints(new[b : b + 1])) for b in changed]
    return [("SET", name, digest.encode_fingerprints(new))]

