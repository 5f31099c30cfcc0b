"""Many small views in one process: unchanged ones with companion views, and all of them followed at once."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import redis

from tests.bench.latency import told_until
from tests.bench.measure import ROOT, BenchError
from tests.bench.world import World
from tests.support.command import PROGRAM

VIEWS = 100
FEW = 4
ROWS = 100
TURNS = 3
SAMPLING_S = 20
PATIENCE_S = 120
LOOK_EVERY_S = 0.001
DATABASE = 2


def measure_views(world: World) -> None:
    """Each view has a table of its own, which changes once a second while it is followed."""
    many = world.few(VIEWS, FEW)
    source, directory = world.source, Path(world.command("plain")[-2]).parent
    for n in range(many):
        source.execute(f"CREATE TABLE many{n} (key text, value text)")
        source.execute(f"INSERT INTO many{n} SELECT 'k' || n, 'v' || n FROM generate_series(1, {ROWS}) AS n")
        source.execute(f"CREATE MATERIALIZED VIEW views{n} AS SELECT key, value FROM many{n}")
    url = world.redis_urls["plain"].rsplit("/", 1)[0] + f"/{DATABASE}"
    client = redis.Redis.from_url(url)
    config = directory / "many.json"
    views: list[dict[str, Any]] = [
        {"name": f"v{n}", "sql": f"SELECT key, value FROM {source.schema}.views{n}", "key_prefix": f"v{n}"}
        for n in range(many)
    ]
    whole = {"materialize": {"url": source.url}, "redis": {"url": url}, "views": views}
    try:
        client.flushdb()
        config.write_text(json.dumps(whole))
        for n, ddl in enumerate(_companions(world, config, many)):
            for statement in filter(str.strip, ddl.split(";\n")):
                source.execute(statement)
            views[n]["companion"] = f"{source.schema}.companion{n}"
        config.write_text(json.dumps(whole))
        command = [PROGRAM, "run", "--config", str(config), "--json"]
        world.launcher.run(command)
        time.sleep(3)  # what the source kept is forgotten
        unchanged = [world.launcher.run(command) for _ in range(world.few(TURNS))]
        world.results.views |= {
            "views": many,
            "unchanged_s": median(one.seconds for one in unchanged),
            "unchanged_user_s": median(one.user_s for one in unchanged),
        }
        _follow(world, client, [*command, "--for", "600s"], many)
    finally:
        for n in range(many):
            source.execute(f"DROP TABLE many{n} CASCADE")
        client.flushdb()


def _companions(world: World, config: Path, many: int) -> list[str]:
    """The DDL that `init` prints for the first view, and the same for the others: a hundred starts take a minute."""
    arguments = ["init", "--companion", f"{world.source.schema}.companion0", "--view", "v0"]
    printed = world.launcher.run([PROGRAM, *arguments, "--config", str(config), "--json"])
    names = re.compile(r"\b(views|companion|v)0(?=\b|_by_bucket)")
    return [names.sub(rf"\g<1>{n}", json.loads(printed.out)["ddl"]) for n in range(many)]


def _follow(world: World, client: redis.Redis, command: list[str], many: int) -> None:
    query = f"SELECT key, value FROM {world.source.schema}.views0"
    bare = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.programs", "progress", world.source.url, query],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert bare.stdout is not None
    bare.stdout.readline()  # it has subscribed
    following = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    try:
        _await_all(world, client, following, many)
        began, before_s = time.monotonic(), _cpu_s(following.pid)
        returned, seen = _change_and_look(world, client, many)
        used = (_cpu_s(following.pid) - before_s) / (time.monotonic() - began)
        world.results.views |= _of_process(following.pid) | {"cpu_share": used}
        world.source.execute("INSERT INTO many0 VALUES ('last', 'x')")
        known = told_until(bare.stdout, "last")
    finally:
        for process in (following, bare):
            process.terminate()
        following.wait(PATIENCE_S)
    bare.wait(PATIENCE_S)
    extra = [(seen[0, key] - known[key]) * 1000 for n, key in returned if n == 0]
    source = [(known[key] - at) * 1000 for (n, key), at in returned.items() if n == 0]
    world.results.views |= {
        "source_p50_ms": median(source),
        "visible_p50_ms": median((seen[one] - at) * 1000 for one, at in returned.items()),
        "extra_p50_ms": median(extra),
    }


def _await_all(world: World, client: redis.Redis, following: subprocess.Popen[bytes], many: int) -> None:
    """Change every view until all have a row that came while they were followed."""
    deadline = time.monotonic() + PATIENCE_S
    for turn in range(10**6):
        for n in range(many):
            world.source.execute(f"INSERT INTO many{n} VALUES ('first{turn}', '1')")
        time.sleep(0.5)
        if client.exists(*(f"v{n}:first{turn}" for n in range(many))) == many:
            return
        if following.poll() is not None or time.monotonic() > deadline:
            raise BenchError(f"not all views are followed (exit {following.poll()})")


def _change_and_look(
    world: World, client: redis.Redis, many: int
) -> tuple[dict[tuple[int, str], float], dict[tuple[int, str], float]]:
    """Insert a row into each view a second; (view, key) → when the INSERT returned, and when a GET saw it."""
    returned: dict[tuple[int, str], float] = {}
    seen: dict[tuple[int, str], float] = {}
    sampling_s = world.few(SAMPLING_S, FEW)
    began, number = time.monotonic(), 0
    while (now := time.monotonic()) < began + sampling_s or len(seen) < len(returned):
        if began + sampling_s > now >= began + number / many:
            turn, n = divmod(number, many)
            world.source.execute(f"INSERT INTO many{n} VALUES ('row{turn}', 'x')")
            returned[n, f"row{turn}"] = time.monotonic()
            number += 1
        waiting = [one for one in returned if one not in seen]
        if waiting:
            found = client.mget([f"v{n}:{key}" for n, key in waiting])
            at = time.monotonic()
            seen |= {one: at for one, value in zip(waiting, found, strict=True) if value is not None}  # type: ignore[arg-type]
        if now > began + sampling_s + PATIENCE_S:
            raise BenchError("rows did not arrive")
        time.sleep(LOOK_EVERY_S)
    return returned, seen


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _of_process(pid: int) -> dict[str, float]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    folder = Path(f"/proc/{pid}/fd")
    links = []
    for one in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed a moment ago
            links.append(os.readlink(one))
    return {
        "peak_mb": int(status["VmHWM"].split()[0]) / 1024,
        "threads": int(status["Threads"]),
        "sockets": sum(link.startswith("socket:") for link in links),
    }
