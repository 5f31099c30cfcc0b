"""What only a Redis Cluster does: slots that move, a primary that fails over, one node that lost what others kept."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconcile.report.run_report import ViewReport
from tests.faults import test_crash as crash
from tests.faults.cluster_scene import ClusterScene
from tests.faults.io_calls import Io
from tests.support.redis_cluster import PRIMARIES, SLOTS, Cluster, slot_of, start_cluster
from tests.support.sources import Source

FIRST_WRITE = 4 + PRIMARIES
"""Taking the lease is SET with INCR, HSET token, one EVAL per node, HSET fences."""


@pytest.fixture
def scene(source: Source, cluster: Cluster) -> Iterator[ClusterScene]:
    """A view with history and its cluster; slots that a test moved are brought back."""
    share = -(-SLOTS // PRIMARIES)
    made = ClusterScene(source, cluster)
    crash.fill(made)
    yield made
    for key in [b"p:k%d" % n for n in range(100)]:
        home, now = cluster.clients[slot_of(key) // share], cluster.owner(key)
        if home is not now:
            cluster.move_slot(slot_of(key), now, home)


@contextlib.contextmanager
def paused(scene: ClusterScene, n: int, mode: str = "run") -> Iterator[list[ViewReport]]:
    """Inside, a run sleeps before its n-th write after taking the lease; at the end it goes on, and its report is
    there."""
    io = Io(lambda: None, how="freezes")
    counted = io.gate

    def gate(kind: str) -> object:
        if io.leased_at and threading.get_ident() == io.thread and kind == "redis.write":
            left[0] -= 1
            if left[0] == 0:
                io.at = len(io.calls) + 1
        return counted(kind)

    left = [n]
    reports: list[ViewReport] = []

    def work() -> None:
        io.thread = threading.get_ident()
        reports.append(scene.execute(mode))

    io.gate = gate  # type: ignore[method-assign,assignment]
    thread = threading.Thread(target=work)
    with io.installed():
        thread.start()
        while thread.is_alive() and not io.frozen.wait(0.005):
            pass
        assert io.frozen.is_set(), f"there is no write {n}"
        yield reports
        io.thaw.set()
        thread.join(60)
    assert not thread.is_alive()


def other_than(cluster: Cluster, key: bytes) -> object:
    return next(client for client in cluster.primaries() if client is not cluster.owner(key))


def move(cluster: Cluster, key: bytes, way: str = "move_slot") -> None:
    """The slot of the key goes to another node. way: `move_slot`, key by key, or `migrate_slot`, all at one moment."""
    getattr(cluster, way)(slot_of(key), cluster.owner(key), other_than(cluster, key))


def marks(cluster: Cluster) -> dict[bytes, bytes]:
    """The fences, serialised."""
    return {key: dump for key, dump in cluster.everything().items() if b":fence:" in key}


# -- slots that move -------------------------------------------------------------------------------------------------


def test_a_slot_moves_between_runs(scene: ClusterScene, cluster: Cluster) -> None:
    """Nobody notices: not the data's slot, nor the state's, nor a fence's."""
    scene.ok("run")
    fence = next(iter(marks(cluster)))
    for key in (b"p:k1", b"reconcile:{default}:state", fence):
        before = cluster.owner(key)
        move(cluster, key)
        scene.write("UPDATE t SET value = value || '+' WHERE key < 'k3'")
        assert scene.ok("run").action == "delta"
        scene.check()
        cluster.move_slot(slot_of(key), cluster.owner(key), before)
        scene.write("UPDATE t SET value = value || '-' WHERE key < 'k3'")
        assert scene.ok("run").action == "delta"
        scene.check()


@pytest.mark.parametrize("way", ["move_slot", "migrate_slot"])
@pytest.mark.parametrize("mode", ["run", "snapshot"])
@pytest.mark.parametrize("key", [b"p:k1", b"reconcile:{default}:state"])
def test_a_slot_moves_during_a_run(scene: ClusterScene, cluster: Cluster, mode: str, key: bytes, way: str) -> None:
    """The run ends (6) unless it was past that slot; the next one is right."""
    if way == "migrate_slot" and not cluster.migrates():
        pytest.skip("before Redis 8.4 and Valkey 9")
    codes = set()
    if mode == "snapshot":
        scene.ok("run")
        scene.write("UPDATE t SET value = value || '!' WHERE key < 'k3'", "DELETE FROM t WHERE key = 'k4'")
    scene.save()
    for n in range(FIRST_WRITE, FIRST_WRITE + 5):  # pending, data on three nodes, checkpoint
        scene.restore()
        with paused(scene, n, mode) as reports:
            move(cluster, key, way)
        (report,) = reports
        codes.add(report.exit_code)
        if report.exit_code:
            assert report.error is not None
            assert "slots of the Redis Cluster" in report.error.message
        scene.ok("run")
        scene.check()
    assert codes <= {0, 6}
    assert 6 in codes


def test_a_scan_needs_slots_that_stay(scene: ClusterScene, cluster: Cluster) -> None:
    """While a slot is under way a scan could miss keys: it is not begun. A delta goes on."""
    scene.ok("run")
    stays = cluster.owner(b"p:k1")
    target = other_than(cluster, b"p:k1")
    cluster.open_slot(slot_of(b"p:k1"), stays, target)  # type: ignore[arg-type]
    try:
        scene.write("UPDATE t SET value = 'still' WHERE key = 'k9'")
        assert scene.ok("run").action == "delta"
        report = scene.execute("snapshot", deep=True)
        assert report.exit_code == 6
        assert report.error is not None
        assert "being moved" in report.error.message
    finally:
        cluster.leave_slot(slot_of(b"p:k1"))
    scene.ok("snapshot", deep=True)
    scene.check()


# -- nodes that lose what others keep ----------------------------------------------------------------------------------


def state_of(cluster: Cluster) -> Callable[[], None]:
    """What brings the state's slot, and only that, back to what it is now."""
    home = cluster.owner(b"reconcile:{default}:state")
    saved = {key: home.dump(key) for key in home.keys("reconcile:{default}:*")}

    def roll_back() -> None:
        for key, dump in saved.items():
            home.restore(key, 0, dump, replace=True)

    return roll_back


def everything_but_state(cluster: Cluster) -> Iterator[Callable[[], None]]:
    """For each node without the state: what brings it back to what it holds now, as a lagging failover would."""
    for client in cluster.primaries():
        if client is cluster.owner(b"reconcile:{default}:state"):
            continue
        saved = {key: client.dump(key) for key in client.scan_iter("*", count=1000)}

        def roll_back(client=client, saved=saved) -> None:  # type: ignore[no-untyped-def]
            client.flushall()
            for key, dump in saved.items():
                client.restore(key, 0, dump)

        yield roll_back


def compared_all(scene: ClusterScene) -> None:
    """The next run takes nothing for granted, and everything is right afterwards."""
    report = scene.ok("run")
    assert report.reason == "parts of what Redis holds may be of different times"
    assert report.rows_read >= len(scene.check().data)


def test_a_node_loses_its_last_seconds(scene: ClusterScene, cluster: Cluster) -> None:
    """The checkpoint survived on one node, what it stands for not on another: noticed, every key is compared."""
    scene.ok("run")
    for roll_back in everything_but_state(cluster):
        scene.write("UPDATE t SET value = value || '.'", "DELETE FROM t WHERE key = (SELECT max(key) FROM t)")
        scene.ok("run")
        roll_back()
        scene.write("INSERT INTO t VALUES ('z', '1')", "DELETE FROM t WHERE key = 'z'")
        compared_all(scene)
        assert scene.ok("run").action != "snapshot"


def test_a_node_is_emptied(scene: ClusterScene, cluster: Cluster) -> None:
    """Restarted without its data."""
    scene.ok("run")
    for client in cluster.primaries():
        if client is not cluster.owner(b"reconcile:{default}:state"):
            client.flushall()
            scene.foreign = {key: value for key, value in scene.foreign.items() if cluster.owner(key) is not client}
            compared_all(scene)


def test_the_state_loses_its_last_seconds(scene: ClusterScene, cluster: Cluster) -> None:
    """Older than the data: a delta from there could leave keys behind that came and went, so every key is compared."""
    scene.ok("run")
    roll_back = state_of(cluster)
    scene.write("INSERT INTO t SELECT 'brief' || n, 'x' FROM generate_series(1, 8) AS n")
    scene.ok("run")
    roll_back()
    scene.write("DELETE FROM t WHERE key LIKE 'brief%'")
    compared_all(scene)


def test_the_state_is_that_of_an_earlier_apply(scene: ClusterScene, cluster: Cluster) -> None:
    """It says that a range is being applied, but the data is past that: repeating the range would not be right."""
    scene.ok("run")
    scene.write("UPDATE t SET value = 'earlier' WHERE key < 'k3'")
    with paused(scene, FIRST_WRITE + 1):
        assert scene.see().state["pending"]
        roll_back = state_of(cluster)
    scene.write("INSERT INTO t SELECT 'brief' || n, 'x' FROM generate_series(1, 8) AS n")
    scene.ok("run")
    roll_back()
    scene.expire_lease()
    scene.write("DELETE FROM t WHERE key LIKE 'brief%'")
    compared_all(scene)


def test_a_killed_apply_is_repeated(scene: ClusterScene, cluster: Cluster) -> None:
    """What it left on some nodes is of the range that the state names: no deep comparison is needed."""
    scene.ok("run")
    scene.write("UPDATE t SET value = 'later' WHERE key < 'k3'")
    with paused(scene, FIRST_WRITE + 3):
        scene.save()
    scene.restore()
    scene.expire_lease()
    assert scene.see().state["pending"]
    assert scene.ok("run").action != "snapshot"
    scene.check()


def test_a_token_is_never_used_twice(scene: ClusterScene, cluster: Cluster) -> None:
    """All that is stored beside the state is gone; the fences still know larger tokens."""
    for _ in range(3):
        scene.ok("run")
    token = int(scene.see().state["token"])
    home = cluster.owner(b"reconcile:{default}:state")
    home.delete(*home.keys("reconcile:{default}:*"))
    scene.ok("run")
    assert int(scene.see().state["token"]) > token
    scene.check()


# -- failover, and the guard -----------------------------------------------------------------------------------------


def test_a_primary_fails_over_during_a_load(source: Source, tmp_path: Path) -> None:
    """Its replica takes over in the middle: exit 6, and the next run completes the load."""
    with start_cluster(tmp_path, replicas=1) as cluster:
        scene = ClusterScene(source, cluster)
        crash.fill(scene)
        scene.write("INSERT INTO t SELECT 'x' || n, 'v' FROM generate_series(1, 5000) AS n")
        with paused(scene, FIRST_WRITE + 1 + PRIMARIES) as reports:
            assert 0 < len(scene.see().data) < 5000, "not in the middle"
            cluster.fail_over(0)
        (report,) = reports
        assert report.exit_code == 6, report.error
        cluster.nodes.append(cluster.nodes.pop(0))
        cluster._clients.append(cluster._clients.pop(0))
        scene.client.close()
        scene.__post_init__()
        scene.expire_lease()  # the configured node is gone: the lease could not be given back by it
        scene.ok("run")
        scene.check()


def test_mass_deletes_are_withheld(scene: ClusterScene) -> None:
    """Puts are applied, deletes wait for a human; then they are done."""
    scene.ok("run")
    held = scene.see().data
    scene.write("DELETE FROM t WHERE key <> 'k1'", "UPDATE t SET value = 'last'")
    scene.write()
    report = scene.execute("snapshot")
    assert (report.exit_code, report.deletes_withheld) == (5, len(held) - 1)
    assert scene.see().data == held | {b"p:k1": b"last"}
    assert scene.execute("run").exit_code == 5
    scene.ok("run", allow_deletes=True)
    assert scene.check().data == {b"p:k1": b"last"}
