"""`reconcile drop`: what goes, what stays, who is asked."""

from __future__ import annotations

import signal

import pytest

from tests.support.command import Command
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import owned
from tests.support.sources import Source
from tests.support.terminal import on_terminal


@pytest.fixture
def loaded(source: Source, redis_server: RedisServer, command: Command) -> Command:
    """A view `old` with 50 keys under p:, another's key beside it."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 50) AS n")
    command.config["materialize"].pop("sql")
    command.config["redis"].pop("key_prefix")
    command.config["views"] = [{"name": "old", "sql": source.sql, "key_prefix": "p"}]
    command("run")
    redis_server.client().set("q:theirs", "untouched")
    return command


def own_keys(redis_server: RedisServer) -> set[bytes]:
    """reconcile's own keys but the counter of tokens, which stays for good."""
    return set(redis_server.client().keys("reconcile:{*")) - {b"reconcile:{old}:token"}


def test_a_view_that_is_no_longer_configured(loaded: Command, redis_server: RedisServer, source: Source) -> None:
    """First looked at, then dropped with its keys; afterwards its prefix is free for another."""
    loaded.config["views"] = [{"name": "new", "sql": source.sql, "key_prefix": "p"}]
    refused = loaded("run", expect=5)
    assert "reconcile drop old" in refused.view["error"]["hint"]
    before = own_keys(redis_server)
    found = loaded("drop", "old", "--keys", "--dry-run").report
    assert (found["keys_deleted"], found["dry_run"], found["range"]) == (50, True, "the prefix 'p:'")
    assert (own_keys(redis_server), len(owned(redis_server.client()))) == (before, 50)
    assert loaded("drop", "old", "--keys", "--yes").report["keys_deleted"] == 50
    assert (own_keys(redis_server), owned(redis_server.client())) == (set(), {})
    assert redis_server.client().get("q:theirs") == b"untouched"
    assert loaded("run").view["puts"] == 50


def test_without_keys_the_rows_stay(loaded: Command, redis_server: RedisServer) -> None:
    """They are nobody's then."""
    assert loaded("drop", "old", "--yes").report["keys_deleted"] is None
    assert (own_keys(redis_server), len(owned(redis_server.client()))) == (set(), 50)


def test_nobody_to_ask(loaded: Command, redis_server: RedisServer) -> None:
    """Without a terminal it has to be said outright; nothing happens by mistake."""
    before = own_keys(redis_server)
    assert "--yes" in loaded("drop", "old", "--keys", expect=2).report["error"]["hint"]
    assert (own_keys(redis_server), len(owned(redis_server.client()))) == (before, 50)


def test_asked_on_a_terminal(loaded: Command, redis_server: RedisServer) -> None:
    """No, or Ctrl-C, and nothing is dropped; yes, and it is."""
    before = own_keys(redis_server)
    loaded.write_config()
    with on_terminal("drop", "old", "--keys", config=loaded.config_path) as terminal:
        terminal.wait_for("[y/N]")
        terminal.type("n\n")
        terminal.wait_for("nothing was dropped")
        assert terminal.end()[0] == 2
    with on_terminal("drop", "old", "--keys", config=loaded.config_path) as terminal:
        terminal.wait_for("[y/N]")
        assert terminal.end(signal.SIGINT)[0] == -signal.SIGINT
    assert (own_keys(redis_server), len(owned(redis_server.client()))) == (before, 50)
    with on_terminal("drop", "old", "--keys", config=loaded.config_path) as terminal:
        terminal.wait_for("[y/N]")
        terminal.type("y\n")
        assert terminal.end()[0] == 0
    assert (own_keys(redis_server), owned(redis_server.client())) == (set(), {})


def test_an_unknown_view(loaded: Command) -> None:
    """The error names those that there are."""
    assert "those that have: old" in loaded("drop", "odl", "--yes", expect=2).report["error"]["message"]


def test_a_view_at_work(loaded: Command, redis_server: RedisServer) -> None:
    """Its lease is respected."""
    redis_server.client().set("reconcile:{old}:lease", "another run", px=60_000)
    assert "another run" in loaded("drop", "old", "--keys", "--yes", expect=7).report["error"]["message"]
    assert len(owned(redis_server.client())) == 50
