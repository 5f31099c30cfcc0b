"""A TCP proxy on the loopback that breaks connections on purpose, at exact bytes.

up     client → server          down     server → client

cut         every connection is closed in order (FIN both ways); new ones are served
reset       the same with RST
half_close  the receiver of that direction sees the end of the stream, the other direction goes on
black_hole  everything is accepted and acknowledged, nothing is forwarded, new connections included, until `heal`
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

Direction = Literal["up", "down"]
Action = Literal["cut", "reset", "half_close", "black_hole"]

_SMALL_BUFFER = 8192


@dataclass
class Fault:
    """What happens once exactly `after` bytes have passed in one direction, all connections together."""

    direction: Direction
    after: int
    action: Action


@dataclass
class Trigger:
    """A text to look for in what clients send; then `seen` is set, and the direction `then` names is affected."""

    marker: bytes
    then: Action | None = None
    after: Trigger | None = None
    """Looked for only once that one was seen."""
    tell: Callable[[], None] = field(default=lambda: None)
    """Called before anything more is forwarded."""
    seen: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False)
class _Link:
    client: socket.socket
    server: socket.socket | None

    def sockets(self) -> list[socket.socket]:
        return [self.client] if self.server is None else [self.client, self.server]


class Proxy:
    """Stands before one server. A context manager; `port` is where clients connect to."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._fault: Fault | None = None
        self._triggers: list[Trigger] = []
        self._dead = False
        self._refusing = False
        self.delay_s = 0.0
        """Added to every piece that passes."""
        self.down_bytes_per_s: int | None = None
        """Answers pass no faster than this."""
        self.up_bytes_per_s: int | None = None
        """Neither do requests."""
        self.fired = False
        self.passed: dict[Direction, int] = {"up": 0, "down": 0}
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="proxy-accept", daemon=True).start()

    # -- what tests ask for --------------------------------------------------------------------------------------

    def arm(self, fault: Fault) -> None:
        """Count from zero, and let the fault happen."""
        self.heal()
        self._fault = fault

    def on(
        self, marker: bytes, then: Action | None = None, after: Trigger | None = None,
        tell: Callable[[], None] = lambda: None,
    ) -> Trigger:  # fmt: skip
        """Look for a text in what clients send. then: what happens to the answers once it has been forwarded whole."""
        trigger = Trigger(marker, then, after, tell)
        with self._lock:
            self._triggers.append(trigger)
        return trigger

    def black_hole(self) -> None:
        """From now on nothing is forwarded."""
        self._dead = True

    def refuse(self) -> None:
        """Cut everything, and every connection made from now on."""
        self._refusing = True
        self.cut()

    def cut(self, *, reset: bool = False) -> None:
        """Close every connection there is."""
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            _close(link, reset=reset)

    def heal(self) -> None:
        """Start over: no fault, counters at zero, old connections gone."""
        self.cut()
        with self._lock:
            self._fault, self._dead, self._refusing, self.fired = None, False, False, False
            self._triggers = []
            self.passed = {"up": 0, "down": 0}
            self.connections = 0
            self.delay_s, self.down_bytes_per_s, self.up_bytes_per_s = 0.0, None, None

    def close(self) -> None:
        """Stop serving."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- serving -------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), name="proxy", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self._refusing:
            _close(_Link(client, None), reset=True)
            return
        link = _Link(client, None)
        with self._lock:
            self._links.add(link)
        if self._dead:
            self._swallow(client)
            return
        try:
            server = socket.socket()
            if self.down_bytes_per_s is not None:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SMALL_BUFFER)
            link.server = server
            server.connect(self._target)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            _close(link, reset=True)
            return
        threading.Thread(target=self._pump, args=(link, server, client, "down"), name="proxy", daemon=True).start()
        self._pump(link, client, server, "up")

    def _pump(self, link: _Link, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        tail = b""
        try:
            while data := source.recv(65536 if self._rate(direction) is None else 4096):
                if self.delay_s:
                    time.sleep(self.delay_s)
                if rate := self._rate(direction):
                    time.sleep(len(data) / rate)
                head, action = self._admitted(data, direction)
                if head:
                    if direction == "up":
                        tail = self._look(tail, head)
                    sink.sendall(head)
                if action is not None:
                    self._act(action, sink)
            if not self._dead:
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_RDWR)

    def _rate(self, direction: Direction) -> int | None:
        return self.up_bytes_per_s if direction == "up" else self.down_bytes_per_s

    def _admitted(self, data: bytes, direction: Direction) -> tuple[bytes, Action | None]:
        """What of the data may pass, and what happens after it."""
        with self._lock:
            if self._dead:
                return b"", None
            fault = self._fault
            if fault is None or fault.direction != direction or self.passed[direction] + len(data) < fault.after:
                self.passed[direction] += len(data)
                return data, None
            head = data[: fault.after - self.passed[direction]]
            self.passed[direction] += len(head)
            self._fault = None
            if fault.action == "black_hole":
                self._dead = True
            return head, fault.action

    def _look(self, tail: bytes, data: bytes) -> bytes:
        """Find triggers, in pieces too; what a trigger does to the answers is in place before the text is forwarded."""
        window = tail + data
        for trigger in list(self._triggers):
            ready = trigger.after is None or trigger.after.seen.is_set()
            if ready and not trigger.seen.is_set() and trigger.marker in window:
                if trigger.then is not None:
                    self._fault = Fault("down", self.passed["down"], trigger.then)
                trigger.tell()
                trigger.seen.set()
        return window[-200:]

    def _act(self, action: Action, sink: socket.socket) -> None:
        self.fired = True
        if action == "half_close":
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
        elif action != "black_hole":
            self.cut(reset=action == "reset")

    @staticmethod
    def _swallow(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while client.recv(65536):
                pass


def _close(link: _Link, *, reset: bool) -> None:
    for sock in link.sockets():
        with contextlib.suppress(OSError):
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.shutdown(socket.SHUT_RD)  # wakes the thread that reads it: close() alone would not
            else:
                sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            sock.close()
