"""The cost model: what grows with what, and that it tells what was measured (docs/scale.md)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from reconcile.core import cost as costs
from reconcile.core.cost import Demand, SourceCosts, Way, cost, factor, load_cost

SOURCE = SourceCosts()
MILLION = Demand(1_000_000, 16_384)
WITH_COMPANION = replace(MILLION, buckets=65_536)


@pytest.mark.parametrize(
    ("way", "demand", "measured_s"),
    [
        ("fingerprints", MILLION, 4.8),
        ("fingerprints", Demand(1_000_000, 65_536), 6.5),
        ("companion", MILLION, 0.06),
        ("delta", replace(MILLION, updated=100_000), 2.75),
    ],
)
def test_it_tells_what_a_real_materialize_took(way: Way, demand: Demand, measured_s: float) -> None:
    """Seconds at the source, within a quarter of what was measured there (1M rows of 20 + 100 bytes)."""
    assert cost(way, demand, SOURCE).source_s == pytest.approx(measured_s, rel=0.25)


def test_a_run_that_finds_nothing_costs_by_buckets_with_a_companion_and_by_rows_without() -> None:
    """Ten times the rows in the same buckets."""
    ten = replace(MILLION, rows=10_000_000)
    assert cost("companion", ten, SOURCE) == cost("companion", MILLION, SOURCE)
    assert cost("fingerprints", ten, SOURCE).source_s > 5 * cost("fingerprints", MILLION, SOURCE).source_s
    assert cost("delta", ten, SOURCE).source_s == pytest.approx(10 * cost("delta", MILLION, SOURCE).source_s)


def test_a_changed_key_makes_its_bucket_travel() -> None:
    """The rows of a bucket for the first, all rows at most; deletes make all names be looked at."""

    def read(changes: float, **more: float) -> costs.Cost:
        return cost("companion", replace(MILLION, updated=changes, **more), SOURCE)

    size = MILLION.row_bytes + costs.ROW_BYTES
    none = read(0).source_bytes
    assert read(1).source_bytes - none == pytest.approx(size * 1_000_000 / 16_384, rel=0.01)
    assert read(10**7).source_bytes - none == pytest.approx(size * 1_000_000, rel=0.01)
    assert read(0, deleted=1).redis_s > read(1).redis_s + 0.9 * 1_000_000 * costs.REDIS_NAME_S


def test_shards_divide_what_travels_but_not_what_the_source_looks_through() -> None:
    """Each tells its rows from the others' by looking at all of them."""
    changed = replace(MILLION, updated=1000)
    parted = replace(changed, shards=8)
    assert load_cost(parted, SOURCE).source_bytes == pytest.approx(load_cost(changed, SOURCE).source_bytes / 8, rel=0.1)
    assert cost("fingerprints", parted, SOURCE).source_s > 2 * SOURCE.row_filtered * 1_000_000
    assert cost("companion", parted, SOURCE).source_s < cost("companion", changed, SOURCE).source_s


def cheapest(demand: Demand, *, runs_per_start: float) -> Way:
    ways: tuple[Way, ...] = ("companion", "fingerprints", "delta", "follow")
    return min(ways, key=lambda way: cost(way, demand, SOURCE, runs_per_start=runs_per_start).total_s)


def test_the_cheapest_way_depends_on_size_and_schedule() -> None:
    """Small views: whatever. Large ones: the companion view, or one subscription for many runs; never one a minute."""
    large = Demand(100_000_000, 1 << 17, updated=10)
    assert cheapest(large, runs_per_start=60) == "follow"
    assert cheapest(large, runs_per_start=1) == "companion"
    assert cheapest(replace(large, updated=0), runs_per_start=60) == "companion"
    busy = replace(large, updated=1_000_000)
    assert cheapest(busy, runs_per_start=1) in ("delta", "follow")


def test_a_source_s_own_speed_is_told_by_one_figure() -> None:
    """Twice as long for all fingerprints: twice as long for everything the source does."""
    known = cost("fingerprints", MILLION, SOURCE).source_s
    slow = SOURCE.scaled(factor(MILLION, 2 * known))
    assert slow.row_read == pytest.approx(2 * SOURCE.row_read)
    assert cost("fingerprints", MILLION, slow).source_s == pytest.approx(2 * known)


def test_the_manual_names_these_coefficients() -> None:
    """docs/scale.md, in microseconds: all of them, with the values that are computed with."""
    text = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
    told = {name: float(value) for name, value in re.findall(r"^\| `([\w.]+)` \| ([\d.]+) \|", text, re.MULTILINE)}
    ours = {f"SourceCosts.{name}": getattr(SOURCE, name) for name in SOURCE.__struct_fields__}
    ours |= {name: value for name, value in vars(costs).items() if name.endswith("_S")}
    assert told == pytest.approx({name: value * 1e6 for name, value in ours.items()})
