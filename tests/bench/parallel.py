"""One view in four processes, beside the same in one: what cutting it into shards costs.

At once, as in production: then source, Redis and runs share the cores and their caches. One after another: the work
itself. And as long runs, which load the view and follow it until as many rows have changed as it has.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from tests.bench.measure import ROOT, BenchError, Sample
from tests.bench.world import PLAIN, World

SHARDS = 4
TURNS = 3
CHANGES = 100
"""Transactions that are followed; each changes another hundredth of the rows."""
MARKS = 64
"""Rows that show that everything before them has arrived: some for each shard."""
PATIENCE_S = 300
LOOK_EVERY_S = 0.1


def measure_shards(world: World) -> None:
    """First loads, in turn whole, in shards at once, and shard by shard; and what a process costs that does nothing."""
    one = world.command(PLAIN, "run")
    whole = [_load(world, one)]
    idle_s = _cpu_s(world.launcher.run(one))
    commands = [world.command(PLAIN, "run", "--shard", f"{i}/{SHARDS}") for i in range(SHARDS)]
    begun = " ".join(f'{shlex.join(command)} > /dev/null & all="$all $!";' for command in commands)
    together = f"{begun} for one in $all; do wait $one || exit 1; done"
    one_by_one = "; ".join(f"{shlex.join(command)} > /dev/null || exit 1" for command in commands)
    cut, serial = [], []
    for _ in range(world.few(TURNS)):
        cut.append(_load(world, ["bash", "-c", together]))
        serial.append(_load(world, ["bash", "-c", one_by_one]))
        whole.append(_load(world, one))
    # In turn as well: one measurement of this kind scatters by 15 %.
    alone, shared = [], []
    for _ in range(world.few(TURNS)):
        alone.append(_load_and_follow(world, [one]))
        shared.append(_load_and_follow(world, commands))
    alone_s, shared_s = (median(map(sum, samples)) for samples in (alone, shared))
    alone_following_s, shared_following_s = (
        median(following for _, following in samples) for samples in (alone, shared)
    )
    whole_s, cut_s, serial_s = (median(map(_cpu_s, samples)) for samples in (whole, cut, serial))
    world.results.parallel |= {
        "cpu": cut_s / whole_s,
        "serial_cpu": serial_s / whole_s,
        "rows_cpu": max(0.0, serial_s - SHARDS * idle_s) / max(0.001, whole_s - idle_s),
        "followed_cpu": shared_s / alone_s,
        "following_cpu": shared_following_s / max(0.01, alone_following_s),
        "seconds": median(one.seconds for one in cut) / median(one.seconds for one in whole),
        "whole_cpu_s": whole_s,
        "cut_cpu_s": cut_s,
        "serial_cpu_s": serial_s,
        "idle_cpu_s": idle_s,
        "whole_followed_cpu_s": alone_s,
        "cut_followed_cpu_s": shared_s,
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


def _load_and_follow(world: World, commands: list[list[str]]) -> tuple[float, float]:
    """Return the CPU seconds of processes that load the view together and follow it until all has changed once: until
    they had loaded it, and from then on."""
    client = world.clients[PLAIN]
    client.flushdb()
    following = [
        subprocess.Popen([*one, "--for", "1h"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        for one in commands
    ]
    used_s = 0.0
    try:
        # Asked by DBSIZE, as administrators do: a client that reads would be spared, so the load would be slower.
        _await(lambda: int(client.dbsize()) >= world.source.rows(), following)
        _await(lambda: _loaded(world) == len(commands), following)
        loading_s, loaded = sum(map(_used_s, following)), int(client.dbsize())
        for part in range(CHANGES):
            world.update_suffix(max(1, world.rows // CHANGES), part)
        world.source.execute(f"INSERT INTO t SELECT 'mark' || n, 'x' FROM generate_series(1, {MARKS}) AS n")
        _await(lambda: int(client.dbsize()) >= loaded + MARKS, following)
        marks = [f"p:mark{n}" for n in range(1, MARKS + 1)]
        _await(lambda: client.exists(*marks) == MARKS, following)
    finally:
        world.source.execute("DELETE FROM t WHERE key LIKE 'mark%'")
        for process in following:
            process.send_signal(signal.SIGTERM)
        for process in following:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            used_s += usage.ru_utime + usage.ru_stime
    return loading_s, used_s - loading_s


def _used_s(process: subprocess.Popen[bytes]) -> float:
    """CPU seconds of a process so far (proc(5): utime and stime follow the name, which may contain anything)."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _await(done: Callable[[], bool], following: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > deadline or any(process.poll() is not None for process in following):
            raise BenchError("the view was not loaded and followed")
        time.sleep(LOOK_EVERY_S)


def _loaded(world: World) -> int:
    """How many states in Redis have a checkpoint."""
    client = world.clients[PLAIN]
    states = client.scan_iter("reconcile:*:state*", count=100_000)
    return sum(bool(client.hget(name, "as_of")) for name in states)
