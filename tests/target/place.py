"""A place to keep a view in, one server or a cluster, seen from outside and through a target."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import redis
from msgspec import Struct
from msgspec.structs import replace

from reconcile.config import address
from reconcile.config.settings import LimitSettings, RedisSettings, ViewSettings
from reconcile.core import digest
from reconcile.core.records import whole_manifest
from reconcile.core.state import State
from reconcile.stop import Stop
from reconcile.target import lease, opening
from reconcile.target.port import Target, Write
from tests.support.redis_cluster import Cluster
from tests.support.redis_servers import RedisServer

VIEW = ViewSettings(name="orders", sql="SELECT 1", key_prefix="p:")
LIMITS = LimitSettings()
SALT = 7


class Place(Struct):
    """Where the target under test keeps its keys."""

    kind: str
    settings: RedisSettings
    server: RedisServer | None = None
    nodes: Cluster | None = None
    view: ViewSettings = VIEW

    def client(self, key: bytes) -> redis.Redis:
        """A client of the server that has the key."""
        if self.nodes is not None:
            return self.nodes.owner(key)
        assert self.server is not None
        return self.server.client()

    def clients(self) -> list[redis.Redis]:
        return self.nodes.primaries() if self.nodes is not None else [self.client(b"")]

    def do(self, verb: str, key: str | bytes, *arguments: object) -> Any:
        """One command, as anybody could send it."""
        name = key.encode() if isinstance(key, str) else key
        return self.client(name).execute_command(verb, name, *arguments)

    def keys(self, pattern: bytes = b"*") -> set[bytes]:
        return {key for client in self.clients() for key in client.scan_iter(pattern, count=1000)}

    def own(self, what: str) -> bytes:
        """The name of one of the view's own keys."""
        return f"reconcile:{{{self.view.name}}}:{what}".encode()

    def state(self) -> dict[bytes, bytes]:
        return self.do("HGETALL", self.own("state"))  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def target(self, stop: Stop | None = None, **changes: Any) -> Iterator[Target]:
        """A target for the view, or for another like it."""
        redis_changes = {name: changes.pop(name) for name in ("dedicated",) if name in changes}
        settings = replace(self.settings, **redis_changes)
        target = opening.open_target(settings, replace(self.view, **changes), stop or Stop())
        try:
            yield target
        finally:
            target.close()

    @contextlib.contextmanager
    def armed(self, lease_s: float = 30.0, **changes: Any) -> Iterator[Target]:
        """A target that holds the lease."""
        with self.target(**changes) as target:
            target.acquire(lease_s, owner=lease.new_owner(), reset=False)
            yield target


def of_server(server: RedisServer) -> Place:
    return Place("single", address.redis(server.url), server=server)


def of_cluster(cluster: Cluster) -> Place:
    return Place("cluster", replace(address.redis(cluster.url), cluster=True), nodes=cluster)


def content(rows: dict[bytes, bytes], as_of: int | None, buckets: int = 16) -> tuple[State, list[int]]:
    """A state that says that Redis holds these rows, and its digests."""
    digests = [0] * buckets
    digest.add_rows(digests, list(rows.items()), SALT)
    total = f"{digest.total(digests):032x}"
    return State(as_of=as_of, buckets=buckets, keys=len(rows), digest=total, salt=SALT), digests


def whole(rows: dict[bytes, bytes], as_of: int) -> Write:
    """A write that makes Redis hold these rows at that time."""
    state, digests = content(rows, as_of)
    return Write(puts=rows, manifest=whole_manifest(digests), state=state)
