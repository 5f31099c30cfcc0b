"""What a first load does to others: the latency of another client's GETs, before and during, with and without throttle.

In production Redis has a machine of its own. Here the source and the run are kept off one core, which Redis and the
reader have for themselves; the same GETs while only the source is read (psql COPY) show whether that worked.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import redis

from tests.bench.measure import ROOT
from tests.bench.world import PLAIN, World

KEYS = 1000
QUIET_S = 10
TURNS = 3
WINDOW_S = 0.25
DATABASE = 3
ALL_CORES = os.sched_getaffinity(0)
"""Linux only, as wait4's figures are."""


def measure_readers(world: World) -> None:
    """Quiet, beside a COPY, beside loads in turn with the default and without throttle."""
    url = world.redis_urls[PLAIN].rsplit("/", 1)[0] + f"/{DATABASE}"
    client = redis.Redis.from_url(url)
    client.mset({f"other:{n}": "x" * 100 for n in range(KEYS)})
    info: Any = client.info("server")
    apart = _cores_apart()
    _keep_on(apart[1], *_descendants(os.getpid()))
    _keep_on(apart[0], info["process_id"])
    plain = world.command(PLAIN, "run")
    free = _without_throttle(world, plain)
    quiet_s = world.few(QUIET_S)
    phases: dict[str, list[_Seen]] = {"quiet": [], "copy": [], "load": [], "free": []}

    def copy() -> None:
        world.launcher.run(world.copy_command(world.source.sql))

    try:
        for _ in range(world.few(TURNS)):
            phases["quiet"].append(_seen(url, apart[0], lambda: time.sleep(quiet_s)))
            phases["copy"].append(_seen(url, apart[0], copy))
            for name, command in (("load", plain), ("free", free)):
                world.clients[PLAIN].execute_command("FLUSHDB", "SYNC")  # no thread may free keys meanwhile
                phases[name].append(_seen(url, apart[0], lambda command=command: world.launcher.run(command)))  # type: ignore[misc]
    finally:
        client.flushdb()
        _keep_on(ALL_CORES, *_descendants(os.getpid()), info["process_id"])
    told: dict[str, Any] = {}
    for name, turns in phases.items():
        told[f"{name}_p50_ms"] = median(one.p50_ms for one in turns)
        told[f"{name}_p99_ms"] = median(one.p99_ms for one in turns)
        told[f"{name}_s"] = median(one.seconds for one in turns)
        told[f"{name}_windows"] = turns[-1].windows()
    world.results.readers = told


class _Seen:
    """GETs by another client: (seconds since the beginning, ms each)."""

    def __init__(self, seconds: float, samples: list[tuple[float, float]]) -> None:
        self.seconds = seconds
        self.samples = samples
        cuts = quantiles([took for _, took in samples], n=100)
        self.p50_ms, self.p99_ms = cuts[49], cuts[98]

    def windows(self) -> list[list[float]]:
        """[seconds, worst ms] of each quarter of a second."""
        worst: dict[int, float] = {}
        for at, took in self.samples:
            window = int(at / WINDOW_S)
            worst[window] = max(worst.get(window, 0.0), took)
        return [[window * WINDOW_S, took] for window, took in sorted(worst.items())]


def _seen(url: str, cores: set[int], work: Callable[[], object]) -> _Seen:
    reader = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.programs", "gets", url, str(KEYS)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    _keep_on(cores, reader.pid)
    assert reader.stdout is not None
    reader.stdout.readline()  # it is ready
    began = time.monotonic()
    work()
    ended = time.monotonic()
    out, _ = reader.communicate("")  # the end of its stdin is the end
    samples = [(float(at) - began, float(took)) for at, took in map(str.split, out.splitlines())]
    return _Seen(ended - began, [(at, took) for at, took in samples if 0 <= at <= ended - began])


def _cores_apart() -> tuple[set[int], set[int]]:
    """A core for Redis and its reader, and the others."""
    first, *others = sorted(ALL_CORES)
    return {first}, set(others) or {first}


def _keep_on(cores: set[int], *pids: int) -> None:
    """Let these processes, with all their threads, run on these cores alone."""
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended, or is not ours
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), cores)


def _descendants(pid: int) -> list[int]:
    """This process and all that it has started."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{one}/task"):
                found += map(int, Path(f"/proc/{one}/task/{thread}/children").read_text().split())
    return found


def _without_throttle(world: World, command: list[str]) -> list[str]:
    place = command.index("--config") + 1
    settings = json.loads(Path(command[place]).read_text())
    settings.setdefault("limits", {})["latency_max"] = "off"
    changed = Path(command[place]).with_name("free.json")
    changed.write_text(json.dumps(settings))
    return [*command[:place], str(changed), *command[place + 1 :]]
