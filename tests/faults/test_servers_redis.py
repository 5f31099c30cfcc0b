"""Redis restarted, emptied, failed over, full, read-only, loading, evicting: what the user sees and what comes next."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.faults.proxy import Proxy
from tests.faults.rig import FOLLOWED_S, Rig, failed, new_rig
from tests.support.acl import PASSWORD, RULES, USER
from tests.support.meanwhile import beside, eventually
from tests.support.redis_servers import evict, start_redis
from tests.support.redis_state import Stored, state
from tests.support.sources import Source

MakeRig = Callable[..., Rig]


@pytest.fixture
def new(source: Source, tmp_path: Path) -> Iterator[MakeRig]:
    """Makes rigs on Redis servers of their own, started with extra options."""
    with contextlib.ExitStack() as stack:
        made = []

        def make(*options: str) -> Rig:
            directory = tmp_path / f"redis{len(made)}"
            directory.mkdir()
            server = stack.enter_context(start_redis(directory, *options, "--repl-diskless-sync-delay", "0"))
            made.append(server)
            return stack.enter_context(new_rig(source, server, tmp_path))

        yield make


def test_restart_with_aof_between_runs(new: MakeRig) -> None:
    """What the append-only file kept is what the checkpoint says: the next run continues by delta."""
    rig = new("--appendonly", "yes", "--appendfsync", "always")
    rig.source.retain_history()
    rig.fill(200)
    assert rig.run().code == 0
    rig.server.stop(signal.SIGKILL)
    failed(rig.run(), 6, "Redis is not available")
    rig.server.start()
    rig.source.put(k1="new")
    ended = rig.run()
    assert (ended.code, ended.view.action, ended.view.puts) == (0, "delta", 1)
    rig.in_sync()


def test_restart_with_aof_during_a_run(new: MakeRig) -> None:
    """A server that goes away mid-load: exit 6; what was written stays and is not written again."""
    rig = new("--appendonly", "yes", "--appendfsync", "always")
    rig.fill(20000)
    sent = rig.redis_proxy.on(b"MSETNX")
    rig.source_proxy.down_bytes_per_s = 500_000
    with beside(lambda _: (sent.seen.wait(60), rig.server.stop(signal.SIGKILL))):
        failed(rig.run(), 6, "Redis is not available")
    rig.server.start()
    there = rig.client.dbsize()
    ended = rig.run(direct=True)
    assert ended.code == 0
    assert ended.view.puts <= 20000 - max(0, int(there) - 5)  # type: ignore[arg-type]
    rig.in_sync()


def test_restarted_empty(new: MakeRig) -> None:
    """Data and state are gone together: the next run loads everything, without asking."""
    rig = new()
    rig.fill(200)
    assert rig.run().code == 0
    rig.server.stop(signal.SIGKILL)
    rig.server.start()
    assert rig.client.dbsize() == 0
    ended = rig.run()
    assert (ended.code, ended.view.reason, ended.view.puts) == (0, "first contact", 200)
    rig.in_sync()


def test_emptied_during_a_run(new: MakeRig) -> None:
    """FLUSHALL under a following run: it notices before its next write and stops; the next run loads everything."""
    rig = new()
    rig.source.retain_history()
    rig.fill(50)

    def flush(_: threading.Event) -> None:
        rig.await_following()
        rig.client.flushall()
        rig.source.put(k1="after the flush")

    with beside(flush):
        ended = rig.run("run", follow_s=FOLLOWED_S)
    failed(ended, 6)
    assert set(rig.client.keys("p:*")) == set()  # type: ignore[arg-type]
    rig.converges()


def test_failover_to_a_replica_that_lags(new: MakeRig) -> None:
    """The promoted replica lost the last commits, data and checkpoint alike: the next run resumes from there."""
    first, second = new(), new()
    first.source.retain_history()
    first.fill(100)
    with Proxy("127.0.0.1", first.server.port) as between:
        _fail_over(first, second, between)


def _fail_over(first: Rig, second: Rig, between: Proxy) -> None:
    second.client.replicaof("127.0.0.1", between.port)
    eventually(lambda: second.client.info("replication").get("master_link_status") == "up")
    assert first.run().code == 0
    assert first.client.wait(1, 60_000) == 1
    between.black_hole()  # what is committed from now on never reaches the replica
    first.source.put(k1="committed on the old primary only", k2="this too")
    ended = first.run()
    assert (ended.code, ended.view.puts) == (0, 2)
    ahead = ended.view.as_of
    first.server.stop(signal.SIGKILL)
    second.client.replicaof("NO", "ONE")
    assert int(state(second.client)["as_of"]) < (ahead or 0)
    ended = second.run()
    assert (ended.code, ended.view.action, ended.view.puts) == (0, "delta", 2), ended.told
    second.in_sync()


def test_a_server_that_hangs_up_on_the_silent(new: MakeRig) -> None:
    """`timeout`, or a proxy in between: a run that waits for a slow source keeps its connection."""
    rig = new("--timeout", "2")  # seconds; with 1 it holds as well, unless the machine gives us no time for so long
    rig.fill(15000, 50)
    for mode in ("snapshot", "verify"):
        rig.source_proxy.down_bytes_per_s = 250_000
        assert rig.run(mode, deep=mode == "snapshot").code == 0
        rig.source_proxy.down_bytes_per_s = None
    rig.in_sync()


def test_a_read_only_replica(new: MakeRig) -> None:
    """Pointed at a replica: exit 6, says so, nothing changes; verify works there."""
    first, second = new(), new()
    first.fill(50)
    assert first.run().code == 0
    second.client.replicaof("127.0.0.1", first.server.port)
    eventually(lambda: second.client.info("replication").get("master_link_status") == "up")
    eventually(lambda: bool(second.client.exists("p:k1")))
    first.source.put(k1="new")
    failed(second.run(), 6, "read-only replica", "primary")
    assert second.client.get("p:k1") != b"new"
    assert first.run().code == 0
    first.in_sync()


@pytest.mark.parametrize("when", ["from the start", "during a load"])
def test_out_of_memory(when: str, new: MakeRig) -> None:
    """noeviction and no room: exit 6, the batch is refused whole; with room again the next run completes."""
    rig = new("--maxmemory-policy", "noeviction")
    rig.fill(3000, 1000)
    used = int(rig.client.info("memory")["used_memory"])
    rig.client.config_set("maxmemory", 1 if when == "from the start" else used + 1_000_000)
    rig.limits["lease"] = "1h"
    failed(rig.run(), 6, "out of memory", "maxmemory")
    assert not rig.client.exists("reconcile:{default}:lease")
    rig.honest()
    rig.client.config_set("maxmemory", 0)
    ended = rig.run(direct=True)
    assert ended.code == 0
    rig.in_sync()


def test_snapshots_that_cannot_be_saved(new: MakeRig, tmp_path: Path) -> None:
    """MISCONF (Redis cannot write its RDB file and refuses writes): exit 6 with Redis' own words."""
    rig = new("--enable-protected-configs", "yes", "--save", "3600 1000000")
    gone = tmp_path / "gone"
    gone.mkdir()
    rig.client.config_set("dir", str(gone))
    shutil.rmtree(gone)  # root may write anywhere, but not into a directory that does not exist
    with pytest.raises(redis.RedisError):
        rig.client.save()
    rig.client.bgsave()
    eventually(lambda: rig.client.info("persistence")["rdb_last_bgsave_status"] == "err")
    rig.source.put(a="1")
    failed(rig.run(), 6, "MISCONF")
    assert rig.client.dbsize() == 0
    rig.client.config_set("stop-writes-on-bgsave-error", "no")
    rig.converges()


def test_too_few_replicas(new: MakeRig) -> None:
    """min-replicas-to-write without replicas: exit 6."""
    rig = new("--min-replicas-to-write", "1")
    rig.source.put(a="1")
    failed(rig.run(), 6, "NOREPLICAS")
    rig.client.config_set("min-replicas-to-write", 0)
    rig.converges()


def test_loading(new: MakeRig, tmp_path: Path) -> None:
    """A server that still reads its file: exit 6 at once; when it is done the next run continues."""
    rig = new("--save", "3600 1000000", "--loading-process-events-interval-bytes", "1024")
    rig.source.retain_history()
    rig.fill(3000)
    assert rig.run().code == 0
    rig.client.save()
    rig.server.stop(signal.SIGKILL)
    rig.server.options += ["--key-load-delay", "5000"]
    rig.server.start()
    ended = rig.run()
    failed(ended, 6, "loading the dataset")
    rig.client.config_set("key-load-delay", 0)
    eventually(lambda: not rig.client.info("persistence")["loading"])
    rig.source.put(k1="new")
    ended = rig.run()
    assert (ended.code, ended.view.puts) == (0, 1)
    rig.in_sync()


def test_eviction_is_found_and_repaired(new: MakeRig) -> None:
    """allkeys-lru drops keys silently: verify names the drift and its cause, a deep snapshot repairs it."""
    rig = new("--maxmemory-samples", "10")
    rig.fill(2000, 500)
    assert rig.run().code == 0
    rows = rig.client.keys("p:*")
    eventually(lambda: min(rig.client.object("idletime", key) for key in rows) >= 2)  # type: ignore[union-attr,no-untyped-call]
    for key in rig.client.keys("reconcile:*"):  # type: ignore[union-attr]
        rig.client.touch(key)
    evict(rig.client, "allkeys-lru", 300_000)
    evicted = 2000 - len(rig.client.keys("p:*"))  # type: ignore[arg-type]
    assert rig.client.exists("reconcile:{default}:state", "reconcile:{default}:manifest") == 2
    ended = rig.run("verify")
    assert ended.code == 3, ended.told
    assert ended.view.drift is not None
    assert ended.view.drift.missing == evicted > 0
    assert set(ended.view.drift.causes) == {"changed outside"}
    ended = rig.run("snapshot", deep=True)
    assert (ended.code, ended.view.puts) == (0, evicted)
    rig.in_sync()
    assert rig.run("verify").code == 0


@pytest.mark.parametrize("what", ["state", "manifest", "fingerprints", "token"])
def test_an_evicted_part_of_the_state(what: str, new: MakeRig) -> None:
    """Whichever of reconcile's own keys goes missing: the next run notices what matters and converges."""
    rig = new()
    rig.fill(300)
    assert rig.run().code == 0
    rig.source.put(k1="new")
    rig.client.delete(f"reconcile:{{default}}:{what}")
    ended = rig.run("snapshot")
    assert ended.code == 0, ended.told
    rig.in_sync()


@pytest.mark.parametrize("command", ["msetnx", "incr"])
def test_a_missing_privilege_is_named(command: str, new: MakeRig) -> None:
    """A command the ACL refuses: exit 2, names the command, points at the list; the lease is not left behind."""
    rig = new()
    rig.client.execute_command("ACL", "SETUSER", USER, *(rule for rule in RULES if rule != f"+{command}"))
    rig.redis = {"username": USER, "password": PASSWORD}
    rig.limits["lease"] = "1h"
    rig.source.put(a="1")
    failed(rig.run(), 2, command, "docs/operations.md")
    assert not rig.client.exists("reconcile:{default}:lease")
    rig.redis = {"username": USER, "password": "wrong"}
    failed(rig.run(), 2, "Redis refused access")


def test_connections_are_used_up(new: MakeRig) -> None:
    """maxclients reached: exit 6."""
    rig = new("--maxclients", "12")
    rig.source.put(a="1")
    kept = []
    with contextlib.suppress(redis.RedisError):
        for _ in range(40):
            kept.append(redis.Redis.from_url(rig.server.url))
            kept[-1].ping()
    failed(rig.run(), 6)
    for client in kept:
        client.close()
    rig.converges()


def test_stored_can_be_put_back(new: MakeRig) -> None:
    """The scenarios of this folder restore a database exactly."""
    rig = new()
    rig.fill(20)
    assert rig.run().code == 0
    stored = Stored.of(rig.client)
    rig.client.flushall()
    stored.restore(rig.client)
    rig.in_sync()
