"""Reading what is stored in the state's slot: the commands, and what their replies mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from reconcile.core import digest, records, state
from reconcile.core.digest import Fingerprints
from reconcile.core.records import Waiting
from reconcile.core.shards import Shard
from reconcile.core.state import State
from reconcile.target.names import Names
from reconcile.target.packing import Command
from reconcile.target.port import Stored
from reconcile.target.translation import of_another_type, readable, translate


def reading(names: Names) -> list[Command]:
    """Return the commands whose replies go to `parse`."""
    return [
        ("HGETALL", names.state),
        ("STRLEN", names.manifest),
        ("GET", names.fingerprints),
        ("GET", names.surplus),
    ]


def at_once(some: list[Command]) -> list[Command]:
    """Return the commands as one transaction; the last reply is its result. Not under a fence: EXEC ends a WATCH."""
    return [("UNWATCH",), ("MULTI",), *some, ("EXEC",)]


def parse(replies: Sequence[Any], names: Names, legacy: bytes | None) -> Stored:
    """Return what the replies to `reading` mean. Raises StateError, and what Redis refused.

    legacy: content of mz-redis-sync's timestamp key; ignored once there is a state, as reconcile then writes that key.
    """
    fields, manifest_bytes, fingerprints, surplus = readable(replies)
    known = decoded(fields, names.view)
    if known is None:
        return Stored(None, legacy_frontier=legacy)
    fits = manifest_bytes == known.buckets // names.shard.n * digest.RECORD_BYTES
    return Stored(known, fits, _fingerprints(known, fingerprints, names.shard), _waiting(known, surplus))


def manifest(reply: Any, shard: Shard) -> bytes:
    """Return the records of all buckets, from the reply to GET; b"" if there are none."""
    if not isinstance(reply, bytes) or len(reply) % digest.RECORD_BYTES:
        return b""
    return records.of_all(reply, digest.RECORD_BYTES, shard, bytes(digest.RECORD_BYTES))


def decoded(reply: Any, view: str) -> State | None:
    """Return the state, from the reply to HGETALL. Raises StateError."""
    if isinstance(reply, RedisError):
        if of_another_type(reply):
            raise state.corrupt(view, "it is not a hash")
        raise translate(reply)
    texts = [part.decode("utf-8", "replace") for part in reply]
    return state.decode(dict(zip(texts[::2], texts[1::2], strict=True)), view)


def _fingerprints(known: State, stored: Any, shard: Shard) -> Fingerprints | None:
    size = digest.FINGERPRINT_BYTES
    if not isinstance(stored, bytes) or len(stored) != known.buckets // shard.n * size:
        return None
    return digest.decode_fingerprints(records.of_all(stored, size, shard, digest.EMPTY))


def _waiting(known: State, stored: Any) -> Waiting:
    """Return what is left beside the source's keys. Nothing if damaged: fingerprints of its buckets are unknown, so the
    next run finds it again."""
    try:
        found = records.decode_waiting(stored) if isinstance(stored, bytes) else Waiting()
    except ValueError:
        return Waiting()
    # With none in the state, what is stored is of an earlier one that was lost.
    if not known.surplus:
        found.surplus = {}
    if known.pending is None:
        found.withheld = {}
    return Waiting() if any(bucket >= known.buckets for bucket in found.buckets) else found
