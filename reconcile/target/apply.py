"""Bringing puts and deletes into Redis: in one transaction with the checkpoint when they fit, else under `pending`.

fits        MULTI data, manifest, fingerprints, state EXEC                     a reader never sees half a time
does not    MULTI state(pending) EXEC, MULTI data EXEC …, MULTI …, state EXEC  pending tells readers to beware

In a cluster nothing that touches data fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice

from reconcile.config.settings import LimitSettings
from reconcile.core.changes import name_of
from reconcile.core.state import Pending, State
from reconcile.errors import DataError
from reconcile.target import store
from reconcile.target.connection import Command, Wire
from reconcile.target.fence import Fence
from reconcile.target.keyspace import Keyspace

BLOCK_ROWS = 200
MSET_PAIRS = 1000
MSET_BYTES = 1 << 20
LARGE_VALUE_BYTES = 1 << 20
DEFAULT_BULK_MAX_BYTES = 512 * 1024 * 1024


@dataclass(slots=True)
class Batch:
    """Puts and deletes waiting to be written."""

    puts: dict[bytes, bytes] = field(default_factory=dict)
    deletes: dict[bytes, None] = field(default_factory=dict)
    """An ordered set."""
    size_bytes: int = 0

    def put(self, key: bytes, value: bytes) -> None:
        self.puts[key] = value
        self.size_bytes += len(key) + len(value)

    def delete(self, key: bytes) -> None:
        self.deletes[key] = None
        self.size_bytes += len(key)

    def __len__(self) -> int:
        return len(self.puts) + len(self.deletes)

    def __contains__(self, key: bytes) -> bool:
        return key in self.puts or key in self.deletes


class Applier:
    """Collects changes and writes them. With dry_run it only counts."""

    def __init__(
        self,
        keyspace: Keyspace,
        fence: Fence | None,
        reader: Wire,
        limits: LimitSettings,
        base: State,
        pending: Pending,
    ) -> None:
        """fence None: a dry run. base: the state as it is; pending: what to mark it with if one batch is not enough."""
        self._keyspace = keyspace
        self._fence = fence
        self._reader = reader
        self._limits = limits
        self._base = base
        self._pending = pending
        self._marked = base.pending == pending
        self._batch = Batch()
        self._sent: set[bytes] = set()
        """Keys of what was sent last: whether it is in Redis by now is not known before the next is sent."""
        self._value_limit = ValueLimit(reader, keyspace.view)
        self.puts = 0
        self.deletes = 0

    @property
    def marked(self) -> bool:
        """Whether Redis may by now hold part of the change."""
        return self._marked

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key to a value."""
        self._value_limit.check(key, value)
        self._make_room(len(key) + len(value))
        self._batch.put(key, value)
        self.puts += 1

    def delete(self, key: bytes) -> None:
        """Remove a key."""
        self._make_room(len(key))
        self._batch.delete(key)
        self.deletes += 1

    def on_the_way(self, key: bytes) -> bool:
        """Whether a put or delete of this key may not have reached Redis yet."""
        return key in self._batch or key in self._sent

    def put_all(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Set keys to values; block by block, where a block fits into what is being collected."""
        rows = iter(rows)
        while block := dict(islice(rows, BLOCK_ROWS)):
            size_bytes = sum(map(len, block)) + sum(map(len, block.values()))
            if size_bytes < LARGE_VALUE_BYTES and self._fits(len(block), size_bytes):
                self._batch.puts.update(block)
                self._batch.size_bytes += size_bytes
                self.puts += len(block)
                continue
            for key, value in block.items():
                self.put(key, value)

    def flush(self) -> None:
        """Write what is collected, under the pending mark, though the change is not complete."""
        if not len(self._batch):
            return
        batch, self._batch = self._batch, Batch()
        if self._fence is None:
            return
        self.mark()
        self._fence.send(data_commands(self._keyspace, batch))
        self._sent = {*batch.puts, *batch.deletes}

    def mark(self) -> None:
        """Tell readers, and the run after a crash, that Redis is between two times."""
        if self._marked or self._fence is None:
            return
        self._marked = True
        self._fence.send(store.write_state(self._keyspace, store.marked(self._base, self._pending)))

    def finish(self, commands: list[Command]) -> None:
        """Write the rest together with `commands` (manifest, fingerprints, state) in one transaction."""
        batch, self._batch = self._batch, Batch()
        if self._fence is None:
            return
        whole = [*data_commands(self._keyspace, batch), *commands]
        if not self._fence.is_one_step(whole):
            self.mark()
        self._fence.commit(whole)

    def _fits(self, rows: int, size_bytes: int) -> bool:
        limits, batch = self._limits, self._batch
        return len(batch) + rows <= limits.batch_max_keys and batch.size_bytes + size_bytes <= limits.batch_max_bytes

    def _make_room(self, more_bytes: int) -> None:
        if len(self._batch) and not self._fits(1, more_bytes):
            self.flush()


class ValueLimit:
    """Redis drops the connection at a value it does not take: refuse it by name before anything of it is written."""

    def __init__(self, reader: Wire, view: str) -> None:
        self._reader = reader
        self._view = view
        self._max_bytes: int | None = None

    def check(self, key: bytes, value: bytes) -> None:
        """Raise DataError for a value the server would refuse."""
        if len(value) < LARGE_VALUE_BYTES:
            return
        if self._max_bytes is None:
            (reply,) = self._reader.pipeline([("CONFIG", "GET", "proto-max-bulk-len")])
            told = isinstance(reply, list) and len(reply) == 2 and reply[1].isdigit()
            self._max_bytes = int(reply[1]) if told else DEFAULT_BULK_MAX_BYTES
        if len(value) > self._max_bytes:
            raise DataError(
                f"the value of {name_of(key)} has {len(value)} bytes; this Redis takes at most {self._max_bytes}",
                hint="shorten it in the query, or raise proto-max-bulk-len",
                view=self._view,
            )


def data_commands(keyspace: Keyspace, batch: Batch) -> list[Command]:
    """UNLINK before MSET: a full Redis (noeviction) refuses writes but takes deletes."""
    commands: list[Command] = []
    deletes = list(batch.deletes)
    for start in range(0, len(deletes), MSET_PAIRS):
        commands.append(("UNLINK", *deletes[start : start + MSET_PAIRS]))
    pairs = iter(batch.puts.items())
    while block := list(chain.from_iterable(islice(pairs, MSET_PAIRS))):
        commands += [("MSET", *part) for part in _parted(block)]
    if keyspace.ownership == "remembered":
        commands += _remember(keyspace, batch)
    return commands


def _parted(flat: list[bytes]) -> Iterator[list[bytes]]:
    """Keys and values of one MSET in parts of at most MSET_BYTES, or a single pair."""
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


def _remember(keyspace: Keyspace, batch: Batch) -> list[Command]:
    commands: list[Command] = []
    for verb, keys in (("SADD", batch.puts), ("SREM", batch.deletes)):
        groups: dict[bytes, list[bytes]] = {}
        for key in keys:
            groups.setdefault(keyspace.remembered(key), []).append(key)
        commands += [(verb, name, *members) for name, members in groups.items()]
    return commands
