"""Servers that lack commands or refuse them, and what of their words is repeated."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from msgspec.structs import replace
from redis.exceptions import AuthenticationError, ExecAbortError, NoPermissionError, OutOfMemoryError, ResponseError

from reconcile.config.settings import Secret
from reconcile.core.state import Pending, State
from reconcile.errors import AccessError, DataError, ReconcileError, Unavailable, UsageError
from reconcile.target import lease
from reconcile.target.port import Target, Write
from reconcile.target.translation import translate
from tests.support.meanwhile import beside, eventually
from tests.support.redis_servers import start_redis
from tests.target.place import Place, of_server, whole

ROWS = {b"p:%d" % n: b"secret %d" % n for n in range(10)}


@pytest.mark.parametrize(
    "error",
    [
        ResponseError("unknown command 'FOO', with args beginning with: 'p:1' 'hunter2' "),
        ResponseError("unknown command `MSETNX`, with args beginning with: `p:1`, `hunter2`, "),
        ResponseError("unknown command 'FOO', with args beginning with: 'it's hunter2' "),
        ResponseError("Protocol error: 'hunter2'"),
        NoPermissionError("User x has no permissions to run the 'hunter2' command"),
        AuthenticationError('invalid password "hunter2"'),
        ResponseError("ERR 'hunter2"),
        ValueError('Protocol error, got "hunter2" as reply type byte'),
    ],
)
def test_what_a_server_quotes_is_not_repeated(error: Exception) -> None:
    """It may be a row's value, or the password."""
    translated = translate(error)
    assert "hunter2" not in f"{translated.message} {translated.hint}"
    assert "\x1b" not in translate(ResponseError("\x1b[31m")).message


def test_what_says_what_is_wrong_is_repeated() -> None:
    """Names of commands, of a limit, and the operating system's words."""
    unknown = translate(ResponseError("unknown command 'MSETNX', with args beginning with: 'a' 'b' "))
    assert isinstance(unknown, UsageError)
    assert "'MSETNX'" in unknown.message
    full = OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
    assert "'maxmemory'" in translate(full).message
    reset = ConnectionError("Error while reading from 10.0.0.1:6379 : (104, 'Connection reset by peer')")
    assert translate(reset).message.endswith("(104, 'Connection reset by peer')")
    assert "'config|get'" in translate(NoPermissionError("no permissions to run the 'config|get' command")).message


def test_what_is_too_large_is_no_bug() -> None:
    """Redis' own limit for one argument, and that of services for a request."""
    assert isinstance(translate(ResponseError("Protocol error: invalid bulk length")), DataError)
    assert isinstance(translate(ResponseError("max request size exceeded. Limit: 10485760 bytes")), UsageError)


@pytest.fixture
def lacking(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A server on which a command is renamed away."""
    options = ("--rename-command", request.param, "")
    with start_redis(tmp_path, *options) as server:
        yield of_server(server)


@pytest.mark.parametrize("lacking", ["CLIENT", "CONFIG", "INFO", "DBSIZE"], indirect=True)
def test_what_can_be_done_without(lacking: Place) -> None:
    """A run goes on without these."""
    with lacking.armed() as target:
        target.commit(whole(ROWS, 100))
        target.commit(Write(puts={b"p:large": b"x" * 2_000_000}))
        assert len([row for page in target.rows() for row in page]) == 11
        target.counters()


@pytest.mark.parametrize(
    "lacking",
    ["WATCH", "MULTI", "EXEC", "HSET", "INCR", "PTTL", "GET", "SET", "MSET", "MSETNX", "SCAN", "MGET", "HMGET"],
    indirect=True,
)
def test_what_cannot_is_named(lacking: Place, request: pytest.FixtureRequest) -> None:
    """Exit 2 with the command's name, and no lease that nobody gives back."""
    name = request.node.callspec.params["lacking"]
    with lacking.target() as target:
        with pytest.raises(UsageError, match=f"(?i)'{name}'"):
            everything(target)
        if name != "SCAN":
            assert lacking.keys(b"*:lease") == set()


def everything(target: Target) -> None:
    """What a run does."""
    owner = lease.new_owner()
    try:
        target.acquire(30, owner=owner, reset=False)
        target.commit(Write(state=State(pending=Pending("snapshot", 1)), puts=ROWS, only_new=True))
        target.commit(whole(ROWS, 100))
        assert list(target.rows())
    finally:
        with contextlib.suppress(ReconcileError):
            target.release(owner)


def test_without_the_right_to_a_command(single: Place) -> None:
    """The same for a user who may not use it."""
    single.do("ACL", "SETUSER", "u", "on", ">hunter2", "~*", "+@all", "-msetnx", "-watch")
    settings = replace(single.settings, username="u", password=Secret("hunter2"))
    with replace(single, settings=settings).target() as target:
        with pytest.raises(AccessError, match="'watch'") as refused:
            target.acquire(30, owner=b"o", reset=False)
        assert not re.search("hunter2|p:", refused.value.message)
    assert single.do("EXISTS", single.own("lease")) == 0
    single.do("ACL", "DELUSER", "u")


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("min-replicas-to-write", "1", "Redis cannot write now: NOREPLICAS"),
        ("maxmemory", "1", "Redis is out of memory"),
        ("replicaof", "127.0.0.1 1", "this Redis is a read-only replica: You can't write"),
    ],
)
def test_exec_is_refused_for_what_happened_since_multi(setting: str, value: str, told: str, tmp_path: Path) -> None:
    """The server quotes the reason in EXEC's own error. It is for the next run to try again, and no bug of ours."""
    with start_redis(tmp_path, "--appendonly", "no") as server, server.client().client() as client:  # one connection
        for words in (("MULTI",), ("SET", "k", "v")):
            client.execute_command(*words)
        if setting == "replicaof":
            server.client().replicaof(*value.split())
        else:
            server.client().config_set(setting, value)
        with pytest.raises(ExecAbortError) as refused:
            client.execute_command("EXEC")
    meant = translate(refused.value)
    assert isinstance(meant, Unavailable)
    assert meant.message.startswith(told)


EXPIRING_HASHES = {"layout": "hash", "expires_at": "until", "value_columns": ("*",)}


def look(target: Target) -> None:
    """Read everything that a run reads: by all ways, in which keys of another type are as good as absent."""
    target.stored()
    target.manifest([1])
    target.manifest(None)
    target.values([b"p:1"])
    list(target.rows())


@pytest.mark.parametrize("command", ["strlen", "get", "getrange", "hmget", "hlen", "pexpiretime"])
def test_what_may_not_be_read_is_not_absent(command: str, single: Place) -> None:
    """Without one right the manifest would look lost, and rows as if something else had written them."""
    single.do("ACL", "SETUSER", "u", "on", ">hunter2", "~*", "+@all")
    settings = replace(single.settings, username="u", password=Secret("hunter2"))
    view = replace(single.view, **EXPIRING_HASHES)
    try:
        with replace(single, settings=settings, view=view).armed() as target:
            target.use_columns(["a", "b"])
            target.commit(whole({}, 100))
            single.do("HSET", b"p:1", "a", "x")
            single.do("LPUSH", b"p:2", "x")
            look(target)
            single.do("ACL", "SETUSER", "u", f"-{command}")
            with pytest.raises(AccessError, match=f"'{command}'"):
                look(target)
    finally:
        single.do("ACL", "DELUSER", "u")


def test_a_server_that_is_busy_holds_what_it_held(tmp_path: Path) -> None:
    """While somebody's script runs for too long it refuses to read. That is no key of another type."""
    with start_redis(tmp_path, "--busy-reply-threshold", "1") as server:
        view = replace(of_server(server).view, **EXPIRING_HASHES)
        with replace(of_server(server), view=view).target() as target:
            target.use_columns(["a"])

            def run_a_script(_: threading.Event) -> None:
                with contextlib.suppress(redis.RedisError):  # it is killed
                    redis.Redis.from_url(server.url).eval("while true do end", 0)

            with beside(run_a_script):
                try:
                    eventually(lambda: is_busy(server.client()))
                    with pytest.raises(Unavailable, match="BUSY"):
                        target.values([b"p:1"])
                finally:
                    server.client().execute_command("SCRIPT", "KILL")


def is_busy(client: redis.Redis) -> bool:
    try:
        client.get("k")
    except redis.ResponseError:
        return True
    return False


@contextlib.contextmanager
def asleep(place: Place, client: redis.Redis) -> Iterator[None]:
    """The node of this client answers nobody meanwhile."""
    assert place.nodes is not None
    process = next(node.process for node in place.nodes.nodes if node.client() is client)
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_a_node_that_refuses_is_named(clustered: Place) -> None:
    """A cluster may have many: which one is full, lacks a right, or does not answer."""
    settings = replace(clustered.settings, timeout_s=1.0)
    for client in clustered.clients():
        node = f"node 127.0.0.1:{client.connection_pool.connection_kwargs['port']}"
        key = next(b"p:%d" % n for n in range(1000) if clustered.client(b"p:%d" % n) is client)
        with clustered.armed() as target:
            target.commit(Write(state=State(pending=Pending("snapshot", 1))))
            client.config_set("maxmemory", 1)
            try:
                with pytest.raises(Unavailable) as full:
                    target.commit(Write(puts={key: b"x"}))
                assert "used memory > 'maxmemory'. (node" in full.value.message
                assert node in full.value.message
            finally:
                client.config_set("maxmemory", 0)
        with (
            asleep(clustered, client),
            pytest.raises(Unavailable) as silent,
            replace(clustered, settings=settings).target() as target,
        ):
            target.values([key])
        assert node in silent.value.message
        clustered.do("DEL", clustered.own("lease"))


def test_without_the_right_to_exec(single: Place) -> None:
    """Exit 2, as for any other command."""
    single.do("ACL", "SETUSER", "u", "on", ">hunter2", "~*", "+@all", "-exec")
    settings = replace(single.settings, username="u", password=Secret("hunter2"))
    with (
        replace(single, settings=settings).target() as target,
        pytest.raises(AccessError, match="'exec'"),
    ):
        target.acquire(30, owner=b"o", reset=False)
    single.do("ACL", "DELUSER", "u")


def test_protected_mode(tmp_path: Path, single: Place) -> None:
    """A server that speaks only to its own host says so; so do wrong passwords."""
    denied = translate(ResponseError("DENIED Redis is running in protected mode because …"))
    assert isinstance(denied, AccessError)
    with start_redis(tmp_path, "--requirepass", "pw") as server:
        place = of_server(server)
        with pytest.raises(AccessError), place.target():
            pass
        wrong = replace(place.settings, password=Secret("hunter2"))
        with pytest.raises(AccessError) as refused, replace(place, settings=wrong).target():
            pass
        assert "hunter2" not in refused.value.message


def test_a_server_that_takes_less_at_a_time(tmp_path: Path) -> None:
    """It hangs up without a word; the hint names the limits. A small write that is lost says nothing of them."""
    with start_redis(tmp_path, "--client-query-buffer-limit", "1mb") as server, of_server(server).armed() as target:
        with pytest.raises(Unavailable) as large:
            target.commit(Write(puts={b"p:%d" % n: b"x" * 10_000 for n in range(300)}))
        assert "3.0 MB" in (large.value.hint or "")
        assert "limits.batch_max_bytes" in (large.value.hint or "")
    with start_redis(tmp_path) as server, of_server(server).armed() as target:
        server.stop(signal.SIGKILL)
        with pytest.raises(Unavailable) as small:
            target.commit(Write(puts={b"p:1": b"x"}))
        assert "limits.batch_max_bytes" not in (small.value.hint or "")
