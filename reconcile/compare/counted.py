"""Count the owned names in each bucket of Redis, each name once.

A SCAN may return a name twice (while the server shrinks its table), and counting it twice would hide a lost one. To
recognise a name takes 16 bytes. If there are more names than may be held, half of the buckets are counted at a time,
each half with its own scan.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Callable, Iterable

from reconcile.core.nametable import NameTable
from reconcile.stop import Stop
from reconcile.target.port import Target

HELD_NAMES = 2_500_000
"""Names held at once: 32 MiB."""

Scan = Callable[[], Iterable[list[bytes]]]
"""Starts a new scan of names, in pages; a name may come twice."""


def existing_names(target: Target, stop: Stop) -> Scan:
    """Return a scan of owned names whose keys exist: a remembered name may have lost its key."""
    remembered = target.range.ownership == "remembered"

    def scan() -> Iterable[list[bytes]]:
        for page in target.names():
            stop.check()
            if remembered:
                page = [name for name, there in zip(page, target.exist(page), strict=True) if there]
            yield page

    return scan


def count_names(scan: Scan, chosen: range, expected: int, salt: int, *, held_names: int = HELD_NAMES) -> dict[int, int]:
    """Return bucket → number of distinct names, for all chosen buckets.

    chosen: i, i + n, i + 2n … below B, where n and B are powers of two. expected: roughly how many names they have.
    salt: the state's digest salt.
    """
    if len(chosen) > 1 and expected > held_names:
        return _in_halves(scan, chosen, expected, salt, held_names)
    counts = dict.fromkeys(chosen, 0)
    seen = NameTable(min(expected, held_names), salt)
    i, n, mask = chosen.start, chosen.step, chosen.step - 1
    buckets = len(chosen) * n
    for page in scan():
        for name in page:
            hashed = crc32(name)
            if hashed & mask == i and seen.add(name):
                counts[hashed % buckets] += 1
        if len(seen) > held_names and len(chosen) > 1:  # more than expected
            return _in_halves(scan, chosen, len(seen), salt, held_names)
    return counts


def _in_halves(scan: Scan, chosen: range, expected: int, salt: int, held_names: int) -> dict[int, int]:
    counts: dict[int, int] = {}
    for half in (chosen[::2], chosen[1::2]):
        counts |= count_names(scan, half, expected // 2, salt, held_names=held_names)
    return counts
