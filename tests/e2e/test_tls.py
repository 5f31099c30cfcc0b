"""TLS to both servers: what works, and what is told when certificates, ports or modes are wrong.

Redis speaks TLS itself where the server under test was built with it, else through a front (tests/support/tls.py).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from reconcile_standin import StandIn
from tests.support.command import Command, Result
from tests.support.redis_cluster import eventually
from tests.support.redis_servers import RedisServer
from tests.support.sources import Source, SourceServer
from tests.support.tls import Certificate, TlsFront, TlsRedis, Wallet, make_wallet, start_tls_redis

ServeRedis = Callable[..., TlsRedis]
ServeSource = Callable[..., str]
WAYS = ["url", "tls"]
WITHIN_S = 45.0


@pytest.fixture(scope="module")
def wallet(tmp_path_factory: pytest.TempPathFactory) -> Wallet:
    """Right and wrong certificates."""
    return make_wallet(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def serve_redis(tmp_path: Path) -> Iterator[ServeRedis]:
    """Starts a Redis that speaks TLS with a certificate."""
    with contextlib.ExitStack() as stack:

        def serve(certificate: Certificate, **options: Any) -> TlsRedis:
            directory = tmp_path / "redis"
            directory.mkdir()
            return stack.enter_context(start_tls_redis(directory, certificate, **options))

        yield serve


@pytest.fixture
def serve_source(source: Source) -> Iterator[ServeSource]:
    """Puts TLS before this test's source; gives the URL, without a query."""
    there = conninfo_to_dict(source.url)
    host, port = str(there.get("host", "127.0.0.1")), int(str(there.get("port", 6875)))
    with contextlib.ExitStack() as stack:

        def serve(certificate: Certificate, **options: Any) -> str:
            front = stack.enter_context(TlsFront(host, port, certificate, postgres=True, **options))
            return f"postgresql://{there.get('user', 'materialize')}@127.0.0.1:{front.port}/materialize"

        yield serve


def point(command: Command, way: str, port: int, host: str = "127.0.0.1", **more: Any) -> None:
    """Let the command reach Redis by TLS at this port, in either of the two ways to configure it."""
    where = {"url": f"rediss://{host}:{port}/0"} if way == "url" else {"host": host, "port": port, "tls": True}
    command.config["redis"] = {"key_prefix": "p", **where, **more}


def refused(command: Command, *texts: str, mode: str = "run") -> Result:
    """Exit code 2, long before anybody would have been waited for, with these words; and a hint."""
    for server in ("materialize", "redis"):
        command.config[server].setdefault("connect_timeout", "60s")
    started = time.monotonic()
    result = command(mode, expect=2)
    assert time.monotonic() - started < WITHIN_S
    error = result.view["error"]
    told = f"{error['message']} [{error['hint']}]"
    for text in texts:
        assert text in told, told
    assert "_ssl.c" not in told
    assert error["hint"]
    return result


# -- Redis -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("signed", ["by an authority", "by itself"])
def test_everything_over_tls(
    way: str, signed: str, command: Command, source: Source, serve_redis: ServeRedis, wallet: Wallet
) -> None:
    """Every command works over TLS with the authority given, however much is sent at once."""
    certificate = wallet.server if signed == "by an authority" else wallet.itself
    server = serve_redis(certificate)
    held = server.plain.client()
    point(command, way, server.port, "localhost", tls_ca_cert=certificate.ca)
    source.retain_history()
    source.execute("INSERT INTO t SELECT 'k' || n, repeat('x', 3000) FROM generate_series(1, 4000) AS n")
    command("run")
    assert held.get("p:k4000") == b"x" * 3000
    source.put(k1="new")
    assert command("delta").view["puts"] == 1
    with command.following("run"):
        source.put(k2="newer")
        eventually(lambda: held.get("p:k2") == b"newer")
    held.set("p:k3", "edited")
    command("verify", expect=3)
    assert command("snapshot", "--deep").view["puts"] == 1
    for mode in (["verify"], ["status"], ["explain", "k1"], ["doctor"]):
        command(*mode)
    assert held.get("p:k1") == b"new"
    assert held.dbsize() > 4000


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wrong", ["no authority", "another authority", "host name", "address", "expired"])
def test_a_certificate_that_is_not_trusted(
    wrong: str, way: str, command: Command, source: Source, serve_redis: ServeRedis, wallet: Wallet
) -> None:
    """Exit 2 at once: says what is wrong with the server's certificate and which setting decides it."""
    source.put(a="1")
    serving = {"host name": wallet.elsewhere, "address": wallet.elsewhere, "expired": wallet.expired}
    server = serve_redis(serving.get(wrong, wallet.server))
    authority = {"no authority": None, "another authority": wallet.foreign.ca}.get(wrong, wallet.server.ca)
    host = "localhost" if wrong == "host name" else "127.0.0.1"
    point(command, way, server.port, host, **({"tls_ca_cert": authority} if authority else {}))
    words = {
        "no authority": ("certificate verify failed", "redis.tls_ca_cert"),
        "another authority": ("certificate verify failed", "redis.tls_ca_cert"),
        "host name": ("not valid for 'localhost'", "subjectAltName"),
        "address": ("not valid for '127.0.0.1'", "subjectAltName"),
        "expired": ("certificate has expired", "clock"),
    }
    refused(command, "TLS to Redis fails", *words[wrong])
    assert server.plain.client().dbsize() == 0
    checks = {check["check"]: check for check in command("doctor", expect=2).report["checks"]}
    assert checks["redis"]["level"] == "fail"
    assert words[wrong][0] in checks["redis"]["message"]


@pytest.mark.parametrize("credentials", ["", "user:password@"])
def test_without_tls_where_it_is_expected(
    credentials: str, command: Command, serve_redis: ServeRedis, wallet: Wallet
) -> None:
    """The server hangs up without a word; the run finds out why."""
    server = serve_redis(wallet.server)
    command.config["redis"]["url"] = f"redis://{credentials}127.0.0.1:{server.port}/0"
    refused(command, "this port of Redis expects TLS", "rediss://")


@pytest.mark.parametrize("way", WAYS)
def test_with_tls_where_there_is_none(way: str, command: Command, redis_server: RedisServer, wallet: Wallet) -> None:
    """The server waits for the end of a command; the run finds out why, soon after it would have given up anyway."""
    port = int(redis_server.client().connection_pool.connection_kwargs["port"])
    point(command, way, port, tls_ca_cert=wallet.server.ca, connect_timeout="1s")
    refused(command, "this port does not speak it", "redis://")


@pytest.mark.parametrize("way", WAYS)
def test_a_client_certificate(way: str, command: Command, serve_redis: ServeRedis, wallet: Wallet) -> None:
    """Asked for and missing, or not one the server trusts: exit 2, whatever reached the client first; else it works."""
    server = serve_redis(wallet.server, client_ca=wallet.server.ca)
    point(command, way, server.port, tls_ca_cert=wallet.server.ca)
    for _ in range(5):
        refused(command, "the server says", "certificate required", "redis.tls_cert")
    trusted = command.config["redis"]
    command.config["redis"] = trusted | {"tls_cert": wallet.foreign.cert, "tls_key": wallet.foreign.key}
    refused(command, "the server says", "redis.tls_cert")
    command.config["redis"] = trusted | {"tls_cert": wallet.client.cert, "tls_key": wallet.client.key}
    command("run")
    command("verify")


def test_files_that_cannot_be_used(command: Command, serve_redis: ServeRedis, wallet: Wallet, tmp_path: Path) -> None:
    """A certificate or key that is not there, not one, or not of the other: exit 2, names setting and file."""
    server = serve_redis(wallet.server)
    nowhere, nothing = str(tmp_path / "nowhere.pem"), tmp_path / "nothing.pem"
    nothing.write_text("nothing\n")
    right = {"tls_ca_cert": wallet.server.ca}
    cases: list[tuple[dict[str, str], str]] = [
        ({"tls_ca_cert": nowhere}, f"redis.tls_ca_cert ({nowhere}): No such file"),
        ({"tls_ca_cert": str(nothing)}, f"redis.tls_ca_cert ({nothing}): no certificate"),
        ({**right, "tls_cert": nowhere, "tls_key": wallet.client.key}, f"redis.tls_cert ({nowhere})"),
        ({**right, "tls_cert": wallet.client.cert}, "redis.tls_key (not given)"),
        ({**right, "tls_key": wallet.client.key}, "redis.tls_cert (not given)"),
        ({**right, "tls_cert": wallet.client.cert, "tls_key": wallet.server.key}, "key values mismatch"),
    ]
    for files, text in cases:
        point(command, "url", server.port, **files)
        refused(command, text, "PEM")


def test_certificates_without_tls(command: Command, wallet: Wallet) -> None:
    """Whoever names an authority wants TLS: forgetting to switch it on is an error, not a connection without it."""
    command.config["redis"]["tls_ca_cert"] = wallet.server.ca
    result = command("run", expect=2)
    assert "redis.tls_ca_cert: given, but TLS is off" in result.report["error"]["message"]


# -- Materialize -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["url", "parts", "beside"])
@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_tls_to_materialize(
    mode: str, way: str, command: Command, source: Source, serve_source: ServeSource, wallet: Wallet
) -> None:
    """Each mode works with the authority it checks, in the URL, in single keys, and in keys beside a URL."""
    url = serve_source(wallet.server)
    tls = {"sslmode": mode, "sslrootcert": wallet.server.ca}
    ways: dict[str, dict[str, Any]] = {
        "url": {"url": f"{url}?sslmode={mode}&sslrootcert={wallet.server.ca}"},
        "parts": {"host": "127.0.0.1", "port": int(url.rpartition(":")[2].partition("/")[0]), **tls},
        "beside": {"url": url, **tls},
    }
    source.put(a="1")
    command.config["materialize"] = {**ways[way], "sql": source.sql}
    assert command("run").view["puts"] == 1
    command("verify")


def test_doctor_tells_of_servers_that_nobody_checks(
    command: Command, source: Source, serve_source: ServeSource, serve_redis: ServeRedis, wallet: Wallet
) -> None:
    """Encrypted is not enough: without a look at the certificate anybody could answer. Following the advice ends it."""
    port = serve_redis(wallet.server).port
    materialize = {"url": serve_source(wallet.server), "sql": source.sql}

    def told() -> dict[str, str]:
        found = command("doctor", "--quick").report["checks"]
        return {one["check"]: one["message"] for one in found if one["level"] == "warn" and "encr" in one["check"]}

    point(command, "tls", port, "localhost", tls_verify="none")
    command.config["materialize"] = {**materialize, "sslmode": "require"}
    assert "any server's certificate" in told()["redis encryption"]
    assert "sslmode require" in told()["encryption"]
    point(command, "tls", port, "localhost", tls_ca_cert=wallet.server.ca)
    command.config["materialize"] = {**materialize, "sslmode": "verify-full", "sslrootcert": wallet.server.ca}
    assert told() == {}


@pytest.mark.parametrize("way", ["url", "beside"])
@pytest.mark.parametrize("wrong", ["no authority", "another authority", "host name", "expired"])
def test_a_certificate_of_materialize_that_is_not_trusted(
    wrong: str, way: str, command: Command, source: Source, serve_source: ServeSource, wallet: Wallet
) -> None:
    """verify-full: exit 2 at once, wherever the mode was written."""
    url = serve_source({"host name": wallet.elsewhere, "expired": wallet.expired}.get(wrong, wallet.server))
    authority = {"no authority": None, "another authority": wallet.foreign.ca}.get(wrong, wallet.server.ca)
    tls = {"sslmode": "verify-full", **({"sslrootcert": authority} if authority else {})}
    query = "&".join(f"{name}={value}" for name, value in tls.items())
    command.config["materialize"] = {"url": f"{url}?{query}"} if way == "url" else {"url": url, **tls}
    command.config["materialize"]["sql"] = source.sql
    hint = "made for" if wrong == "host name" else "sslrootcert"
    refused(command, "TLS to Materialize fails", "certificate", hint)
    if wrong == "host name":
        command.config["materialize"] = {"url": url, **tls, "sslmode": "verify-ca", "sql": source.sql}
        command("run")


def test_modes_that_the_other_side_does_not_share(
    command: Command, source: Source, serve_source: ServeSource, wallet: Wallet
) -> None:
    """TLS asked of a server that has none, none offered to one that insists, words libpq does not know: exit 2."""
    insists = serve_source(wallet.server)
    command.config["materialize"] = {"url": source.url, "sslmode": "require", "sql": source.sql}
    refused(command, "server does not support SSL", "sslmode")
    command.config["materialize"] = {"url": insists, "sslmode": "disable", "sql": source.sql}
    refused(command, "TLS encryption is required", "sslmode=require")
    command.config["materialize"] = {"url": f"{insists}?sslmode=always", "sql": source.sql}
    refused(command, "materialize.url is not usable", "invalid sslmode")
    command.config["materialize"] = {"url": insists, "sql": source.sql}
    command("run")


def test_a_password_that_may_be_read_on_the_way(command: Command, source: Source) -> None:
    """Every report says so, until sslmode forbids it."""
    if "@127.0.0.1" not in source.url:
        pytest.skip("the source is on another host")
    command.config["materialize"] = {"url": source.url.replace("@127.0.0.1", ":pw@0.0.0.0"), "sql": source.sql}
    for mode in ("run", "snapshot", "verify"):
        warnings = command(mode).view["warnings"]
        assert [text for text in warnings if "may cross the network unencrypted: set materialize.sslmode" in text]


def test_a_client_certificate_for_materialize(
    command: Command, source: Source, serve_source: ServeSource, wallet: Wallet
) -> None:
    """Asked for and missing: exit 2; given in the URL it works."""
    url = serve_source(wallet.server, client_ca=wallet.server.ca)
    url += f"?sslmode=verify-full&sslrootcert={wallet.server.ca}"
    for cert in ("", f"&sslcert={wallet.foreign.cert}&sslkey={wallet.foreign.key}"):
        command.config["materialize"] = {"url": url + cert, "sql": source.sql}
        refused(command, "TLS to Materialize fails", "sslcert")
    command.config["materialize"]["url"] = f"{url}&sslcert={wallet.client.cert}&sslkey={wallet.client.key}"
    command("run")


def test_a_subscription_is_cancelled_over_tls(command: Command, redis_server: RedisServer, wallet: Wallet) -> None:
    """A run that follows ends when told to although the cancel request needs TLS too; and the stand-in's own TLS."""
    client = redis_server.client()
    with StandIn(port=0, tls=(wallet.server.cert, wallet.server.key)) as standin:
        url = f"{standin.url}?sslmode=verify-full&sslrootcert={wallet.server.ca}"
        with SourceServer(url, standin).new_source() as source:
            command.config["materialize"] = {"url": url, "sql": source.sql}
            command("snapshot")
            with command.following("run"):
                for key in ("caught", "followed"):
                    source.put(**{key: "up"})
                    eventually(lambda key=key: client.exists(f"p:{key}") == 1)
