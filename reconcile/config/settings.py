"""What a run needs to know, as frozen values. Built by `load`; nothing here reads files or the environment."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field


class Secret:
    """A string that never shows itself; `reveal()` is for the driver only."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "'***'"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, slots=True)
class MaterializeSettings:
    """How to reach the source. `url`, when given, is a libpq URI or DSN and wins over the single parts it contains.

    `load` sees to it that the parts agree with it: host, port, user, database, sslmode are those of the URL where it
    has them (not for a list of hosts), `password` is set only if the URL has none and is to be used with it, and
    everything else (cluster, timeouts, a port or database the URL leaves out) holds beside it.
    """

    url: Secret | None = None
    host: str = "localhost"
    port: int = 6875
    user: str = "materialize"
    password: Secret | None = None
    database: str = "materialize"
    sslmode: str | None = None
    sslrootcert: str | None = None
    cluster: str | None = None
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 300.0
    """A read that stays silent for longer has failed."""


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """How to reach the target. `url`, when given (redis://, rediss://, unix://), wins over host, port, db, tls.

    `load` sets these from the URL, with Redis' own defaults for what it leaves out (so `db` is always the database
    used; host and port mean nothing with unix://). `password` is set only if the URL has none and is to be used with
    it.
    """

    url: Secret | None = None
    host: str = "localhost"
    port: int = 6379
    db: int = 0
    username: str | None = None
    password: Secret | None = None
    tls: bool = False
    tls_ca_cert: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    dedicated: bool = False
    """The whole database is ours: keys the view does not have are removed, whoever wrote them."""
    cluster: bool = False
    """The address is that of a node of a Redis Cluster, which tells the others."""
    connect_timeout_s: float = 5.0
    timeout_s: float = 30.0
    """A command without answer for longer has failed."""


@dataclass(frozen=True, slots=True)
class ViewSettings:
    """One source query and its target mapping."""

    name: str
    sql: str
    key: str = "key"
    """Name of the query's key column."""
    value: str = "value"
    """Name of the query's value column."""
    layout: str = "string"
    key_prefix: str = ""
    """As written into Redis: empty, or ending in ':'. The Redis key is key_prefix + key."""
    mz_timestamp_key: str | None = None
    """mz-redis-sync's timestamp key; kept up to date with the frontier (as_of + 1)."""
    digest_view: str | None = None
    """Companion view that maintains the fingerprints (`init --digest-view` prints its DDL)."""
    buckets: int | None = None
    """Fixed number of buckets, a power of two; None: chosen by row count."""
    max_delete_fraction: float = 0.3
    """Deleting a larger share of the owned keys is a safety stop."""
    deep_every_s: float | None = 86_400.0
    """A snapshot older than this since the last deep one compares every row with Redis; None: only when in doubt."""


@dataclass(frozen=True, slots=True)
class LoggingSettings:
    """Logs go to stderr, or to `file`. `format` is a %-style format as in logging.basicConfig; None: our own."""

    level: str = "INFO"
    format: str | None = None
    file: str | None = None


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """Named maxima: memory and time are bounded whatever the view's size."""

    memory_max_bytes: int = 48 * 1024 * 1024
    """Bound on rows held at once (keys and values, as received)."""
    batch_max_bytes: int = 4 * 1024 * 1024
    """Largest single Redis transaction; larger changes are applied in several under the `pending` mark."""
    batch_max_keys: int = 50_000
    max_runtime_s: float | None = None
    """The run stops itself after this, on a committed time."""
    lease_s: float = 15.0


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Where the numbers of a run go when it has ended; None: not there."""

    file: str | None = None
    """For node_exporter's textfile collector."""
    pushgateway: Secret | None = None
    """http(s)://[user:password@]host[:port][/path]"""
    emf: str | None = None
    """File that lines in CloudWatch's embedded metric format are added to; '-': stderr."""
    ping: Secret | None = None
    """http(s) URL that is fetched after a run that succeeded."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration. `origins` maps a dotted path ('redis.host') to where its value came from."""

    materialize: MaterializeSettings = field(default_factory=MaterializeSettings)
    redis: RedisSettings = field(default_factory=RedisSettings)
    views: tuple[ViewSettings, ...] = ()
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    origins: dict[str, str] = field(default_factory=dict, compare=False)


def replace_limits(settings: Settings, **changes: float | int | None) -> Settings:
    """The same settings with other limits."""
    return dataclasses.replace(settings, limits=dataclasses.replace(settings.limits, **changes))  # type: ignore[arg-type]
