"""One view in four processes, beside the same in one: what cutting it into shards costs.

At once, as in production: then source, Redis and runs share the cores, and each shard is another client to the others.
And one after another: the work itself.
"""

from __future__ import annotations

import shlex
from statistics import median

from tests.bench.measure import BenchError, Sample
from tests.bench.world import PLAIN, World

SHARDS = 4
TURNS = 3


def measure_shards(world: World) -> None:
    """First loads, in turn whole, in shards at once, and shard by shard; and what a process costs that does nothing."""
    whole = [_load(world, world.command(PLAIN, "run"))]
    idle_s = _cpu_s(world.launcher.run(world.command(PLAIN, "run")))
    commands = [world.command(PLAIN, "run", "--shard", f"{i}/{SHARDS}") for i in range(SHARDS)]
    begun = " ".join(f'{shlex.join(command)} > /dev/null & all="$all $!";' for command in commands)
    together = f"{begun} for one in $all; do wait $one || exit 1; done"
    one_by_one = "; ".join(f"{shlex.join(command)} > /dev/null || exit 1" for command in commands)
    cut, serial = [], []
    for _ in range(world.few(TURNS)):
        cut.append(_load(world, ["bash", "-c", together]))
        serial.append(_load(world, ["bash", "-c", one_by_one]))
        whole.append(_load(world, world.command(PLAIN, "run")))
    whole_s, cut_s, serial_s = (median(map(_cpu_s, samples)) for samples in (whole, cut, serial))
    world.results.parallel |= {
        "cpu": cut_s / whole_s,
        "serial_cpu": serial_s / whole_s,
        "rows_cpu": max(0.0, serial_s - SHARDS * idle_s) / max(0.001, whole_s - idle_s),
        "seconds": median(one.seconds for one in cut) / median(one.seconds for one in whole),
        "whole_cpu_s": whole_s,
        "cut_cpu_s": cut_s,
        "serial_cpu_s": serial_s,
        "idle_cpu_s": idle_s,
    }


def _load(world: World, command: list[str]) -> Sample:
    client = world.clients[PLAIN]
    client.flushdb()
    sample = world.launcher.run(command)
    rows = sum(1 for _ in client.scan_iter("p:*", count=10_000))
    if rows != world.source.rows():
        raise BenchError(f"{rows} keys were loaded")
    return sample


def _cpu_s(sample: Sample) -> float:
    return sample.user_s + sample.system_s
