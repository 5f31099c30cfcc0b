"""What fault tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.rig import Rig, new_rig
from tests.support.redis_servers import RedisServer
from tests.support.sources import Source


@pytest.fixture
def rig(source: Source, redis_server: RedisServer, tmp_path: Path) -> Iterator[Rig]:
    """A rig on this test's source and Redis."""
    with new_rig(source, redis_server, tmp_path) as made:
        yield made
