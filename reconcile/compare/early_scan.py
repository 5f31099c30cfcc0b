"""The early scan for candidates: in a thread, while the source works on the rows.

If the source counts fewer rows in a bucket than the manifest does, a scan for names is needed. Until the first rows
arrive nothing else uses the connection to Redis, so a thread may scan over it.
"""

from __future__ import annotations

import threading
from binascii import crc32
from collections.abc import Iterator, Sequence
from types import TracebackType

from reconcile.compare.sides import Sides
from reconcile.core import digest
from reconcile.core.records import Manifest

HELD_NAMES = 100_000
HELD_BYTES = 8 << 20
"""The most names held at once, and their size."""


class EarlyScan:
    """Pages of owned names in some buckets. Enter it before waiting for the source, leave it when rows arrive, then
    take `pages`."""

    def __init__(self, sides: Sides, buckets: int, within: set[int]) -> None:
        """buckets: the number of buckets; within: those to find names in."""
        self._scan = names_within(sides, buckets, within)
        self._pages: list[list[bytes]] = []
        self._names = self._bytes = 0
        self._rows_came = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._look, name="reconcile-names", daemon=True)

    def __enter__(self) -> EarlyScan:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._rows_came.set()
        self._thread.join()  # waits for at most one page
        if self._error is not None and kind is None:
            raise self._error

    def _look(self) -> None:
        try:
            while not self._rows_came.is_set() and self._names < HELD_NAMES and self._bytes < HELD_BYTES:
                page = next(self._scan, None)
                if page is None:
                    return
                self._pages.append(page)
                self._names += len(page)
                self._bytes += sum(map(len, page))
        except BaseException as problem:  # raised again in __exit__
            self._error = problem

    def pages(self) -> Iterator[list[bytes]]:
        """Yield the pages found so far, then the rest of the scan. Iterate once."""
        while self._pages:
            yield self._pages.pop()
        yield from self._scan


def scan_early(
    sides: Sides, manifest: Manifest | None, rows_in: Sequence[int] | None, chosen: list[int]
) -> EarlyScan | None:
    """Return a scan if one is certainly needed and its names can be held; None otherwise.

    rows_in: the source's count per bucket of the manifest, including rows without a value; None: unknown. chosen: the
    buckets under repair.
    """
    if manifest is None or rows_in is None or sum(rows_in[bucket] for bucket in chosen) > HELD_NAMES:
        return None
    if not any(digest.count(manifest[bucket]) > rows_in[bucket] for bucket in chosen):
        return None
    return EarlyScan(sides, manifest.buckets, set(chosen))


def names_within(sides: Sides, buckets: int, within: set[int]) -> Iterator[list[bytes]]:
    """Yield pages of owned names in some of `buckets` buckets. A key may come twice."""
    mask = buckets - 1
    for page in sides.target.names():
        sides.stop.check()
        if here := [name for name in page if crc32(name) & mask in within]:
            yield here
