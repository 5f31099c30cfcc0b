# ruff: noqa: E501 - tables of messages
"""URLs and the parts beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconcile.config.load import load
from reconcile.config.settings import Secret
from tests.support.configuration import LEGACY, URLS, loaded, refused


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u@h:7/d?sslmode=require", ("h", 7, "u", "d", "require")),
        ("postgres://h", ("h", 6875, "materialize", "materialize", None)),
        ("postgres://u:p%40@[::1]:7", ("::1", 7, "u", "materialize", None)),
        ("postgres:///d?host=/run/x", ("/run/x", 6875, "materialize", "d", None)),
        ("postgres://a:1,b:2/d", ("a,b", 6875, "materialize", "d", None)),
        ("host=h port=7 user='a b' password='x y' dbname=d", ("h", 7, "a b", "d", None)),
        ("host = h", ("h", 6875, "materialize", "materialize", None)),
    ],
)
def test_materialize_urls(url: str, expected: tuple[object, ...]) -> None:
    """Read by libpq's own parser into the fields."""
    source = load(None, {**URLS, "MATERIALIZE_URL": url}).materialize
    assert (source.host, source.port, source.user, source.database, source.sslmode) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", ("h", 6379, 0, False, None)),
        ("rediss://u:p@h:7/3", ("h", 7, 3, True, "u")),
        ("redis://:p@h:7?db=4", ("h", 7, 4, False, None)),
        ("redis://:a@b@h", ("h", 6379, 0, False, None)),
        ("unix:///run/r.sock?db=2", ("localhost", 6379, 2, False, None)),
    ],
)
def test_redis_urls(url: str, expected: tuple[object, ...]) -> None:
    """What the URL leaves out is Redis' default, so `db` is always the one used."""
    target = load(None, {**URLS, "REDIS_URL": url}).redis
    assert (target.host, target.port, target.db, target.tls, target.username) == expected


@pytest.mark.parametrize(
    ("name", "url"),
    [("MATERIALIZE_URL", u) for u in ("x", "http://h", "postgres://u:hunter2@x@h", "postgres://h:x", "postgres://h:0", "postgres://u:hunter2%@h",
                                      "postgres://u:a/hunter2@h", "postgres://h?x", "host=h hunter2", "host='h", " ", "port=x")]
    + [("REDIS_URL", u) for u in ("x", "http://h", "redis://h/x", "redis://h:x", "redis://:hunter2#@h", "redis://:a/hunter2@h", "redis://:1/2?a=hunter2@h",
                                  "unix://h", "unix://", "redis://h?x", "redis://:%zz@h", "redis://[h", "redis://:hunter2[@h")],
)  # fmt: skip
def test_bad_urls(name: str, url: str) -> None:
    """Named by their variable, never quoted."""
    error = refused(LEGACY, {name: url})
    assert error.message.startswith(f"{name}: ")
    assert "hunter2" not in error.message + str(error.hint)


def test_a_url_wins_over_parts_of_lower_layers() -> None:
    """A port without its host makes no sense; a missing password is filled in."""
    config = loaded(
        LEGACY.replace("6875", "1").replace("6379", "2").replace("db: 0", "db: 3"),
        {"MATERIALIZE_URL": "postgres://m/x", "REDIS_URL": "redis://r", "REDIS_PASSWORD": "s"},
    )
    source, target = config.materialize, config.redis
    assert (source.host, source.port, source.database, source.user) == ("m", 6875, "x", "your-username")
    assert source.password == Secret("your-password")
    assert (target.host, target.port, target.db, target.password) == ("r", 6379, 0, Secret("s"))
    assert config.origins["redis.db"] == "env REDIS_URL"


@pytest.mark.parametrize("name", ["tls_ca_cert", "tls_cert", "tls_key"])
def test_certificates_need_tls(name: str) -> None:
    """Files of certificates beside a server without TLS are a mistake, unless a higher URL has replaced that server."""
    redis = f"redis: {{host: h, {name}: /x.pem"
    error = refused(f"materialize: {{host: h, sql: SELECT 1}}\n{redis}}}\n")
    assert error.message == f"config.yaml:2: redis.{name}: given, but TLS is off"
    assert "rediss://" in str(error.hint)
    with_tls = f"materialize: {{host: h, sql: SELECT 1}}\n{redis}, tls: true}}\n"
    assert getattr(loaded(with_tls).redis, name) == "/x.pem"
    assert getattr(loaded(with_tls, {"REDIS_URL": "rediss://r"}).redis, name) == "/x.pem"
    assert getattr(loaded(with_tls, {"REDIS_URL": "redis://r"}).redis, name) is None
    beside = {"REDIS_URL": "redis://r", f"RECONCILE_REDIS__{name.upper()}": "/y.pem"}
    assert refused(with_tls, beside).message == f"RECONCILE_REDIS__{name.upper()}: given, but TLS is off"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RECONCILE_REDIS__PORT": "1"}, "RECONCILE_REDIS__PORT: REDIS_URL (env REDIS_URL) also gives this"),
        ({"REDIS_PASSWORD": "hunter2"}, "REDIS_PASSWORD: REDIS_URL (env REDIS_URL) also gives this"),
        ({"RECONCILE_REDIS__TLS": "1"}, "RECONCILE_REDIS__TLS: REDIS_URL (env REDIS_URL) also gives this"),
        (
            {"RECONCILE_MATERIALIZE__USER": "w"},
            "RECONCILE_MATERIALIZE__USER: MATERIALIZE_URL (env MATERIALIZE_URL) also gives this",
        ),
    ],
)
def test_parts_beside_a_url_must_agree(environ: dict[str, str], message: str) -> None:
    """Of the same layer or above; equal ones are fine."""
    urls = {"MATERIALIZE_URL": "postgres://u:p@m", "REDIS_URL": "redis://:p@r:7/0", "RECONCILE_REDIS__DB": "0"}
    error = refused(LEGACY, {**urls, **environ})
    assert error.message == message


# --- what libpq would take from elsewhere


def test_nothing_of_libpq_s_environment_says_where_to_connect() -> None:
    """Neither PGHOSTADDR nor PGPORT and the others: libpq itself, asked with these variables set, says so."""
    from psycopg import pq
    from psycopg.conninfo import make_conninfo

    source = load(None, {**URLS, "MATERIALIZE_URL": "postgres://127.0.0.1"}).materialize
    theirs = {"PGHOSTADDR": "10.9.9.9", "PGHOST": "10.9.9.9", "PGPORT": "1", "PGUSER": "them", "PGDATABASE": "theirs",
              "PGTARGETSESSIONATTRS": "read-write", "PGCLIENTENCODING": "latin1"}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in theirs.items():
            patch.setenv(name, value)
        started = pq.PGconn.connect_start(make_conninfo("", **source.libpq()).encode())  # type: ignore[arg-type]
        used = {one.keyword.decode(): (one.val or b"").decode() for one in started.info}
        started.finish()
    assert (used["host"], used["hostaddr"], used["port"]) == ("127.0.0.1", "", "6875")
    assert (used["user"], used["dbname"]) == ("materialize", "materialize")
    assert (used["target_session_attrs"], used["client_encoding"]) == ("any", "UTF8")


SERVICES = """
[prod]
# where production is
host=mz.example.com
port=6876
user=svc
dbname=prod
sslmode=verify-full
"""


@pytest.mark.parametrize("by", ["url", "PGSERVICE"])
def test_a_service_counts_more_than_our_defaults_and_less_than_the_file(folder: Path, by: str) -> None:
    """flags, environment, file, then libpq's service, then defaults; `config show` says where a value came from."""
    (folder / "services").write_text(SERVICES)
    environ = {"PGSERVICEFILE": str(folder / "services"), "RECONCILE_MATERIALIZE__USER": "me"}
    if by == "PGSERVICE":
        environ["PGSERVICE"] = "prod"
    url = "url: service=prod, " if by == "url" else ""
    config = loaded(f"materialize: {{{url}sql: SELECT 1}}\nredis: {{host: r}}", environ)
    source = config.materialize
    assert (source.host, source.port, source.user, source.database) == ("mz.example.com", 6876, "me", "prod")
    assert source.sslmode == "verify-full"
    assert config.origins["materialize.host"] == "service prod"
    assert source.libpq().get("service") == ("prod" if by == "url" else None)


def test_an_unknown_service_is_named(folder: Path) -> None:
    """With the variable or key that asks for it."""
    environ = {"HOME": str(folder), "PGSERVICE": "nosuch"}
    error = refused(LEGACY, environ)
    assert error.message.startswith("PGSERVICE: libpq's service 'nosuch' is not defined in ")
    assert "PGSERVICE" in str(error.hint)
    error = refused("materialize: {url: service=nosuch, sql: SELECT 1}\nredis: {host: r}", {"HOME": str(folder)})
    assert error.message.startswith("config.yaml:1: materialize.url: libpq's service 'nosuch'")


@pytest.mark.parametrize(
    ("host", "sslmode", "password", "expected"),
    [
        ("mz.example.com", "prefer", "s", True), ("mz.example.com", None, "s", True), ("10.0.0.1", "disable", "s", True),
        ("mz.example.com", "require", "s", False), ("127.0.0.1", None, "s", False), ("localhost", None, "s", False),
        ("::1", None, "s", False), ("/run/x", None, "s", False), ("mz.example.com", None, None, False),
    ],
)  # fmt: skip
def test_a_password_that_others_could_read(
    host: str, sslmode: str | None, password: str | None, expected: bool
) -> None:
    """To another host, without an sslmode that insists on TLS."""
    environ = {**URLS, "MATERIALIZE_URL": "", "RECONCILE_MATERIALIZE__HOST": host, "MATERIALIZE_PASSWORD": password or "",
               "RECONCILE_MATERIALIZE__SSLMODE": sslmode or ""}  # fmt: skip
    assert load(None, environ).materialize.exposes_password is expected


# --- Redis


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("unix:///run/r.sock?db=3", {"unix_socket_path": "/run/r.sock", "db": 3, "tls": False}),
        ("unix://u:p@/r.sock", {"unix_socket_path": "/r.sock", "username": "u", "password": Secret("p")}),
        ("redis://h?protocol=3", {"host": "h"}),
        ("redis://h?socket_timeout=20&socket_connect_timeout=1", {"timeout_s": 20.0, "connect_timeout_s": 1.0}),
        ("redis://h?username=u&password=p%40", {"username": "u", "password": Secret("p@")}),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", {"tls": True, "tls_verify": "none"}),
        ("rediss://h?ssl_cert_reqs=required", {"tls_verify": "full"}),
        ("rediss://h?ssl_check_hostname=false", {"tls_verify": "ca"}),
        ("rediss://h?ssl_cert_reqs=none&ssl_check_hostname=false", {"tls_verify": "none"}),
        ("rediss://h?ssl_ca_certs=/ca&ssl_certfile=/c&ssl_keyfile=/k", {"tls_ca_cert": "/ca", "tls_cert": "/c", "tls_key": "/k"}),
        ("redis://[::1]:7", {"host": "::1", "port": 7}),
    ],
)  # fmt: skip
def test_parameters_of_a_redis_url(url: str, expected: dict[str, object]) -> None:
    """Each has its meaning, in a field."""
    target = load(None, {**URLS, "REDIS_URL": url}).redis
    assert {name: getattr(target, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("rediss://h?ssl=true", "the parameter 'ssl' is not supported"),
        ("redis://h?family=0", "the parameter 'family' is not supported"),
        ("redis://h?timeout=20", "the parameter 'timeout' is not supported"),
        ("redis://h?retry=3", "the parameter 'retry' is not supported"),
        ("redis://h?protocol=4", "the parameter 'protocol' has an invalid value"),
        ("rediss://h?ssl_cert_reqs=maybe", "the parameter 'ssl_cert_reqs' has an invalid value"),
        ("redis://h?ssl_cert_reqs=none", "the parameter 'ssl_cert_reqs' is for TLS, which is off"),
        ("redis://:p%0A@h", "the password ends in a newline"),
        ("redis://h\n", "ends in a newline"),
        ("redis://redis..svc", "a host name with nothing between two dots, or at its end"),
        ("redis+sentinel://h/m/0", "not a Redis URL"),
    ],
)
def test_parameters_that_are_refused(url: str, message: str) -> None:
    """By name, with what is allowed."""
    error = refused(LEGACY, {"REDIS_URL": url})
    assert error.message == f"REDIS_URL: {message}"


@pytest.mark.parametrize(
    ("host", "message", "hint"),
    [
        ("'redis.${STAGE:-}.svc'", "a host name with nothing between two dots", "empty"),
        (".a", "a host name with nothing between two dots", "empty"),
        ("h:6379", "a host name cannot contain a port", "port"),
        ("'[::1]'", "an IPv6 address takes no brackets here", "::1"),
        ("'1:2:3'", "not a host name or an IPv6 address", "::1"),
        ("-a", "not a host name", "letters"),
        ("a b", "not a host name", "letters"),
        ("a" * 64, "not a host name", "63"),
    ],
)
@pytest.mark.parametrize("section", ["materialize", "redis"])
def test_host_names_are_looked_at_where_they_are_read(section: str, host: str, message: str, hint: str) -> None:
    """Not when the look-up fails in the middle of a run."""
    other = "redis" if section == "materialize" else "materialize"
    error = refused(f"{section}: {{host: {host}}}\n{other}: {{host: h}}\nviews: [{{sql: SELECT 1}}]")
    assert error.message.startswith(f"config.yaml:1: {section}.host: {message}")
    assert hint in str(error.hint)


@pytest.mark.parametrize(
    "host", ["a", "a.b.", "10.0.0.1", "'::1'", "my_redis", "bücher.example", "xn--bcher-kva.example"]
)
def test_host_names_that_are_fine(host: str) -> None:
    """Underscores of container networks, other alphabets, addresses."""
    assert loaded(
        f"materialize: {{host: m}}\nredis: {{host: {host}}}\nviews: [{{sql: SELECT 1}}]"
    ).redis.host == host.strip("'")


def test_sentinel() -> None:
    """Its hosts, its own credentials; the environment can say all of it."""
    text = "materialize: {host: m}\nredis: {password: r, sentinel: {hosts: ['a', 'b:7', '[::1]:8'], master: m1, password: s}}\nviews: [{sql: SELECT 1}]"
    found = loaded(text).redis
    assert found.sentinel is not None
    assert found.sentinel.hosts == (("a", 26379), ("b", 7), ("::1", 8))
    assert (found.sentinel.master, found.sentinel.password, found.password) == ("m1", Secret("s"), Secret("r"))
    environ = {
        **URLS,
        "REDIS_URL": "",
        "RECONCILE_REDIS__SENTINEL__HOSTS": "a:1,b:2",
        "RECONCILE_REDIS__SENTINEL__MASTER": "m",
    }
    named = load(None, environ).redis.sentinel
    assert named is not None
    assert named.hosts == (("a", 1), ("b", 2))
    assert loaded(text, {"REDIS_URL": "redis://h"}).redis.sentinel is None


@pytest.mark.parametrize(
    ("redis", "message"),
    [
        ("host: h, sentinel: {hosts: [a], master: m}", "redis.sentinel.hosts: redis.host (config.yaml:2) also gives the address of Redis"),
        ("host: h, unix_socket_path: /s", "redis.unix_socket_path: redis.host (config.yaml:2) also gives the address of Redis"),
        ("sentinel: {hosts: [a]}", "redis.sentinel.hosts: redis.sentinel.master is missing"),
        ("sentinel: {hosts: ['a:x'], master: m}", "redis.sentinel.hosts: the port is not a number from 1 to 65535"),
        ("sentinel: [a]", "redis.sentinel: expected a mapping, found a list"),
        ("sentinel: {hosts: [a], name: m}", "redis.sentinel.name: unknown key"),
        ("sentinel: {hosts: [a], master: m}, cluster: true", "redis.sentinel: a Redis Cluster is reached by host and port"),
        ("host: h, namespace: 'a:b'", "redis.namespace: expected a name, found 'a:b'"),
    ],
)  # fmt: skip
def test_addresses_that_contradict(redis: str, message: str) -> None:
    """Two places for one server, or half a Sentinel."""
    error = refused(f"materialize: {{host: m}}\nredis: {{{redis}}}\nviews: [{{sql: SELECT 1}}]")
    assert error.message == f"config.yaml:2: {message}"
