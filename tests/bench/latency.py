"""Commit to visible: an INSERT has returned; when does a GET see it, and when could a bare SUBSCRIBE have known?"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable
from statistics import median, quantiles

from tests.bench.measure import ROOT, BenchError
from tests.bench.world import PLAIN, World

SAMPLES = 240
LEAST_SAMPLES = 20
SAMPLING_S = 90
"""No more samples after this long: an INSERT takes a stand-in a few milliseconds, a real Materialize up to 200."""
FOLLOW_S = 900
"""Longer than all of this may take; the process is ended before."""
ARRIVES_S = 30
EVERY_S = 0.05
LOOK_EVERY_S = 0.0002
PATIENCE_S = 120


def measure_latency(world: World) -> None:
    """While `run --for` follows, insert rows at a modest rate."""
    samples = world.few(SAMPLES, LEAST_SAMPLES)
    with (
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.programs", "progress", world.source.url, world.source.sql],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as bare,
        subprocess.Popen(
            world.command(PLAIN, "run", "--for", f"{FOLLOW_S}s"), stdout=subprocess.DEVNULL, cwd=ROOT
        ) as following,
    ):
        try:
            assert bare.stdout is not None
            bare.stdout.readline()  # it has subscribed
            _await_following(world, following)
            returned, seen = _insert_and_look(world, samples)
            world.source.execute("INSERT INTO t VALUES ('last', '')")
            known = told_until(bare.stdout, "last")
        finally:
            following.terminate()
            following.wait(PATIENCE_S)
            bare.terminate()
    ours, source, extra = [], [], []
    for key, moment in returned.items():
        if key not in known:
            raise BenchError("the bare subscription missed a row")
        ours.append((seen[key] - moment) * 1000)
        source.append((known[key] - moment) * 1000)
        extra.append((seen[key] - known[key]) * 1000)
    world.results.latency |= {"samples": len(ours)}
    for name, values in (("visible", ours), ("source", source), ("extra", extra)):
        world.results.latency[f"{name}_p50_ms"] = median(values)
        world.results.latency[f"{name}_p90_ms"] = quantiles(values, n=10)[8]


def told_until(lines: Iterable[str], last: str) -> dict[str, float]:
    """Key → when the bare client knew of it, until it knows of the last."""
    known: dict[str, float] = {}
    for line in lines:
        key, at = line.split()
        known[key] = float(at)
        if key == last:
            break
    return known


def _await_following(world: World, following: subprocess.Popen[bytes]) -> None:
    """Insert until a row arrives while the process goes on."""
    client = world.clients[PLAIN]
    deadline = time.monotonic() + PATIENCE_S + world.rows / 50_000
    for n in range(10**6):
        world.source.execute(f"INSERT INTO t VALUES ('first-{n:014d}', '1')")
        time.sleep(0.3)
        if client.get(f"p:first-{n:014d}") is not None:
            return
        if following.poll() is not None or time.monotonic() > deadline:
            raise BenchError(f"run --for did not begin to follow (exit {following.poll()})")


def _insert_and_look(world: World, samples: int) -> tuple[dict[str, float], dict[str, float]]:
    client = world.clients[PLAIN]
    returned: dict[str, float] = {}
    seen: dict[str, float] = {}
    until = time.monotonic() + SAMPLING_S
    for n in range(samples):
        if n >= LEAST_SAMPLES and time.monotonic() > until:
            break
        key = f"seen-{n:015d}"
        world.source.execute(f"INSERT INTO t VALUES ('{key}', '{'v' * 100}')")
        returned[key] = time.monotonic()
        deadline = returned[key] + ARRIVES_S
        while client.get(f"p:{key}") is None:
            if time.monotonic() > deadline:
                raise BenchError(f"a row did not arrive within {ARRIVES_S} seconds")
            time.sleep(LOOK_EVERY_S)
        seen[key] = time.monotonic()
        time.sleep(EVERY_S)
    return returned, seen
