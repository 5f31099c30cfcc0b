"""Redis Cluster: the same runs, the same results, on three primaries."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.redis_cluster import Cluster, slot_of
from tests.support.redis_state import prefixed
from tests.support.sources import Source


@pytest.fixture
def on_cluster(tmp_path: Path, source: Source, cluster: Cluster) -> Command:
    """`reconcile` configured for the cluster, by one of its nodes."""
    command = Command(tmp_path, source.url, cluster.url, source.sql)
    command.config["redis"]["cluster"] = True
    return command


def fill(source: Source, rows: int = 500) -> None:
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, %d) AS g(n)" % rows)


def test_load_delta_snapshot(on_cluster: Command, source: Source, cluster: Cluster) -> None:
    source.retain_history()
    fill(source)
    first = on_cluster("run").view
    assert (first["action"], first["puts"]) == ("snapshot", 500)
    assert cluster.strings() == prefixed(source.content())
    source.put(k1="new", k2=None, fresh="x")
    second = on_cluster("run").view
    assert second["action"] == "delta"
    assert cluster.strings() == prefixed(source.content())
    assert on_cluster("verify").view["verdict"] == "in sync"
