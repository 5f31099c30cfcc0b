"""The table of keys as files, environment and flags see it: section → key, and the spellings of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import UNSET, Struct
from msgspec.structs import replace

from reconcile.config import keyform, query, settings, values
from reconcile.config.values import Configured, Key, Kind

CLASSES: Final[dict[str, type[Configured]]] = {
    "materialize": settings.MaterializeSettings,
    "redis": settings.RedisSettings,
    "redis.sentinel": settings.SentinelSettings,
    "view": settings.ViewSettings,
    "limits": settings.LimitSettings,
    "logging": settings.LoggingSettings,
    "metrics": settings.MetricsSettings,
}
VIEW: Final = "view"


URLS: Final = {
    "materialize": Key(
        values.SECRET_LINE, "`postgresql://user:password@host:6875/database?sslmode=require`, or `host=… user=…`",
        name="url", secret=True,
    ),
    "redis": Key(
        values.SECRET_LINE, "`redis://`, `rediss://` (TLS) or `unix://`; see [Redis URLs](#redis-urls)",
        name="url", secret=True,
    ),
}  # fmt: skip
FORMS: Final = (
    Key(
        Kind("name", "the name of a view", query.parse_relation, "write database.schema.view"),
        "in place of `sql`: `view`, `schema.view` or `database.schema.view`, of which the columns below are read. As "
        "in SQL, names fold to lower case unless in double quotes",
        name="relation",
        common=False,
    ),
    Key(
        Kind("text", "text on one line", keyform.parse_template, "for example user:{tenant}:{id}", keyform.written),
        "in place of `key` and `key_prefix`: `user:{tenant}:{id}`; `{{` and `}}` stand for braces",
        name="key_template",
        common=False,
    ),
    Key(
        Kind("text", "text on one line", keyform.parse_separator, "for example ':'"),
        "stands between the columns of a key",
        name="separator",
        default=":",
    ),
)
"""Keys of a view that set fields of other names."""


def _declared(section: str) -> Iterator[Key]:
    if section in URLS:
        yield URLS[section]
    for field, key in CLASSES[section].KEYS.items():
        default = None if key.default is UNSET else key.default
        yield replace(key, name=key.name or field, field=field, default=default)
        if section == VIEW and field == "sql":
            yield from FORMS


SECTIONS: Final[dict[str, tuple[Key, ...]]] = {section: tuple(_declared(section)) for section in CLASSES}
"""Each key belongs to one section; `place` is where mz-redis-sync has it."""

# The environment's short names for keys that every deployment has.
SHORT_NAMES: Final[dict[str, tuple[str, str]]] = {
    "MATERIALIZE_URL": ("materialize", "url"),
    "MATERIALIZE_PASSWORD": ("materialize", "password"),
    "REDIS_URL": ("redis", "url"),
    "REDIS_PASSWORD": ("redis", "password"),
}


class Spelling(Struct, frozen=True):
    """The meaning of one spelling of a key: password_file is `password`, read from a file."""

    key: Key
    suffix: str = ""

    @property
    def expects(self) -> str:
        return {"": self.key.kind.expects, "_file": "the path of a file", "_arn": "an ARN"}[self.suffix]


def spellings(section: str) -> dict[str, Spelling]:
    """Return all spellings of a section's keys in a file (in upper case: in the environment)."""
    found: dict[str, Spelling] = {}
    guests = [key for key in SECTIONS[VIEW] if key.place == section]
    for key in (*SECTIONS[section], *guests):
        for name in filter(None, (key.name, key.older)):
            found[name] = Spelling(key)
        if key.secret:
            for suffix in ("_file", "_arn"):
                found[key.name + suffix] = Spelling(key, suffix)
    return found


def home(section: str, key: Key) -> str:
    """Return the section to which a key found in this one belongs."""
    return VIEW if key.place == section else section


def key_of(section: str, name: str) -> Key:
    """Return the key of this name, which must exist."""
    return next(key for key in SECTIONS[section] if key.name == name)


def suggestion(wrong: str, known: Sequence[str], *, otherwise: str) -> str:
    """Return 'did you mean …?', else what is allowed."""
    import difflib

    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else otherwise
