"""Layout × mode × server: rows of several columns through load, snapshot, delta, audit, repair and expiry.

A server is reached directly, by a Unix socket or by Sentinels; or it is a cluster of three primaries.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Command
from tests.support.redis_servers import RedisServer, start_redis
from tests.support.sentinels import MASTER, Watched, start_watched
from tests.support.sources import Source
from tests.target.place import Place, of_cluster, of_server

ROWS = 200
every_layout = pytest.mark.parametrize("layout", ["string", "json", "hash"])
every_server = pytest.mark.parametrize(
    ("server", "expires"),
    [
        ("single", False),
        ("single", True),
        ("cluster", False),
        ("cluster", True),
        ("socket", False),
        ("sentinel", False),
    ],
    ids=["single", "single-expiring", "cluster", "cluster-expiring", "socket", "sentinel"],
)
one_and_many = pytest.mark.parametrize("server", ["single", "cluster"])


def view_of(source: Source, layout: str, *, expires: bool) -> dict[str, Any]:
    """Two tenants' orders: composite keys, a number, a text that may be NULL, a time."""
    source.execute("CREATE TABLE orders (tenant text, id int, amount numeric, note text, until timestamptz)")
    source.execute(
        "INSERT INTO orders SELECT 'a:' || (n % 2), n, n * 1.5, CASE WHEN n % 3 = 0 THEN NULL ELSE 'note ' || n END, "
        f"NULL FROM generate_series(1, {ROWS}) AS n"
    )
    columns = ["amount"] if layout == "string" else ["amount", "note"]
    names = ", ".join(["tenant", "id", *columns, *(["until"] if expires else [])])
    view: dict[str, Any] = {
        "name": "orders",
        "sql": f"SELECT {names} FROM {source.schema}.orders",
        "key": ["tenant", "id"],
        "value": columns[0] if layout == "string" else columns,
        "layout": layout,
        "key_prefix": "o",
    }
    return view | ({"expires_at": "until"} if expires else {})


def expected(source: Source, layout: str) -> dict[bytes, Any]:
    """What Redis must hold, made without reconcile's own code."""
    found: dict[bytes, Any] = {}
    for tenant, number, amount, note in source.execute("SELECT tenant, id, amount::text, note FROM orders"):
        key = f"o:{str(tenant).replace('%', '%25').replace(':', '%3A')}:{number}".encode()
        if layout == "string":
            found[key] = str(amount).encode()
        elif layout == "json":
            found[key] = {"amount": float(str(amount)), "note": note}
        else:
            found[key] = {b"amount": str(amount).encode()} | ({b"note": note.encode()} if note is not None else {})
    return found


def held(place: Place, layout: str) -> dict[bytes, Any]:
    """What Redis holds, read by a client of our own."""
    found: dict[bytes, Any] = {}
    for key in place.keys(b"o:*"):
        if layout == "hash":
            found[key] = place.client(key).hgetall(key.decode())
        else:
            value = place.do("GET", key)
            assert isinstance(value, bytes)
            found[key] = value if layout == "string" else json.loads(value)
    return found


@pytest.fixture(scope="session")
def socket_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server with a Unix socket, which is in its directory."""
    directory = tmp_path_factory.mktemp("socket")
    with start_redis(directory, "--unixsocket", str(directory / "redis.sock")) as server:
        yield server


@pytest.fixture(scope="session")
def watched_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A primary and a replica, watched by Sentinels that are slow to mind."""
    with start_watched(tmp_path_factory.mktemp("watched")) as watched:
        yield watched


@pytest.fixture
def place(request: pytest.FixtureRequest, server: str) -> Place:
    """Where the keys are, emptied."""
    if server == "cluster":
        return of_cluster(request.getfixturevalue("cluster"))
    if server == "single":
        return of_server(request.getfixturevalue("redis_server"))
    reached: RedisServer = (
        request.getfixturevalue("socket_process")
        if server == "socket"
        else request.getfixturevalue("watched_process").servers[0]
    )
    reached.client().flushall()
    return of_server(reached)


def settings_of(place: Place, server: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """How the configuration names the server."""
    if place.nodes is not None:
        return {"url": place.nodes.url, "cluster": True}
    assert place.server is not None
    if server == "socket":
        return {"url": f"unix://{place.server.directory / 'redis.sock'}"}
    if server == "sentinel":
        watched: Watched = request.getfixturevalue("watched_process")
        return {"sentinel": {"hosts": [f"127.0.0.1:{port}" for port in watched.sentinels], "master": MASTER}}
    return {"url": place.server.url}


@pytest.fixture
def configured(
    tmp_path: Path,
    source: Source,
    place: Place,
    server: str,
    layout: str,
    expires: bool,
    request: pytest.FixtureRequest,
) -> Command:
    made = Command(tmp_path, source.url, "", source.sql)
    made.config["views"] = [view_of(source, layout, expires=expires)]
    del made.config["materialize"]["sql"]
    made.config["redis"] = settings_of(place, server, request)
    return made


@every_layout
@every_server
def test_every_mode(configured: Command, source: Source, place: Place, layout: str, expires: bool) -> None:
    """Exactly the view's rows after each run; drift of each kind is found, named and repaired."""
    assert configured("run").view["puts"] == ROWS
    assert held(place, layout) == expected(source, layout)
    configured("verify")
    source.execute("UPDATE orders SET amount = 0.10 WHERE id <= 3")
    source.execute("DELETE FROM orders WHERE id = 7")
    source.execute("INSERT INTO orders VALUES ('new%', 1000, 5, '', NULL)")
    source.await_oblivion("orders")
    view = configured("run").view
    assert (view["action"], view["puts"], view["deletes"]) == ("snapshot", 4, 1)
    assert held(place, layout) == expected(source, layout)
    configured("verify")
    some = sorted(held(place, layout))[:3]
    place.do("DEL", some[0])
    place.do("DEL", some[1])
    place.do("RPUSH", some[1], "of another type")
    if layout == "hash":
        place.do("HSET", some[2], "stray", "field")
    else:
        place.do("SET", some[2], "edited")
    place.do("SET", "o:extra", "x")
    found = configured("verify", expect=3).view["drift"]
    assert (found["missing"], found["stale"], found["extra"]) == (1, 2, 1)
    configured("snapshot", "--deep")
    assert held(place, layout) == expected(source, layout)
    configured("verify")


@pytest.mark.parametrize("expires", [False], ids=[""])
@every_layout
@one_and_many
def test_deltas(configured: Command, source: Source, place: Place, layout: str, expires: bool) -> None:
    """With history only the changes travel."""
    source.execute("CREATE MATERIALIZED VIEW kept WITH (RETAIN HISTORY FOR '1h') AS SELECT * FROM orders")
    view = configured.config["views"][0]
    view["sql"] = view["sql"].replace(".orders", ".kept")
    configured("run")
    source.execute("UPDATE orders SET amount = 7 WHERE id = 2")
    source.execute("DELETE FROM orders WHERE id = 9")
    report = configured("delta").view
    assert (report["action"], report["puts"], report["deletes"]) == ("delta", 1, 1)
    assert held(place, layout) == expected(source, layout)
    configured("verify")


@pytest.mark.parametrize("layout", ["json", "hash"])
@pytest.mark.parametrize("type_name", ["double precision", "real"])
def test_a_float_that_is_stored_alike(
    layout: str, type_name: str, tmp_path: Path, source: Source, redis_server: RedisServer
) -> None:
    """JSON has no float: tiny ones are 0 there, as is −0. To fingerprints too, or `verify --fast` would call a change
    that no delta can see a missed update. In a hash they are different texts."""
    source.execute(f"CREATE TABLE f (key text, amount {type_name})")
    source.execute("CREATE MATERIALIZED VIEW kept WITH (RETAIN HISTORY FOR '1h') AS SELECT * FROM f")
    source.execute("INSERT INTO f VALUES ('tiny', 1e-42), ('one', 1.5), ('nothing', NULL), ('none', 'NaN')")
    command = Command(tmp_path, source.url, redis_server.url, "")
    view = {
        "name": "f",
        "sql": f"SELECT DISTINCT key, amount FROM {source.schema}.kept",
        "value": ["amount"],
        "layout": layout,
    }
    command.config["views"] = [view | {"key_prefix": "f"}]
    del command.config["materialize"]["sql"], command.config["redis"]["key_prefix"]
    command("run")
    source.execute("UPDATE f SET amount = 3e-42 WHERE key = 'tiny'")
    delta = command("run").view
    assert (delta["action"], delta["puts"]) == ("delta", 0 if layout == "json" else 1)
    command("verify", "--fast")
    command("verify")


@pytest.mark.parametrize("expires", [True], ids=["expiring"])
@every_layout
@one_and_many
def test_expiry(configured: Command, source: Source, place: Place, layout: str, expires: bool) -> None:
    """A key lives until its row's time; past it, its absence is right, in audits too; a changed time is a change."""
    soon, later = int(time.time()) + 4, int(time.time()) + 3600
    source.execute(f"UPDATE orders SET until = to_timestamp({soon}) WHERE id = 1")
    source.execute(f"UPDATE orders SET until = to_timestamp({later}) WHERE id = 2")
    configured("run")
    assert place.do("PEXPIRETIME", "o:a%3A0:2") == later * 1000
    assert place.do("PEXPIRETIME", "o:a%3A1:3") == -1
    source.execute(f"UPDATE orders SET until = to_timestamp({later + 60}) WHERE id = 2")
    source.await_oblivion("orders")
    while time.time() < soon or place.do("EXISTS", "o:a%3A1:1"):
        assert time.time() < soon + 5
        time.sleep(0.1)
    assert configured("run").view["puts"] == 1
    assert place.do("PEXPIRETIME", "o:a%3A0:2") == (later + 60) * 1000
    configured("verify")
    place.do("PERSIST", "o:a%3A0:2")
    assert configured("verify", expect=3).view["drift"]["stale"] == 1


@pytest.mark.parametrize("expires", [False], ids=[""])
@pytest.mark.parametrize("layout", ["hash"])
@one_and_many
def test_another_layout_leaves_nothing_of_the_old(
    configured: Command, source: Source, place: Place, layout: str, expires: bool
) -> None:
    """Hashes become JSON and strings become hashes by one snapshot."""
    configured("run")
    for other in ("json", "hash"):
        configured.config["views"][0]["layout"] = other
        view = configured("run").view
        assert view["reason"] == "the mapping to keys and values has changed"
        assert held(place, other) == expected(source, other)
        configured("verify")
