"""A Materialize restored, with all its ids, to a time before the checkpoint: what it lost, no run can know of."""

from __future__ import annotations

import pytest

from tests.faults.scene import STATE, Scene
from tests.support.redis_servers import RedisServer
from tests.support.sources import Source


@pytest.mark.parametrize("how", ["delta", "snapshot"])
def test_a_snapshot_takes_back_what_the_source_lost(how: str, source: Source, redis_server: RedisServer) -> None:
    """A delta goes on from a checkpoint that the restored source is past again. verify tells, and a snapshot, which
    need not be deep, repairs it: it believes no time, but compares."""
    scene = Scene(source, redis_server)
    scene.write("INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, 40) AS n")
    scene.ok("run")
    scene.write("INSERT INTO t VALUES ('lost', '1')", "UPDATE t SET value = 'lost' WHERE key = 'k7'")
    scene.ok(how)
    # To the runs that follow, these never were.
    scene.write("DELETE FROM t WHERE key = 'lost'", "UPDATE t SET value = 'v7' WHERE key = 'k7'")
    scene.client.hset(STATE + "state", "as_of", str(scene._present()))
    scene.write("INSERT INTO t VALUES ('later', '1')")
    assert scene.ok("run").action == "delta"
    assert scene.client.mget("p:lost", "p:k7", "p:later") == [b"1", b"lost", b"1"]
    report = scene.execute("verify")
    assert report.exit_code == 3
    assert report.drift is not None
    assert (report.drift.total, report.drift.causes) == (2, {"missed updates": 2})
    report = scene.ok("snapshot")
    assert (report.puts, report.deletes) == (1, 1)
    assert report.buckets_read < 64
    scene.check()
