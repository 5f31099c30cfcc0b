"""Where keys are kept: one server, with TLS or without, a cluster, or a primary that Sentinels watch."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import redis

from tests.faults.proxy import Proxy
from tests.support.meanwhile import eventually
from tests.support.redis_cluster import Cluster, slot_of, start_cluster
from tests.support.redis_servers import RedisServer, evict, free_port
from tests.support.sentinels import MASTER, Watched, start_watched
from tests.support.tls import Certificate, TlsFront

PASSWORD = "hush-redis"
Befalls = dict[str, Callable[[], object]]
"""What can happen to it, by name."""
HARMLESS = {"restarted", "a slot moves", "failed over"}
"""Keys, and what is recorded of them, stay or are lost together."""
UNNOTICED = {"evicting"}
"""What is lost is found by those who compare keys. All else the next run notices, and makes good."""


class Relapse(Protocol):
    """A server goes back to what it was a moment ago."""

    def begin(self) -> None:
        """What is written from now on will be lost."""

    def end(self) -> None:
        """It is."""


@dataclass
class Place:
    """settings: the configuration's `redis`. proxy: what runs go through, if there is one."""

    settings: dict[str, Any]
    primaries: Callable[[], list[redis.Redis]]
    befalls: Befalls
    relapse: Relapse
    proxy: Proxy | None = None
    is_cluster: bool = False

    def client(self, key: bytes) -> redis.Redis:
        """Of the server that has the key."""
        if not self.is_cluster:
            return self.primaries()[0]
        return next(one for one in self.primaries() if _serves(one, slot_of(key)))


def _serves(client: redis.Redis, slot: int) -> bool:
    port = client.connection_pool.connection_kwargs["port"]
    slots: Any = client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
    return any(first <= slot <= last and int(at[1]) == port for first, last, at, *_ in slots)


@contextlib.contextmanager
def single(directory: Path, rng: random.Random, certificate: Certificate | None) -> Iterator[Place]:
    """One server with a password; some keep their data when they are killed."""
    keeps = rng.random() < 0.6
    options = ["--requirepass", PASSWORD]
    options += ["--appendonly", "yes", "--appendfsync", "always"] if keeps else []
    port = free_port()
    server = RedisServer(f"redis://:{PASSWORD}@127.0.0.1:{port}/0", port, directory, options)

    def restart(*, empty: bool) -> None:
        server.stop(signal.SIGKILL)
        if empty:
            shutil.rmtree(directory / "appendonlydir", ignore_errors=True)
        server.start()
        eventually(lambda: _answers(server))

    def evicted() -> None:
        with contextlib.suppress(redis.OutOfMemoryError):  # there was not so much
            evict(server.client(), "allkeys-random", rng.choice([500, 5000]))
        server.client().config_set("maxmemory", 0)
        server.client().delete("foreign")  # what filled the memory

    befalls: Befalls = {
        "restarted" if keeps else "restarted without its data": lambda: restart(empty=False),
        "restarted empty": lambda: restart(empty=True),
        "flushed": lambda: _flush([server.client()]),
        "evicting": evicted,
    }
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop, signal.SIGKILL)
        server.start()
        if certificate is not None:
            port = stack.enter_context(TlsFront("127.0.0.1", port, certificate)).port
        proxy = stack.enter_context(Proxy("127.0.0.1", port))
        secure = {} if certificate is None else {"tls": True, "tls_ca_cert": certificate.ca}
        settings = {"host": "127.0.0.1", "port": proxy.port, "password": PASSWORD, **secure}
        relapse = Older(lambda: server, keeps=keeps, ready=lambda: _answers(server))
        yield Place(settings, lambda: [server.client()], befalls, relapse, proxy)


def _answers(server: RedisServer) -> bool:
    with contextlib.suppress(redis.RedisError):
        return bool(server.client().ping())
    return False


@contextlib.contextmanager
def cluster(directory: Path, rng: random.Random) -> Iterator[Place]:
    """Three primaries, which runs reach as the cluster names them: by no proxy."""
    with start_cluster(directory) as nodes:
        befalls: Befalls = {
            "a node is restarted empty": lambda: _restarted(rng.choice(nodes.nodes), nodes),
            "a node is flushed": lambda: _flush([rng.choice(nodes.primaries())]),
            "flushed": lambda: _flush(nodes.primaries()),
            "a slot moves": lambda: _move(nodes, rng),
        }
        relapse = Older(lambda: rng.choice(nodes.nodes), keeps=False, ready=nodes.ready)
        yield Place({"url": nodes.url, "cluster": True}, nodes.primaries, befalls, relapse, is_cluster=True)


@contextlib.contextmanager
def sentinel(directory: Path, rng: random.Random) -> Iterator[Place]:
    """A primary and a replica, which take turns."""
    with start_watched(directory) as watched:
        lagging = Lag(watched)
        befalls: Befalls = {
            "flushed": lambda: _flush([watched.primary]),
            "failed over": lagging.end,
        }
        hosts = [f"127.0.0.1:{port}" for port in watched.sentinels]
        settings = {"sentinel": {"hosts": hosts, "master": MASTER}}
        yield Place(settings, lambda: [watched.servers[0].client()], befalls, lagging)


@dataclass
class Older:
    """A server that is killed, and comes back with an older file."""

    choose: Callable[[], RedisServer]
    keeps: bool
    """Whether it has an append-only file, always synced."""
    ready: Callable[[], bool]
    server: RedisServer = field(init=False)

    def begin(self) -> None:
        self.server = self.choose()
        if self.keeps:
            shutil.copytree(self._logged, self._kept)
        else:
            self.server.client().save()

    def end(self) -> None:
        self.server.stop(signal.SIGKILL)
        if self.keeps:
            shutil.rmtree(self._logged)
            self._kept.rename(self._logged)
        self.server.start()
        eventually(self.ready)
        (self.server.directory / "dump.rdb").unlink(missing_ok=True)

    @property
    def _logged(self) -> Path:
        return self.server.directory / "appendonlydir"

    @property
    def _kept(self) -> Path:
        return self.server.directory / "older"


@dataclass
class Lag:
    """A replica that receives nothing more, until it has become the primary. Not for long: Sentinels choose none whose
    link has been down for more than a few seconds."""

    watched: Watched

    def begin(self) -> None:
        """The primary asks no password, so that it refuses one."""
        replica = self.watched.servers[1].client()
        replica.config_set("masterauth", "wrong")
        self.watched.servers[0].client().client_kill_filter(_type="replica")
        eventually(lambda: replica.info("replication")["master_link_status"] == "down")  # type: ignore[index]

    def end(self) -> None:
        """The primary dies; once the replica has taken over, it comes back as the replica. Data and checkpoint go
        together, so that nothing is what runs did not record."""
        self.watched.fail_over()
        self.watched.rejoin()
        self.watched.servers[0].client().config_set("masterauth", "")


def _flush(clients: list[redis.Redis]) -> None:
    for client in clients:
        client.flushall()


def _restarted(node: RedisServer, nodes: Cluster) -> None:
    node.stop(signal.SIGKILL)
    node.start()
    eventually(nodes.ready)


def _move(nodes: Cluster, rng: random.Random) -> None:
    """Some slot that holds something, by the servers themselves: MIGRATE shifts the times at which keys expire."""
    source, target = rng.sample(nodes.primaries(), 2)
    key: Any = source.randomkey()
    if key is not None and nodes.migrates():
        nodes.migrate_slot(slot_of(key), source, target)


def start_place(
    kind: str, directory: Path, rng: random.Random, certificate: Certificate
) -> contextlib.AbstractContextManager[Place]:
    """A place of one of KINDS."""
    if kind == "cluster":
        return cluster(directory, rng)
    if kind == "sentinel":
        return sentinel(directory, rng)
    return single(directory, rng, certificate if kind == "tls" else None)


KINDS = ("single", "tls", "cluster", "sentinel")
