"""The ways to a server: Unix socket, Sentinels, a database of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from msgspec.structs import replace

from reconcile.config.settings import RedisSettings, SentinelSettings
from reconcile.core.state import State
from reconcile.errors import LeaseLost, ReconcileError, Unavailable, UsageError
from reconcile.target import lease
from reconcile.target.port import Write
from tests.support.meanwhile import eventually
from tests.support.redis_servers import free_port, start_redis
from tests.support.sentinels import MASTER, OUTDATED, Watched, start_watched
from tests.target.place import VIEW, Place, of_server, whole

ROWS = {b"p:%d" % n: b"x" for n in range(100)}


def test_a_unix_socket_and_a_database(tmp_path: Path) -> None:
    """Without a port, in database 3."""
    socket = str(tmp_path / "redis.sock")
    with start_redis(tmp_path, "--unixsocket", socket) as server:
        place = of_server(server)
        here = RedisSettings(unix_socket_path=socket, host="nowhere.invalid", db=3)
        with replace(place, settings=here).armed() as target:
            target.commit(whole(ROWS, 100))
        assert redis.Redis(port=server.port, db=3).dbsize() > len(ROWS)
        assert server.client().dbsize() == 0
        gone = replace(here, unix_socket_path=socket + "x")
        with pytest.raises(Unavailable), replace(place, settings=gone).target():
            pass
        with pytest.raises(UsageError), replace(place, settings=replace(here, db=99)).target():
            pass


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with start_watched(tmp_path) as made:
        yield made


def place_of(watched: Watched, *more: int) -> Place:
    hosts = tuple(("127.0.0.1", port) for port in (*more, *watched.sentinels))
    return Place("single", RedisSettings(sentinel=SentinelSettings(hosts, MASTER)), server=watched.servers[0])


def test_sentinels_name_the_primary(watched: Watched) -> None:
    """One that is down is passed over; after a failover the next run goes on at the other server, and one that was
    under way ends without having written."""
    place = place_of(watched, free_port())
    with place.armed() as target:
        target.commit(whole(ROWS, 100))
        replica = watched.servers[1].client()
        eventually(lambda: int(replica.dbsize()) >= 100)  # type: ignore[arg-type]
        watched.fail_over()
        with pytest.raises((Unavailable, LeaseLost)):
            target.commit(Write(puts={b"p:1": b"late"}, state=State(as_of=200, buckets=16, digest="0" * 32)))
        with pytest.raises(ReconcileError):
            target.values([b"p:1"])
    with place.target() as target:
        replica.delete(f"reconcile:{{{VIEW.name}}}:lease")
        target.acquire(30, owner=lease.new_owner(), reset=False)
        state = target.state()
        assert state is not None
        assert state.as_of == 100
        assert target.values([b"p:1"]) == [b"x"]


def test_sentinels_that_know_nothing(watched: Watched) -> None:
    """Another name is a mistake; silence is not, nor one that still names the primary of before."""
    settings = place_of(watched).settings
    assert settings.sentinel is not None
    other = replace(settings, sentinel=replace(settings.sentinel, master="other"))
    with (
        pytest.raises(UsageError, match="called 'other'"),
        replace(place_of(watched), settings=other).target(),
    ):
        pass
    watched.name_outdated()
    late = replace(settings, sentinel=replace(settings.sentinel, master=OUTDATED))
    with pytest.raises(Unavailable, match="no longer"), replace(place_of(watched), settings=late).target():
        pass
    nobody = SentinelSettings((("127.0.0.1", free_port()),), MASTER)
    silent = replace(settings, sentinel=nobody)
    with (
        pytest.raises(Unavailable, match="no Sentinel"),
        replace(place_of(watched), settings=silent).target(),
    ):
        pass
