"""A primary, a replica and three Sentinels on this machine, with a failover on demand."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.support.meanwhile import eventually
from tests.support.redis_servers import RedisServer, free_port, server_binary

MASTER = "cache"
OUTDATED = "outdated"
"""What the Sentinels take for a primary, though it is the replica."""
SENTINELS = 3
PATIENT_MS = 600_000
"""On a busy machine a server may get no time for a while, and is not to be taken for dead."""
DOWN_MS = 700
"""The same once it is dead."""


@dataclass
class Watched:
    """servers: a primary and its replica; sentinels: ports of those who watch them."""

    servers: list[RedisServer]
    sentinels: list[int]

    @property
    def primary(self) -> redis.Redis:
        """Whom the Sentinels name."""
        host, port = self._sentinel(self.sentinels[-1]).execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)  # type: ignore[no-untyped-call]
        return redis.Redis(host.decode(), int(port))

    def _sentinel(self, port: int) -> redis.Redis:
        return redis.Redis(port=port)

    def name_outdated(self) -> None:
        """From now on the Sentinels know OUTDATED too. Not before: after a failover they would make the new primary the
        replica of the one they take for OUTDATED."""
        address = ("127.0.0.1", self.servers[1].port, 2)
        for port in self.sentinels:
            self._sentinel(port).execute_command("SENTINEL", "MONITOR", OUTDATED, *address)  # type: ignore[no-untyped-call]
            self._sentinel(port).execute_command(  # type: ignore[no-untyped-call]
                "SENTINEL", "SET", OUTDATED, "down-after-milliseconds", PATIENT_MS
            )

    def fail_over(self) -> None:
        """Kill the primary, and wait until all Sentinels name the other."""
        old, new = self.servers
        old.stop(signal.SIGKILL)
        for port in self.sentinels:
            self._sentinel(port).execute_command("SENTINEL", "SET", MASTER, "down-after-milliseconds", DOWN_MS)  # type: ignore[no-untyped-call]
        command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        eventually(
            lambda: (
                all(
                    int(self._sentinel(port).execute_command(*command)[1]) == new.port  # type: ignore[no-untyped-call]
                    for port in self.sentinels
                )
                and new.client().execute_command("ROLE")[0] == b"master"
            )
        )

    def rejoin(self) -> None:
        """After a failover the old primary comes back as the replica of the new one, and all are patient again."""
        self.servers.reverse()
        new, old = self.servers
        old.options = ["--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1", str(new.port)]
        old.start()
        eventually(lambda: old.client().info("replication").get("master_link_status") == "up")
        for port in self.sentinels:
            self._sentinel(port).execute_command("SENTINEL", "SET", MASTER, "down-after-milliseconds", PATIENT_MS)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def start_watched(directory: Path) -> Iterator[Watched]:
    """Started, replicating, and known to each other."""
    servers: list[RedisServer] = []
    watchers: list[subprocess.Popen[bytes]] = []
    ports: list[int] = []
    try:
        for name in ("one", "two"):
            port = free_port()
            own = directory / name
            own.mkdir()
            options = ["--repl-diskless-sync-delay", "0"]
            options += ["--replicaof", "127.0.0.1", str(servers[0].port)] if servers else []
            servers.append(RedisServer(f"redis://127.0.0.1:{port}/0", port, own, options))
            servers[-1].start()
        eventually(lambda: servers[1].client().info("replication").get("master_link_status") == "up")
        for number in range(SENTINELS):
            ports.append(free_port())
            file = directory / f"sentinel{number}.conf"
            file.write_text(
                f"port {ports[-1]}\nbind 127.0.0.1\ndir {directory}\n"
                f"sentinel monitor {MASTER} 127.0.0.1 {servers[0].port} 2\n"
                f"sentinel down-after-milliseconds {MASTER} {PATIENT_MS}\n"
                f"sentinel failover-timeout {MASTER} 3000\n"
            )
            with (directory / "sentinels.log").open("ab") as log:
                command = [server_binary(), str(file), "--sentinel"]
                watchers.append(subprocess.Popen(command, stdout=log, stderr=log))
        eventually(lambda: all(_sees_all(port) for port in ports))
        yield Watched(servers, ports)
    finally:
        for watcher in watchers:
            watcher.kill()
            watcher.wait(20)
        for server in servers:
            server.stop(signal.SIGKILL)


def _sees_all(port: int) -> bool:
    try:
        told = redis.Redis(port=port).execute_command("SENTINEL", "MASTER", MASTER)  # type: ignore[no-untyped-call]
    except redis.RedisError:
        return False
    fields = told if isinstance(told, dict) else dict(zip(told[::2], told[1::2], strict=True))
    fields = {str(name): value for name, value in fields.items()}

    def number(name: str) -> int:
        return int(fields.get(name, fields.get(f"b'{name}'", 0)))

    return number("num-other-sentinels") == SENTINELS - 1 and number("num-slaves") == 1
