"""Runs that overlap: one works at a time, and one that was away for too long changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable

import pytest
import redis

from tests.faults.rig import Rig
from tests.support.command import Command
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import check_manifest, owned, prefixed, state
from tests.support.sources import Source

EIGHT = 8


def in_sync(source: Source, client: redis.Redis) -> None:
    """Redis is the view now."""
    assert owned(client) == prefixed(source.content())
    check_manifest(client)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Until something is true while the process runs."""
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize(("if_leased", "code"), [("skip", 0), ("fail", 7)])
def test_eight_at_once_one_works(
    if_leased: str, code: int, source: Source, redis_server: RedisServer, command: Command
) -> None:
    """While one run holds the lease the others leave at once, with 0 or with 7 as asked."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, 500) AS n")
    command.config["limits"] = {"lease": "60s"}  # a worker that gets no time for a while is not to be overtaken
    processes = [command.start("run", "--for", "120s", "--if-leased", if_leased) for _ in range(EIGHT)]
    done = []
    while len(done) < EIGHT - 1:
        done = [process for process in processes if process.poll() is not None]
        time.sleep(0.05)
    (worker,) = [process for process in processes if process not in done]
    token = state(redis_server.client())["token"]
    for process in done:
        out, _ = process.communicate()
        (view,) = json.loads(out)["views"]
        assert process.returncode == code
        assert view["commits"] == 0
        assert "being written by" in json.dumps(view)
    source.put(late="1")
    wait_for(lambda: redis_server.client().get("p:late"), worker)
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=60)
    in_sync(source, redis_server.client())
    assert state(redis_server.client())["token"] == token


def test_eight_at_once_wait_their_turn(source: Source, redis_server: RedisServer, command: Command) -> None:
    """With --if-leased wait all eight work, one after another."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, 5000) AS n")
    processes = [command.start("run", "--if-leased", "wait") for _ in range(EIGHT)]
    views = [json.loads(process.communicate(timeout=120)[0])["views"][0] for process in processes]
    assert [process.returncode for process in processes] == [0] * EIGHT
    assert sum(view["puts"] for view in views) == 5000
    assert [view["status"] for view in views] == ["done"] * EIGHT
    # Who saw a free lease and came second has counted too: numbers may be left out, none is written twice.
    counter = redis_server.client().get("reconcile:{default}:token")
    assert EIGHT <= int(state(redis_server.client())["token"]) <= int(counter or 0)
    in_sync(source, redis_server.client())


def test_lease_is_kept_while_a_run_works(source: Source, redis_server: RedisServer, command: Command) -> None:
    """A run that takes longer than its lease renews it: nobody else gets in, though nothing is written meanwhile."""
    source.retain_history()
    source.put(a="1")
    command.config["limits"] = {"lease": "6s"}
    worker = command.start("run", "--for", "120s")
    wait_for(lambda: state(redis_server.client()).get("as_of"), worker)
    client = redis_server.client()
    for _ in range(80):
        assert 0 < client.pttl("reconcile:{default}:lease") <= 6000
        time.sleep(0.1)
    assert command("run").view["status"] == "skipped"
    assert worker.poll() is None
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=60)


def slowly(rig: Rig, command: Command, *arguments: str) -> subprocess.Popen[str]:
    """Begin a run whose way to Redis is so slow that it works for seconds."""
    rig.redis_proxy.up_bytes_per_s = 300_000
    command.config = rig.config(direct=False)
    return command.start(*arguments)


def loading(rig: Rig, command: Command) -> subprocess.Popen[str]:
    """A run that has written part of a first load."""
    rig.fill(30_000, 0)
    process = slowly(rig, command, "snapshot")
    wait_for(lambda: rig.client.dbsize() > 3000, process)
    return process


def applying(rig: Rig, command: Command) -> subprocess.Popen[str]:
    """A run that has written part of a delta, under its pending mark."""
    rig.limits["batch_max_keys"] = 100
    rig.source.retain_history()
    rig.fill(30_000, 0)
    assert rig.run(direct=True).code == 0
    rig.source.execute("UPDATE t SET value = value || ' changed'")
    process = slowly(rig, command, "delta")
    wait_for(lambda: rig.client.hget("reconcile:{default}:state", "pending"), process)
    return process


def following(rig: Rig, command: Command) -> subprocess.Popen[str]:
    """A run that follows, with nothing to write at the moment."""
    rig.source.retain_history()
    rig.source.put(a="1", b="2")
    process = slowly(rig, command, "run", "--for", "120s")
    wait_for(lambda: state(rig.client).get("as_of"), process)
    return process


def dumped(client: redis.Redis) -> dict[bytes, bytes]:
    """All that Redis holds."""
    keys = list(client.scan_iter("*", count=1000))
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.dump(key)
    return dict(zip(keys, pipeline.execute(), strict=True))


@pytest.mark.long
@pytest.mark.parametrize("phase", [loading, applying, following])
def test_frozen_past_its_lease(
    phase: Callable[[Rig, Command], subprocess.Popen[str]], rig: Rig, command: Command
) -> None:
    """SIGSTOP past the lease, another run finishes, SIGCONT: it changes nothing, and exits 6 with lease_lost."""
    client = rig.client
    frozen = phase(rig, command)
    os.kill(frozen.pid, signal.SIGSTOP)
    assert frozen.poll() is None
    rig.redis_proxy.up_bytes_per_s = None
    rig.source.put(a="later", k7="later", k8="later")
    command.config = rig.config(direct=True)
    command("run", "--if-leased", "wait")
    in_sync(rig.source, client)
    before = dumped(client)
    os.kill(frozen.pid, signal.SIGCONT)
    out, err = frozen.communicate(timeout=60)
    assert dumped(client) == before
    assert frozen.returncode == 6, (out, err)
    assert json.loads(out)["views"][0]["error"]["kind"] == "lease_lost"


def test_tokens_never_repeat(source: Source, redis_server: RedisServer, command: Command) -> None:
    """When the counter of tokens is lost (evicted, restored from an older copy), the state's token still only grows."""
    source.put(a="1")
    client = redis_server.client()
    seen = 0
    for lost in (None, b"", b"1"):
        if lost is not None:
            client.delete("reconcile:{default}:token")
        if lost:
            client.set("reconcile:{default}:token", lost)
        for _ in range(2):
            command("run")
            token = int(state(client)["token"])
            assert token > seen
            seen = token
