"""Real audits beside a writer and a follower: silent while nothing is wrong, exact when something is, in nobody's way.

A few audits in CI; with --soak a hundred of each kind. RECONCILE_TEST_ROWS=3000000 takes another size than 100,000,
RECONCILE_TEST_AUDITS=10 another number.
"""

from __future__ import annotations

import os
import random
import re
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from tests.support.command import Command, Result
from tests.support.redis_servers import RedisServer
from tests.support.seed import rng
from tests.support.sources import Source

MANY_ROWS = int(os.environ.get("RECONCILE_TEST_ROWS", "100000"))
WRITTEN = 500
"""The writer keeps to so many rows, so that drift elsewhere is known exactly."""
WRITES_EVERY_S = 0.05
VERIFY_S = 600
PEAK_MB = 120
"""What an audit may need, however large the view."""


@contextmanager
def writing(source: Source, chance: random.Random) -> Iterator[Counter[str]]:
    """Somebody updates, deletes and inserts rows all the time."""
    stop, done = threading.Event(), Counter[str]()

    def write() -> None:
        with psycopg.connect(source.url, autocommit=True, prepare_threshold=None) as connection:
            connection.execute(f"SET search_path = {source.schema}".encode())
            while not stop.wait(WRITES_EVERY_S):
                n = chance.randrange(1, WRITTEN)
                kind = chance.choice(["update", "update", "replace", "delete"])
                if kind == "update":
                    connection.execute(f"UPDATE t SET value = value || 'x' WHERE key = 'k{n}'".encode())
                else:
                    connection.execute(f"DELETE FROM t WHERE key = 'k{n}'".encode())
                if kind == "replace":
                    connection.execute(f"INSERT INTO t VALUES ('k{n}', 'again {n}')".encode())
                done[kind] += 1

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        yield done
    finally:
        stop.set()
        writer.join()


@contextmanager
def following(command: Command, client: redis.Redis) -> Iterator[None]:
    """A run follows the view meanwhile; it ends by a signal, and has nothing else to complain of."""
    process = command.start("run", "--for", "1h")
    try:
        first = as_of(client)
        until = time.monotonic() + VERIFY_S
        while as_of(client) == first:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)
        yield
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 4, (out, err)
    finally:
        process.kill()


def audit(command: Command, *arguments: str, expect: int) -> tuple[dict[str, Any], float]:
    """Verify: what it reports of the view, and its peak memory in MB."""
    process, peak_mb, until = command.start("verify", *arguments), 0.0, time.monotonic() + VERIFY_S
    while process.poll() is None:
        assert time.monotonic() < until
        with suppress(OSError):  # it has just ended
            if found := re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process.pid}/status").read_text()):
                peak_mb = max(peak_mb, int(found[1]) / 1024)
        time.sleep(0.05)
    out, err = process.communicate()
    assert process.returncode == expect, f"exit {process.returncode}, expected {expect}\n{out}\n{err}"
    return Result(process.returncode, out, err).view, peak_mb


def as_of(client: redis.Redis) -> int:
    return int(client.hget("reconcile:{default}:state", "as_of") or 0)  # type: ignore[arg-type]


def drift_of(report: dict[str, Any]) -> tuple[int, int, int]:
    found = report["drift"]
    return found["missing"], found["stale"], found["extra"]


def spoil(client: redis.Redis, chance: random.Random, rows: int) -> dict[str, str]:
    """One to five rows that nobody else touches: key → what is wrong with it."""
    kinds = {}
    for n in chance.sample(range(WRITTEN, rows + 1), chance.randrange(1, 6)):
        kind = chance.choice(["missing", "stale", "extra"])
        key = f"p:k{n}" if kind != "extra" else f"p:nobodys-{n}"
        kinds[key] = kind
        if kind == "missing":
            client.delete(key)
        else:
            client.set(key, f"spoilt {n}")
    return kinds


def mend(client: redis.Redis, kinds: dict[str, str]) -> None:
    for key, kind in kinds.items():
        if kind == "extra":
            client.delete(key)
        else:
            client.set(key, f"v{key.removeprefix('p:k')}")


@pytest.mark.timeout(4 * 3600)
@pytest.mark.long
@pytest.mark.parametrize("history", [True, False], ids=["history", "no-history"])
@pytest.mark.parametrize("rows", [1000, MANY_ROWS])
def test_audits_beside_a_writer_and_a_follower(
    request: pytest.FixtureRequest,
    source: Source,
    redis_server: RedisServer,
    command: Command,
    rows: int,
    history: bool,
) -> None:
    """No audit reports what is none, each reports exactly what is, and the follower commits meanwhile."""
    soak, chance = request.config.getoption("--soak"), rng(rows, history)
    quiet = int(os.environ.get("RECONCILE_TEST_AUDITS", "100" if soak else "4"))
    drifting = max(2, quiet // 5)
    if history:
        source.retain_history()
    command.config["view_defaults"] = {"compare_every": "off"}  # it would repair what is spoilt here
    source.execute(f"INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, {rows}) AS n")
    command("run", timeout_s=VERIFY_S)
    took_s: list[float] = []
    peaks_mb: list[float] = []
    unjudged = stood_still = 0
    with redis_server.client() as client, writing(source, chance) as written, following(command, client):
        for n in range(quiet + drifting):
            kinds = spoil(client, chance, rows) if n % (quiet // drifting + 1) == 0 else {}
            before, began = as_of(client), time.monotonic()
            arguments = ["--fast"] if not kinds and n % 4 == 3 else []
            view, peak_mb = audit(command, *arguments, expect=3 if kinds else 0)
            took_s.append(time.monotonic() - began)
            peaks_mb.append(peak_mb)
            expected = Counter(kinds.values())
            assert drift_of(view) == (expected["missing"], expected["stale"], expected["extra"]), view
            assert {one["key"]: one["kind"] for one in view["drift"]["keys"]} == kinds
            stood_still += as_of(client) == before
            unjudged += any("kept changing" in warning for warning in view["warnings"])
            mend(client, kinds)
    assert stood_still <= len(took_s) / 2, "the follower did not go on meanwhile"
    assert max(peaks_mb) < PEAK_MB
    print(
        f"\n{rows:,} rows, {'' if history else 'no '}history: {len(took_s)} audits, 0 wrong, {unjudged} with buckets "
        f"unjudged; {written.total():,} writes meanwhile; an audit took {statistics.median(took_s):.1f} s (median), "
        f"{max(took_s):.1f} s (longest), at most {max(peaks_mb):.0f} MB"
    )
