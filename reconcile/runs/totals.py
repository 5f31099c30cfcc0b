"""Both sides added up at once: rows stream from the source while Redis looks up the next page of keys and values.

Neither side waits for the other to be done, so comparing everything takes as long as the slower of the three: the
source, Redis, or this process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from reconcile.core import digest
from reconcile.runs.context import ViewRun
from reconcile.runs.load import Chunk, Content
from reconcile.target.keyspace import Page, scan_rows

CHUNKS_PER_PAGE = 2
"""A page of keys has about as many rows as two chunks of the source."""


def add_rows(run: ViewRun, chunks: Iterator[Chunk], content: Content) -> None:
    """Add all of the source's rows to `content`."""
    for chunk in chunks:
        run.stop.check()
        content.add(chunk)


def add_both(
    run: ViewRun, chunks: Iterator[Chunk], content: Content, wanted: Callable[[bytes], bool] | None = None
) -> list[int]:
    """Add all of the source's rows to `content`; returns digests of what Redis really holds, of equal granularity.

    Every owned (and wanted) key counts; those that hold no string count as odd rows.
    """
    held = [0] * digest.MAX_BUCKETS
    with contextlib.closing(scan_rows(run.reader, run.keyspace, wanted)) as pages:
        for number, chunk in enumerate(chunks):
            run.stop.check()
            content.add(chunk)
            if number % CHUNKS_PER_PAGE == 0:
                _add_page(held, next(pages, []))
        for page in pages:
            run.stop.check()
            _add_page(held, page)
    return held


def _add_page(held: list[int], page: Page) -> None:
    digest.add_rows(held, page)
    for key, value in page:
        if value is None:
            held[digest.bucket_of(key, len(held))] += digest.odd_digest(key)
