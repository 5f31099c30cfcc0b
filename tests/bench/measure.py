"""Measured processes and what is computed from them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[2]
LIMIT_S = 3600


class BenchError(Exception):
    """A measured program failed, or did not do what was to be measured."""


@dataclass
class Sample:
    """One measured process."""

    seconds: float
    user_s: float
    system_s: float
    peak_mb: float
    started: float
    """Monotonic time."""
    out: str = ""
    unit_s: float = 0.0
    """Seconds of the unit, measured just before and just after."""
    view: dict[str, Any] = field(default_factory=dict)
    """The view's part of the run's own report."""
    redis: dict[str, int] = field(default_factory=dict)
    """What the Redis server counted meanwhile: commands, bytes_in, bytes_out."""


class Launcher:
    """Starts processes from a small one, so that their peak memory is their own."""

    def __init__(self, directory: Path) -> None:
        self._out = directory / "out"
        self._err = directory / "err"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.launcher"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def run(self, command: list[str], *, discard: bool = False, expect: int | None = 0) -> Sample:
        """Run a program to its end. Raises BenchError when it exits otherwise than expected."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        out = "/dev/null" if discard else str(self._out)
        request = {"command": command, "out": out, "err": str(self._err), "limit_s": LIMIT_S}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        text = "" if discard else self._out.read_text()
        code = answer.pop("code", None)
        if "error" in answer or (expect is not None and code != expect):
            said = f"{answer.get('error', '')}\n{text[-2000:]}\n{self._err.read_text()[-2000:]}"
            raise BenchError(f"{' '.join(command)[:300]}: exit {code} {said}")
        return Sample(out=text, **answer)

    def close(self) -> None:
        """End the small process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


@dataclass
class Results:
    """Everything measured at one number of rows, by the name of the row of the table."""

    rows: int
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    bare: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of statements alone, without process start: the source's own share."""
    latency: dict[str, float] = field(default_factory=dict)
    cold: dict[str, float] = field(default_factory=dict)
    parallel: dict[str, float] = field(default_factory=dict)
    """Shards beside a whole view."""
    layouts: dict[str, float] = field(default_factory=dict)
    """The same bytes in each layout."""
    views: dict[str, float] = field(default_factory=dict)
    """Many views in one process."""
    readers: dict[str, Any] = field(default_factory=dict)
    """What another client of the same Redis sees."""
    counters: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Step → why it gave no figure."""

    def add(self, name: str, sample: Sample) -> None:
        self.samples.setdefault(name, []).append(sample)

    def seconds(self, name: str) -> float:
        return median(sample.seconds for sample in self.samples[name])

    def user_s(self, name: str) -> float:
        return median(sample.user_s for sample in self.samples[name])

    def peak_mb(self, name: str) -> float:
        return max(sample.peak_mb for sample in self.samples[name])

    def to_unit(self, name: str) -> float:
        """Median ratio to the unit measured beside it."""
        return median(sample.seconds / sample.unit_s for sample in self.samples[name])

    def ratio(self, name: str, other: str) -> float:
        """Median ratio of two rows, repetition by repetition."""
        pairs = zip(self.samples[name], self.samples[other], strict=False)
        return median(ours.seconds / theirs.seconds for ours, theirs in pairs)

    def bare_s(self, name: str) -> float:
        return median(self.bare[name])
