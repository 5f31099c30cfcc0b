"""doctor on a set-up with twelve faults at once: each is found, none hides another, each line has its fix."""

from __future__ import annotations

from tests.support.command import Command
from tests.support.redis_servers import RedisServer
from tests.support.sources import Source


def spoil(source: Source, server: RedisServer) -> None:
    """Twelve faults."""
    with server.client() as client:
        source.execute("CREATE INDEX v_by_key ON v (key)")  # 1: shortens the history
        source.execute("INSERT INTO o VALUES ('1', 'twice'), (NULL, 'x')")  # 2, 3: two rows for a key, none for a row
        client.delete("prices:k1", "prices:k2")  # 4: lost
        client.set("prices:stray", "x")  # 5: not the view's
        client.expire("prices:k3", 1000)  # 6: will be lost
        client.hset("reconcile:{claims}", "old", f"prefix {b'order'.hex()} ")  # 7: overlaps orders:
        client.hset("reconcile:{claims}", "gone", f"prefix {b'gone:'.hex()} ")  # 8: nobody's
        client.set("reconcile:{orders}:shards", 2)  # 9: cut into two, of which neither ran
        client.config_set("maxmemory", "30mb")
        client.config_set("maxmemory-policy", "allkeys-lru")  # 10: evicts anything
        client.set("mz_latest_timestamp", "1700000000000")  # 11: mz-redis-sync was here
        source.execute(
            "INSERT INTO t SELECT 'n' || n, repeat('v', 700) FROM generate_series(1, 60000) AS n"
        )  # 12: room


EXPECTED = {
    ("history", "prices"): "index trap",
    ("keys", "orders"): "",
    ("key space", "prices"): "lost",
    ("expiry", "prices"): "1 of",
    ("claims", None): "views orders and old claim the same keys",
    ("shards", None): "shard 0/2 of orders",
    ("eviction", None): "allkeys-lru",
    ("timestamp key", "prices"): "mz_latest_timestamp",
    ("memory", "prices"): "rows to load",
}


def test_each_is_found(command: Command, source: Source, redis_server: RedisServer) -> None:
    """Twelve faults, each with its place, its level and a fix."""
    source.retain_history()
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 2000) AS n")
    source.execute("CREATE TABLE o (key text, value text)")
    source.execute("INSERT INTO o VALUES ('1', 'a'), ('2', 'b')")
    command.config["materialize"].pop("sql")
    command.config["redis"].pop("key_prefix")
    command.config["views"] = [
        {"name": "prices", "relation": source.relation, "key_prefix": "prices"},
        {"name": "orders", "relation": f"{source.schema}.o", "key_prefix": "orders"},
    ]
    command("snapshot")
    with redis_server.client() as client:
        try:
            spoil(source, redis_server)
            found = [
                one for one in command("doctor", "--every", "1m", expect=2).report["checks"] if one["level"] != "ok"
            ]
        finally:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "0")
    told = {(one["check"], one["view"]): one["message"] for one in reversed(found)}
    for place, words in EXPECTED.items():
        assert words in told[place], place
    messages = [one["message"] for one in found]
    assert sum("have no key" in message or "several rows" in message for message in messages) == 2
    assert any("that the view did not write" in message for message in messages)
    assert any("the claim of gone" in message and "orphaned" in message for message in messages)
    assert all(one["fix"] for one in found)
    assert {one["check"] for one in found if one["level"] == "fail"} == {"keys", "claims"}
