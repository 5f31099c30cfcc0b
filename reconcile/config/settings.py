"""The settings of a run as frozen values, and the one declaration of each configuration key.

A field's `key` gives the key's name, kind, meaning, place and default. Files, variables, flags, `config show`, the
manual's tables and the suggestions in errors are derived from it (`schema`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final

from msgspec import Struct, field

from reconcile.config import keyform, query, values
from reconcile.config.values import Configured, Kind, key
from reconcile.core.shards import Shard


class Secret:
    """A string that is never shown; `reveal()` is for the driver only."""

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


_PATIENCE = values.duration(0.1, 86_400)
LOCAL_NAMES: Final = ("localhost", "localhost.localdomain")


class MaterializeSettings(Configured, frozen=True):
    """How to connect to the source. URLs and libpq services have been resolved into the fields."""

    host: str = key(values.HOST_OR_FOLDER, "", default="localhost", absent="required without `url`")
    port: int = key(values.PORT, "", default=6875)
    user: str = key(values.LINE, "", default="materialize")
    password: Secret | None = key(values.optional(values.SECRET), "an app password", default=None, secret=True)
    database: str = key(values.LINE, "", default="materialize")
    sslmode: str | None = key(
        values.choice("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
        "as in libpq; see [TLS](#tls)",
        default=None,
        absent="`prefer`",
    )
    sslrootcert: str | None = key(values.optional(values.PATH), "file with certificate authorities", default=None)
    cluster: str | None = key(
        values.optional(values.LINE), "cluster the queries run on", default=None, absent="the role's"
    )
    connect_timeout_s: float = key(_PATIENCE, "", default=10.0, name="connect_timeout")
    read_timeout_s: float = key(
        _PATIENCE, "a read has failed if nothing arrives for this long", default=300.0, name="read_timeout"
    )
    extra: Mapping[str, Secret] = field(default_factory=dict)
    """Other libpq parameters from the URL: sslcert, options, service, hostaddr, several ports, …"""

    def libpq(self) -> dict[str, str | int]:
        """Return all connection parameters for libpq, so that no PG* variable decides where to connect or as whom.

        Empty texts are deliberate: libpq takes them as given and ignores them.
        """
        parts: dict[str, str | int | None] = {
            "host": self.host,
            "hostaddr": "",
            "port": self.port,
            "user": self.user,
            "dbname": self.database,
            "password": self.password.reveal() if self.password else None,
            "sslmode": self.sslmode,
            "sslrootcert": self.sslrootcert,
            "target_session_attrs": "any",
            "client_encoding": "UTF8",
        }
        parts |= {name: value.reveal() for name, value in self.extra.items()}
        return {name: value for name, value in parts.items() if value is not None}

    @property
    def exposes_password(self) -> bool:
        """Whether the password could be intercepted: unless sslmode forbids it, libpq continues without TLS if the
        server, or somebody in between, says that there is none.
        """
        return self.password is not None and self.sslmode in (None, "disable", "allow", "prefer") and self._remote

    @property
    def _remote(self) -> bool:
        for host in self.host.split(","):
            try:
                local = ipaddress.ip_address(host).is_loopback
            except ValueError:
                local = host.startswith("/") or host.lower() in LOCAL_NAMES
            if not local:
                return True
        return "hostaddr" in self.extra


class SentinelSettings(Configured, frozen=True):
    """Sentinels that name the current primary."""

    hosts: tuple[tuple[str, int], ...] = key(
        values.SENTINELS, "the Sentinels; without a port: 26379", absent="required"
    )
    master: str = key(values.LINE, "name of the primary, as the Sentinels know it", absent="required")
    username: str | None = key(values.optional(values.LINE), "the Sentinels' own ACL user", default=None)
    password: Secret | None = key(
        values.optional(values.SECRET), "the Sentinels' own password", default=None, secret=True
    )


class RedisSettings(Configured, frozen=True):
    """How to connect to the target. URLs have been resolved into the fields, with Redis' defaults for the rest.

    The address is one of: unix_socket_path; sentinel; host and port.
    """

    host: str = key(values.HOST, "", default="localhost", absent="required without `url`")
    port: int = key(values.PORT, "", default=6379)
    unix_socket_path: str | None = key(values.optional(values.PATH), "in place of host and port", default=None)
    db: int = key(values.whole(0, 1_000_000), "", default=0)
    username: str | None = key(values.optional(values.LINE), "ACL user", default=None)
    password: Secret | None = key(values.optional(values.SECRET), "", default=None, secret=True)
    tls: bool = key(values.BOOLEAN, "see [TLS](#tls)", default=False)
    tls_verify: str = key(
        values.choice("full", "ca", "none"),
        "`full`: check certificate and name; `ca`: the certificate only; `none`: nothing",
        default="full",
    )
    tls_ca_cert: str | None = key(
        values.optional(values.PATH),
        "authorities to trust in addition to the system's",
        default=None,
        absent="the system's",
    )
    tls_cert: str | None = key(values.optional(values.PATH), "client certificate", default=None)
    tls_key: str | None = key(values.optional(values.PATH), "its key", default=None)
    dedicated: bool = key(
        values.BOOLEAN,
        "nothing else uses the database: keys that a view does not have, under its prefix if it has one, are "
        "**deleted**, whatever wrote them",
        default=False,
    )
    cluster: bool = key(
        values.BOOLEAN,
        "a Redis Cluster; the address is that of any of its nodes. Only database 0, no sockets, and each view "
        "needs a `key_prefix` (or `dedicated`). [What differs](operations.md#on-a-redis-cluster)",
        default=False,
    )
    cluster_nodes: tuple[tuple[str, int], ...] = key(
        values.NODES,
        "other nodes of the cluster, asked in turn while the address above does not answer; without a port: 6379",
        default=(),
        absent="none",
    )
    namespace: str = key(
        Kind("name", "a name", lambda raw: "" if raw == "" else values.name_of(raw), values.NAME.hint),
        "part of the name of every state key: keeps two environments in one database apart",
        default="",
        absent="none",
    )
    connect_timeout_s: float = key(_PATIENCE, "", default=5.0, name="connect_timeout")
    timeout_s: float = key(
        _PATIENCE, "a command has failed if no answer comes for this long", default=30.0, name="timeout"
    )
    sentinel: SentinelSettings | None = None


class ViewSettings(Configured, frozen=True):
    """One source query and its target mapping; a shard of a view is the view with `shard` set.

    The Redis key is key_prefix + column 0 + literal 0 + column 1 + literal 1 + …
    """

    name: str = key(
        values.NAME,
        "names the view's state in Redis, logs and reports",
        common=False,
        absent="`mz_timestamp_key`, else `default`",
    )
    sql: str = key(
        Kind("query", "a query", query.parse_sql, "quote it"),
        "one `SELECT` or `WITH` query; a trailing `;` and comments are removed",
        common=False,
        place="materialize",
    )
    key_columns: tuple[str, ...] = key(
        values.names("a column"), "column or columns of the Redis key", default=("key",), name="key"
    )
    key_literals: tuple[str, ...] = ("",)
    """The text after each of the key's columns; one per column."""
    value_columns: tuple[str, ...] = key(
        values.names("a column"),
        'column or columns of the value; `"*"`: all but those of the key and `expires_at`',
        default=("value",),
        name="value",
    )
    layout: str = key(
        values.choice("string", "json", "hash"),
        "`string`: the one column's text; `json`: an object; `hash`: a field per column",
        default="string",
    )
    expires_at: str | None = key(
        values.optional(values.LINE), "column with the time at which the key expires; NULL: never", default=None
    )
    key_prefix: str = key(
        Kind("text", "text on one line", keyform.parse_prefix, "quote it"),
        "`p` and `p:` both store `p:<key>`; `''`: none",
        default="",
        common=False,
        place="redis",
        absent="none",
    )
    mz_timestamp_key: str | None = key(
        values.optional(values.LINE),
        "Redis key that holds the frontier, as in mz-redis-sync",
        default=None,
        common=False,
        place="redis",
    )
    companion: str | None = key(
        Kind("name", "the name of a view", query.parse_relation, "write database.schema.view"),
        "companion view with maintained fingerprints (`reconcile init --companion`)",
        default=None,
        older="digest_view",
        common=False,
    )
    buckets: int | None = key(values.BUCKETS, "fixed number of buckets", default=None, absent="by row count")
    max_delete_fraction: float = key(
        values.FRACTION, "deleting a larger share of the keys is a safety stop, exit code 5", default=0.3
    )
    compare_every_s: float | None = key(
        values.or_off(values.duration(1, 31_536_000)),
        "all of Redis is compared with the manifest within this time, slice by slice",
        default=86_400.0,
        name="compare_every",
        older="deep_every",
    )
    shard: Shard | None = None
    """Only the rows of this shard; None: all of them, in as many shards as the view is cut into. Never configured."""

    @property
    def label(self) -> str:
        """Its name in reports."""
        return self.name if self.shard is None or self.shard.n == 1 else f"{self.name} shard {self.shard}"


class LoggingSettings(Configured, frozen=True):
    """Logs go to stderr, or to `file`."""

    level: str = key(values.LEVEL, "upper or lower case", default="INFO")
    format: str | None = key(values.FORMAT, "as in Python's `logging`", default=None, absent="our own")
    file: str | None = key(values.optional(values.PATH), "", default=None, absent="stderr")


class LimitSettings(Configured, frozen=True):
    """Named maxima: memory and time are bounded whatever the view's size."""

    memory_max_bytes: int = key(
        values.size(1 << 20, 1 << 36), "rows held in memory at once", default=48 * 1024 * 1024, name="memory_max"
    )
    batch_max_bytes: int = key(values.size(1 << 10, 1 << 29), "largest Redis transaction", default=4 * 1024 * 1024)
    batch_max_keys: int = key(
        values.whole(1, 10_000_000), "most keys in one; fewer for hashes and keys that expire", default=50_000
    )
    max_runtime_s: float | None = key(
        values.or_off(values.duration(1, 604_800)),
        "the run stops after this, at a committed time",
        default=None,
        name="max_runtime",
        absent="off",
    )
    lease_s: float = key(
        values.duration(1, 3_600), "how long a killed run can delay its successor", default=15.0, name="lease"
    )
    jobs: int | None = key(
        values.whole(1, 64),
        "how many views catch up or take snapshots at the same time",
        default=None,
        absent="by cores",
    )
    writes_per_second: int | None = key(
        values.or_off(values.whole(1, 100_000_000)),
        "most keys written or deleted per second, for each view",
        default=None,
        absent="off",
    )
    latency_max_s: float | None = key(
        values.or_off(values.duration(0.0001, 60)),
        "writes pause if a PING takes this much longer than the quickest one, and are small while Redis serves others; "
        "`off`: neither",
        default=0.005,
        name="latency_max",
    )


class MetricsSettings(Configured, frozen=True):
    """Where a run's numbers go when it has ended; None: nowhere."""

    file: str | None = key(
        values.optional(values.PATH),
        "Prometheus metrics for node_exporter's textfile collector; also `--metrics-file`",
        default=None,
    )
    pushgateway: Secret | None = key(
        values.optional(values.URL), "URL of a Prometheus Pushgateway", default=None, secret=True
    )
    emf: str | None = key(
        values.optional(values.PATH),
        "lines in CloudWatch's embedded metric format are appended to this file; `-`: stderr",
        default=None,
    )
    ping: Secret | None = key(
        values.optional(values.URL),
        "URL that is fetched after each successful run: a dead man's switch",
        default=None,
        secret=True,
    )


class Settings(Struct, frozen=True):
    """The whole configuration. `origins` maps a dotted path ('redis.host') to where its value came from."""

    materialize: MaterializeSettings = field(default_factory=MaterializeSettings)
    redis: RedisSettings = field(default_factory=RedisSettings)
    views: tuple[ViewSettings, ...] = ()
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    origins: dict[str, str] = field(default_factory=dict)
