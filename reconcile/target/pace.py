"""Decide how many keys to ask for at once, so that no page gets large, whatever the sizes of the values. Pure.

Pages begin small and double while values are small. After a large value the reader asks for sizes first and cuts pages
by them, until no large value has come for a while.
"""

from __future__ import annotations

from collections.abc import Sequence

PAGE_KEYS = 1000
PAGE_BYTES = 1 << 20
FIRST_KEYS = 4
LARGE_BYTES = 4096
"""A page of values no larger than this has at most 4 MB."""
MEASURED_KEYS = 256
QUIET_PAGES = 8


class Pace:
    """Page sizes for one connection, learned from the values seen on it."""

    __slots__ = ("_quiet", "keys", "measuring")

    def __init__(self) -> None:
        self.keys = FIRST_KEYS
        """How many keys the next page may have."""
        self.measuring = False
        """Whether to ask for sizes first."""
        self._quiet = 0

    def seen(self, values: Sequence[bytes | None]) -> None:
        """Learn from a page."""
        sizes = [len(value) for value in values if value is not None]
        if max(sizes, default=0) > LARGE_BYTES:
            self.measuring, self._quiet, self.keys = True, 0, FIRST_KEYS
        elif self.measuring:
            self._quiet += 1
            self.measuring = self._quiet < QUIET_PAGES
        else:
            fitting = PAGE_BYTES * len(values) // max(1, sum(sizes))
            self.keys = max(1, min(PAGE_KEYS, 2 * self.keys, fitting))


def cut(keys: Sequence[bytes], sizes: Sequence[int]) -> list[list[bytes]]:
    """Return keys in pages of at most PAGE_BYTES; a larger value gets a page of its own."""
    pages: list[list[bytes]] = []
    room = 0
    for key, size in zip(keys, sizes, strict=True):
        if not pages or size > room:
            pages.append([])
            room = PAGE_BYTES
        pages[-1].append(key)
        room -= size
    return pages
