"""Every command with the ACL rules that docs/operations.md lists, and nothing beyond them is even tried."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import redis

from tests.support.acl import PASSWORD, RULES, USER, more_rules
from tests.support.command import Command
from tests.support.redis_cluster import Cluster, eventually
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import owned, prefixed
from tests.support.sources import Source

TRIED_IN_VAIN = {"config|get", "hpttl", "mz_latest_timestamp"}
"""Documented as optional, and doctor's look whether mz-redis-sync has been here: refused, nobody minds."""
KINDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "prefix": ({"key_prefix": "p"}, []),
    "timestamp key": ({"key_prefix": "p", "mz_timestamp_key": "mz_latest_timestamp"}, ["~mz_latest_timestamp"]),
    "dedicated": ({"dedicated": True}, ["~*"]),
    "remembered": ({}, ["~*"]),
}


@pytest.fixture
def as_reconcile(redis_server: RedisServer) -> Iterator[str]:
    """The URL for a user that has the documented rights; what it is refused is in the server's ACL LOG."""
    client = redis_server.client()
    client.execute_command("ACL", "SETUSER", USER, "reset", *RULES)
    client.acl_log_reset()
    yield redis_server.url.replace("://", f"://{USER}:{PASSWORD}@", 1)
    client.acl_deluser(USER)


@pytest.mark.parametrize("kind", KINDS)
def test_every_command(
    kind: str, command: Command, source: Source, redis_server: RedisServer, as_reconcile: str
) -> None:
    """All of README's commands, whatever the view's keys are told by."""
    client = redis_server.client()
    mapping, more_rules = KINDS[kind]
    client.execute_command("ACL", "SETUSER", USER, *more_rules)
    command.config["redis"] = {"url": as_reconcile, **mapping}
    command.config["limits"] = {"lease": "1s", "batch_max_keys": 50}
    prefix = b"p:" if "key_prefix" in mapping else b""
    if kind != "dedicated":
        client.set("foreign:1", "x")
    source.retain_history()
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, 300) AS n")
    command("doctor")
    command("run", "--dry-run", "--detailed-exitcode", expect=3)
    command("run")
    source.put(k1="new", k2=None)
    source.execute("DELETE FROM t WHERE key = 'k7'")
    command("delta")
    source.execute("UPDATE t SET value = value || '!'")
    with command.following("run"):  # more than one transaction
        _await_renewal(client)
    command("run")
    source.put(k3="newer")
    source.execute("DELETE FROM t WHERE key IN ('k5', 'k6')")
    command("snapshot", "--dry-run")
    command("snapshot")
    client.set(prefix + b"k4", "edited")
    client.set(prefix + b"stray", "x")
    command("verify", expect=3)
    command("verify", "--subset", "1/4", expect=None)
    command("verify", "--subset", "next", expect=None)
    command("snapshot", "--deep")
    command("snapshot", "--reset-state")
    command("verify")
    command("verify", "--fast")
    command("status")
    assert command("explain", "k1").report["verdict"] == "in sync"
    checks = command("doctor").report["checks"]
    assert [check for check in checks if check["level"] == "fail"] == []
    held = owned(client, prefix)
    for beside in (b"foreign:1", b"mz_latest_timestamp", *([b"stray"] if kind == "remembered" else [])):
        held.pop(beside, None)
    assert held == prefixed(source.content(), prefix)
    _shard_and_drop(command)
    assert {entry["object"] for entry in client.acl_log()} <= TRIED_IN_VAIN


@pytest.mark.parametrize("kind", ["prefix", "remembered"])
def test_a_user_that_only_looks(kind: str, command: Command, source: Source, redis_server: RedisServer) -> None:
    """What reads works with less, and nothing is missed but the record of an audit."""
    mapping, more = KINDS[kind]
    command.config["redis"] = {"url": redis_server.url, **mapping}
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, 300) AS n")
    command("run")
    source.execute("DELETE FROM t WHERE key = 'k1'")
    looking = [*more_rules("`--dry-run`) needs no more than"), *(more_rules("without a prefix, add") if more else [])]
    own = [rule for rule in RULES if rule.startswith(("on", ">", "~", "reset"))]
    client = redis_server.client()
    client.execute_command("ACL", "SETUSER", USER, "reset", *own, "-@all", *looking, *more)
    client.acl_log_reset()
    command.config["redis"]["url"] = redis_server.url.replace("://", f"://{USER}:{PASSWORD}@", 1)
    assert command("status").report["views"][0]["keys"] == 300
    (note,) = command("verify").view["warnings"]
    assert "audit could not be recorded" in note
    command("verify", "--fast")
    command("verify", "--coverage")
    assert command("explain", "k2").report["verdict"] == "in sync"
    for words in (("run",), ("snapshot",), ("snapshot", "--deep")):
        assert command(*words, "--dry-run").view["deletes"] == 1
    refused = {entry["object"] for entry in client.acl_log()}
    client.acl_deluser(USER)
    assert refused == {"hset"}


def _await_renewal(client: redis.Redis) -> None:
    """Until a lease lasts longer than it did a moment ago."""
    left_ms: list[int] = []

    def renewed() -> bool:
        left_ms.extend(client.pttl(name) for name in client.keys("reconcile:{*}:lease"))
        return any(before < after for before, after in pairwise(left_ms))

    eventually(renewed)


HASH, EXPIRES = "`layout: hash`: add", "`expires_at`: add"
LAYOUTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "hash": ({"layout": "hash", "value": ["value", "n"]}, [HASH]),
    "string-expiring": ({"expires_at": "until"}, [EXPIRES]),
    "hash-expiring": (
        {"layout": "hash", "value": ["value", "n"], "expires_at": "until"},
        [HASH, EXPIRES, "with `hash` also"],
    ),
}


@pytest.mark.parametrize("server", ["single", "cluster"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(
    layout: str, server: str, command: Command, source: Source, request: pytest.FixtureRequest
) -> None:
    """Hashes and keys that expire, on a server and in a cluster: with what the document adds for these, no more."""
    columns, additions = LAYOUTS[layout]
    rules = [*RULES, *(rule for addition in additions for rule in more_rules(addition))]
    if server == "cluster":
        cluster: Cluster = request.getfixturevalue("cluster")
        clients, url = cluster.primaries(), cluster.url
        rules += more_rules("`redis.cluster: true`: add")
    else:
        single: RedisServer = request.getfixturevalue("redis_server")
        clients, url = [single.client()], single.url
    for client in clients:
        client.execute_command("ACL", "SETUSER", USER, "reset", *rules)
        client.acl_log_reset()
    source.execute("CREATE TABLE w (key text, value text, n int, until timestamptz)")
    source.execute("CREATE MATERIALIZED VIEW wide WITH (RETAIN HISTORY FOR '1hr') AS SELECT * FROM w")
    source.execute(
        "INSERT INTO w SELECT 'k' || n, repeat('v', n * 20), n, '2100-01-01T00:00:00Z'::timestamptz "
        "FROM generate_series(1, 300) AS n"
    )
    view = {"name": "default", "relation": f"{source.schema}.wide", "key": "key", "value": "value", "key_prefix": "p"}
    del command.config["materialize"]["sql"]
    command.config["redis"] = {"url": url.replace("://", f"://{USER}:{PASSWORD}@", 1), "cluster": server == "cluster"}
    command.config["views"] = [view | columns]
    command.config["limits"] = {"batch_max_keys": 50}
    command("run")
    source.execute("DELETE FROM w WHERE n < 4")
    command("delta")
    source.execute("UPDATE w SET value = value || '!'")
    command("snapshot")
    command("snapshot", "--deep")
    command("verify")
    assert command("explain", "k9").report["verdict"] == "in sync"
    rights = [check for check in command("doctor").report["checks"] if check["check"] == "rights"]
    assert [check["level"] for check in rights] == ["ok"]
    _shard_and_drop(command)
    refused = {entry["object"] for client in clients for entry in client.acl_log()}
    for client in clients:
        client.acl_deluser(USER)
    assert refused <= TRIED_IN_VAIN


def _shard_and_drop(command: Command) -> None:
    """Cut the view in two, make it whole (one with a timestamp key cannot be cut), forget it."""
    (view,) = command("status").report["views"]
    for shard in ("0/2", "1/2", "0/1") if "mz_timestamp_key" not in command.config["redis"] else ():
        command("run", "--shard", shard)
    command("verify")
    command("drop", view["view"], "--keys", "--dry-run")
    command("drop", view["view"], "--keys", "--yes")
