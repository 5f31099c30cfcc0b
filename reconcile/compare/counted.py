"""How many owned names each bucket has in Redis, each name counted once: a SCAN may tell one twice (while the server
makes its table smaller), and that would hide another that is lost.

To know a name again takes 16 bytes. Where there are more names than may be held, the buckets are counted in halves,
each with a scan of its own.
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
"""Begins to tell names anew, in pages; one may come twice."""


def existing_names(target: Target, stop: Stop) -> Scan:
    """Scans of the owned names under which something is stored: a remembered name may have lost its key."""
    remembered = target.range.ownership == "remembered"

    def scan() -> Iterable[list[bytes]]:
        for page in target.names():
            stop.check()
            if remembered:
                page = [name for name, there in zip(page, target.exist(page), strict=True) if there]
            yield page

    return scan


def count_names(scan: Scan, chosen: range, expected: int, salt: int, *, held_names: int = HELD_NAMES) -> dict[int, int]:
    """Bucket → distinct names, for all of the chosen buckets: i, i + n, i + 2n … up to B, both powers of two.

    expected: about how many names they have. salt: the state's digest salt.
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
