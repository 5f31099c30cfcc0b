"""One view in four processes at once, beside the same in one: what cutting it into shards costs."""

from __future__ import annotations

import shlex
from statistics import median

from tests.bench.measure import BenchError, Sample
from tests.bench.world import PLAIN, World

SHARDS = 4
TURNS = 3


def measure_shards(world: World) -> None:
    """First loads, in turn whole and in shards; and a run with nothing to do, which is what each process costs."""
    whole = [_load(world, world.command(PLAIN, "run"))]
    idle_s = _cpu_s(world.launcher.run(world.command(PLAIN, "run")))
    commands = [world.command(PLAIN, "run", "--shard", f"{i}/{SHARDS}") for i in range(SHARDS)]
    begun = " ".join(f'{shlex.join(command)} > /dev/null & all="$all $!";' for command in commands)
    together = f"{begun} for one in $all; do wait $one || exit 1; done"
    cut = []
    for _ in range(world.few(TURNS)):
        cut.append(_load(world, ["bash", "-c", together]))
        whole.append(_load(world, world.command(PLAIN, "run")))
    whole_s, cut_s = median(map(_cpu_s, whole)), median(map(_cpu_s, cut))
    world.results.parallel |= {
        "cpu": cut_s / whole_s,
        "rows_cpu": max(0.0, cut_s - SHARDS * idle_s) / max(0.001, whole_s - idle_s),
        "seconds": median(one.seconds for one in cut) / median(one.seconds for one in whole),
        "whole_cpu_s": whole_s,
        "cut_cpu_s": cut_s,
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
