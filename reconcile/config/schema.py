"""Every key there is: its section, the field it fills, its kind. Files, environment and flags all go by this table."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass
from typing import Final

from reconcile.config import query, values
from reconcile.config.values import Kind, Raw, Wrong

_NAME_HINT = "use letters, digits, '_' and '-'; at most 64"


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `field` is the settings' name for it, accepted as a second spelling of `name`."""

    name: str
    kind: Kind
    field: str = ""
    secret: bool = False
    view: bool = False
    """mz-redis-sync's place for something that belongs to a view."""

    @property
    def target(self) -> str:
        return self.field or self.name


def _name(raw: Raw) -> str:
    if not isinstance(raw, str) or not 1 <= len(raw) <= 64:
        raise ValueError
    if not all(c.isascii() and (c.isalnum() or c in "_-") for c in raw):
        raise ValueError
    return raw


def _sql(raw: Raw) -> str:
    if isinstance(raw, bool):
        raise ValueError
    return query.cut(raw)


def _relation(raw: Raw) -> str:
    if isinstance(raw, bool):
        raise ValueError
    query.parts(raw)
    return raw.strip()


def _layout(raw: Raw) -> str:
    if raw != "string":
        raise Wrong("only the layout 'string' is available", "leave layout out, or write layout: string")
    return raw


def _prefix(raw: Raw) -> str:
    if isinstance(raw, bool) or any(c in raw for c in "\r\n\0"):
        raise ValueError
    bare = raw.rstrip(":")
    return bare + ":" if bare else ""


def _web_address(raw: Raw) -> str:
    if isinstance(raw, bool) or not raw.isascii() or not raw.isprintable() or " " in raw:
        raise ValueError
    parts = urllib.parse.urlsplit(raw)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError
    return raw


_WEB_ADDRESS = Kind("a URL with http:// or https://", _web_address, "for example https://host/path")
_PORT = values.whole(1, 65_535)
_PATIENCE = values.duration(0.1, 86_400)

SECTIONS: Final[dict[str, tuple[Key, ...]]] = {
    "materialize": (
        Key("url", values.LINE, secret=True),
        Key("host", values.HOST),
        Key("port", _PORT),
        Key("user", values.LINE),
        Key("password", values.optional(values.TEXT), secret=True),
        Key("database", values.LINE),
        Key("sslmode", values.choice("disable", "allow", "prefer", "require", "verify-ca", "verify-full")),
        Key("sslrootcert", values.optional(values.LINE)),
        Key("cluster", values.optional(values.LINE)),
        Key("connect_timeout", _PATIENCE, "connect_timeout_s"),
        Key("read_timeout", _PATIENCE, "read_timeout_s"),
        Key("sql", Kind("a query", _sql, "quote it"), view=True),
    ),
    "redis": (
        Key("url", values.LINE, secret=True),
        Key("host", values.HOST),
        Key("port", _PORT),
        Key("db", values.whole(0, 1_000_000)),
        Key("username", values.optional(values.LINE)),
        Key("password", values.optional(values.TEXT), secret=True),
        Key("tls", values.BOOLEAN),
        Key("tls_ca_cert", values.optional(values.LINE)),
        Key("tls_cert", values.optional(values.LINE)),
        Key("tls_key", values.optional(values.LINE)),
        Key("dedicated", values.BOOLEAN),
        Key("cluster", values.BOOLEAN),
        Key("connect_timeout", _PATIENCE, "connect_timeout_s"),
        Key("timeout", _PATIENCE, "timeout_s"),
        Key("key_prefix", Kind("text on one line", _prefix, "quote it"), view=True),
        Key("mz_timestamp_key", values.optional(values.LINE), view=True),
    ),
    "logging": (
        Key("level", values.LEVEL),
        Key("format", values.FORMAT),
        Key("file", values.optional(values.LINE)),
    ),
    "limits": (
        Key("memory_max", values.size(1 << 20, 1 << 36), "memory_max_bytes"),
        Key("batch_max_bytes", values.size(1 << 10, 1 << 29)),
        Key("batch_max_keys", values.whole(1, 10_000_000)),
        Key("max_runtime", values.duration(1, 604_800, off=True), "max_runtime_s"),
        Key("lease", values.duration(1, 3_600), "lease_s"),
    ),
    "metrics": (
        Key("file", values.optional(values.LINE)),
        Key("pushgateway", values.optional(_WEB_ADDRESS), secret=True),
        Key("emf", values.optional(values.LINE)),
        Key("ping", values.optional(_WEB_ADDRESS), secret=True),
    ),
    "view": (
        Key("name", Kind("a name", _name, _NAME_HINT)),
        Key("sql", Kind("a query", _sql, "quote it")),
        Key("relation", Kind("the name of a view", _relation, "write database.schema.view")),
        Key("key", values.LINE),
        Key("value", values.LINE),
        Key("layout", Kind("a layout", _layout, "layout: string")),
        Key("key_prefix", Kind("text on one line", _prefix, "quote it")),
        Key("mz_timestamp_key", values.optional(values.LINE)),
        Key("digest_view", Kind("the name of a view", _relation, "write database.schema.view")),
        Key("buckets", values.BUCKETS),
        Key("max_delete_fraction", values.FRACTION),
        Key("deep_every", values.duration(1, 31_536_000, off=True), "deep_every_s"),
    ),
}

# The environment's short names for what every deployment has.
SHORT_NAMES: Final[dict[str, tuple[str, str]]] = {
    "MATERIALIZE_URL": ("materialize", "url"),
    "MATERIALIZE_PASSWORD": ("materialize", "password"),
    "REDIS_URL": ("redis", "url"),
    "REDIS_PASSWORD": ("redis", "password"),
}


@dataclass(frozen=True, slots=True)
class Spelling:
    """What one spelling of a key means: password_file is `password`, by way of a file."""

    key: Key
    suffix: str = ""

    @property
    def expects(self) -> str:
        return {"": self.key.kind.expects, "_file": "the path of a file", "_arn": "an ARN"}[self.suffix]


def spellings(section: str) -> dict[str, Spelling]:
    """Every name a section's keys may have in a file (upper case: in the environment)."""
    found: dict[str, Spelling] = {}
    for key in SECTIONS[section]:
        for name in {key.name, key.target}:
            found[name] = Spelling(key)
        if key.secret:
            for suffix in ("_file", "_arn"):
                found[key.name + suffix] = Spelling(key, suffix)
    return found


def suggestion(wrong: str, known: list[str], *, otherwise: str) -> str:
    """'did you mean …?', or else what is allowed."""
    import difflib

    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else otherwise
