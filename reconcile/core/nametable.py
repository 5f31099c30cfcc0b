"""A set of key names in 16 bytes per name: 64-bit hashes with open addressing.

A Python set takes four times as much. Two names with one hash would be taken for one: once in 2^64 pairs, and the salt
keeps others from provoking it.
"""

from __future__ import annotations

from array import array

from xxhash import xxh3_64_intdigest

BYTES_PER_NAME = 16
"""Memory per name, at most, once the expected number of names has been added."""
_MIN_SIZE = 1 << 10


class NameTable:
    """The names added so far. expected: about how many there will be; salt: the state's digest salt."""

    __slots__ = ("_count", "_mask", "_salt", "_slots")

    def __init__(self, expected: int, salt: int) -> None:
        size = _MIN_SIZE
        while size * 5 < expected * 8:  # at most 5 of 8 slots are taken
            size <<= 1
        self._mask = size - 1
        self._slots = array("Q", bytes(8 * size))
        self._salt = salt
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, name: bytes) -> bool:
        """Add a name. Return False if it was there already."""
        mark = xxh3_64_intdigest(name, self._salt) or 1
        slots, mask = self._slots, self._mask
        at = mark & mask
        while held := slots[at]:
            if held == mark:
                return False
            at = (at + 1) & mask
        slots[at] = mark
        self._count += 1
        if self._count * 4 > (mask + 1) * 3:
            self._grow()
        return True

    def __contains__(self, name: bytes) -> bool:
        mark = xxh3_64_intdigest(name, self._salt) or 1
        slots, mask = self._slots, self._mask
        at = mark & mask
        while held := slots[at]:
            if held == mark:
                return True
            at = (at + 1) & mask
        return False

    def _grow(self) -> None:
        marks = self._slots
        mask = self._mask = 2 * self._mask + 1
        slots = self._slots = array("Q", bytes(8 * (mask + 1)))
        for mark in marks:
            if mark:
                at = mark & mask
                while slots[at]:
                    at = (at + 1) & mask
                slots[at] = mark
