"""Materialize bounds the size of one result, by default to 1 GB: a larger view is read in parts, all at one time."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.command import Command
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import check_manifest, owned, prefixed
from tests.support.sources import Source


def bound(command: Command, size: str) -> None:
    """Bound every result of the sessions to come."""
    parts = conninfo_to_dict(command.config["materialize"]["url"])
    options = f"{parts.pop('options', '')} --max_query_result_size={size}"
    command.config["materialize"]["url"] = make_conninfo("", **parts, options=options)


def in_sync(source: Source, redis_server: RedisServer) -> None:
    assert owned(redis_server.client()) == prefixed(source.content())
    check_manifest(redis_server.client())


@pytest.fixture
def large(source: Source) -> Source:
    """Some 60 kB."""
    source.execute("INSERT INTO t SELECT 'key ' || n, 'a value of its own ' || n FROM generate_series(1, 1500) AS n")
    return source


@pytest.mark.parametrize(("size", "parts"), [("1MB", 1), ("20kB", 8), ("2kB", 64)])
def test_a_view_larger_than_one_result(
    size: str, parts: int, large: Source, redis_server: RedisServer, command: Command
) -> None:
    """Loaded, compared and audited in as many parts as it takes."""
    bound(command, size)
    for arguments in (("run",), ("snapshot", "--deep"), ("verify",)):
        view = command(*arguments).view
        told = [text for text in view["warnings"] if "refuses a result of this size" in text]
        assert len(told) == {1: 0, 8: 1, 64: 2}[parts]
        assert all(f"is read in {n} parts" in text for n, text in zip((8, 64), told, strict=False))
        in_sync(large, redis_server)


def test_what_was_changed_is_read_in_parts_too(large: Source, redis_server: RedisServer, command: Command) -> None:
    """Many changed buckets may be more than one result."""
    command("run")
    bound(command, "20kB")
    large.await_oblivion()
    large.execute("UPDATE t SET value = value || '!' WHERE key LIKE 'key 1%'")
    view = command("run").view
    assert view["puts"] == 612
    assert [text for text in view["warnings"] if "is read in 8 parts" in text]
    in_sync(large, redis_server)


def test_rows_without_key_are_noticed_in_parts(large: Source, command: Command) -> None:
    """A part is chosen by the key's hash; a row without key belongs to the first."""
    bound(command, "20kB")
    large.execute("INSERT INTO t VALUES (NULL, 'nobody''s')")
    error = command("run", expect=5).view["error"]
    assert "NULL" in error["message"]


def test_one_row_larger_than_a_result(large: Source, redis_server: RedisServer, command: Command) -> None:
    """No division helps: exit 2 with the setting that would, and Redis keeps no half of it as a checkpoint."""
    large.put(huge="x" * 30_000)
    bound(command, "20kB")
    error = command("run", expect=2).view["error"]
    assert (error["kind"], "max_query_result_size" in error["hint"]) == ("result_too_large", True)
    bound(command, "1MB")
    assert command("run").code == 0
    in_sync(large, redis_server)
