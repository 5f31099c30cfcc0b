"""The connections of one invocation, reused from view to view: opening one costs more than an unchanged view does.

A connection is kept if nothing is under way on it and it has no WATCH; any other is closed.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from reconcile.config.settings import Settings
from reconcile.errors import ConnectionLimit, ReconcileError, Unavailable
from reconcile.source import session as sessions
from reconcile.source.session import Session
from reconcile.stop import Stop
from reconcile.target.nodes import Nodes
from reconcile.target.opening import open_nodes

IDLE_MAX_S = 30.0
"""A connection that has been idle for longer may have been dropped by something in between."""


ATTEMPTS = 2
BELIEVED_S = 5.0
_C = TypeVar("_C")


class Connections:
    """Idle connections to both servers. Safe to use from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._refused = [_Refused(), _Refused()]
        """By Materialize, by Redis."""
        self._sessions: _Idle[Session] = _Idle()
        self._nodes: _Idle[_Servers] = _Idle()
        self._silent_until = 0.0
        """Redis did not take a lease back; monotonic time until which that is believed."""

    def session(self, stop: Stop) -> Session:
        """Return a session for exclusive use by a view. Raises AccessError, Unavailable, UsageError, Incomplete."""
        while (session := self._sessions.take()) is not None:
            if session.idle:
                session.serve(stop)
                return session
            session.close()
        return self._refused[0].unless_known(lambda: sessions.connect(self._settings.materialize, stop))

    def keep(self, session: Session) -> None:
        """Take back a session. Once its view is told to stop, a cancel request may still be on its way to it."""
        if session.idle and not session.stop.requested:
            self._sessions.put(session)
        else:
            session.close()

    def nodes(self, stop: Stop) -> Nodes:
        """Return connections to Redis for exclusive use by a view. Raises AccessError, Unavailable, UsageError,
        Incomplete.
        """
        while (servers := self._nodes.take()) is not None:
            if servers.renewed(stop, self._settings.redis.timeout_s):
                return servers.nodes
            servers.close()
        return self._refused[1].unless_known(lambda: open_nodes(self._settings.redis, stop))

    def keep_nodes(self, nodes: Nodes, stop: Stop) -> None:
        """Take back connections to Redis. stop: of their view, which may be severing them."""
        servers = _Servers(nodes)
        if stop.requested:
            servers.close()
        else:
            self._nodes.put(servers)

    def give_back(self, release: Callable[[], None]) -> None:
        """Give a lease back. Where Redis has just not taken another one it expires by itself: a hundred views need not
        each wait for that as they end, one after another."""
        if time.monotonic() < self._silent_until:
            return
        try:
            release()
        except ReconcileError:
            self._silent_until = time.monotonic() + BELIEVED_S

    def close(self) -> None:
        """Close all idle connections."""
        self._sessions.close()
        self._nodes.close()

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Refused:
    """Remembers a server that could not be reached twice in a row: a hundred views need not each wait for it."""

    def __init__(self) -> None:
        self._times = 0
        self._until = 0.0
        self._error: Unavailable | None = None

    def unless_known(self, connect: Callable[[], _C]) -> _C:
        """Return what `connect` returns. Raises its last error if that was recent and not the first."""
        error = self._error
        if error is not None and self._times >= ATTEMPTS and time.monotonic() < self._until:
            raise type(error)(error.message, hint=error.hint)
        try:
            connected = connect()
        except ConnectionLimit:
            raise
        except Unavailable as error:
            self._times, self._until, self._error = self._times + 1, time.monotonic() + BELIEVED_S, error
            raise
        self._times, self._error = 0, None
        return connected


class _Servers:
    """The connections of one target, between two views."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes

    def renewed(self, stop: Stop, timeout_s: float) -> bool:
        """Whether they are ready for another view: alive, and watching nothing."""
        with contextlib.suppress(ReconcileError):
            wires = self.nodes.opened()
            tickets = [wire.serve(stop, timeout_s).send([("UNWATCH",)]) for wire in wires]
            return [ticket.checked() for ticket in tickets] == [[b"OK"]] * len(wires)
        return False

    def close(self) -> None:
        """Close them."""
        for wire in self.nodes.opened():
            wire.close()


class _Closable(Protocol):
    def close(self) -> None: ...


_T = TypeVar("_T", bound=_Closable)


class _Idle(Generic[_T]):
    """A stack of idle connections: the last used is taken first, the others grow old and are closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: list[tuple[float, _T]] = []
        self._closed = False

    def take(self) -> _T | None:
        with self._lock:
            now, held = time.monotonic(), self._held
            old = [one for since, one in held if now - since > IDLE_MAX_S]
            self._held = [(since, one) for since, one in held if now - since <= IDLE_MAX_S]
            taken = self._held.pop()[1] if self._held else None
        for one in old:
            one.close()
        return taken

    def put(self, one: _T) -> None:
        with self._lock:
            if not self._closed:
                self._held.append((time.monotonic(), one))
                return
        one.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            held, self._held = self._held, []
        for _, one in held:
            one.close()
