"""The rolling compare: what Redis really holds against the manifest, slice by slice. No pass over the source.

A slice is the keys with crc32 mod n = i. Missing, stale and extra keys all show as a bucket whose digest is not the
manifest's. Buckets that a commit touched while the slice was looked at are left for the next turn. What differs is
mended by a snapshot that looks at those buckets.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Collection, Generator
from dataclasses import dataclass, field

from reconcile.compare import records
from reconcile.compare.sides import add_page
from reconcile.core import digest
from reconcile.core.records import Manifest
from reconcile.core.state import State
from reconcile.target.port import Page, Target


@dataclass(slots=True)
class Slice:
    """One slice under way: `step` looks at a page."""

    target: Target
    i: int
    n: int
    buckets: int
    salt: int
    held: list[int] = field(init=False)
    _pages: Generator[Page, None, None] = field(init=False)

    def __post_init__(self) -> None:
        self.held = [0] * self.buckets
        mask, i = self.n - 1, self.i
        self._pages = self.target.rows(None if self.n == 1 else lambda key: crc32(key) & mask == i)

    def step(self) -> bool:
        """Look at one page. False when there is none left. Raises Unavailable when the server was replaced."""
        page = next(self._pages, None)
        if page is None:
            return False
        add_page(self.held, page, self.salt)
        return True

    def close(self) -> None:
        """Let go of the scan."""
        self._pages.close()

    def differing(self, manifest: Manifest, surplus: dict[int, int], touched: Collection[int]) -> list[int] | None:
        """Buckets that do not hold what the manifest says, keys that wait for consent aside.

        manifest: as committed last. touched: buckets that commits have changed since the slice began. None: what is
        stored is not the state's manifest.
        """
        chosen = [b for b in range(self.i, self.buckets, self.n) if b not in touched]
        if not records.load(self.target, manifest, chosen):
            return None
        held = self.held
        return [
            b
            for b in chosen
            if held[b] != manifest[b] and digest.normal(held[b] - surplus.get(b, 0)) != digest.normal(manifest[b])
        ]


def open_slice(target: Target, state: State, i: int, n: int) -> Slice:
    """Begin to look at slice i of n (a power of two, at most the number of buckets)."""
    return Slice(target, i, n, state.buckets, state.salt)
