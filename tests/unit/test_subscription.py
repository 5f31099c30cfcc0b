"""How long a subscription may be silent. The server is a list of lines behind a socket; nothing of ours is replaced."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg import pq

from reconcile.errors import Unavailable
from reconcile.source import frontiers
from reconcile.source import subscription as subscriptions
from reconcile.source.frontiers import SourceClock
from reconcile.source.subscription import Subscription
from reconcile.stop import Stop
from tests.support.mappings import string_mapping

MAPPING = string_mapping("SELECT key, value FROM v")
LIMIT = 1 << 20


def progress(time_ms: int) -> bytes:
    return f"{time_ms}\tt\t\\N\t\\N\t\\N\n".encode()


class Server:
    """libpq's side of a COPY OUT that stays open: gives the lines, then nothing more."""

    ssl_in_use = True

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self.socket = self._ours.fileno()
        self.lines: list[bytes] = []
        self.starting = False
        self.decrypted: list[bytes] = []
        """What TLS holds back: given by the next consume_input, and no socket tells of it."""

    def say(self, line: bytes) -> None:
        self.lines.append(line)
        self._theirs.send(b"!")

    def consume_input(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._ours.recv(1, socket.MSG_DONTWAIT)
        self.lines, self.decrypted = self.lines + self.decrypted, []

    def get_copy_data(self, _: int) -> tuple[int, memoryview]:
        if not self.lines:
            return 0, memoryview(b"")
        line = self.lines.pop(0)
        return len(line), memoryview(line)

    def flush(self) -> int:
        return 0

    def is_busy(self) -> bool:
        return self.starting

    def get_result(self) -> Any:
        return SimpleNamespace(status=pq.ExecStatus.COPY_OUT)

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


class Clock:
    """The monotonic one, moved by hand: a machine that stalls keeps no promise of a few tenths of a second."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (subscriptions, frontiers):
        monkeypatch.setattr(module, "time", made)
    return made


def subscribed(server: Server, as_of: int, read_timeout_s: float) -> Subscription:
    session: Any = SimpleNamespace(
        connection=SimpleNamespace(pgconn=server), stop=Stop(), view="v", read_timeout_s=read_timeout_s
    )
    told = SourceClock(time.time_ns() // 1_000_000, subscriptions.time.monotonic())
    return Subscription(session, MAPPING, told, 16, as_of, None)


def past() -> int:
    """A time a minute ago."""
    return time.time_ns() // 1_000_000 - 60_000


def test_the_first_progress_row_does_not_say_that_the_view_was_read(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It repeats AS OF and is sent before the server begins to read the view, which may take minutes."""
    monkeypatch.setattr(subscriptions, "PROGRESS_TIMEOUT_S", 0.1)
    as_of = past()
    subscription = subscribed(server, as_of, read_timeout_s=30.0)
    server.say(progress(as_of))
    assert not subscription.read(0.3, LIMIT)
    assert not subscription.read(0.3, LIMIT)
    server.say(progress(as_of + 1000))
    assert subscription.read(0.3, LIMIT)
    with pytest.raises(Unavailable, match=r"said nothing for 0.1 s, not even progress"):
        subscription.read(0.3, LIMIT)


def test_a_view_that_is_never_read_is_given_up(server: Server) -> None:
    """After read_timeout: the cluster lost its replicas, or never had enough memory."""
    subscription = subscribed(server, past(), read_timeout_s=0.1)
    server.say(progress(subscription.stream.as_of))
    with pytest.raises(Unavailable, match=r"said nothing for 0.1 s, not even progress"):
        subscription.read(0.3, LIMIT)


def test_an_update_says_that_the_view_was_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on progress has to come every second."""
    monkeypatch.setattr(subscriptions, "PROGRESS_TIMEOUT_S", 0.1)
    as_of = past()
    subscription = subscribed(server, as_of, read_timeout_s=30.0)
    server.say(f"{as_of + 5}\tf\t1\ta\t1\n".encode())
    with pytest.raises(Unavailable, match="said nothing"):
        subscription.read(0.3, LIMIT)


def test_progress_ahead_of_time_is_a_promise_of_silence(server: Server, clock: Clock) -> None:
    """A view WITH (REFRESH EVERY '1 hour') reports the time of its next refresh, and nothing until then."""
    subscription = subscribed(server, past(), read_timeout_s=600.0)
    server.say(progress(time.time_ns() // 1_000_000 + 3_600_000))
    assert subscription.read(0, LIMIT)
    for seconds in (3590, subscriptions.PROGRESS_TIMEOUT_S):
        clock.now_s += seconds
        assert not subscription.read(0, LIMIT)
    clock.now_s += 20
    with pytest.raises(Unavailable, match="said nothing"):
        subscription.read(0, LIMIT)


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_silence_is_noticed_whatever_the_clock_of_this_host_says(
    seconds: int, server: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is an hour behind would take progress for a promise, and one ahead a promise for silence."""
    subscription = subscribed(server, past(), read_timeout_s=600.0)
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + seconds)
    monkeypatch.setattr(time, "time_ns", lambda: int((now_s + seconds) * 1e9))
    server.say(progress(int((now_s + 100) * 1000)))
    assert subscription.read(0, LIMIT)
    for wait_s in (90, subscriptions.PROGRESS_TIMEOUT_S):
        clock.now_s += wait_s
        assert not subscription.read(0, LIMIT)
    clock.now_s += 20
    with pytest.raises(Unavailable, match="said nothing"):
        subscription.read(0, LIMIT)


def test_what_tls_holds_back_is_asked_for(server: Server) -> None:
    """The end of a large record waits in the TLS layer, where select does not see it: found with psycopg 3.3.2."""
    as_of = past()
    subscription = subscribed(server, as_of, read_timeout_s=30.0)
    server.decrypted = [progress(as_of + 1000)]
    assert subscription.read(0.1, LIMIT)
    server.decrypted = [progress(as_of + 2000)]
    assert subscription.read(0.1, LIMIT)
    assert subscription.stream.frontier == as_of + 2000
