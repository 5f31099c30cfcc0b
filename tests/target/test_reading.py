"""Looking at keys: pages bounded in bytes, whatever the values, and names that are the view's."""

from __future__ import annotations

import tracemalloc

import pytest

from reconcile.core.ownership import Range
from reconcile.errors import Unavailable
from reconcile.target import reader
from reconcile.target.pace import PAGE_BYTES, PAGE_KEYS, Pace, cut
from tests.support.redis_cluster import Cluster, slot_of
from tests.target.place import Place, of_cluster

MB = 1 << 20


def test_a_page_of_large_values_is_small(place: Place) -> None:
    """400 values of 1 MB never take more than a few MB, neither when looked up nor when scanned."""
    for n in range(400):
        place.do("SETRANGE", f"p:{n}", MB - 1, "x")
    keys = [b"p:%d" % n for n in range(400)]
    with place.target() as target:
        target.exist(keys[:1])
        tracemalloc.start()
        found = 0
        for page in target.rows():
            assert sum(len(value or b"") for _, value in page) <= 4 * MB
            found += len(page)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found == 400
        assert peak < 12 * MB
        assert [len(value or b"") for value in target.values(keys[:3])] == [MB] * 3


def test_small_values_come_in_large_pages(single: Place) -> None:
    """Once sizes are known."""
    single.do("MSET", "p:0", "x", *[part for n in range(1, 6000) for part in (f"p:{n}", "x")])
    with single.target() as target:
        pages = [len(page) for page in target.rows()]
        assert sum(pages) == 6000
        assert max(pages) >= PAGE_KEYS // 2


def test_pages_shrink_at_the_first_large_value_and_grow_again() -> None:
    """By what was seen: doubling, sizes first after a large value, doubling again when none came for a while."""
    pace = Pace()
    while pace.keys < PAGE_KEYS:
        before = pace.keys
        pace.seen([b"x" * 100] * before)
        assert before < pace.keys <= 2 * before
    pace.seen([b"x", None, b"x" * 5000])
    assert pace.measuring
    for _ in range(8):
        assert pace.measuring
        pace.seen([b"x"] * 50)
    assert not pace.measuring
    assert pace.keys < 10
    for _ in range(20):
        pace.seen([b"x" * 4000] * pace.keys)
    assert pace.keys == PAGE_BYTES // 4000


def test_pages_are_cut_by_size() -> None:
    """None holds more than PAGE_BYTES, but for a value that is larger by itself; order is kept."""
    sizes = [10, PAGE_BYTES, 10, 3 * PAGE_BYTES, PAGE_BYTES // 2, PAGE_BYTES // 2, 1]
    keys = [b"%d" % n for n in range(len(sizes))]
    assert cut(keys, sizes) == [[b"0"], [b"1"], [b"2"], [b"3"], [b"4", b"5"], [b"6"]]


@pytest.mark.parametrize("prefix", ["p:", "a[b]*?\\:", "é:"])
def test_names_are_those_under_the_prefix(place: Place, prefix: str) -> None:
    """Signs that mean something to SCAN are plain in a prefix; keys of any type are ours there."""
    ours = {f"{prefix}{n}".encode() for n in range(30)}
    for key in ours:
        place.do("SET", key, "x")
    place.do("RPUSH", f"{prefix}list".encode(), "x")
    for other in (b"q", b"ab:1", b"reconcile:{x}:state"):
        place.do("SET", other, "x")
    with place.target(key_prefix=prefix) as target:
        assert {key for page in target.names() for key in page} == ours | {f"{prefix}list".encode()}
        rows = dict(row for page in target.rows(lambda key: key.endswith((b"t", b"7"))) for row in page)
        assert rows == {key: b"x" for key in ours if key.endswith(b"7")} | {f"{prefix}list".encode(): None}


def test_a_dedicated_database_is_all_ours(place: Place) -> None:
    """But for reconcile's own keys and the timestamp key."""
    for key in (b"a", b"reconcile", b"reconcile:{claims}", b"reconcile:{other}:state", b"mz"):
        place.do("SET", key, "x")
    with place.target(key_prefix="", dedicated=True, mz_timestamp_key="mz") as target:
        assert target.range == Range("dedicated", b"", b"mz")
        assert {key for page in target.names() for key in page} == {b"a", b"reconcile"}


def test_exist_tells_key_by_key(place: Place) -> None:
    """Whatever is stored there, in order, over several pages."""
    for n in range(0, 2500, 50):
        place.do("RPUSH", f"p:{n}", "x")
    keys = [b"p:%d" % n for n in range(2500)]
    with place.target() as target:
        assert target.exist(keys) == [n % 50 == 0 for n in range(2500)]
        assert target.exist([]) == []
        assert target.values([]) == []


def test_counters_tell_what_info_has(place: Place) -> None:
    """Sums over all primaries."""
    for n in range(20):
        place.do("SET", f"p:{n}", "x")
    place.do("SET", "q", "x", "EX", 100)
    with place.target() as target:
        found = target.counters()
        assert (found.keys, found.with_expiry, found.evicted, found.policy) == (21, 1, 0, "noeviction")
        assert len(found.run_ids.split()) == len(place.clients())
        assert found.used_bytes
        assert found.max_bytes == 0
        assert abs(target.now_ms() / 1000 - int(place.clients()[0].time()[0])) < 60
        assert target.usage.commands > 0


def test_a_scan_over_slots_that_have_moved(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a node that was not looked at yet to one that was: its keys were missed, and that is said."""
    monkeypatch.setattr(reader, "NAMES_COUNT", 10)
    place = of_cluster(cluster)
    for n in range(300):
        place.do("SET", f"p:{n}", "x")
    first, *_, last = cluster.primaries()
    key = next(b"p:%d" % n for n in range(300) if cluster.owner(b"p:%d" % n) is last)
    with place.target() as target:
        names = target.names()
        next(names)
        cluster.move_slot(slot_of(key), last, first)
        try:
            with pytest.raises(Unavailable, match="moved"):
                list(names)
        finally:
            cluster.move_slot(slot_of(key), first, last)


def test_a_scan_by_a_map_that_is_out_of_date(cluster: Cluster) -> None:
    """Slots have moved before the scan, to a node that it would not look at, if that is new: it is not begun."""
    place = of_cluster(cluster)
    place.do("SET", "p:1", "x")
    slot, source = slot_of(b"p:1"), cluster.owner(b"p:1")
    other = next(client for client in cluster.primaries() if client is not source)
    with place.target() as target:
        cluster.move_slot(slot, source, other)
        try:
            with pytest.raises(Unavailable, match="were moved"):
                list(target.names())
            with place.target() as later:
                assert list(later.names()) == [[b"p:1"]]
        finally:
            cluster.move_slot(slot, other, source)
