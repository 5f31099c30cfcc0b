"""The rolling compare: what Redis really holds against the manifest, slice by slice. Does not read the source.

A slice is the keys with crc32 mod n = i. Missing, stale and extra keys all show as a bucket whose digest differs from
the manifest's. Buckets that commits touch meanwhile are left for the next turn. Differing buckets are repaired by a
snapshot that has them as suspects.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Collection

from reconcile.compare import records
from reconcile.compare.sides import add_page
from reconcile.core import digest
from reconcile.core.records import Manifest
from reconcile.core.state import State
from reconcile.target.port import Target


class Slice:
    """One slice under way; `step` reads a page."""

    __slots__ = ("_pages", "buckets", "first", "held", "i", "n", "salt", "target")

    def __init__(self, target: Target, i: int, n: int, first: int, buckets: int, salt: int) -> None:
        self.target, self.i, self.n, self.first, self.buckets, self.salt = target, i, n, first, buckets, salt
        self.held = [0] * buckets
        mask = n - 1
        self._pages = target.rows(None if n == 1 else lambda key: crc32(key) & mask == i)

    def step(self) -> bool:
        """Read one page. Return False if none is left. Raises Unavailable if the server was replaced."""
        page = next(self._pages, None)
        if page is None:
            return False
        add_page(self.held, page, self.salt)
        return True

    def close(self) -> None:
        """Close the scan."""
        self._pages.close()

    def differing(self, manifest: Manifest, surplus: dict[int, int], touched: Collection[int]) -> list[int] | None:
        """Return buckets that differ from the manifest, keys that wait for consent aside, ascending; None: the stored
        manifest does not match the state.

        manifest: as last committed. touched: buckets that commits have changed since the slice began.
        """
        chosen = [b for b in range(self.i, self.buckets, self.n) if b >= self.first and b not in touched]
        if not records.load(self.target, manifest, chosen):
            return None
        held = self.held
        return [
            b
            for b in chosen
            if held[b] != manifest[b] and digest.normal(held[b] - surplus.get(b, 0)) != digest.normal(manifest[b])
        ]


def open_slice(target: Target, state: State, i: int, n: int) -> Slice:
    """Begin to read slice i of n (a power of two, at most the number of buckets), which is the turn's next."""
    return Slice(target, i, n, state.turn.first, state.buckets, state.salt)
