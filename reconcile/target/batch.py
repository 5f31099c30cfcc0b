"""Writing puts and deletes: together with the checkpoint when they fit one write, else under `pending`.

fits        one write: data, records, state                                readers never see half a time
does not    state (pending), data, data …, data with records and state     `pending` warns readers

Whatever does not fit is written in small pieces: nobody needs to see it at once, as `pending` warns readers anyway, and
Redis' other clients hardly have to wait.

Where a write is not atomic (a cluster), a change that touches data never fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from msgspec import Struct, field
from msgspec.structs import replace

from reconcile.config.settings import LimitSettings
from reconcile.target.port import LARGE_VALUE_BYTES, Outcome, Target, Write

TOGETHER_ROWS = 200
PIECE_BYTES = 1 << 18


def pieces(rows: Iterable[tuple[bytes, bytes]], most: Callable[[], int]) -> Iterator[dict[bytes, bytes]]:
    """Yield rows in dicts of at most as many keys as `most` says before each, and of PIECE_BYTES; a larger row comes
    alone."""
    limit = most()
    piece: dict[bytes, bytes] = {}
    size_bytes = 0
    for key, value in rows:
        more = len(key) + len(value)
        if piece and (len(piece) >= limit or size_bytes + more > PIECE_BYTES):
            yield piece
            piece, size_bytes, limit = {}, 0, most()
        piece[key] = value
        size_bytes += more
    if piece:
        yield piece


class Batch(Struct):
    """Puts and deletes waiting to be written."""

    puts: dict[bytes, bytes] = field(default_factory=dict)
    deletes: dict[bytes, None] = field(default_factory=dict)
    """An ordered set."""
    size_bytes: int = 0

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key."""
        self.puts[key] = value
        self.size_bytes += len(key) + len(value)

    def delete(self, key: bytes) -> None:
        """Remove a key."""
        self.deletes[key] = None
        self.size_bytes += len(key)

    def pieces(self, most: Callable[[], int]) -> Iterator[Write]:
        """Yield the batch in writes of at most `most()` keys and PIECE_BYTES, or of one key with a larger value."""
        names = iter(self.deletes)
        while gone := list(islice(names, most())):
            yield Write(deletes=gone)
        for puts in pieces(self.puts.items(), most):
            yield Write(puts=puts)

    def __len__(self) -> int:
        return len(self.puts) + len(self.deletes)

    def __contains__(self, key: bytes) -> bool:
        return key in self.puts or key in self.deletes


class Applier:
    """Collects changes and writes them in batches. With dry_run it only counts, and refuses what cannot be written."""

    def __init__(self, target: Target, limits: LimitSettings, mark: Write, *, dry_run: bool) -> None:
        """mark: the write that says that Redis is between two times; sent first if one batch is not enough."""
        self._target = target
        self._max_bytes = limits.batch_max_bytes
        self._max_keys = min(limits.batch_max_keys, target.batch_keys)
        self._mark = mark
        self._dry_run = dry_run
        self._marked = False
        self._batch = Batch()
        self._sent: set[bytes] = set()
        """Keys of the last batch sent; whether it has arrived is known only when the next one is sent."""
        self.puts = 0
        """Keys put so far; in a dry run, keys that would have been."""
        self.deletes = 0

    @property
    def marked(self) -> bool:
        """Whether Redis may by now hold part of the change."""
        return self._marked

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key to a value. Raises DataError."""
        if len(key) + len(value) >= LARGE_VALUE_BYTES:
            self._target.admit({key: value})  # before anything else of the change is written
        self._make_room(len(key) + len(value))
        self._batch.put(key, value)

    def delete(self, key: bytes) -> None:
        """Remove a key."""
        self._make_room(len(key))
        self._batch.delete(key)

    def on_the_way(self, key: bytes) -> bool:
        """Whether a put or delete of this key may not have reached Redis yet."""
        return key in self._batch or key in self._sent

    def put_all(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Set keys to values: many at once where they fit into the batch being collected, else one by one."""
        rows = iter(rows)
        while some := dict(islice(rows, TOGETHER_ROWS)):
            size_bytes = sum(map(len, some)) + sum(map(len, some.values()))
            if size_bytes < LARGE_VALUE_BYTES and self._fits(len(some), size_bytes):
                self._batch.puts.update(some)
                self._batch.size_bytes += size_bytes
                continue
            for key, value in some.items():
                self.put(key, value)

    def flush(self) -> None:
        """Write the batch collected so far, under the pending mark: the change is not complete yet."""
        if not len(self._batch):
            return
        batch = self._take()
        if self._dry_run:
            return
        self.mark()
        self._send(batch)

    def _send(self, batch: Batch) -> None:
        for write in batch.pieces(self._target.piece_keys):
            self._target.send(write)
        self._sent = {*batch.puts, *batch.deletes}

    def mark(self) -> None:
        """Mark the state, for readers and for the next run after a crash: Redis is between two times."""
        if self._marked or self._dry_run:
            return
        self._marked = True
        self._target.send(self._mark)

    def finish(self, write: Write) -> Outcome:
        """Write what is left together with `write`, whose puts and deletes are added, and wait for the outcome."""
        batch = self._take()
        if self._dry_run:
            return Outcome()
        if self._marked and len(batch) > self._target.piece_keys():
            self._send(batch)
            batch = Batch()
        puts, deletes = {**batch.puts, **write.puts}, {**batch.deletes, **dict.fromkeys(write.deletes)}
        if (puts or deletes) and not self._target.atomic:
            self.mark()
        return self._target.commit(replace(write, puts=puts, deletes=deletes.keys()))

    def _take(self) -> Batch:
        batch, self._batch = self._batch, Batch()
        self.puts += len(batch.puts)
        self.deletes += len(batch.deletes)
        if self._dry_run:
            self._target.admit(batch.puts, batch.deletes)
        return batch

    def _fits(self, rows: int, size_bytes: int) -> bool:
        return len(self._batch) + rows <= self._max_keys and self._batch.size_bytes + size_bytes <= self._max_bytes

    def _make_room(self, more_bytes: int) -> None:
        if len(self._batch) and not self._fits(1, more_bytes):
            self.flush()
