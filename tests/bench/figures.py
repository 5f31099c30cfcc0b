"""The rows of the table: what is divided by what, and the goal (docs/performance.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.bench.measure import Results

ROW_BYTES = 120
MEMORY_GOAL_MB = 120.0
GROWTH_GOAL = 10.5


@dataclass
class Figure:
    """One row of the table. value and goal are in `against`'s terms; goal None: for comparison only."""

    key: str
    label: str
    value: float
    against: str
    goal: float | None = None
    seconds: float | None = None
    user_s: float | None = None
    peak_mb: float | None = None
    bare: str = ""
    """The source's own bare speed for the same read."""
    bare_s: float | None = None
    rows: int | None = None
    redis: dict[str, int] = field(default_factory=dict)
    real_only: bool = False
    """Only a real Materialize can show the goal: the stand-in is so fast that the figure is mostly Python's start."""

    @property
    def met(self) -> bool | None:
        return None if self.goal is None else self.value <= self.goal

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


UNIT = "× psql COPY"
_TIMED: tuple[tuple[str, str, float | None, tuple[str, ...]], ...] = (
    ("load_shell", "first load, the shell way", None, ()),
    ("load_naive", "first load, the naive way", None, ()),
    ("load", "first load", 1.4, ("mapped", "fingerprints")),
    ("load_companion", "first load, companion view", None, ("mapped",)),
    ("unchanged", "run, nothing changed", 0.55, ("fingerprints",)),
    ("unchanged_companion", "run, nothing changed, companion view", 0.05, ("companion",)),
    ("changed", "run, 0.1 % updated", 0.8, ("fingerprints",)),
    ("changed_companion", "run, 0.1 % updated, companion view", 0.25, ("companion",)),
    ("mixed", "run, 0.1 % mixed", 0.8, ("fingerprints",)),
    ("mixed_companion", "run, 0.1 % mixed, companion view", 0.35, ("companion",)),
    ("deep", "deep snapshot, nothing changed", None, ("mapped", "fingerprints")),
    ("mass_delta", "mass change at one time, delta", None, ()),
    ("mass_snapshot", "mass change at one time, snapshot", None, ("mapped", "fingerprints")),
)
"""Name, label, goal, the source's bare reads. Runs are without history; mixed: updates, inserts and deletes."""
BARE_NAMES = {
    "mapped": "rows",
    "fingerprints": "GROUP BY",
    "companion": "companion",
}


def figures(results: Results) -> list[Figure]:
    """The table for one number of rows, as far as it is measured."""
    found: list[Figure] = []
    for key, label, goal, bare in _TIMED:
        if key not in results.samples:
            continue
        found.append(_timed(results, key, label, results.to_unit(key), UNIT, goal, bare))
        if key == "load" and "load_shell" in results.samples:
            label = "first load ÷ the shell way"
            found.append(_derived("load_to_shell", label, results.ratio("load", "load_shell"), "× shell way", 1.0))
            if "load_naive" in results.samples:
                value = results.ratio("load", "load_naive")
                found.append(_derived("load_to_naive", "first load ÷ the naive way", value, "× naive way"))
        if key in ("changed", "mixed"):
            read = _redis(results, key)["bytes_out"] / (results.rows * ROW_BYTES) * 100
            found.append(_derived(f"{key}_bytes", f"{label}: Redis bytes read", read, "% of the data", 2.0))
    if {"verify", "scan"} <= results.samples.keys():
        found.append(_verify(results))
    if {"delta", "subscribe"} <= results.samples.keys():
        found.append(_delta(results))
    if results.latency:
        found += _latency(results)
    if results.cold:
        found += _cold(results)
    found += [*_parallel(results), *_layouts(results), *_views(results), *_readers(results)]
    found += _memory(results)
    for one in found:
        one.rows = results.rows
        one.real_only = one.against == UNIT and one.goal is not None
    return found


def growth(smaller: Results, larger: Results) -> list[Figure]:
    """Time at ten times the rows, scaled to ten where the step is another."""
    step = larger.rows / smaller.rows / 10
    found = []
    for key, label in (("load", "first load"), ("unchanged", "run, nothing changed"), ("deep", "deep snapshot"),
                       ("verify", "deep verify"), ("unit", "psql COPY itself")):  # fmt: skip
        if not (key in smaller.samples and key in larger.samples):
            continue
        value = larger.seconds(key) / smaller.seconds(key) / step
        goal = None if key == "unit" else GROWTH_GOAL
        found.append(_derived(f"growth_{key}", f"growth, {label}", value, "× time for 10 × rows", goal))
        found[-1].rows = larger.rows
    return found


def _timed(
    results: Results, key: str, label: str, value: float, against: str, goal: float | None, bare: tuple[str, ...]
) -> Figure:
    own = ", ".join(f"{BARE_NAMES[name]} {results.bare_s(name):.2f} s" for name in bare if name in results.bare)
    seconds = [results.bare_s(name) for name in bare if name in results.bare]
    return Figure(
        key, label, value, against, goal, results.seconds(key), results.user_s(key), results.peak_mb(key), own,
        sum(seconds) or None, redis=_redis(results, key),
    )  # fmt: skip


def _derived(key: str, label: str, value: float, against: str, goal: float | None = None) -> Figure:
    return Figure(key, label, value, against, goal)


def _redis(results: Results, key: str) -> dict[str, int]:
    return results.samples[key][-1].redis


def _paired(results: Results, key: str, base: Callable[[int], float]) -> float:
    ratios = sorted(sample.seconds / base(i) for i, sample in enumerate(results.samples[key]))
    middle = len(ratios) // 2
    return ratios[middle] if len(ratios) % 2 else (ratios[middle - 1] + ratios[middle]) / 2


def _verify(results: Results) -> Figure:
    samples = results.samples
    value = _paired(results, "verify", lambda i: samples["verify"][i].unit_s + samples["scan"][i].seconds)
    one = _timed(results, "verify", "deep verify", value, "× (psql COPY + scan)", 1.2, ("mapped",))
    one.bare = f"{one.bare}; scan {results.seconds('scan'):.2f} s"  # the scan is the target's, not the source's
    return one


def _delta(results: Results) -> Figure:
    value = results.ratio("delta", "subscribe")
    one = _timed(results, "delta", "delta, catching up", value, "× psql COPY (SUBSCRIBE)", 1.5, ())
    changes = int(results.samples["delta"][-1].view["puts"])
    one.label = f"delta, {changes:,} changes"
    one.bare_s = results.seconds("subscribe")
    one.bare = f"SUBSCRIBE {one.bare_s:.2f} s"
    return one


def _latency(results: Results) -> list[Figure]:
    told = results.latency
    return [
        _derived("visible_p50", "INSERT returned → GET sees it, p50", told["visible_p50_ms"], "ms"),
        _derived("visible_p90", "INSERT returned → GET sees it, p90", told["visible_p90_ms"], "ms"),
        _derived("source_p50", "the source's own progress, p50", told["source_p50_ms"], "ms"),
        _derived("extra_p50", "added by reconcile, p50", told["extra_p50_ms"], "ms after the source's progress", 3.0),
        _derived("extra_p90", "added by reconcile, p90", told["extra_p90_ms"], "ms after the source's progress"),
    ]


def _cold(results: Results) -> list[Figure]:
    told = results.cold
    first = _derived("cold_start", "cold start to first statement", told["ratio"], "× import psycopg, redis", 1.0)
    first.seconds = told["first_statement"]
    first.bare = f"imports {told['imports']:.3f} s, python {told['python']:.3f} s"
    shown = _derived("help", "reconcile --help", told["help"] / told["imports"], "× import psycopg, redis")
    shown.seconds = told["help"]
    return [first, shown]


def _parallel(results: Results) -> list[Figure]:
    told = results.parallel
    if not told:
        return []
    whole = "× one process"
    return [
        _derived("shards_followed_cpu", "4 shards load and follow as many changes as rows, total CPU",
                 told["followed_cpu"], whole, 1.15),
        _derived("shards_following_cpu", "the following alone", told["following_cpu"], whole),
        _derived("shards_cpu", "first load in 4 shards at once, total CPU", told["cpu"], whole),
        _derived("shards_serial_cpu", "one after another, total CPU", told["serial_cpu"], whole),
        _derived("shards_rows_cpu", "the same without the starts", told["rows_cpu"], whole),
        _derived("shards_seconds", "first load in 4 shards at once, time", told["seconds"], whole),
    ]  # fmt: skip


def _layouts(results: Results) -> list[Figure]:
    told = results.layouts
    if not told:
        return []
    found = []
    for name, label in (("json", "JSON of two columns"), ("hash", "hashes of two fields")):
        ratio = told[f"{name}_user_s"] / told["string_user_s"]  # the source's own part is not ours to show
        load = _derived(f"{name}_load", f"first load, {label}: CPU", ratio, "× strings")
        load.seconds, load.user_s = told[f"{name}_s"], told[f"{name}_user_s"]
        size = told[f"{name}_bytes"] / told["string_bytes"]
        found += [load, _derived(f"{name}_bytes", f"Redis' memory, {label}", size, "× strings")]
    return found


def _views(results: Results) -> list[Figure]:
    told = results.views
    if not told:
        return []
    many = f"{told['views']:.0f} views"
    unchanged = _derived(
        "views_unchanged", f"run, {many}, nothing changed, companion views", told["unchanged_s"], "s", 3.0
    )
    unchanged.user_s = told["unchanged_user_s"]
    return [
        unchanged,
        _derived("views_visible_p50", f"{many} followed: INSERT returned → GET sees it, p50",
                 told["visible_p50_ms"], "ms"),
        _derived("views_source_p50", f"{many} followed: the source's own progress, p50", told["source_p50_ms"], "ms"),
        _derived("views_extra_p50", f"{many} followed: added by reconcile, p50", told["extra_p50_ms"],
                 "ms after the source's progress", 20.0),
        _derived("views_cpu", f"{many} followed: CPU", told["cpu_share"] * 100, "% of a core"),
        _derived("views_peak", f"{many} followed: peak memory", told["peak_mb"], "MB", MEMORY_GOAL_MB),
        _derived("views_sockets", f"{many} followed: connections", told["sockets"] / told["views"], "a view", 3.0),
        _derived("views_threads", f"{many} followed: threads", told["threads"], "in all"),
    ]  # fmt: skip


def _readers(results: Results) -> list[Figure]:
    told = results.readers
    if not told:
        return []
    quiet = told["quiet_p99_ms"]
    against = "× its p99 in quiet"
    load = _derived(
        "readers_load", "another client's GETs during a first load, p99", told["load_p99_ms"] / quiet, against, 2.0
    )
    free = _derived("readers_free", "the same without throttle", told["free_p99_ms"] / quiet, against)
    load.seconds, free.seconds = told["load_s"], told["free_s"]
    copy = _derived("readers_copy", "the same while only the source is read", told["copy_p99_ms"] / quiet, against)
    cost = _derived(
        "throttle_cost", "first load with the throttle ÷ without", told["load_s"] / told["free_s"], "× time"
    )
    return [_derived("readers_quiet", "another client's GETs in quiet, p99", quiet, "ms"), copy, load, free, cost]


def _memory(results: Results) -> list[Figure]:
    label = {"load": "first load", "deep": "deep snapshot", "verify": "deep verify",
             "mass_delta": "mass change by delta", "mass_snapshot": "mass change by snapshot"}  # fmt: skip
    return [
        _derived(f"memory_{key}", f"peak memory, {name}", results.peak_mb(key), "MB", MEMORY_GOAL_MB)
        for key, name in label.items()
        if key in results.samples
    ]
