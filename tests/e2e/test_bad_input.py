"""Bad input of every kind: the right exit code, one clear line, a hint, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.support.command import Command
from tests.support.redis_servers import RedisServer, closed_port, start_redis
from tests.support.redis_state import owned, state
from tests.support.sources import Source


def refused(command: Command, redis_server: RedisServer, code: int, said: str, *arguments: str) -> None:
    """`reconcile run` exits with `code`, its one-line message contains `said`, it hints, and Redis stays empty."""
    result = command(*(arguments or ("run",)), expect=code)
    error = result.report["error"] or result.view["error"]
    assert said in error["message"], error
    assert "\n" not in error["message"]
    assert error["hint"]
    assert owned(redis_server.client()) == {}
    assert "format" not in state(redis_server.client())


def test_missing_config(command: Command, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration file that is not there is named."""
    monkeypatch.setattr(command, "write_config", lambda: None)
    result = command("run", expect=2)
    assert "config.yaml" in result.report["error"]["message"]


def test_malformed_config(command: Command, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """YAML that does not parse is reported with its line."""
    monkeypatch.setattr(command, "write_config", lambda: command.config_path.write_text("materialize:\n  sql: [1\n"))
    result = command("run", expect=2)
    assert "config.yaml:" in result.report["error"]["message"]


def test_unknown_key(command: Command, redis_server: RedisServer) -> None:
    """A misspelled key is an error with a suggestion."""
    command.config["redis"]["key_prefx"] = "p"
    result = command("run", expect=2)
    text = str(result.report["error"])
    assert "key_prefx" in text
    assert "key_prefix" in text


@pytest.mark.parametrize("side", ["materialize", "redis"])
def test_nobody_listens(command: Command, redis_server: RedisServer, side: str) -> None:
    """A port nobody listens on is 'unavailable', on either side."""
    scheme = "postgresql://materialize@" if side == "materialize" else "redis://"
    with closed_port() as port:
        command.config[side]["url"] = f"{scheme}127.0.0.1:{port}/0"
        refused(command, redis_server, 6, "not available")


@pytest.mark.parametrize("side", ["materialize", "redis"])
def test_unknown_host(command: Command, redis_server: RedisServer, side: str) -> None:
    """A host name that does not resolve is 'unavailable', on either side."""
    scheme = "postgresql://materialize@" if side == "materialize" else "redis://"
    command.config[side]["url"] = f"{scheme}no-such-host.invalid:1/0"
    refused(command, redis_server, 6, "not available")


def test_wrong_redis_database(command: Command, redis_server: RedisServer) -> None:
    """A database number the server does not have is a configuration error."""
    command.config["redis"]["url"] = redis_server.url.rsplit("/", 1)[0] + "/999"
    refused(command, redis_server, 2, "no such database")


def test_wrong_redis_password(command: Command, redis_server: RedisServer, tmp_path: Path) -> None:
    """A refused password is a configuration error and does not show the password."""
    with start_redis(tmp_path, "--requirepass", "right-one") as locked:
        command.config["redis"]["url"] = locked.url.replace("redis://", "redis://:hunter2@")
        result = command("run", expect=2)
        assert "refused access" in result.view["error"]["message"]
        assert "hunter2" not in result.out + result.err


def test_wrong_materialize_password(command: Command, redis_server: RedisServer, source: Source) -> None:
    """A refused password at the source is a configuration error and does not show the password."""
    if not source.is_standin:
        pytest.skip("needs a server that asks for a password")
    from reconcile_standin import StandIn

    with StandIn(port=0, password="right-one") as locked:
        command.config["materialize"]["url"] = locked.url.replace("materialize@", "materialize:hunter2@").replace(
            "right-one", "hunter2"
        )
        result = command("run", expect=2)
        assert "refused access" in result.view["error"]["message"]
        assert "hunter2" not in result.out + result.err


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT key, value FROM {schema}.nosuch", "nosuch"),
        ("SELECT key, value FROM nosuchschema.v", "nosuchschema"),
        ("SELECT nokey, value FROM {schema}.v", "nokey"),
        ("SELECT key value FROM {schema}.v WHERE", "refuses the query"),
        ("SELECT key, value FROM {schema}.v WHERE key", "refuses the query"),
        ("SELECT key AS k, value FROM {schema}.v", "no column 'key'"),
        ("SELECT key, value AS val FROM {schema}.v", "no column 'value'"),
        ("SELECT key, value, 1 AS more FROM {schema}.v", "unused columns: more"),
        ("SELECT key, LIST[value] AS value FROM {schema}.v", "type that cannot be a Redis value"),
        ("SELECT 1.5::float8 AS key, value FROM {schema}.v", "type that cannot be a Redis key"),
    ],
)
def test_bad_query(command: Command, redis_server: RedisServer, source: Source, query: str, said: str) -> None:
    """SQL that does not parse, a missing object or column, a type we cannot store: refused, nothing written."""
    command.config["materialize"]["sql"] = query.format(schema=source.schema)
    refused(command, redis_server, 2, said)
    assert redis_server.client().dbsize() == 0


@pytest.mark.parametrize("function", ["current_timestamp", "current_database"])
def test_a_query_of_the_moment(command: Command, redis_server: RedisServer, source: Source, function: str) -> None:
    """What no dataflow can keep up to date is read by snapshots, and not followed: that is said with what helps."""
    source.put(a="1")
    called = {"current_timestamp": "now()", "current_database": "current_database()"}[function]
    command.config["materialize"]["sql"] = f"{source.sql} WHERE {called}::text <> ''"
    command("snapshot")
    command("snapshot")
    assert owned(redis_server.client()) == {b"p:a": b"1"}
    error = command("run", "--for", "60s", expect=2).view["error"]
    assert f"cannot materialize call to {function}" in error["message"]
    assert "mz_now()" in error["hint"]


def test_what_cannot_be_read_yet(command: Command, redis_server: RedisServer, source: Source) -> None:
    """A transaction reads a whole schema at one time: not before the first refresh of any view in it. Nobody waits for
    that until read_timeout, to be told of silence."""
    source.execute("CREATE MATERIALIZED VIEW yearly WITH (REFRESH AT '2100-01-01 00:00:00') AS SELECT key FROM t")
    refused(command, redis_server, 6, "can read the view only in")


libpq_with_versions = pytest.mark.skipif(psycopg.pq.version() < 180000, reason="this libpq speaks 3.0 only")


@libpq_with_versions
def test_a_protocol_that_materialize_does_not_speak(
    command: Command, redis_server: RedisServer, source: Source
) -> None:
    """What the environment asks libpq for is not asked for; what the URL says is said to be the mistake."""
    assert command("run", PGMAXPROTOCOLVERSION="latest").code == 0
    redis_server.client().flushall()
    command.config["materialize"]["url"] = make_conninfo(source.url, max_protocol_version="latest")
    refused(command, redis_server, 2, "version 3.0 of the protocol only")


def test_null_key(command: Command, redis_server: RedisServer, source: Source) -> None:
    """A row without key stops the run and names the remedy."""
    source.execute("INSERT INTO t VALUES (NULL, 'x')")
    refused(command, redis_server, 5, "key is NULL")


def test_null_key_in_a_large_load(command: Command, redis_server: RedisServer, source: Source) -> None:
    """Rows that came before it may be in Redis already: the report counts them all, and nothing says otherwise."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 20000) AS n")
    source.execute("INSERT INTO t VALUES (NULL, 'x')")
    view = command("run", expect=5).view
    assert "the checkpoint stays" in view["error"]["hint"]
    written = owned(redis_server.client())
    assert view["puts"] == len(written)
    assert state(redis_server.client()).get("as_of", "") == ""


def test_null_key_later(command: Command, redis_server: RedisServer, source: Source) -> None:
    """A row without key that comes later stops the run; what Redis holds stays."""
    source.put(a="1")
    command("run")
    source.execute("INSERT INTO t VALUES (NULL, 'x')")
    source.put(a="2")
    assert "key is NULL" in command("run", expect=5).view["error"]["message"]
    assert owned(redis_server.client()) == {b"p:a": b"1"}


Spoil = Callable[[Source], object]


@pytest.mark.parametrize("mode", ["run", "snapshot", "delta"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda source: source.execute("INSERT INTO t VALUES ('dup', '2')"),
        lambda source: source.execute("INSERT INTO t VALUES ('dup', '1')"),
    ],
    ids=["other value", "same value"],
)
def test_one_key_with_two_rows_later(
    command: Command, redis_server: RedisServer, source: Source, mode: str, spoil: Spoil
) -> None:
    """A key that gets a second row is never silently picked, whatever the mode; it is named except by delta alone."""
    source.retain_history()
    source.put(dup="1", other="1")
    command("run")
    spoil(source)
    error = command(mode, expect=5).view["error"]
    assert mode == "delta" or "p:dup" in error["message"]
    assert owned(redis_server.client()) == {b"p:dup": b"1", b"p:other": b"1"}


def test_one_key_with_two_rows_at_first(command: Command, redis_server: RedisServer, source: Source) -> None:
    """A key that has several rows from the start is named, and no checkpoint is recorded."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 5000) AS n")
    source.execute("INSERT INTO t VALUES ('k77', 'again')")
    assert "p:k77" in command("run", expect=5).view["error"]["message"]
    assert state(redis_server.client()).get("as_of", "") == ""


def test_only_what_was_written_counts(command: Command, redis_server: RedisServer, source: Source) -> None:
    """First contact with one duplicate among 20,000 rows: puts are the keys in Redis; the next run puts none."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 20000) AS n")
    source.execute("INSERT INTO t VALUES ('k7', 'w')")
    with redis_server.client() as client:
        assert command("run", expect=5).view["puts"] == len(client.keys("p:*")) > 0
        assert command("run", expect=5).view["puts"] == 0


def test_value_redis_refuses(command: Command, redis_server: RedisServer, source: Source, tmp_path: Path) -> None:
    """A value larger than the server takes is named before anything is written."""
    with start_redis(tmp_path, "--proto-max-bulk-len", "1mb") as small:
        command.config["redis"]["url"] = small.url
        source.execute("INSERT INTO t VALUES ('big', lpad('x', 2000000, 'x'))")
        error = command("run", expect=5).view["error"]
        assert "p:big" in error["message"]
        assert owned(small.client()) == {}


def test_key_redis_refuses(command: Command, source: Source, tmp_path: Path) -> None:
    """The same for a key; one byte less is just a long key."""
    with start_redis(tmp_path, "--proto-max-bulk-len", "1mb") as small:
        command.config["redis"]["url"] = small.url
        source.retain_history()
        source.put(a="1", **{"y" * ((1 << 20) - len("p:")): "2"})
        source.execute(f"INSERT INTO t VALUES (repeat('x', {(1 << 20) - 1}), '3')")
        error = command("run", expect=5).view["error"]
        assert "1048577 bytes" in error["message"]
        assert len(error["message"]) < 300
        assert "proto-max-bulk-len" in error["hint"]
        source.execute("DELETE FROM t WHERE value = '3'")
        command("run")
        command("verify")
        assert len(owned(small.client())) == 2


def test_state_of_a_newer_format(command: Command, redis_server: RedisServer, source: Source) -> None:
    """A state written by a newer version is not touched; --reset-state starts over on purpose."""
    source.put(a="1")
    command("run")
    client = redis_server.client()
    client.hset("reconcile:{default}:state", "format", "99")
    before = client.hgetall("reconcile:{default}:state")
    error = command("run", expect=5).view["error"]
    assert "newer" in error["message"]
    assert client.hgetall("reconcile:{default}:state") == before
    command("snapshot", "--reset-state")
    assert state(client)["format"] == "1"


@pytest.mark.parametrize(
    "damage",
    [
        lambda client: client.hset("reconcile:{default}:state", "as_of", "yesterday"),
        lambda client: client.hdel("reconcile:{default}:state", "buckets"),
        lambda client: client.set("reconcile:{default}:state", "not a hash"),
        lambda client: client.hset("reconcile:{default}:state", "format", "one"),
    ],
    ids=["field", "missing field", "other type", "format"],
)
def test_corrupt_state(
    command: Command, redis_server: RedisServer, source: Source, damage: Callable[[object], object]
) -> None:
    """A damaged state stops the run with the way out, and that way works."""
    source.put(a="1")
    command("run")
    damage(redis_server.client())
    error = command("run", expect=5).view["error"]
    assert "corrupt" in error["message"]
    assert "--reset-state" in error["hint"]
    command("snapshot", "--reset-state")
    command("verify")


@pytest.mark.parametrize("part", ["manifest", "fingerprints"])
def test_damaged_manifest_is_noticed_and_made_again(
    command: Command, redis_server: RedisServer, source: Source, part: str
) -> None:
    """A manifest or fingerprints that are gone or damaged are never trusted."""
    source.put(a="1", b="2")
    command("run")
    client = redis_server.client()
    client.delete(f"reconcile:{{default}}:{part}")
    source.put(a="3")
    command("snapshot")
    assert owned(client) == {b"p:a": b"3", b"p:b": b"2"}
    command("verify")
