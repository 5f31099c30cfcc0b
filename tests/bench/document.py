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
    sizes: list[Results] = field(default_factory=list)
    servers: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return REAL if self.real else STANDIN

    def to_dict(self) -> dict[str, Any]:
        """Everything."""
        pairs = itertools.pairwise(self.sizes)
        return {
            "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
            **self.servers,
            "repeat": self.repeat,
            "sizes": [_size(one) for one in self.sizes],
            "growth": [figure.to_dict() for one, ten in pairs for figure in growth(one, ten)],
        }


def _size(one: Results) -> dict[str, Any]:
    return {
        "rows": one.rows,
        "unit_s": one.seconds("unit") if "unit" in one.samples else None,
        "figures": [figure.to_dict() for figure in figures(one)],
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

    @classmethod
    def read(cls, path: Path) -> Book:
        """What is there; empty when there is none."""
        return cls(path, json.loads(path.read_text()) if path.exists() else {})

    def keep(self, measurement: Measurement) -> None:
        """Write it now, so that nothing that was measured is lost."""
        self.pages[measurement.kind] = measurement.to_dict()
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
