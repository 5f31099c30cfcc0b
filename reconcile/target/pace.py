"""How many keys to ask for at once, so that no page of values is large whatever their sizes. Pure.

Pages begin small and double while values are small. The first large value changes the way: sizes are asked for first,
and pages are cut by them, until no large value has come for a while.
"""

from __future__ import annotations

from collections.abc import Sequence

PAGE_KEYS = 1000
PAGE_BYTES = 1 << 20
FIRST_KEYS = 4
LARGE_BYTES = 4096
"""A page of values up to this is at most 4 MB."""
MEASURED_KEYS = 256
QUIET_PAGES = 8


class Pace:
    """Page sizes of one connection, by what was seen on it."""

    __slots__ = ("_quiet", "keys", "measuring")

    def __init__(self) -> None:
        self.keys = FIRST_KEYS
        """The next page's."""
        self.measuring = False
        """Ask for sizes first."""
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
    """Keys in pages of at most PAGE_BYTES, or of one larger value."""
    pages: list[list[bytes]] = []
    room = 0
    for key, size in zip(keys, sizes, strict=True):
        if not pages or size > room:
            pages.append([])
            room = PAGE_BYTES
        pages[-1].append(key)
        room -= size
    return pages
