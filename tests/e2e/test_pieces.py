"""What nobody needs to see at once is written in small transactions: Redis' other clients hardly wait for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from reconcile.target.layouts.string import Strings
from reconcile.target.throttle import FEW, FEW_PER_S, LOOK_EVERY_KEYS, MOST_PIECES
from tests.support.command import Command
from tests.support.meanwhile import LONGEST_S, beside
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import owned, prefixed
from tests.support.sources import Source

ROWS = 3_000


class Watched:
    """How many keys each transaction wrote or deleted, as Redis saw it."""

    def __init__(self, server: RedisServer) -> None:
        self.keys: list[int] = []
        self.heard = 0
        """Commands of another client since the run last looked."""
        self.looked_at: float | None = None
        self.silent_from: int | None = None
        """Number of the first transaction that may take it for gone: it came too seldom between two looks."""
        self._client = server.client()
        self._monitor = self._client.monitor()
        self._monitor.__enter__()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        keys = 0
        for told in self._monitor.listen():
            name, *arguments = told["command"].split(" ")
            if name == "ECHO":
                return
            if (name, arguments) == ("INFO", ["commandstats"]):
                self._look(told["time"])
            self.heard += (name, arguments) == ("GET", ["other"])
            keys += {"MSET": len(arguments) // 2, "MSETNX": len(arguments) // 2, "UNLINK": len(arguments)}.get(name, 0)
            if name == "EXEC":
                self.keys.append(keys)
                keys = 0

    def done(self) -> list[int]:
        """Of the transactions that had keys."""
        self._client.echo("done")
        self._thread.join(LONGEST_S)
        assert not self._thread.is_alive()
        return [keys for keys in self.keys if keys]

    def _look(self, at: float) -> None:
        if self.looked_at is not None and self.heard <= FEW + FEW_PER_S * (at - self.looked_at) + 1:
            self.silent_from = len(self.keys) if self.silent_from is None else self.silent_from
        self.looked_at, self.heard = at, 0

    def while_heard(self) -> list[int]:
        """Those in which the other client was to be spared: how often it gets its turn is the machine's affair."""
        return self.keys[: self.silent_from]


def another_client(server: RedisServer) -> AbstractContextManager[None]:
    """Another client that reads a few keys every 5 ms, as long as it gets its turn."""

    def read(over: threading.Event) -> None:
        client = server.client()
        while not over.wait(0.005):
            with client.pipeline(transaction=False) as pipeline:
                for _ in range(10):
                    pipeline.get("other")
                pipeline.execute()

    return beside(read)


@pytest.fixture
def rows(source: Source) -> Iterator[Source]:
    source.execute(f"INSERT INTO t SELECT 'key' || n, 'v' || n FROM generate_series(1, {ROWS}) AS n")
    return source


def test_a_first_load(rows: Source, redis_server: RedisServer, command: Command) -> None:
    """Small transactions from the first row to the last."""
    watched = Watched(redis_server)
    with another_client(redis_server):
        command("run")
    seen = watched.done()
    assert sum(seen) == ROWS
    assert max(watched.while_heard(), default=0) <= Strings.piece_keys
    assert owned(redis_server.client()) == prefixed(rows.content())


@pytest.mark.parametrize("mode", ["delta", "snapshot"])
def test_a_change_that_does_not_fit(mode: str, rows: Source, redis_server: RedisServer, command: Command) -> None:
    """Once the state is pending there is nothing to gain from large transactions, for deletes either."""
    if mode == "delta":
        rows.execute("ALTER MATERIALIZED VIEW v SET (RETAIN HISTORY FOR '1h')")
    command.config["limits"] = {"batch_max_keys": 1_000}
    command("run")
    rows.execute("DELETE FROM t WHERE length(value) > 4")
    rows.execute("UPDATE t SET value = value || '!'")
    watched = Watched(redis_server)
    with another_client(redis_server):
        assert command("run" if mode == "delta" else mode, "--allow-deletes").view["action"] == mode
    seen = watched.done()
    assert sum(seen) >= ROWS
    assert max(watched.while_heard(), default=0) <= Strings.piece_keys
    assert owned(redis_server.client()) == prefixed(rows.content())


def test_a_load_beside_a_reader(source: Source, redis_server: RedisServer, command: Command) -> None:
    """However long it takes. Of so few rows it never asks how far away Redis is, which a slow machine can make it."""
    rows = LOOK_EVERY_KEYS - 100
    source.execute(f"INSERT INTO t SELECT 'key' || n, 'v' || n FROM generate_series(1, {rows}) AS n")
    command.config["limits"] = {"writes_per_second": 3_000}
    watched = Watched(redis_server)
    with another_client(redis_server):
        command("run")
    assert sum(watched.done()) == rows
    assert max(watched.while_heard(), default=0) <= Strings.piece_keys


def test_large_pieces_while_redis_serves_nobody_else(
    source: Source, redis_server: RedisServer, command: Command
) -> None:
    """There is nobody to spare then, and round trips cost time. The rate makes the load last until that is known."""
    source.execute("INSERT INTO t SELECT 'key' || n, 'v' || n FROM generate_series(1, 100000) AS n")
    command.config["limits"] = {"writes_per_second": 80_000}
    watched = Watched(redis_server)
    command("run")
    assert max(watched.done()) == MOST_PIECES * Strings.piece_keys


def test_a_change_that_fits(rows: Source, redis_server: RedisServer, command: Command) -> None:
    """Readers see it at once, however many keys that are."""
    command("run")
    rows.execute("UPDATE t SET value = value || '!'")
    watched = Watched(redis_server)
    command("snapshot", "--deep")
    assert watched.done() == [ROWS]
