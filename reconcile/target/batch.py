"""Bringing puts and deletes into Redis: in one write with the checkpoint when they fit, else under `pending`.

fits        one write: data, records, state                            a reader never sees half a time
does not    state (pending), data, data …, data with records and state     pending tells readers to beware

Where a write is not atomic (a cluster), nothing that touches data fits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from reconcile.config.settings import LimitSettings
from reconcile.target.port import Outcome, Target, Write

BLOCK_ROWS = 200
LARGE_VALUE_BYTES = 1 << 20


@dataclass(slots=True)
class Batch:
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

    def __len__(self) -> int:
        return len(self.puts) + len(self.deletes)

    def __contains__(self, key: bytes) -> bool:
        return key in self.puts or key in self.deletes


class Applier:
    """Collects changes and writes them. With dry_run it only counts, and refuses what could not be written."""

    def __init__(self, target: Target, limits: LimitSettings, mark: Write, *, dry_run: bool) -> None:
        """mark: what says that Redis is between two times, written first if one batch is not enough."""
        self._target = target
        self._max_bytes = limits.batch_max_bytes
        self._max_keys = min(limits.batch_max_keys, target.batch_keys)
        self._mark = mark
        self._dry_run = dry_run
        self._marked = False
        self._batch = Batch()
        self._sent: set[bytes] = set()
        """Keys of what was sent last: whether it is in Redis by now is not known before the next is sent."""
        self.puts = 0
        """Keys of what was sent so far; in a dry run, of what would have been."""
        self.deletes = 0

    @property
    def marked(self) -> bool:
        """Whether Redis may by now hold part of the change."""
        return self._marked

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key to a value. Raises DataError."""
        if len(value) >= LARGE_VALUE_BYTES:
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
        """Set keys to values; block by block, where a block fits into what is being collected."""
        rows = iter(rows)
        while block := dict(islice(rows, BLOCK_ROWS)):
            size_bytes = sum(map(len, block)) + sum(map(len, block.values()))
            if size_bytes < LARGE_VALUE_BYTES and self._fits(len(block), size_bytes):
                self._batch.puts.update(block)
                self._batch.size_bytes += size_bytes
                continue
            for key, value in block.items():
                self.put(key, value)

    def flush(self) -> None:
        """Write what is collected, under the pending mark, though the change is not complete."""
        if not len(self._batch):
            return
        batch = self._take()
        if self._dry_run:
            return
        self.mark()
        self._target.send(Write(puts=batch.puts, deletes=batch.deletes.keys()))
        self._sent = {*batch.puts, *batch.deletes}

    def mark(self) -> None:
        """Tell readers, and the run after a crash, that Redis is between two times."""
        if self._marked or self._dry_run:
            return
        self._marked = True
        self._target.send(self._mark)

    def finish(self, write: Write) -> Outcome:
        """Write the rest together with `write` (its own puts and deletes come on top), and wait for the outcome."""
        batch = self._take()
        if self._dry_run:
            return Outcome()
        puts, deletes = {**batch.puts, **write.puts}, {**batch.deletes, **dict.fromkeys(write.deletes)}
        if (puts or deletes) and not self._target.atomic:
            self.mark()
        return self._target.commit(dataclasses.replace(write, puts=puts, deletes=deletes.keys()))

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
