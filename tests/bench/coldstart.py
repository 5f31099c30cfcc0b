"""From the start of the process to its first bytes to Redis and its first statement to Materialize."""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from statistics import median

from psycopg.conninfo import conninfo_to_dict

from reconcile_standin import StandIn
from tests.bench.measure import BenchError
from tests.bench.world import PLAIN, World, conninfo_port, with_port
from tests.support.command import PROGRAM

STARTS = 7
STATEMENT = (b"Q", b"P")


class Tap:
    """Forwards one connection after another to a server, and notes when the first chunk of interest passed.

    until: what such a chunk begins with; then both sides are hung up on. Empty: the first bytes, and it goes on.
    """

    def __init__(self, host: str, port: int, until: tuple[bytes, ...] = ()) -> None:
        self._address = (host, port)
        self._until = until
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.moment: float | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._address) as server, contextlib.suppress(OSError):
            other = {client: server, server: client}
            for one in other:  # else a second small chunk waits 40 ms for the first one's acknowledgement
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    chunk = ready.recv(1 << 16)
                    if not chunk:
                        return
                    if ready is client and self.moment is None and (not self._until or chunk.startswith(self._until)):
                        self.moment = time.monotonic()
                        if self._until:
                            return
                    other[ready].sendall(chunk)

    def close(self) -> None:
        """Accept no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def measure_cold_start(world: World) -> None:
    """Interleaved with the units: importing the drivers, and an interpreter that does nothing."""
    found: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        found.setdefault(name, []).append(seconds)

    imports = [sys.executable, "-c", "import psycopg, redis"]
    with _unencrypted(world) as url:
        for _ in range(world.few(STARTS)):
            note("python", world.launcher.run([sys.executable, "-c", "pass"]).seconds)
            note("imports", world.launcher.run(imports).seconds)
            redis_s, statement_s = _first_statement(world, url)
            note("first_redis_bytes", redis_s)
            note("first_statement", statement_s)
            note("imports", world.launcher.run(imports).seconds)
            note("help", world.launcher.run([PROGRAM, "--help"]).seconds)
    world.results.cold |= {name: median(values) for name, values in found.items()}
    world.results.cold["ratio"] = median(
        first / ((before + after) / 2)
        for first, before, after in zip(
            found["first_statement"], found["imports"][::2], found["imports"][1::2], strict=True
        )
    )


@contextlib.contextmanager
def _unencrypted(world: World) -> Iterator[str]:
    """Statements must be readable in passing: a stand-in stands in for a real Materialize behind TLS."""
    if world.source.is_standin:
        yield world.source.url
        return
    with StandIn(port=0) as standin:
        yield standin.url


def _first_statement(world: World, url: str) -> tuple[float, float]:
    """A dry run takes no lease, so it may be cut off."""
    parts = conninfo_to_dict(url)
    source = Tap(str(parts["host"]), int(parts["port"] or 6875), STATEMENT)
    target = Tap("127.0.0.1", int(conninfo_port(world.redis_urls[PLAIN])))
    world.configure("tapped", with_port(url, source.port), f"redis://127.0.0.1:{target.port}/0")
    sample = world.launcher.run(world.command("tapped", "run", "--dry-run"), expect=None)
    source.close()
    target.close()
    if source.moment is None or target.moment is None:
        raise BenchError(f"no statement was seen: {sample.out}")
    return target.moment - sample.started, source.moment - sample.started
