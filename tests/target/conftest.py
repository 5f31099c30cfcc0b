"""One suite for both kinds of target: each test runs on a single server and on a cluster of three primaries."""

from __future__ import annotations

import pytest

from tests.support.redis_cluster import Cluster
from tests.support.redis_servers import RedisServer
from tests.target.place import Place, of_cluster, of_server


@pytest.fixture(params=["single", "cluster"])
def place(request: pytest.FixtureRequest) -> Place:
    """Emptied; the view `orders` with the prefix `p:`."""
    if request.param == "cluster":
        return of_cluster(request.getfixturevalue("cluster"))
    return of_server(request.getfixturevalue("redis_server"))


@pytest.fixture
def single(redis_server: RedisServer) -> Place:
    """The same, on a single server only."""
    return of_server(redis_server)


@pytest.fixture
def clustered(cluster: Cluster) -> Place:
    """The same, in a cluster only."""
    return of_cluster(cluster)
