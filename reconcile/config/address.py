"""URLs of Materialize and Redis: checked, and read for the parts they contain. No message ever quotes one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from reconcile.config.values import Wrong

_ENCODE = "percent-encode special characters in user and password, e.g. @ as %40, / as %2F, # as %23"
_LIBPQ = "postgresql://user:password@host:6875/materialize?sslmode=require, or host=… user=… dbname=…"
_REDIS = "redis://host:6379/0, rediss://user:password@host:6379/0 or unix:///path/redis.sock?db=0"
_CONNINFO = re.compile(r"\s*([a-z_]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))(?=\s|$)", re.DOTALL)
# libpq's names for what we call otherwise; the others a section has keep their name.
_FIELDS = {"dbname": "database", "host": "host", "port": "port", "user": "user", "sslmode": "sslmode",
           "sslrootcert": "sslrootcert", "password": "password"}  # fmt: skip


@dataclass(slots=True)
class Parts:
    """`names`: what the URL decides; `values`: what of it can be shown (no password; no list of hosts)."""

    names: set[str] = field(default_factory=set)
    values: dict[str, object] = field(default_factory=dict)


def materialize_parts(url: str) -> Parts:
    """The parts of a libpq URI or keyword/value string."""
    scheme, separator, rest = url.partition("://")
    pairs = _uri_pairs(rest) if separator and scheme in ("postgres", "postgresql") else conninfo_pairs(url)
    parts = Parts()
    for name, value in pairs:
        if name not in _FIELDS or not value:
            continue
        if name == "port":
            for single in value.split(","):
                _port(single, _LIBPQ)
        parts.names.add(_FIELDS[name])
        if name != "password" and not (name in ("host", "port") and "," in value):
            parts.values[_FIELDS[name]] = int(value) if name == "port" else value
    return parts


def redis_parts(url: str) -> Parts:
    """The parts of redis://, rediss:// and unix://. What such a URL leaves out is Redis' default."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("redis", "rediss", "unix"):
        raise Wrong("not a Redis URL", _REDIS)
    if "#" in rest or any(c.isspace() for c in rest):
        raise Wrong("not a Redis URL: '#' or a space in it", _ENCODE)
    before, _, query_text = rest.partition("?")
    query = dict(_query(query_text, _REDIS))
    authority, _, path = before.partition("/")
    user, _, host = authority.rpartition("@")
    if "@" in path + query_text:
        raise Wrong("not a Redis URL: '@' after the host", _ENCODE)
    if "[" in user or "]" in user:
        raise Wrong("not a Redis URL: a bracket in user or password", _ENCODE)
    parts = Parts({"host", "port", "db", "tls"})
    _redis_user(user, query, parts)
    if scheme == "unix":
        if host or not path:
            raise Wrong("not the URL of a Unix socket", _REDIS)
        db = query.get("db", "0")
    else:
        name, port = _host(host, _REDIS)
        parts.values |= {"host": name or "localhost", "port": _port(port, _REDIS) if port else 6379}
        db = query.get("db") or path.strip("/") or "0"
    if not re.fullmatch(r"[0-9]{1,7}", db):
        raise Wrong("the database in the URL is not a number", _REDIS)
    parts.values |= {"db": int(db), "tls": scheme == "rediss"}
    return parts


def _redis_user(user: str, query: dict[str, str], parts: Parts) -> None:
    name, _, password = user.partition(":")
    name, password = _decoded(name), _decoded(password)
    if name or query.get("username"):
        parts.names.add("username")
        parts.values["username"] = name or query["username"]
    if password or query.get("password"):
        parts.names.add("password")


def _uri_pairs(rest: str) -> list[tuple[str, str]]:
    before, _, query = rest.partition("?")
    authority, _, database = before.partition("/")
    if authority.count("@") > 1 or "@" in database + query or any(c.isspace() for c in rest):
        raise Wrong("not a libpq URL", _ENCODE)
    credentials, _, hosts = authority.rpartition("@")
    user, _, password = credentials.partition(":")
    names, ports = [], []
    for single in hosts.split(",") if hosts else []:
        name, port = _host(single, _LIBPQ)
        names.append(name)
        ports.append(port)
    pairs = [("user", _decoded(user)), ("password", _decoded(password)), ("host", ",".join(names))]
    if any(ports):
        pairs.append(("port", ",".join(port or "5432" for port in ports)))
    return [*pairs, ("dbname", _decoded(database)), *_query(query, _LIBPQ)]


def conninfo_pairs(text: str) -> list[tuple[str, str]]:
    """Names and values of a libpq connection string, in order. Raises Wrong."""
    pairs: list[tuple[str, str]] = []
    at = 0
    while at < len(text.rstrip()):
        match = _CONNINFO.match(text, at)
        if match is None:
            raise Wrong("not a libpq URL or connection string", _LIBPQ)
        name, quoted, plain = match.groups()
        pairs.append((name, re.sub(r"\\(.)", r"\1", quoted if quoted is not None else plain, flags=re.DOTALL)))
        at = match.end()
    if not pairs:
        raise Wrong("not a libpq URL or connection string", _LIBPQ)
    return pairs


def _query(text: str, hint: str) -> list[tuple[str, str]]:
    pairs = []
    for single in text.split("&") if text else []:
        name, equals, value = single.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise Wrong("the part of the URL after '?' is not name=value&…", hint)
        pairs.append((name, _decoded(value)))
    return pairs


def _host(text: str, hint: str) -> tuple[str, str]:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:/@]*))(?::([^:@/]*))?", text)
    if match is None:
        raise Wrong("the host in the URL cannot be understood", f"{_ENCODE}; {hint}")
    v6, name, port = match.groups()
    if port:
        _port(port, _ENCODE)
    return v6 or _decoded(name or ""), port or ""


def _port(text: str, hint: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65_535:
        raise Wrong("the port in the URL is not a number from 1 to 65535", hint)
    return int(text)


def _decoded(text: str) -> str:
    from urllib.parse import unquote

    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise Wrong("a '%' in the URL is not followed by two hexadecimal digits", "write %25 for a literal %")
    return unquote(text)
