"""The results file: the last measurement on each kind of source, so that a table can show both side by side."""

from __future__ import annotations

import itertools
import json
import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.figures import figures, growth
from tests.bench.measure import Results

STANDIN, REAL = "stand-in", "real"


@dataclass
class Measurement:
    """One run of the benchmark, as far as it has come."""

    real: bool
    repeat: int
    whole: bool = True
    """Whether every step is measured: then nothing of the measurement before is kept."""
    sizes: list[Results] = field(default_factory=list)
    servers: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return REAL if self.real else STANDIN

    def to_dict(self) -> dict[str, Any]:
        """Everything; each figure with the time at which it was written down."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        pairs = itertools.pairwise(self.sizes)
        return {
            "measured_at": now,
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
            **self.servers,
            "repeat": self.repeat,
            "sizes": [_size(one, now) for one in self.sizes],
            "growth": [figure.to_dict() | {"at": now} for one, ten in pairs for figure in growth(one, ten)],
        }


def _size(one: Results, now: str) -> dict[str, Any]:
    return {
        "rows": one.rows,
        "unit_s": one.seconds("unit") if "unit" in one.samples else None,
        "figures": [figure.to_dict() | {"at": now} for figure in figures(one)],
        "failures": one.failures,
        "bare_s": {name: one.bare_s(name) for name in one.bare},
        "latency": one.latency,
        "readers": one.readers,
        "cold_start_s": one.cold,
        "counters": one.counters,
        "seconds": {name: [sample.seconds for sample in all_] for name, all_ in one.samples.items()},
        "reports": {name: all_[-1].view for name, all_ in one.samples.items() if all_[-1].view},
    }


@dataclass
class Book:
    """The file. `pages`: kind of source → its last measurement."""

    path: Path
    pages: dict[str, Any]
    before: dict[str, Any]
    """As read."""

    @classmethod
    def read(cls, path: Path) -> Book:
        """What is there; empty when there is none."""
        found = json.loads(path.read_text()) if path.exists() else {}
        return cls(path, dict(found), found)

    def keep(self, measurement: Measurement) -> None:
        """Write it now, so that nothing that was measured is lost: not by this one, nor by the one before if this one
        measures a few steps only."""
        page, before = measurement.to_dict(), self.before.get(measurement.kind)
        self.pages[measurement.kind] = page if measurement.whole or before is None else merged(before, page)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(f".{self.path.name}.new")
        fresh.write_text(json.dumps(self.pages, indent=1) + "\n")
        fresh.replace(self.path)

    def others(self, measurement: Measurement) -> dict[int, dict[str, float]]:
        """The figures of the other kind of source, by number of rows and key."""
        other = self.pages.get(STANDIN if measurement.real else REAL, {"sizes": [], "growth": []})
        found: dict[int, dict[str, float]] = {}
        for figure in [*(figure for size in other["sizes"] for figure in size["figures"]), *other["growth"]]:
            found.setdefault(figure["rows"], {})[figure["key"]] = figure["value"]
        return found


def merged(before: dict[str, Any], page: dict[str, Any]) -> dict[str, Any]:
    """The page with everything that only the one before has."""
    sizes = {size["rows"]: size for size in before["sizes"]}
    for size in page["sizes"]:
        sizes[size["rows"]] = _merged_size(sizes[size["rows"]], size) if size["rows"] in sizes else size
    ordered = [sizes[rows] for rows in sorted(sizes)]
    return page | {"sizes": ordered, "growth": _merged_figures(before["growth"], page["growth"])}


def _merged_size(before: dict[str, Any], size: dict[str, Any]) -> dict[str, Any]:
    both = {name: {**before.get(name, {}), **new} for name, new in size.items() if isinstance(new, dict)}
    return {
        **size,
        **both,
        "unit_s": size["unit_s"] or before["unit_s"],
        "figures": _merged_figures(before["figures"], size["figures"]),
        "counters": size["counters"] or before["counters"],
        "failures": size["failures"],
    }


def _merged_figures(before: list[dict[str, Any]], figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    new = {(figure["rows"], figure["key"]) for figure in figures}
    return [*(figure for figure in before if (figure["rows"], figure["key"]) not in new), *figures]
