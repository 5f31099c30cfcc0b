"""The clock of the host that runs reconcile may be wrong, or step: what is stored of times is Redis' own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.clocks import ahead
from tests.support.command import Command
from tests.support.redis_cluster import eventually
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import state
from tests.support.sources import Source

HOUR_S = 3600


@pytest.fixture
def skewed(command: Command, source: Source) -> Command:
    """200 rows in Redis; commands that are given AHEAD_S start with that clock."""
    source.retain_history()
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 200) AS n")
    command("run")
    return command


def test_the_guard_s_hour_is_not_that_of_the_host(skewed: Command, source: Source, tmp_path: Path) -> None:
    """A quarter of the keys goes with every run: the second one stops, though its host thinks hours have passed."""
    source.execute("DELETE FROM t WHERE substring(key, 2)::int > 150")
    skewed("run", **ahead(tmp_path, 3 * HOUR_S))
    source.execute("DELETE FROM t WHERE substring(key, 2)::int > 112")
    skewed("run", expect=5, **ahead(tmp_path, 6 * HOUR_S))


@pytest.mark.parametrize("years", [-70, 100])
def test_a_clock_that_is_decades_off(years: int, skewed: Command, source: Source, redis_server: RedisServer,
                                     tmp_path: Path) -> None:  # fmt: skip
    """As on a board without a battery: the run works, and what it stored is no riddle to the next."""
    clock = ahead(tmp_path, years * 365 * 24 * HOUR_S)
    source.put(k1="new")
    assert skewed("run", **clock).view["action"] == "delta"
    assert abs(int(state(redis_server.client())["updated_at_ms"]) / 1000 - time.time()) < HOUR_S
    for mode in ("verify", "status", "snapshot"):
        skewed(mode, **clock)
    with skewed.following("run", **clock):
        source.put(k2="newer")
        eventually(lambda: redis_server.client().get("p:k2") == b"newer")
    skewed("verify")
