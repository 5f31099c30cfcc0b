"""The scan for candidates, begun while the source works on the rows: neither waits for the other.

Where the source counts fewer rows in a bucket than the manifest, names will have to be looked for. Until the first
rows come nothing else is asked of Redis, so a thread may have its connection for that long.
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
"""Names held at once, at most."""


class Ahead:
    """Owned names in some buckets, in pages. `with` it while the source is waited for; afterwards take `pages`."""

    def __init__(self, sides: Sides, buckets: int, within: set[int]) -> None:
        """within: of `buckets`."""
        self._scan = names_within(sides, buckets, within)
        self._pages: list[list[bytes]] = []
        self._names = self._bytes = 0
        self._rows_came = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._look, name="reconcile-names", daemon=True)

    def __enter__(self) -> Ahead:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._rows_came.set()
        self._thread.join()  # a page is under way at most
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
        except BaseException as problem:  # raised where the scan is waited for
            self._error = problem

    def pages(self) -> Iterator[list[bytes]]:
        """What was found, and what is left of the scan. To be taken once."""
        while self._pages:
            yield self._pages.pop()
        yield from self._scan


def begun_ahead(
    sides: Sides, manifest: Manifest | None, rows_in: Sequence[int] | None, chosen: list[int]
) -> Ahead | None:
    """A scan that is certain to be needed, unless it is of more buckets than names can be held of.

    rows_in: what the source counts per bucket of the manifest, rows without a value among them; None: not known.
    """
    if manifest is None or rows_in is None or sum(rows_in[bucket] for bucket in chosen) > HELD_NAMES:
        return None
    if not any(digest.count(manifest[bucket]) > rows_in[bucket] for bucket in chosen):
        return None
    return Ahead(sides, manifest.buckets, set(chosen))


def names_within(sides: Sides, buckets: int, within: set[int]) -> Iterator[list[bytes]]:
    """Owned names in some buckets, page by page. A scan may name a key twice."""
    mask = buckets - 1
    for page in sides.target.names():
        sides.stop.check()
        if here := [name for name in page if crc32(name) & mask in within]:
            yield here
