"""Names per bucket, each counted once, however often a scan tells it and however few may be held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from reconcile.compare.counted import Scan, count_names
from reconcile.core.digest import bucket_of

NAMES = [b"p:%d" % n for n in range(5000)]
BUCKETS = 64


def scans(*pages: list[bytes]) -> tuple[list[int], Scan]:
    """(grows with each scan that begins, what begins one)."""
    begun: list[int] = []

    def scan() -> Iterable[list[bytes]]:
        begun.append(1)
        return pages

    return begun, scan


@pytest.mark.parametrize("twice", [[], NAMES[:1], NAMES[100:900], NAMES], ids=["none", "one", "some", "all"])
@pytest.mark.parametrize(("expected", "held"), [(5000, 10_000), (5000, 700), (10, 700), (0, 1)])
@pytest.mark.parametrize("subset", [(0, 1), (3, 4)])
def test_each_name_counts_once(twice: list[bytes], expected: int, held: int, subset: tuple[int, int]) -> None:
    """Told twice in one page, in two, or more than expected: the counts are those of the distinct names."""
    _, scan = scans(NAMES[:3000], NAMES[3000:] + twice[:10], twice, [])
    chosen = range(subset[0], BUCKETS, subset[1])
    truth = Counter(bucket_of(name, BUCKETS) for name in NAMES)
    assert count_names(scan, chosen, expected, 7, held_names=held) == {bucket: truth[bucket] for bucket in chosen}


def test_as_few_scans_as_memory_allows() -> None:
    """One, where all names may be held; else about as many as it takes."""
    begun, scan = scans(NAMES)
    count_names(scan, range(BUCKETS), 5000, 7, held_names=5000)
    assert len(begun) == 1
    begun, scan = scans(NAMES)
    count_names(scan, range(BUCKETS), 5000, 7, held_names=1500)
    assert len(begun) == 4
