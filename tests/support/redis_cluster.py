"""A real Redis Cluster on this machine: three primaries, replicas on demand, slots that can be moved."""

from __future__ import annotations

import contextlib
import signal
from binascii import crc_hqx
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from tests.support.meanwhile import eventually
from tests.support.redis_servers import RedisServer, free_port

SLOTS = 16384
PRIMARIES = 3
NODE_TIMEOUT_MS = 10_000
"""On a busy machine a node may get no time for a second, and is not to be taken for dead."""
FAILOVER_AFTER_MS = 1000
"""The same once a primary is dead whose replica is to take over."""


def slot_of(key: bytes) -> int:
    """As the specification has it, without reconcile's own code."""
    start = key.find(b"{")
    end = key.find(b"}", start + 1)
    if start != -1 and end not in (-1, start + 1):
        key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


@dataclass
class Cluster:
    """Primaries first, then replicas. `url` is the first node's."""

    nodes: list[RedisServer]
    buses: list[int] = field(default_factory=list)
    _clients: list[redis.Redis] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.nodes[0].url

    @property
    def clients(self) -> list[redis.Redis]:
        """One per node that runs."""
        return [client for client, node in zip(self._clients, self.nodes, strict=True) if node.process is not None]

    def primaries(self) -> list[redis.Redis]:
        return [client for client in self.clients if client.execute_command("ROLE")[0] in (b"master", "master")]

    def owner(self, key: bytes) -> redis.Redis:
        """The primary that serves the key."""
        port = self._owners()[slot_of(key)]
        return next(client for client, node in zip(self._clients, self.nodes, strict=True) if node.port == port)

    def _owners(self, asked: redis.Redis | None = None) -> list[int]:
        """The port of the primary, by slot."""
        owners = [0] * SLOTS
        for first, last, (_, port, *_), *_ in (asked or self.clients[0]).execute_command("CLUSTER", "SLOTS"):
            owners[first : last + 1] = [port] * (last + 1 - first)
        return owners

    def set(self, key: bytes, value: bytes) -> None:
        self.owner(key).set(key, value)

    def delete(self, key: bytes) -> None:
        self.owner(key).delete(key)

    def everything(self) -> dict[bytes, bytes]:
        """Every key of every primary, serialised."""
        return self._each(b"*", redis.client.Pipeline.dump)

    def strings(self, prefix: bytes = b"p:") -> dict[bytes, bytes]:
        """Every key under the prefix, all of them strings, with its value."""
        return self._each(prefix + b"*", redis.client.Pipeline.get)

    def _each(self, pattern: bytes, ask: Callable[[Any, bytes], object]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for client in self.primaries():
            keys = sorted(client.scan_iter(pattern, count=1000))
            with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    ask(pipe, key)
                found |= dict(zip(keys, pipe.execute(), strict=True))
        return found

    def restore(self, saved: dict[bytes, bytes]) -> None:
        """Bring back what `everything` gave, into an emptied cluster."""
        owners = self._owners()
        for client in self.primaries():
            with client.pipeline(transaction=False) as pipe:
                for key, dump in saved.items():
                    if owners[slot_of(key)] == client.connection_pool.connection_kwargs["port"]:
                        pipe.restore(key, 0, dump)
                pipe.execute()

    def state(self, view: str = "default") -> dict[str, str]:
        key = f"reconcile:{{{view}}}:state".encode()
        stored: dict[Any, Any] = self.owner(key).hgetall(key)  # type: ignore[assignment]
        return {name.decode(): value.decode() for name, value in stored.items()}

    def flush(self) -> None:
        for client in self.primaries():
            client.flushall()

    def node_id(self, client: redis.Redis) -> str:
        return str(client.execute_command("CLUSTER", "MYID").decode())

    def open_slot(self, slot: int, source: redis.Redis, target: redis.Redis) -> None:
        """Begin to move a slot."""
        target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.node_id(source))
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.node_id(target))

    def move_keys(self, slot: int, source: redis.Redis, target: redis.Redis) -> None:
        port = target.connection_pool.connection_kwargs["port"]
        while keys := source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000):
            source.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)

    def close_slot(self, slot: int, target: redis.Redis) -> None:
        """Every node is told whose the slot is now."""
        for client in [target, *self.primaries()]:
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", self.node_id(target))

    def leave_slot(self, slot: int) -> None:
        """It was not meant."""
        for client in self.primaries():
            client.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")

    def move_slot(self, slot: int, source: redis.Redis, target: redis.Redis) -> None:
        self.open_slot(slot, source, target)
        self.move_keys(slot, source, target)
        self.close_slot(slot, target)

    def migrates(self) -> bool:
        """Whether the servers can move slots by themselves: Redis 8.4 and Valkey 9 can."""
        told = b" ".join(self.clients[0].execute_command("CLUSTER", "HELP"))
        return b"MIGRATION" in told or b"MIGRATESLOTS" in told

    def migrate_slot(self, slot: int, source: redis.Redis, target: redis.Redis) -> None:
        """Let the servers move a slot: all of its keys at one moment."""
        if "valkey_version" in source.info("server"):
            source.execute_command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", self.node_id(target))
        else:
            target.execute_command("CLUSTER", "MIGRATION", "IMPORT", slot, slot)
        port = target.connection_pool.connection_kwargs["port"]
        eventually(lambda: all(self._owners(client)[slot] == port for client in self.primaries()))

    def fail_over(self, number: int) -> None:
        """Kill a primary that has a replica, and wait until that has taken over."""
        self.nodes[number].stop(signal.SIGKILL)
        for client in self.clients:
            client.config_set("cluster-node-timeout", FAILOVER_AFTER_MS)
        eventually(lambda: len(self.primaries()) == PRIMARIES and self.ready())
        for client in self.clients:
            client.config_set("cluster-node-timeout", NODE_TIMEOUT_MS)

    def ready(self) -> bool:
        """Whether every running node says that all is well."""
        told = [client.execute_command("CLUSTER", "INFO") for client in self.clients]
        return all(b"cluster_state:ok" in text for text in told)


@contextlib.contextmanager
def start_cluster(directory: Path, *options: str, replicas: int = 0) -> Iterator[Cluster]:
    """Three primaries with a third of the slots each; replicas of the first primaries."""
    cluster = Cluster([])
    try:
        for number in range(PRIMARIES + replicas):
            port, bus = free_port(), free_port()
            own = directory / str(number)
            own.mkdir()
            arguments = ["--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout",
                         str(NODE_TIMEOUT_MS), "--repl-diskless-sync-delay", "0", *options]  # fmt: skip
            server = RedisServer(f"redis://127.0.0.1:{port}/0", port, own, arguments)
            server.start()
            cluster.nodes.append(server)
            cluster.buses.append(bus)
            cluster._clients.append(server.client())
        _join(cluster)
        for number in range(replicas):
            _replicate(cluster, number)
        yield cluster
    finally:
        for server in cluster.nodes:
            server.stop(signal.SIGKILL)


def _join(cluster: Cluster) -> None:
    clients = [node.client() for node in cluster.nodes]
    share = -(-SLOTS // PRIMARIES)
    for number, client in enumerate(clients):
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        if number < PRIMARIES:
            first = number * share
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, min(first + share, SLOTS) - 1)
    for number, node in enumerate(cluster.nodes[1:], 1):
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, cluster.buses[number])
    known = f"cluster_known_nodes:{len(clients)}".encode()
    eventually(
        lambda: all(
            b"cluster_state:ok" in (told := client.execute_command("CLUSTER", "INFO")) and known in told
            for client in clients
        )
    )


def _replicate(cluster: Cluster, number: int) -> None:
    primary, replica = (cluster.nodes[n].client() for n in (number, PRIMARIES + number))
    replica.execute_command("CLUSTER", "REPLICATE", cluster.node_id(primary))
    eventually(lambda: replica.info("replication").get("master_link_status") == "up")
