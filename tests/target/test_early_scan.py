"""The scan for candidates, begun while the source is waited for."""

from __future__ import annotations

import time
from typing import cast

import pytest

from reconcile.compare import early_scan
from reconcile.compare.early_scan import EarlyScan, names_within, scan_early
from reconcile.compare.sides import Sides
from reconcile.core import digest
from reconcile.core.records import Manifest
from reconcile.errors import Incomplete, Unavailable
from reconcile.report.run_report import ViewReport
from reconcile.source.reading import Reading
from reconcile.stop import Stop
from reconcile.target.port import Target
from tests.target.place import Place

BUCKETS = 16
WITHIN = {1, 5, 11}
SALT = 1


def filled(place: Place, count: int) -> set[bytes]:
    """Keys of the view, some in every bucket; those in WITHIN."""
    keys = [b"p:%d" % n for n in range(count)]
    if place.nodes is None:
        place.do("MSET", keys[0], "x", *[part for key in keys[1:] for part in (key, "x")])
    else:
        for key in keys:
            place.do("SET", key, "x")
    return {key for key in keys if digest.bucket_of(key, BUCKETS) in WITHIN}


def sides_of(target: Target, stop: Stop | None = None) -> Sides:
    """Names are looked for without the source."""
    return Sides(cast(Reading, None), target, stop or Stop(), ViewReport("orders"), SALT)


def scans(place: Place) -> int:
    """SCAN calls that the servers have counted."""
    told = [client.info("commandstats") for client in place.clients()]
    return sum(stats.get("cmdstat_scan", {"calls": 0})["calls"] for stats in told)  # type: ignore[union-attr]


def test_names_are_looked_for_while_the_source_is_waited_for(place: Place) -> None:
    """All of them, each once, though nobody has asked for a page; the connection is free again afterwards."""
    wanted = filled(place, 600)
    with place.target() as target:
        before = scans(place)
        found = EarlyScan(sides_of(target), BUCKETS, WITHIN)
        with found:
            deadline = time.monotonic() + 20
            while scans(place) == before:
                assert time.monotonic() < deadline, "nothing was asked of Redis while the source worked"
                time.sleep(0.01)
        assert target.values([b"p:1"]) == [b"x"]
        names = [name for page in found.pages() for name in page]
        assert set(names) == wanted
        assert len(names) == len(wanted)


def test_rows_that_come_at_once_leave_the_scan_for_later(single: Place) -> None:
    """What was not looked at by then is looked at when it is asked for, between other requests."""
    wanted = filled(single, 30_000)
    with single.target() as target:
        with EarlyScan(sides_of(target), BUCKETS, WITHIN) as found:
            pass
        names: set[bytes] = set()
        for page in found.pages():
            names |= set(page)
            assert target.values([b"p:1"]) == [b"x"]
        assert names == wanted


def test_no_more_names_are_held_than_allowed(single: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the scan waits for whoever takes the pages."""
    wanted = filled(single, 40_000)
    monkeypatch.setattr(early_scan, "HELD_NAMES", 1000)
    with single.target() as target:
        before = scans(single)
        found = EarlyScan(sides_of(target), BUCKETS, WITHIN)
        with found:
            found._thread.join(20)
        assert scans(single) - before < 5, "10 pages are all of it"
        assert {name for page in found.pages() for name in page} == wanted


def test_what_goes_wrong_in_the_scan_is_raised_where_it_was_begun(single: Place) -> None:
    """A run that ends, and a connection that breaks; an error of the source comes first."""
    filled(single, 100)
    stop = Stop()
    with single.target() as target:
        stop.request("SIGTERM")
        with pytest.raises(Incomplete), EarlyScan(sides_of(target, stop), BUCKETS, WITHIN) as found:
            found._thread.join(20)
        with pytest.raises(KeyError), EarlyScan(sides_of(target, stop), BUCKETS, WITHIN):
            raise KeyError
    with single.target() as target:
        for client in single.clients():
            client.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(Unavailable), EarlyScan(sides_of(target), BUCKETS, WITHIN) as found:
            found._thread.join(20)


def test_a_scan_is_begun_only_where_it_is_certain_to_be_needed() -> None:
    """Where the manifest counts more than the source; not of more names than are held, nor without counts."""
    manifest = Manifest(2, f"{digest.normal(5 * digest.ONE):032x}")
    assert manifest.take(digest.encode_manifest([2 * digest.ONE, 3 * digest.ONE]))
    sides = cast(Sides, None)
    assert scan_early(sides, manifest, [2, 3], [0, 1]) is None
    assert scan_early(sides, manifest, [9, 4], [0, 1]) is None
    assert scan_early(sides, manifest, [9, 2], [0]) is None
    assert scan_early(sides, manifest, [9, 2], [0, 1]) is not None
    assert scan_early(sides, manifest, [9, 2], [1]) is not None
    assert scan_early(sides, manifest, [early_scan.HELD_NAMES, 2], [0, 1]) is None
    assert scan_early(sides, manifest, None, [0, 1]) is None
    assert scan_early(sides, None, [9, 2], [0, 1]) is None


def test_names_of_other_buckets_are_left_out(place: Place) -> None:
    wanted = filled(place, 300)
    with place.target() as target:
        assert {name for page in names_within(sides_of(target), BUCKETS, WITHIN) for name in page} == wanted
