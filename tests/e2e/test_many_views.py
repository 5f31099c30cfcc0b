"""Several views in one run: all are followed, none waits for another beyond its share, one that fails fails alone."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from reconcile_standin import StandIn
from tests.support.command import Command
from tests.support.redis_cluster import eventually
from tests.support.redis_servers import RedisServer
from tests.support.sources import Source, SourceServer

pytestmark = pytest.mark.alone

ARRIVES_S = 60.0


class Views:
    """n views v0 … of a source, each with a table of its own behind it and cached under p0:, p1: …"""

    def __init__(self, source: Source, server: RedisServer, directory: Path, n: int, *, history: bool) -> None:
        self.source, self.n = source, n
        self.client: redis.Redis = server.client()
        self.command = Command(directory, source.url, server.url, source.sql)
        del self.command.config["materialize"]["sql"], self.command.config["redis"]["key_prefix"]
        for i in range(n):
            source.execute(f"CREATE TABLE t{i} (key text, value text)")
            source.execute(f"CREATE MATERIALIZED VIEW v{i} AS SELECT key, value FROM t{i}")
            if history:
                source.execute(f"ALTER MATERIALIZED VIEW v{i} SET (RETAIN HISTORY FOR '1hr')")
            self.put(i, "first", "1")
        self.command.config["views"] = [
            {"name": f"v{i}", "sql": f"SELECT key, value FROM {source.schema}.v{i}", "key_prefix": f"p{i}"}
            for i in range(n)
        ]

    def put(self, i: int, key: str, value: str) -> None:
        self.source.execute(f"INSERT INTO t{i} VALUES ('{key}', '{value}')")

    def await_following(self, views: list[int]) -> None:
        """Put rows into each of the views until one that came after its first commit of this run has arrived."""
        for turn in range(2):
            for i in views:
                self.put(i, f"ready{turn}", "x")
            assert self.arrived(views, f"ready{turn}") == views, "not all views are followed"

    def ended(self, i: int) -> bool:
        """Whether a run has begun with the view, and works on it no more."""
        name = f"reconcile:{{v{i}}}:"
        return bool(self.client.exists(f"{name}token")) and not self.client.exists(f"{name}lease")

    def arrived(self, views: list[int], key: str, within_s: float = ARRIVES_S) -> list[int]:
        """Which of the views have the key within the time."""
        until = time.monotonic() + within_s
        while True:
            have = [i for i in views if self.client.exists(f"p{i}:{key}")]
            if have == views or time.monotonic() > until:
                return have
            time.sleep(0.02)


@pytest.mark.parametrize("history", [True, False], ids=["history", "no history"])
@pytest.mark.parametrize("n", [2, 20])
def test_all_views_are_followed_all_the_time(
    source: Source, redis_server: RedisServer, tmp_path: Path, n: int, *, history: bool
) -> None:
    views = Views(source, redis_server, tmp_path, n, history=history)
    everyone = list(range(n))
    views.command("run")
    process = views.command.start("run", "--for", "120s")
    views.await_following(everyone)
    for turn in range(3):
        for i in everyone:
            views.put(i, f"turn{turn}", "x")
        assert views.arrived(everyone, f"turn{turn}") == everyone
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 4
    for i in everyone:
        views.put(i, "last", "x")
    ended = views.command("run")
    assert ended.report["views_by_exit_code"] == {"0": n}
    assert views.arrived(everyone, "last") == everyone


def test_a_broken_view_fails_alone_and_the_worst_code_wins(
    source: Source, redis_server: RedisServer, tmp_path: Path
) -> None:
    views = Views(source, redis_server, tmp_path, 4, history=True)
    views.command.config["views"][1]["sql"] = f"SELECT key, value FROM {source.schema}.not_there"
    views.put(2, "first", "again")  # one key with two rows
    others = [0, 3]
    process = views.command.start("run", "--for", "120s")
    views.await_following(others)
    eventually(lambda: views.ended(2))
    time.sleep(1)  # v1 gets no lease that would tell
    for i in others:
        views.put(i, "while", "x")
    assert views.arrived(others, "while") == others
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, out + err
    codes = {view["view"]: view["exit_code"] for view in json.loads(out)["views"]}
    assert codes == {"v0": 4, "v1": 2, "v2": 5, "v3": 4}


def test_a_view_that_breaks_while_it_is_followed_ends_alone(
    source: Source, redis_server: RedisServer, tmp_path: Path
) -> None:
    views = Views(source, redis_server, tmp_path, 3, history=True)
    process = views.command.start("run", "--for", "120s")
    views.await_following([0, 1, 2])
    source.execute("DROP MATERIALIZED VIEW v1")
    eventually(lambda: views.ended(1))
    for i in (0, 2):
        views.put(i, "after", "x")
    assert views.arrived([0, 2], "after") == [0, 2]
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (2, 6), out + err


def test_a_stuck_view_does_not_keep_the_others(source: Source, redis_server: RedisServer, tmp_path: Path) -> None:
    """One worker, and the first of its views reads something that takes longer than the run."""
    views = Views(source, redis_server, tmp_path, 5, history=True)
    source.execute("CREATE TABLE big (n int)")
    source.execute("INSERT INTO big SELECT * FROM generate_series(1, 6000)")
    slow = (
        f"SELECT a.n::text || '-' || b.n::text AS key, 'x' AS value FROM {source.schema}.big a, {source.schema}.big b"
    )
    views.command.config["views"][0]["sql"] = slow
    views.command.config["limits"] = {"jobs": 1, "max_runtime": "14s"}
    result = views.command("run", expect=None)
    codes = {view["view"]: view["exit_code"] for view in result.report["views"]}
    assert codes == {"v0": 4, "v1": 0, "v2": 0, "v3": 0, "v4": 0}
    assert views.arrived([1, 2, 3, 4], "first") == [1, 2, 3, 4]


@pytest.fixture
def small_server() -> Iterator[StandIn]:
    """A Materialize that takes few connections."""
    with StandIn(port=0, max_connections=5) as standin:
        yield standin


def test_at_the_connection_limit_views_take_turns(
    small_server: StandIn, redis_server: RedisServer, tmp_path: Path
) -> None:
    with SourceServer(small_server.url, small_server).new_source() as source:
        views = Views(source, redis_server, tmp_path, 8, history=True)
        everyone = list(range(8))
        views.command("run")
        process = views.command.start("run", "--for", "600s")
        views.await_following(everyone)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 4, out + err
        assert "take turns" in out


def test_a_view_more_costs_neither_threads_nor_commits_of_others(
    source: Source, redis_server: RedisServer, tmp_path: Path
) -> None:
    n, busy = 12, 200
    views = Views(source, redis_server, tmp_path, n, history=True)
    process = views.command.start("run", "--for", "120s")
    views.await_following(list(range(n)))
    threads = len(list(Path(f"/proc/{process.pid}/task").iterdir()))
    sockets = []
    for path in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed a moment ago
            sockets += [path] if "socket" in str(path.readlink()) else []
    for turn in range(busy):  # each moves the frontier of every view
        views.put(0, f"busy{turn}", "x")
    assert views.arrived([0], f"busy{busy - 1}") == [0]
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 4
    assert threads <= 8
    assert len(sockets) <= 3 * n
    for view in json.loads(out)["views"]:
        assert view["commits"] <= view["puts"] + view["duration_ms"] / 1000 + 2


@pytest.mark.parametrize("jobs", [1, 3])
def test_jobs_is_how_many_views_are_worked_on_at_once(
    jobs: int, source: Source, redis_server: RedisServer, tmp_path: Path
) -> None:
    n = 4
    views = Views(source, redis_server, tmp_path, n, history=False)
    for i in range(n):
        source.execute(f"INSERT INTO t{i} SELECT 'k' || n, 'v' FROM generate_series(1, 300) AS n")
    views.command.config["limits"] = {"writes_per_second": 200}  # each takes a second, which no look misses
    watcher, leases = redis_server.client(), [f"reconcile:{{v{i}}}:lease" for i in range(n)]
    process = views.command.start("run", "--jobs", str(jobs))
    at_once = 0
    while process.poll() is None:
        at_once = max(at_once, int(watcher.exists(*leases)))  # type: ignore[arg-type]
    process.communicate()
    assert process.returncode == 0
    assert at_once <= jobs
    assert at_once >= min(2, jobs)


def test_the_view_written_longest_ago_begins(source: Source, redis_server: RedisServer, tmp_path: Path) -> None:
    views = Views(source, redis_server, tmp_path, 3, history=True)
    for name in ("v1", "v2", "v0"):
        views.command("run", "--view", name)
        time.sleep(0.05)
    views.command.config["limits"] = {"jobs": 1}
    leases = [f"reconcile:{{v{i}}}:lease" for i in (1, 2, 0)]
    client = redis_server.client()
    with client.monitor() as monitor:
        with views.command.following("run"):
            eventually(lambda: client.exists(*leases) == 3)
        client.echo("over")
        told = (entry["command"].split(" ") for entry in monitor.listen())
        begun = [words[1] for words in itertools.takewhile(lambda words: words[0] != "ECHO", told) if words[0] == "SET"]
    assert [key for key in dict.fromkeys(begun) if key in leases] == leases
