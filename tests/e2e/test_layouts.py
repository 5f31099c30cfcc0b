"""Rows of several columns in every layout, through every mode: load, delta, snapshot, audit, mending."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis

from tests.support.command import Command
from tests.support.redis_servers import RedisServer
from tests.support.sources import Source

ROWS = 200


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


def held(client: redis.Redis, layout: str) -> dict[bytes, Any]:
    found: dict[bytes, Any] = {}
    for key in client.scan_iter("o:*", count=1000):
        if layout == "hash":
            found[key] = client.hgetall(key)
        else:
            value = client.get(key)
            assert isinstance(value, bytes)
            found[key] = value if layout == "string" else json.loads(value)
    return found


@pytest.fixture
def configured(command: Command, source: Source, layout: str, expires: bool) -> Command:
    command.config["views"] = [view_of(source, layout, expires=expires)]
    del command.config["materialize"]["sql"]
    del command.config["redis"]["key_prefix"]
    return command


@pytest.mark.parametrize("expires", [False, True], ids=["", "expiring"])
@pytest.mark.parametrize("layout", ["string", "json", "hash"])
def test_every_mode(configured: Command, source: Source, redis_server: RedisServer, layout: str, expires: bool) -> None:
    """Exactly the view's rows after each run; drift of each kind is found, named and mended."""
    client = redis_server.client()
    assert configured("run").view["puts"] == ROWS
    assert held(client, layout) == expected(source, layout)
    configured("verify")
    source.execute("UPDATE orders SET amount = 0.10 WHERE id <= 3")
    source.execute("DELETE FROM orders WHERE id = 7")
    source.execute("INSERT INTO orders VALUES ('new%', 1000, 5, '', NULL)")
    time.sleep(2.5)  # the history of a plain view is gone
    view = configured("run").view
    assert (view["action"], view["puts"], view["deletes"]) == ("snapshot", 4, 1)
    assert held(client, layout) == expected(source, layout)
    configured("verify")
    some = sorted(held(client, layout))[:3]
    client.delete(some[0])
    client.delete(some[1])
    client.rpush(some[1], "of another type")
    if layout == "hash":
        client.hset(some[2].decode(), "stray", "field")
    else:
        client.set(some[2], "edited")
    client.set("o:extra", "x")
    found = configured("verify", expect=3).view["drift"]
    assert (found["missing"], found["stale"], found["extra"]) == (1, 2, 1)
    configured("snapshot", "--deep")
    assert held(client, layout) == expected(source, layout)
    configured("verify")


@pytest.mark.parametrize("expires", [False], ids=[""])
@pytest.mark.parametrize("layout", ["string", "json", "hash"])
def test_deltas(configured: Command, source: Source, redis_server: RedisServer, layout: str, expires: bool) -> None:
    """With history only the changes travel."""
    source.execute("CREATE MATERIALIZED VIEW kept WITH (RETAIN HISTORY FOR '1h') AS SELECT * FROM orders")
    view = configured.config["views"][0]
    view["sql"] = view["sql"].replace(".orders", ".kept")
    configured("run")
    source.execute("UPDATE orders SET amount = 7 WHERE id = 2")
    source.execute("DELETE FROM orders WHERE id = 9")
    report = configured("delta").view
    assert (report["action"], report["puts"], report["deletes"]) == ("delta", 1, 1)
    assert held(redis_server.client(), layout) == expected(source, layout)
    configured("verify")


@pytest.mark.parametrize("expires", [True], ids=["expiring"])
@pytest.mark.parametrize("layout", ["string", "json", "hash"])
def test_expiry(configured: Command, source: Source, redis_server: RedisServer, layout: str, expires: bool) -> None:
    """A key lives until its row's time; past it, its absence is right, in audits too; a changed time is a change."""
    soon, later = int(time.time()) + 4, int(time.time()) + 3600
    source.execute(f"UPDATE orders SET until = to_timestamp({soon}) WHERE id = 1")
    source.execute(f"UPDATE orders SET until = to_timestamp({later}) WHERE id = 2")
    configured("run")
    client = redis_server.client()
    assert client.pexpiretime("o:a%3A0:2") == later * 1000
    assert client.pexpiretime("o:a%3A1:3") == -1
    source.execute(f"UPDATE orders SET until = to_timestamp({later + 60}) WHERE id = 2")
    time.sleep(5)
    assert not client.exists("o:a%3A1:1")
    assert configured("run").view["puts"] == 1
    assert client.pexpiretime("o:a%3A0:2") == (later + 60) * 1000
    configured("verify")
    client.persist("o:a%3A0:2")
    assert configured("verify", expect=3).view["drift"]["stale"] == 1


@pytest.mark.parametrize("expires", [False], ids=[""])
@pytest.mark.parametrize("layout", ["hash"])
def test_another_layout_leaves_nothing_of_the_old(
    configured: Command, source: Source, redis_server: RedisServer, layout: str, expires: bool
) -> None:
    """Hashes become JSON and strings become hashes by one snapshot."""
    configured("run")
    for other in ("json", "hash"):
        configured.config["views"][0]["layout"] = other
        view = configured("run").view
        assert view["reason"] == "the mapping to keys and values has changed"
        assert held(redis_server.client(), other) == expected(source, other)
        configured("verify")
