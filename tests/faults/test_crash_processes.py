"""Real processes, killed with SIGKILL at random times while the source changes."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.faults.proxy import Fault
from tests.faults.rig import Rig
from tests.faults.scene import TIME_KEY, Scene
from tests.support.command import Command
from tests.support.forked import Forked
from tests.support.meanwhile import beside, eventually
from tests.support.redis_servers import RedisServer
from tests.support.seed import rng
from tests.support.sources import Source

RUNS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("run", {}, {}),
    ("run", {"follow_s": 0.1}, {}),
    ("run", {}, {"batch_max_keys": 3}),
    ("snapshot", {}, {"batch_max_keys": 3}),
    ("snapshot", {"deep": True}, {"batch_max_keys": 20}),
    ("delta", {}, {"batch_max_keys": 3}),
    ("delta", {}, {"batch_max_keys": 3, "memory_max_bytes": 3000}),
]


def start(scene: Scene, mode: str, options: dict[str, Any], limits: dict[str, Any]) -> Forked:
    """A run that has just begun."""
    view = {"name": "default", "sql": scene.source.sql, "key_prefix": "p:", "buckets": scene.buckets,
            "mz_timestamp_key": TIME_KEY.decode()}  # fmt: skip
    order = {"source": scene.source.url, "redis": scene.server.url, "view": view, "mode": mode,
             "options": {"allow_deletes": True, **options}, "limits": limits}  # fmt: skip
    return Forked(["one_run", json.dumps(order)], Path.cwd(), os.environ, main="tests.faults.one_run:main")


def changing(source: Source, random: Any) -> AbstractContextManager[None]:
    """Another process' worth of changes, all the time."""

    def change(over: threading.Event) -> None:
        with psycopg.connect(source.url, autocommit=True) as other:
            other.execute(f"SET search_path = {source.schema}".encode())
            while not over.is_set():
                low = random.randrange(300)
                statement = random.choice(
                    [
                        f"UPDATE t SET value = value || 'x' WHERE key = 'k{low}'",
                        f"UPDATE t SET value = '{low}' WHERE key >= 'k{low}'",
                        f"DELETE FROM t WHERE key = 'k{low}'",
                        f"INSERT INTO t SELECT 'k{low}', 'new' WHERE NOT EXISTS (SELECT 1 FROM t WHERE key = 'k{low}')",
                    ]
                )
                other.execute(statement.encode())
                over.wait(random.random() / 30)

    return beside(change)


def test_killed_at_random_times(source: Source, redis_server: RedisServer, request: pytest.FixtureRequest) -> None:
    """However often runs are killed, every checkpoint is honest, and one clean run makes all right."""
    random = rng("kills")
    kills = 3_000 if request.config.getoption("--soak") else 100
    scene = Scene(source, redis_server, buckets=16)
    source.retain_history()
    scene.write("INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, 300) AS n")
    ended: Counter[int] = Counter()
    with changing(source, random):
        usual_s = 0.05
        while ended[-signal.SIGKILL] < kills:
            mode, options, limits = random.choice(RUNS)
            run = start(scene, mode, options, limits)
            time.sleep(random.random() * usual_s)
            run.kill()
            _, told = run.communicate(60)
            code = run.wait()
            # A third of the runs is to come to its end: then the others die in all of their phases.
            usual_s *= 1.05 if code == -signal.SIGKILL else 0.9
            if code != -signal.SIGKILL:
                too_short = code == 4 and "follow_s" in options  # over before the present was reached
                assert code == 0 or too_short or (code, mode) == (8, "delta"), (code, mode, told)
            ended[code] += 1
            scene.expire_lease()
            scene.write()
            scene.look()
            if ended.total() % 25 == 0:
                scene.ok("run", allow_deletes=True)
                scene.write()
                scene.check()
    scene.ok("run", allow_deletes=True)
    scene.write()
    scene.check()
    assert scene.see().data == scene.content_at(2**63)
    print("\nended:", dict(ended))


def test_killed_command(rig: Rig, command: Command) -> None:
    """The command itself, killed while it loads: the next one waits for the lease at most, and loads the rest."""
    rig.limits = {"lease": "2s", "batch_max_keys": 500}
    rig.fill(60_000, 0)
    rig.redis_proxy.arm(Fault("up", 1_000_000, "black_hole"))  # about half of it
    command.config = rig.config(direct=False)
    process = command.start("run")
    eventually(lambda: rig.redis_proxy.fired)
    assert process.poll() is None
    process.kill()
    process.communicate()
    command.config = rig.config(direct=True)
    client = rig.client
    assert 0 < client.dbsize() < 60_000
    assert client.hget("reconcile:{default}:state", "pending")
    view = command("run", "--if-leased", "wait").view
    assert view["keys"] == 60_000
    command("verify")
