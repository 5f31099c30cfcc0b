"""A source, a place for keys, views in one or two namespaces, and keys of others."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from reconcile_standin import StandIn
from tests.faults.chaos.places import HARMLESS, UNNOTICED, Place, start_place
from tests.faults.chaos.views import View, draw_views
from tests.faults.proxy import Proxy
from tests.support.redis_state import Entry, entries
from tests.support.tls import Certificate

SOURCE_PASSWORD = "hush-source"
SCHEMA = "chaos"
LEASE_S = 1
LIMITS: dict[str, Any] = {"lease": f"{LEASE_S}s", "memory_max": "1MB"}
PATIENCE = {
    "materialize": {"connect_timeout": "3s", "read_timeout": "4s"},
    "redis": {"connect_timeout": "3s", "timeout": "3s"},
}
"""What is silent is to be given up soon; a run that was too impatient on a busy machine is repeated."""
OUTSIDE = {b"other:1": b"theirs", b"v": b"theirs", b"v0": b"theirs", b"zz:\x00\xff": b"\r\n"}
"""Keys of others, beside those of the views."""


@dataclass
class World:
    """Everything that a story is about."""

    rng: random.Random
    directory: Path
    place: Place
    standin: StandIn
    source_proxy: Proxy
    materialize: dict[str, Any]
    views: list[View]
    limits: dict[str, Any]
    shards: int = 1
    sharded: bool = False
    """Whether the number of shards may change."""
    tampered: bool = False
    """Keys of the views may be others than those that runs have recorded, since all of them were last compared."""
    bereft: bool = False
    """Redis has lost something since, as its next run notices."""
    remade: bool = False
    """The same of definitions: whose keys are there may need a human to say."""
    foreign: dict[bytes, bytes] = field(default_factory=dict)
    """What others have written beside the keys of a view without prefix, or under a prefix."""
    missed: int = 0
    """How often a view was missing. A run that began before, or while one was, may say so."""
    _connection: psycopg.Connection[Any] | None = field(default=None)

    @property
    def unclear(self) -> bool:
        """Whether unexplained keys are to be expected; where rows expire, they always are."""
        return self.tampered or self.bereft or self.remade or any(view.expires for view in self.views)

    # -- the source ----------------------------------------------------------------------------------------------

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """By a connection of its own, past the proxy; made anew once the source was restarted."""
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(**self._direct(), autocommit=True, prepare_threshold=None)
        cursor = self._connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []

    def _direct(self) -> dict[str, Any]:
        trust = {name: self.materialize[name] for name in ("sslmode", "sslrootcert") if name in self.materialize}
        return {"host": "127.0.0.1", "port": self.standin.port, "user": "materialize", "dbname": "materialize",
                "password": SOURCE_PASSWORD, **trust}  # fmt: skip

    def restart_source(self) -> None:
        """It is killed, and comes back with what it had."""
        if self._connection is not None:
            self._connection.close()
        self.standin.kill()
        self.standin.start()

    # -- configuration -------------------------------------------------------------------------------------------

    @property
    def namespaces(self) -> list[str]:
        return sorted({view.namespace for view in self.views})

    def views_of(self, namespace: str) -> list[View]:
        return [view for view in self.views if view.namespace == namespace]

    def configuration(self, namespace: str) -> Path:
        """The file of one namespace's views, as they are now."""
        views = self.views_of(namespace)
        dedicated = {"dedicated": True} if views[0].ownership == "dedicated" else {}
        content = {
            "materialize": self.materialize,
            "redis": self.place.settings | dedicated | PATIENCE["redis"] | {"namespace": namespace},
            "limits": self.limits,
            "views": [view.entry() for view in views],
        }
        path = self.directory / f"{namespace or 'plain'}.yaml"
        made = path.with_suffix(".new")
        made.write_text(json.dumps(content))
        made.replace(path)  # a command that was started before may be about to read it
        return path

    # -- Redis ---------------------------------------------------------------------------------------------------

    @property
    def outside(self) -> dict[bytes, bytes]:
        """What must stay whatever happens: nothing where the database is one view's."""
        return {} if self.views[0].ownership == "dedicated" else OUTSIDE

    def plant(self) -> None:
        """The keys of others, anew once Redis has lost them."""
        there = self.look()
        self.foreign = {key: value for key, value in self.foreign.items() if key in there}
        for key, value in self.outside.items():
            self.place.client(key).set(key, value)

    def look(self) -> dict[bytes, Entry]:
        """Every key of every primary."""
        found: dict[bytes, Entry] = {}
        for client in self.place.primaries():
            found |= entries(client)
        return found

    def befall(self, what: str) -> None:
        """Something happens to the server."""
        self.place.befalls[what]()
        self.tampered |= what in UNNOTICED
        self.bereft |= what not in HARMLESS
        self.plant()

    def relapse(self) -> None:
        """A server loses what was written last: all of it, or in a cluster what one node had."""
        self.place.relapse.end()
        self.bereft |= self.place.is_cluster
        self.plant()


@contextlib.contextmanager
def new_world(kind: str, directory: Path, rng: random.Random, certificate: Certificate) -> Iterator[World]:
    """A world with its servers, as the seed has it; each view has some rows."""
    redis_directory, source_directory = directory / "redis", directory / "source"
    redis_directory.mkdir()
    source_directory.mkdir()
    secure = rng.random() < 0.4
    tls = (certificate.cert, certificate.key) if secure else None
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(start_place(kind, redis_directory, rng, certificate))
        standin = StandIn(data_dir=str(source_directory), password=SOURCE_PASSWORD, tick_ms=200, tls=tls)
        stack.enter_context(standin)
        proxy = stack.enter_context(Proxy("127.0.0.1", standin.port))
        materialize = {"host": "127.0.0.1", "port": proxy.port, "password": SOURCE_PASSWORD, **PATIENCE["materialize"]}
        materialize |= {"sslmode": "verify-full", "sslrootcert": certificate.ca} if secure else {"sslmode": "disable"}
        sharded = rng.random() < 0.4
        views = draw_views(rng, SCHEMA, cluster=place.is_cluster, sharded=sharded)
        limits = LIMITS | rng.choice([{}, {"batch_max_keys": 3}, {"batch_max_bytes": "1KB"}])
        world = World(rng, directory, place, standin, proxy, materialize, views, limits, sharded=sharded)
        world.shards = rng.choice([1, 2, 4]) if sharded else 1
        world.execute(f"CREATE SCHEMA {SCHEMA}")
        for view in views:
            view.create_table(world.execute)
            view.create(world.execute)
            view.put(world.execute, rng, rng.choice([1, 5, 30, 60]))
        world.plant()
        print(f"{kind}, source {'with' if secure else 'without'} TLS, {world.shards} shards, {limits}")
        print(*views, sep="\n")
        try:
            yield world
        finally:
            if world._connection is not None:
                world._connection.close()
