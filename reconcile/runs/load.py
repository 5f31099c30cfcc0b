"""First load into nothing: stream and write in one pass.

Only keys that do not exist are written: one that exists is either twice in the view or someone else's. The load then
stops, and a repair of all rows takes over at the same time T. Rows that Redis is not to hold (NULL, or expired) leave
no key that would show whether another row has it, so their names are held.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from reconcile.compare.sides import Rows
from reconcile.core import digest
from reconcile.core.digest import MAX_BUCKETS
from reconcile.core.framing import Row
from reconcile.core.nametable import BYTES_PER_NAME, NameTable
from reconcile.core.state import State
from reconcile.errors import DataError, EvaluationFailed, ReconcileError
from reconcile.runs.context import ViewRun
from reconcile.source.reading import Reading
from reconcile.target.batch import PIECE_BYTES
from reconcile.target.port import Target, Write


class Collision(Exception):  # noqa: N818 - no error: the caller takes another way
    """A key of the view already exists, or the load cannot tell any more. Its text says which."""

    def __init__(self, why: str = "a key of the view already exists, or has several rows") -> None:
        super().__init__(why)


def nothing_there(run: ViewRun) -> bool:
    """Whether a load needs no comparison: no owned key exists, by prefix or database.

    Views that remember their keys are always compared: an existing key may be someone else's.
    """
    if run.target.range.ownership == "remembered":
        return False
    return not any(run.target.names())


def load(run: ViewRun, reading: Reading, marked: State) -> list[int]:
    """Write every row; return the digests of all rows, in MAX_BUCKETS buckets.

    marked: the state during the load. Raises Collision if a key exists; some rows are written then.
    """
    digests = [0] * MAX_BUCKETS
    chunks = reading.rows()
    if run.request.dry_run:
        for chunk in chunks:
            run.report.puts += _note(run, digests, chunk)
        return digests
    try:
        _write(run, chunks, digests, marked)
    except Collision:
        # Read on to the end: a cancelled statement would end the read transaction, and with it the hold on its time.
        for _ in chunks:
            run.stop.check()
        raise
    return digests


def _note(run: ViewRun, digests: list[int], chunk: Rows) -> int:
    """Add a chunk's rows to the digests; return how many of them are to be written."""
    run.stop.check()
    run.report.advance(len(chunk))
    digest.add_rows(digests, chunk, run.state.salt)
    return sum(row[1] is not None for row in chunk)


def _write(run: ViewRun, chunks: Iterator[Rows], digests: list[int], marked: State) -> None:
    """Write rows. The first transaction also sets the pending mark, so nothing is written if its rows are refused."""
    mark: State | None = marked
    unsettled = 0
    absent = _Absent(run)
    try:
        for rows in _pieces(chunks, run.target):
            wanted = _note(run, digests, rows)
            puts = {row[0]: row[1] for row in rows if row[1] is not None}
            absent.check(rows, wanted)
            if puts:
                unsettled = _send(run, puts, wanted, mark, unsettled)
                mark = None
    except (DataError, EvaluationFailed):  # of the source: what is under way to Redis arrives, and counts
        with contextlib.suppress(ReconcileError):
            _settle(run, unsettled)
        raise
    _settle(run, unsettled)


class _Absent:
    """Names of the rows that Redis is not to hold."""

    def __init__(self, run: ViewRun) -> None:
        self._run = run
        self._most = run.settings.limits.memory_max_bytes // BYTES_PER_NAME
        self._names = NameTable(0, run.state.salt)

    def check(self, rows: Rows, valued: int) -> None:
        """Raise Collision if such a row has its key together with another row, or if their names take too much memory.
        Redis itself tells apart the others. valued: how many of the rows have a value."""
        expired, names = self._run.expired, self._names
        if expired is None and valued == len(rows) and not len(names):
            return

        def is_held(value: bytes | None) -> bool:
            return value is not None and (expired is None or not expired(value))

        gone = [key for key, value in rows if not is_held(value)]
        fresh = all(names.add(key) for key in gone)
        if gone and (not fresh or any(self._run.target.exist(gone))):
            raise Collision
        if len(names) > self._most:
            raise Collision("the view has too many rows without a value to load it in one pass")
        if len(names) and any(key in names for key, value in rows if is_held(value)):
            raise Collision


def _pieces(chunks: Iterator[Rows], target: Target) -> Iterator[Rows]:
    """Yield the rows in pieces that other clients of Redis hardly notice."""
    waiting: list[Row] = []
    for chunk in chunks:
        waiting += chunk
        size_bytes = sum([len(row[0]) + len(row[1] or b"") for row in chunk])
        fitting = len(chunk) * PIECE_BYTES // max(1, size_bytes)
        start = 0
        while len(waiting) - start >= (most := max(1, min(target.piece_keys(), fitting))):
            yield waiting[start : start + most]
            start += most
        waiting = waiting[start:]
    if waiting:
        yield waiting


def _send(run: ViewRun, puts: dict[bytes, bytes], rows: int, mark: State | None, before: int) -> int:
    """Send rows while the write of the `before` rows may still be under way; returns how many are now. One that meets a
    key does not count; where keys are written one by one or on several nodes, a part of it was written."""
    if len(puts) < rows:  # the view gave a key twice
        _settle(run, before)
        raise Collision
    outcome = run.target.send(Write(puts=puts, only_new=True, state=mark))
    if outcome is not None and outcome.collided:
        raise Collision
    run.report.puts += before
    return rows


def _settle(run: ViewRun, rows: int) -> None:
    outcome = run.target.settle()
    if outcome is not None and outcome.collided:
        raise Collision
    run.report.puts += rows if outcome is not None else 0
