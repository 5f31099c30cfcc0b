"""Both sides of a comparison, the source at one time and the target, and their digests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from reconcile.core import digest
from reconcile.core.framing import Row
from reconcile.report.run_report import ViewReport
from reconcile.source.reading import Reading
from reconcile.stop import Stop
from reconcile.target.port import Page, Target

Rows = Sequence[Row]
"""As they come from the source; a value of None: Redis is not to hold the key."""

CHUNKS_PER_PAGE = 2
"""A page of keys has about as many rows as this many chunks of the source."""


class Sides(Struct):
    """The source at `reading.as_of` and the target, for one view. salt: the state's digest salt."""

    reading: Reading
    target: Target
    stop: Stop
    report: ViewReport
    salt: int
    expired: Callable[[bytes], bool] | None = None
    """Whether a framed row has expired, so that Redis rightly holds nothing; None: rows do not expire."""

    def held(self, chunk: Rows) -> Iterator[tuple[Rows, list[bytes | None]]]:
        """Return these rows with what Redis holds under their keys, in pages: they may be large. An expired row
        counts as held if there is nothing in its place.
        """
        at, expired = 0, self.expired
        for page in self.target.pages([key for key, _ in chunk]):
            rows = chunk[at : at + len(page)]
            at += len(page)
            if expired is None:
                yield rows, [held for _, held in page]
                continue
            found = [held for _, held in page]
            gone = [n for n, (_, row) in enumerate(rows) if found[n] is None and row is not None and expired(row)]
            # Something that the layout cannot read may be there instead.
            for n, exists in zip(gone, self.target.exist([rows[n][0] for n in gone]) if gone else [], strict=True):
                if not exists:
                    found[n] = rows[n][1]
            yield rows, found


def add_page(digests: list[int], page: Page, salt: int) -> None:
    """Add what Redis holds to the digests; keys that the layout cannot read count as rows that equal none."""
    digest.add_rows(digests, page, salt)
    for key, value in page:
        if value is None:
            digests[digest.bucket_of(key, len(digests))] += digest.unreadable_digest(key, salt)


def add_both(
    sides: Sides, chunks: Iterator[Rows], buckets: int, wanted: Callable[[bytes], bool] | None = None
) -> tuple[list[int], list[int]]:
    """Return (source, target): digests of all rows, and of the wanted keys Redis really holds.

    Both are read in parallel: this takes as long as the slowest of source, Redis and this process.
    """
    source, held = [0] * buckets, [0] * buckets
    with contextlib.closing(sides.target.rows(wanted)) as pages:
        for number, chunk in enumerate(chunks):
            sides.stop.check()
            sides.report.advance(len(chunk))
            digest.add_rows(source, chunk, sides.salt)
            if number % CHUNKS_PER_PAGE == 0:
                add_page(held, next(pages, []), sides.salt)
        for page in pages:
            sides.stop.check()
            add_page(held, page, sides.salt)
    return source, held
