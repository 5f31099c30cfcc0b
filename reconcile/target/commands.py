"""A Write → the commands of one transaction. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, islice

from msgspec.structs import replace

from reconcile.core import state as states
from reconcile.core.digest import FINGERPRINT_BYTES, RECORD_BYTES
from reconcile.core.records import Records, of_shard
from reconcile.core.shards import Shard
from reconcile.core.state import Pending, State
from reconcile.core.times import frontier_after
from reconcile.target.names import Names
from reconcile.target.packing import Arg, Command
from reconcile.target.port import Write

MSET_PAIRS = 4000
"""A piece of strings fits one command, and so is new as a whole or not written at all."""
MSET_BYTES = 1 << 20


def unlinks(keys: Iterable[bytes]) -> Iterator[Command]:
    """Yield deletes. They come first: a full Redis (noeviction) refuses other writes, but not these."""
    rest = iter(keys)
    while some := list(islice(rest, MSET_PAIRS)):
        yield ("UNLINK", *some)


def msets(verb: str, puts: Mapping[bytes, bytes]) -> Iterator[Command]:
    """Yield MSET or MSETNX commands, each bounded in pairs and bytes."""
    pairs = iter(puts.items())
    while some := list(chain.from_iterable(islice(pairs, MSET_PAIRS))):
        for arguments in _by_size(some):
            yield (verb, *arguments)


def _by_size(flat: list[bytes]) -> Iterator[list[bytes]]:
    """Yield alternating keys and values in lists of at most MSET_BYTES, or of one larger pair."""
    if sum(map(len, flat)) <= MSET_BYTES:
        yield flat
        return
    start = size = 0
    for place in range(0, len(flat), 2):
        more = len(flat[place]) + len(flat[place + 1])
        if place > start and size + more > MSET_BYTES:
            yield flat[start:place]
            start, size = place, 0
        size += more
    yield flat[start:]


def remembering(names: Names, puts: Collection[bytes], deletes: Collection[bytes]) -> Iterator[Command]:
    """Keep the sets of remembered names in step with the keys."""
    for verb, keys in (("SADD", puts), ("SREM", deletes)):
        sets: dict[bytes, list[bytes]] = {}
        for key in keys:
            sets.setdefault(names.remembered(key), []).append(key)
        for name, members in sets.items():
            yield (verb, name, *members)


def records(names: Names, write: Write) -> Iterator[Command]:
    """Yield the commands that store manifest, fingerprints and surplus."""
    yield from _records(names.manifest, write.manifest, RECORD_BYTES, names.shard)
    yield from _records(names.fingerprints, write.fingerprints, FINGERPRINT_BYTES, names.shard)
    if (surplus := write.surplus.whole) is not None:
        yield _stored(names.surplus, surplus)


def _records(name: bytes, some: Records, size: int, shard: Shard) -> Iterator[Command]:
    if some.whole is not None:
        yield _stored(name, of_shard(some.whole, size, shard))
    for bucket, record in some.some.items():
        yield ("SETRANGE", name, bucket // shard.n * size, record)


def _stored(name: bytes, whole: bytes) -> Command:
    return ("SET", name, whole) if whole else ("DEL", name)


def state(names: Names, new: State | None, token: int, commit: str) -> Command:
    """Return the command that stores `new` as the state; None: only the transaction's commit id."""
    if new is None:
        return ("HSET", names.state, "commit", commit)
    fields = states.encode(replace(new, token=token, commit=commit))
    return ("HSET", names.state, *chain.from_iterable(fields.items()))


def pending_field(pending: Pending) -> str:
    """Return `pending` as the state stores it."""
    return states.encode(State(pending=pending))["pending"]


def timestamp(key: bytes, new: State | None, before: State | None) -> list[tuple[bytes, bytes]]:
    """Return mz-redis-sync's timestamp key with its value, if the new state has another as_of than the one before."""
    if not key or new is None or new.as_of is None or new.pending is not None:
        return []
    if before is not None and before.pending is None and before.as_of == new.as_of:
        return []
    return [(key, b"%d" % frontier_after(new.as_of))]


def flat(command: Iterable[Arg]) -> list[Arg]:
    """Return a command as a script receives it: the number of arguments, then the arguments."""
    arguments = list(command)
    return [len(arguments), *arguments]
