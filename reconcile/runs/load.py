"""First load into nothing: one pass, stream and write.

Puts go out as MSETNX: a key that is there already was either given twice by the view or belongs to someone else. Then
the load stops and the deep comparison, which looks at every row, takes over at the same time T.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from reconcile.core import digest
from reconcile.core.changes import null_key
from reconcile.core.digest import MAX_BUCKETS, Fingerprints
from reconcile.core.state import Pending
from reconcile.runs.context import ViewRun
from reconcile.source.reading import Reading
from reconcile.target import keyspace as keyspaces
from reconcile.target import store
from reconcile.target.apply import MSET_BYTES, MSET_PAIRS, ValueLimit
from reconcile.target.connection import Command
from reconcile.target.fence import Fence

BLOCKS_PER_TRANSACTION = 4
"""About 4000 pairs: the transaction's own cost vanishes, and other clients wait a few milliseconds at most."""

Chunk = Sequence[tuple[bytes | None, ...]]


class Collision(Exception):  # noqa: N818 - not an error: another way is taken
    """A key of the view exists already."""


class Content:
    """Digests and fingerprints of everything that streams by, at the finest granularity there is."""

    def __init__(self, hashed: bool) -> None:
        """hashed: the source's hashes of the rows travel along."""
        self.hashed = hashed
        self._collected = [0] * MAX_BUCKETS
        self._sums: Sequence[int] = ()
        self._done = False

    def add(self, chunk: Chunk) -> None:
        """Take rows in. Raises DataError for a NULL key."""
        try:
            if self.hashed:
                digest.add_hashed_rows(self._collected, chunk)
            else:
                digest.add_rows(self._collected, chunk)
        except TypeError as error:
            raise null_key() from error

    @property
    def digests(self) -> list[int]:
        """Per finest bucket, once everything was added."""
        if self.hashed and not self._done:
            self._sums = digest.unpack_hashed(self._collected)
        self._done = True
        return self._collected

    def fingerprints(self, buckets: int) -> Fingerprints | None:
        """None when the source's hashes did not travel along."""
        return digest.fingerprints_of(self._sums, buckets) if self.digests and self.hashed else None

    @property
    def rows(self) -> int:
        """Rows that Redis holds a key for."""
        return digest.count(sum(self.digests))


def nothing_there(run: ViewRun) -> bool:
    """Whether a load needs no comparison: our keys are told by prefix or database, and there are none.

    Keys that have to be remembered are always compared: one that exists already may be someone else's.
    """
    if run.keyspace.ownership == "remembered":
        return False
    return not run.reader.call("DBSIZE") or not any(keyspaces.scan_keys(run.reader, run.keyspace))


def load(run: ViewRun, reading: Reading, fence: Fence | None, pending: Pending, content: Content) -> None:
    """Write every row. Raises Collision when a key exists; then part is written and the state is marked `pending`."""
    chunks = reading.hashed_rows() if content.hashed else reading.rows()
    if fence is None:
        for chunk in chunks:
            content.add(chunk)
        run.report.puts += content.rows
        return
    try:
        _write(run, chunks, fence, pending, content)
    except Collision:
        # Read on to the end: a cancelled statement would end the read transaction, and with it the hold on its time.
        for _ in chunks:
            run.stop.check()
        raise


def _write(run: ViewRun, chunks: Iterator[Chunk], fence: Fence, pending: Pending, content: Content) -> None:
    limit = ValueLimit(run.reader, run.keyspace.view)
    sent: list[Command] = []
    # The first transaction also says that a load is under way.
    transaction: list[Command] = store.write_state(run.keyspace, store.marked(run.base_state, pending))
    for flat in _blocks(chunks, content, limit):
        run.stop.check()
        keys = flat[::2]
        if len(set(keys)) < len(keys):
            raise Collision
        transaction.append(("MSETNX", *flat))
        run.report.puts += len(keys)
        if len(transaction) >= BLOCKS_PER_TRANSACTION:
            _check(sent, fence.send(transaction))
            sent, transaction = transaction, []
    if run.report.puts and transaction:
        _check(sent, fence.send(transaction))
        sent = transaction
    _check(sent, fence.settle())


def _check(sent: list[Command], replies: list[Any]) -> None:
    """MSETNX says 1, or 0 when it wrote nothing because one of its keys exists."""
    if any(command[0] == "MSETNX" and reply == 0 for command, reply in zip(sent, replies, strict=True)):
        raise Collision


def _blocks(chunks: Iterator[Chunk], content: Content, limit: ValueLimit) -> Iterator[list[bytes]]:
    """Flat key, value, key, value … lists of at most about MSET_PAIRS pairs and MSET_BYTES (or one larger row)."""
    flat: list[bytes] = []
    size = 0
    for chunk in chunks:
        content.add(chunk)
        rows: list[Any] = [row for row in chunk if row[1] is not None]
        more = sum([len(row[1]) for row in rows])
        if more >= MSET_BYTES:
            for row in rows:
                limit.check(row[0], row[1])
                yield [row[0], row[1]]
            continue
        if flat and (len(flat) >= 2 * MSET_PAIRS or size + more > MSET_BYTES):
            yield flat
            flat, size = [], 0
        part: list[bytes] = [b""] * (2 * len(rows))
        part[::2] = [row[0] for row in rows]
        part[1::2] = [row[1] for row in rows]
        flat += part
        size += more
    if flat:
        yield flat
