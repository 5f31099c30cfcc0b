"""What fault tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.history import FILLED_ROWS, History, new_history
from tests.faults.io_calls import small_pages
from tests.faults.rig import Rig, new_rig
from tests.support.forked import import_everything
from tests.support.redis_servers import RedisServer
from tests.support.sources import Source, SourceServer

# A run imports some modules late. One that is imported while a test has patched another would keep what was patched.
import_everything()


@pytest.fixture
def rig(source: Source, redis_server: RedisServer, tmp_path: Path) -> Iterator[Rig]:
    """A rig on this test's source and Redis."""
    with new_rig(source, redis_server, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """Several pages, chunks and groups of everything."""
    with small_pages():
        yield


@pytest.fixture(params=[b"p:", b""], ids=["prefix", "remembered"])
def history(
    request: pytest.FixtureRequest, source_server: SourceServer, redis_process: RedisServer
) -> Iterator[History]:
    """A history of FILLED_ROWS rows that are in Redis."""
    with new_history(source_server, redis_process, prefix=request.param) as made:
        made.scene.write(f"INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, {FILLED_ROWS}) AS n")
        made.scene.ok("run")
        yield made
