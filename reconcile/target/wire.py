"""One connection to Redis, in order, that never repeats anything by itself.

    send(A) ─ send(B) ─ B.replies() reads A's replies, keeps them in A's ticket, then reads its own

So a scan may have a page under way while values are looked up and a transaction is sent on the same connection. That
one connection is the proof that what was read and what is written belong to one server (docs/adr/0014).

redis-py's client replays a MULTI that timed out, and reports WatchError for one that was applied (docs/adr/0004). So
we use its Connection (address, TLS, authentication, RESP parsing) and do our own sending: every command is sent once,
and when the answer does not come the caller learns that the outcome is unknown.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from hiredis import pack_command
from redis.connection import Connection
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError

from reconcile.config.settings import RedisSettings
from reconcile.errors import Incomplete, ReconcileError, Unavailable, UsageError
from reconcile.stop import Stop
from reconcile.target.address import new_connection
from reconcile.target.translation import ELSEWHERE, checked, translate

Arg = bytes | str | int
Command = tuple[Arg, ...]

NAME: Command = ("CLIENT", "SETNAME", "reconcile")
"""For those who look at CLIENT LIST."""


class Ticket:
    """Replies to come of commands that were sent together."""

    __slots__ = ("_replies", "_wire", "count", "transaction")

    def __init__(self, wire: Wire, count: int, *, transaction: bool) -> None:
        self._wire = wire
        self.count = count
        self.transaction = transaction
        self._replies: list[Any] | None = None

    @property
    def arrived(self) -> bool:
        """Whether the replies are here already."""
        return self._replies is not None

    def replies(self) -> list[Any]:
        """All replies, error replies in place; waits for them. Call it once: they are let go of."""
        if self._replies is None:
            self._wire.read_until(self)
        replies, self._replies = self._replies, []
        assert replies is not None
        return replies

    def checked(self) -> list[Any]:
        """All replies. Raises the first error among them, translated."""
        return checked(self.replies())

    def take(self, replies: list[Any]) -> None:
        """The wire has read them."""
        self._replies = replies


class Wire:
    """A Redis connection for one thread. Use `dial`."""

    def __init__(self, connection: Connection, stop: Stop, *, node: bool = False) -> None:
        """node: it is one of a cluster's, where a redirection is no answer."""
        self._connection = connection
        self._stop = stop
        self.user: str = connection.username or "default"
        """As Redis knows us, for messages."""
        self._node = node
        self._under_way: deque[Ticket] = deque()
        self.broken = False
        """It failed once: never used again. redis-py would connect anew, without our WATCH and past every bound."""
        self.round_trips = 0
        self.commands = 0
        self.bytes_sent = 0

    def call(self, *command: Arg) -> Any:
        """One command, one answer. Raises a translated error."""
        return self.send([command]).checked()[0]

    def send(self, commands: Sequence[Command], *, transaction: bool = False) -> Ticket:
        """Send without waiting for the answers. transaction: they write, so an error has to say that none came."""
        packed = [pack_command(command) for command in commands]  # type: ignore[arg-type]
        self.commands += len(commands)
        self.bytes_sent += sum(map(len, packed))
        ticket = Ticket(self, len(commands), transaction=transaction)
        self._under_way.append(ticket)
        with self._in_use():
            self._connection.send_packed_command(packed)  # type: ignore[no-untyped-call]
        return ticket

    def read_until(self, ticket: Ticket) -> None:
        """Read the replies of every ticket up to this one; each keeps its own."""
        self.round_trips += 1
        with self._in_use():
            while not ticket.arrived:
                first = self._under_way[0]
                first.take([self._read() for _ in range(first.count)])
                self._under_way.popleft()

    def _read(self) -> Any:
        try:
            return self._connection.read_response(disable_decoding=True)
        except (BusyLoadingError, AuthenticationError) as error:  # connection errors by type, replies by nature
            return error
        except ResponseError as error:
            if self._node and type(error) in ELSEWHERE:  # the caller's picture of the cluster is old
                raise _moved(error) from error
            return error

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """What fails inside breaks the connection. While the run ends that is no news: it becomes Incomplete."""
        if self.broken:
            raise Unavailable("the connection to Redis is lost", hint="the next run makes a new one")
        try:
            yield
        except ReconcileError as error:
            self.broken = True
            raise self._with_outcome(error) from error.__cause__
        except (RedisError, OSError, ValueError, AttributeError, IndexError) as error:  # the last ones: severed
            self.broken = True
            raise self._with_outcome(self._lost(error)) from error

    def _lost(self, error: Exception) -> ReconcileError:
        if not self._stop.requested:
            return translate(error)
        return Incomplete(
            f"stopped ({self._stop.reason}) while waiting for Redis; what was committed stays",
            hint="the next run goes on from the checkpoint",
        )

    def _with_outcome(self, error: ReconcileError) -> ReconcileError:
        """Whatever broke the connection, a write or a read: a transaction that was under way may have been applied."""
        if any(ticket.transaction for ticket in self._under_way):
            error.message += " (the outcome of the last transaction is unknown; the next run finds out)"
        return error

    def ready(self) -> bool:
        """Whether something can be read without waiting."""
        with self._in_use():
            return bool(self._connection.can_read(0))

    def fileno(self) -> int:
        """Of the socket."""
        with self._in_use():
            return int(self._connection._sock.fileno())  # type: ignore[attr-defined]

    def serve(self, stop: Stop, timeout_s: float) -> Wire:
        """Be another view's from now on. Answers that nobody waited for are none of its business: then it is broken."""
        self._stop = stop
        self.broken = self.broken or bool(self._under_way)
        self.answer_within(timeout_s)
        return self

    def answer_within(self, seconds: float) -> None:
        """From now on no answer is waited for longer."""
        with contextlib.suppress(Exception):
            self._connection._sock.settimeout(seconds)  # type: ignore[attr-defined]

    def sever(self) -> None:
        """Shut the socket from another thread; whoever waits on it gets an error.

        The socket below TLS: shutting an SSLSocket first takes its encryption away, from under a thread that writes.
        """
        with contextlib.suppress(Exception):
            number = os.dup(self._connection._sock.fileno())  # type: ignore[attr-defined]
            with socket.socket(fileno=number) as duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up; a connection that is broken already is fine."""
        with contextlib.suppress(RedisError, OSError):
            self._connection.disconnect()  # type: ignore[no-untyped-call]


def dial(settings: RedisSettings, stop: Stop, *, node: bool = False) -> Wire:
    """Open a connection to one server. Raises AccessError, UsageError (no such database), Unavailable."""
    stop.check()
    connection = new_connection(settings)
    wire = Wire(connection, stop, node=node)

    def connected() -> Wire:
        connection.connect()  # type: ignore[no-untyped-call]
        connection.send_packed_command([pack_command(NAME)])  # type: ignore[no-untyped-call,arg-type]
        try:
            connection.read_response()
        except ResponseError as error:  # the first reply we get; a server may well lack CLIENT
            if str(error).startswith("DENIED"):
                raise
        return wire

    try:
        # Name lookup, TCP, TLS, authentication: all of it within the limit, whatever each of them would wait for.
        stop.abandonable(connected, Wire.close, settings.connect_timeout_s)
    except (RedisError, OSError, TypeError, ValueError) as error:  # the last two: a key without certificate
        raise _not_connected(error, connection, settings, stop) from error
    return wire


def _moved(error: Exception) -> Unavailable:
    return Unavailable(
        f"slots of the Redis Cluster are being moved, or a node is down: {ELSEWHERE[type(error)]} {error}",
        hint="the next run asks where they are; reconcile doctor shows the cluster",
    )


def _not_connected(error: Exception, connection: Connection, settings: RedisSettings, stop: Stop) -> Exception:
    """What it means that connecting failed."""
    translated: Exception = translate(error)
    if isinstance(error, builtins.TimeoutError):
        translated = Unavailable(
            f"Redis did not answer within {settings.connect_timeout_s:g} s of connecting",
            hint="is it reachable from here? redis.connect_timeout",
        )
    if not isinstance(translated, Unavailable) or isinstance(error, BusyLoadingError):
        return translated
    from reconcile.target import tls  # only those whose connection fails pay for it

    def reason() -> UsageError | None:
        return tls.reason(error, connection)

    try:
        return stop.abandonable(reason, lambda _: None, 3 * tls.PROBE_S) or translated
    except builtins.TimeoutError:
        return translated
