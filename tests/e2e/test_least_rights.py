"""Every command with the ACL rules that docs/operations.md lists, and nothing beyond them is even tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.acl import PASSWORD, RULES, USER
from tests.support.command import Command
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import owned, prefixed
from tests.support.sources import Source

TRIED_IN_VAIN = {"config|get", "mz_latest_timestamp"}
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
    command("run", "--for", "2s")  # long enough for the lease to be renewed; more than one transaction
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
    assert {entry["object"] for entry in client.acl_log()} <= TRIED_IN_VAIN
