"""Parse URLs of Materialize and Redis, and libpq's service file, into settings. Messages never quote a URL."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct, field

from reconcile.config import values
from reconcile.config.settings import MaterializeSettings, RedisSettings, Secret
from reconcile.config.values import Wrong

_ENCODE = "percent-encode special characters in user and password, e.g. @ as %40, / as %2F, # as %23"
_LIBPQ = "postgresql://user:password@host:6875/materialize?sslmode=require, or host=… user=… dbname=…"
_REDIS = "redis://host:6379/0, rediss://user:password@host:6379/0 or unix:///path/redis.sock?db=0"
_FIELDS: Final = {
    "dbname": "database", "host": "host", "port": "port", "user": "user", "sslmode": "sslmode",
    "sslrootcert": "sslrootcert", "password": "password",
}  # fmt: skip
"""libpq's parameter → field. All others are passed to libpq unchanged."""


class Parts(Struct):
    """The contents of a URL: field → value. `extra` are libpq's parameters without a field."""

    values: dict[str, object] = field(default_factory=dict)
    extra: dict[str, Secret] = field(default_factory=dict)


def materialize(url: str) -> MaterializeSettings:
    """Return settings from a URL alone. Raises Wrong."""
    parts = materialize_parts(url)
    return MaterializeSettings(**parts.values, extra=parts.extra)  # type: ignore[arg-type]


def redis(url: str) -> RedisSettings:
    """Return settings from a URL alone. Raises Wrong."""
    return RedisSettings(**redis_parts(url).values)  # type: ignore[arg-type]


def materialize_parts(url: str) -> Parts:
    """Parse a libpq URI or keyword/value string, as libpq itself does. Raises Wrong."""
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.errors import ProgrammingError

    scheme, separator, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    if separator and "@" in path:
        raise Wrong("not a libpq URL: '@' after the host", _ENCODE)
    if separator and authority.count("@") > 1:  # libpq ends the password at the first one
        raise Wrong("not a libpq URL: more than one '@' before the host", _ENCODE)
    if separator and scheme not in ("postgres", "postgresql"):
        raise Wrong("not a libpq URL or connection string", _LIBPQ)
    try:
        pairs = conninfo_to_dict(url)
    except ProgrammingError:  # its text quotes the URL
        alien = re.search(r"[?&](schema|pgbouncer|connection_limit|sslaccept|search_path)=", url)
        if alien:
            raise Wrong(
                f"libpq does not know the parameter {alien[1]!r}",
                "name the schema in sql or relation, or options=--search_path%3Dname" if "s" in alien[1] else _LIBPQ,
            ) from None
        raise Wrong("not a libpq URL or connection string", f"{_LIBPQ}; {_ENCODE}") from None
    if not pairs:
        raise Wrong("not a libpq URL or connection string", _LIBPQ)
    return libpq_parts({name: str(value) for name, value in pairs.items() if value not in (None, "")})


def libpq_parts(pairs: Mapping[str, str]) -> Parts:
    """Return fields and other parameters from libpq's names and values. Raises Wrong."""
    parts = Parts()
    for name, value in pairs.items():
        if name == "host":
            for single in value.split(","):
                if single and not single.startswith(("/", "@")):
                    values.host(single)
            parts.values["host"] = value
        elif name == "port":
            ports = [values.port(single) for single in value.split(",") if single]
            if "," in value:
                parts.extra["port"] = Secret(value)
            elif ports:
                parts.values["port"] = ports[0]
        elif name == "password":
            parts.values["password"] = Secret(str(values.SECRET.parse(value)))
        elif name in _FIELDS:
            parts.values[_FIELDS[name]] = value
        else:
            parts.extra[name] = Secret(value)
    if "hostaddr" in pairs:
        parts.values.setdefault("host", pairs["hostaddr"])
    return parts


def service(name: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of a service in libpq's service file, by libpq's names. Raises Wrong."""
    import configparser

    own = environ.get("PGSERVICEFILE") or os.path.join(environ.get("HOME") or "~", ".pg_service.conf")
    files = [own] + ([os.path.join(folder, "pg_service.conf")] if (folder := environ.get("PGSYSCONFDIR")) else [])
    for path in files:
        found = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#",), strict=False)
        try:
            found.read(os.path.expanduser(path), encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):
            raise Wrong(f"the service file {path} cannot be read", "see libpq's 'Connection Service File'") from None
        if found.has_section(name):
            return dict(found.items(name))
    raise Wrong(
        f"libpq's service {name!r} is not defined in {' or '.join(files)}",
        "define it there, name its file in PGSERVICEFILE, or leave out PGSERVICE and service=",
    )


# -- Redis


def _verify(text: str) -> str:
    meanings = {"none": "none", "optional": "full", "required": "full"}
    word = text.lower().removeprefix("cert_")
    if word not in meanings:
        raise ValueError
    return meanings[word]


def _check_name(text: str) -> str:
    return "full" if values.boolean(text) else "ca"


def _no_field(text: str) -> None:
    if text not in ("2", "3"):
        raise ValueError


_SECONDS = values.duration(0.1, 86_400)
REDIS_PARAMETERS: Final[dict[str, tuple[str, Callable[[str], object], str]]] = {
    "db": ("db", values.whole(0, 1_000_000).parse, "number of the database; also as the path: `/3`"),
    "username": ("username", values.LINE.parse, "as before the `@`"),
    "password": ("password", values.SECRET.parse, "as before the `@`"),
    "ssl_cert_reqs": ("tls_verify", _verify, "`required`, or `none`: check nothing"),
    "ssl_check_hostname": ("tls_verify", _check_name, "`false`: any name on the certificate"),
    "ssl_ca_certs": ("tls_ca_cert", values.LINE.parse, "`redis.tls_ca_cert`"),
    "ssl_certfile": ("tls_cert", values.LINE.parse, "`redis.tls_cert`"),
    "ssl_keyfile": ("tls_key", values.LINE.parse, "`redis.tls_key`"),
    "socket_timeout": ("timeout_s", _SECONDS.parse, "`redis.timeout`"),
    "socket_connect_timeout": ("connect_timeout_s", _SECONDS.parse, "`redis.connect_timeout`"),
    "protocol": ("", _no_field, "`2` or `3`, without meaning here: replies are the same"),
}
"""Parameters allowed after the '?' of a Redis URL: name → (field, parser, meaning)."""


def redis_parts(url: str) -> Parts:
    """Parse redis://, rediss:// and unix:// URLs. Omitted parts get Redis' defaults. Raises Wrong."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("redis", "rediss", "unix"):
        sentinel = "for Sentinel write redis.sentinel: {hosts: […], master: …}"
        raise Wrong("not a Redis URL", sentinel if "sentinel" in scheme else _REDIS)
    if "#" in rest or any(c.isspace() for c in rest):
        raise Wrong("not a Redis URL: '#' or a space in it", _ENCODE)
    before, _, query = rest.partition("?")
    authority, _, path = before.partition("/")
    user, _, host = authority.rpartition("@")
    if "@" in path + query:
        raise Wrong("not a Redis URL: '@' after the host", _ENCODE)
    if "[" in user or "]" in user:
        raise Wrong("not a Redis URL: a bracket in user or password", _ENCODE)
    parts = Parts({"host": "localhost", "port": 6379, "db": 0, "tls": scheme == "rediss", "unix_socket_path": None})
    _redis_user(user, parts)
    if scheme == "unix":
        if host or not path:
            raise Wrong("not the URL of a Unix socket", _REDIS)
        parts.values["unix_socket_path"] = "/" + _decoded(path)
    else:
        parts.values |= _redis_address(host)
        if db := path.strip("/"):
            if not re.fullmatch(r"[0-9]{1,6}", db):
                raise Wrong("the database in the URL is not a number", _REDIS)
            parts.values["db"] = int(db)
    _redis_query(query, parts)
    return parts


def _redis_user(user: str, parts: Parts) -> None:
    name, _, password = user.partition(":")
    if name:
        parts.values["username"] = _decoded(name)
    if password:
        parts.values["password"] = Secret(str(values.SECRET.parse(_decoded(password))))


def _redis_address(text: str) -> dict[str, object]:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:/@]*))(?::([^:@/]*))?", text)
    if match is None:
        raise Wrong("the host in the URL is not valid", f"{_ENCODE}; {_REDIS}")
    v6, name, number = match.groups()
    found: dict[str, object] = {}
    if v6 or name:
        found["host"] = values.host(v6 or _decoded(name))
    if number:
        found["port"] = values.port(number)
    return found


def _redis_query(query: str, parts: Parts) -> None:
    for single in query.split("&") if query else []:
        name, equals, text = single.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,40}", name):
            raise Wrong("the part of the URL after '?' is not name=value&…", _REDIS)
        if name not in REDIS_PARAMETERS:
            raise Wrong(f"the parameter {name!r} is not supported", f"allowed: {', '.join(REDIS_PARAMETERS)}")
        target, read, _ = REDIS_PARAMETERS[name]
        if name.startswith("ssl_") and not parts.values["tls"]:
            raise Wrong(f"the parameter {name!r} is for TLS, which is off", "rediss:// instead of redis://")
        try:
            value = read(_decoded(text))
        except Wrong:
            raise
        except ValueError:
            raise Wrong(f"the parameter {name!r} has an invalid value", "see docs/configuration.md") from None
        if target == "tls_verify" and parts.values.get(target) == "none":
            continue
        if target:
            parts.values[target] = Secret(str(value)) if target == "password" else value


def _decoded(text: str) -> str:
    from urllib.parse import unquote

    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise Wrong("a '%' in the URL is not followed by two hexadecimal digits", "write %25 for a literal %")
    return unquote(text)
