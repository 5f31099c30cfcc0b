"""One connection to Redis. Commands travel in order, and nothing is ever repeated.

    send(A) ─ send(B) ─ B.replies() reads A's replies, keeps them in A's ticket, then reads its own

So a page of a scan may be under way while values are read and a transaction is sent on the same connection. That it is
one connection proves that what was read and what is written belong to one server (docs/adr/0014).

redis-py's client replays a MULTI that timed out, and reports WatchError for one that was applied (docs/adr/0004). So we
use only its Connection (address, TLS, authentication, RESP parsing) and send by ourselves: every command once. When no
answer comes, the error says that the outcome is unknown.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import select
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from hiredis import pack_command
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.connection import Connection
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError

from reconcile.config.settings import RedisSettings
from reconcile.errors import Incomplete, ReconcileError, Unavailable, UsageError
from reconcile.stop import Stop
from reconcile.target import packing
from reconcile.target.address import new_connection
from reconcile.target.packing import Arg, Command, Some
from reconcile.target.translation import ELSEWHERE, all_well, checked, named, of_node, readable, translate

_REFUSALS = (ResponseError, BusyLoadingError, AuthenticationError)
"""The last two are connection errors to redis-py, but really replies."""

SMALLEST_LIMIT_BYTES = 1 << 20
"""Redis allows no lower client-query-buffer-limit; it closes the connection of a client that exceeds it, unanswered."""

IDLE_S = 0.5
"""After this long a PING keeps the connection in use. A run that waits for its source may have nothing to say for
minutes, while proxies hang up on those who are silent, and so does Redis (`timeout`) after as little as a second."""

NAME: Command = ("CLIENT", "SETNAME", "reconcile")
"""So that CLIENT LIST shows whose connection it is."""


class Ticket:
    """The replies to come for commands that were sent together."""

    __slots__ = ("_replies", "_wire", "count", "size_bytes", "transaction")

    def __init__(self, wire: Wire, count: int, *, transaction: bool) -> None:
        self._wire = wire
        self.count = count
        self.size_bytes = 0
        """Of the commands sent so far."""
        self.transaction = transaction
        self._replies: list[Any] | None = None

    @property
    def arrived(self) -> bool:
        """Whether the replies have been read."""
        return self._replies is not None

    def replies(self) -> list[Any]:
        """Wait for all replies; errors are among them. Call it once: the ticket does not keep them."""
        if self._replies is None:
            self._wire.read_until(self)
        replies, self._replies = self._replies, []
        assert replies is not None
        return replies

    def checked(self) -> list[Any]:
        """Wait for all replies; raises the first error among them, translated."""
        return checked(self.replies())

    def readable(self) -> list[Any]:
        """Return the replies, errors of keys of another type among them; raises the first other error, translated."""
        return readable(self.replies())

    def take(self, replies: list[Any]) -> None:
        """Keep the replies that the wire has read."""
        self._replies = replies


class Wire:
    """A Redis connection for one thread, but for `sever` and `stay`. Made by `dial`."""

    def __init__(self, connection: Connection, stop: Stop, *, node: bool = False) -> None:
        """node: the server belongs to a cluster, so a redirection means that slots have moved."""
        self._connection = connection
        self._stop = stop
        self.user: str = connection.username or "default"
        """Our user in Redis, for messages."""
        self.host: str = connection.host if node else ""
        self.node = f"{connection.host}:{connection.port}" if node else ""
        """Its address, for messages; empty outside a cluster."""
        self._under_way: deque[Ticket] = deque()
        self.broken = False
        """Set when it failed; then it is never used again. redis-py would reconnect, without our WATCH and bounds."""
        self.round_trips = 0
        self.kinds: Counter[Arg] = Counter()
        """How many commands of each kind were sent, by name."""
        self.bytes_sent = 0
        self._sent_at = time.monotonic()
        self._lock = threading.RLock()

    def call(self, *command: Arg) -> Any:
        """Send one command and wait for its reply. Raises a translated error."""
        return self.send([command]).checked()[0]

    def send(self, commands: Sequence[Some], *, transaction: bool = False) -> Ticket:
        """Send commands without waiting. transaction: they write, so a lost connection leaves the outcome unknown."""
        kinds = packing.kinds_of(commands)
        ticket = Ticket(self, kinds.total(), transaction=transaction)
        with self._lock:
            self.kinds.update(kinds)
            self._under_way.append(ticket)
            with self._in_use():
                self._connection.send_packed_command(self._packed(commands, ticket))  # type: ignore[no-untyped-call]
            self._sent_at = time.monotonic()
        return ticket

    def _packed(self, commands: Iterable[Some], ticket: Ticket) -> Iterator[bytes]:
        """Yield commands as bytes, in buffers of up to JOIN_BYTES: redis-py spends a system call and a packet on each.

        Redis receives the first while the next are packed.
        """
        for buffer in packing.packed(commands):
            ticket.size_bytes += len(buffer)
            self.bytes_sent += len(buffer)
            yield buffer

    def stay(self) -> None:
        """Send a PING if nothing was sent for IDLE_S. From any thread, without waiting; its reply is read before the
        next one."""
        if time.monotonic() - self._sent_at < IDLE_S or not self._lock.acquire(blocking=False):
            return
        try:
            with contextlib.suppress(Exception):  # whoever uses it next is told that it is broken
                if not self.broken and _takes_more(self._connection._sock):  # type: ignore[arg-type]
                    self.send([("PING",)])
        finally:
            self._lock.release()

    def read_until(self, ticket: Ticket) -> None:
        """Read the replies of every ticket up to this one, and give each its own."""
        self.round_trips += 1
        with self._in_use():
            while not ticket.arrived:
                first = self._under_way[0]
                first.take(self._read(first.count))
                self._under_way.popleft()

    def _read(self, count: int) -> list[Any]:
        """Wait for so many replies. Those that have come together with another are taken from the parser itself:
        redis-py takes 1.6 µs for each, this 0.1."""
        replies: list[Any] = []
        while len(replies) < count:
            replies.append(self._wait())
            parser = self._connection._parser._reader
            if parser is None:  # redis-py hangs up on a server that loads its file
                continue
            come = list(islice(iter(parser.gets, NOT_ENOUGH_DATA), count - len(replies)))
            replies += come if all_well(come) else map(self._told, come)
        return replies

    def _wait(self) -> Any:
        try:
            return self._connection.read_response(disable_decoding=True)
        except _REFUSALS as error:
            return self._told(error)

    def _told(self, reply: Any) -> Any:
        """Return a reply, an error too if it is one. Raises those that end the connection."""
        if not isinstance(reply, Exception):
            return reply
        if self.node and type(reply) in ELSEWHERE:  # slots have moved since the caller looked
            raise _moved(reply) from reply
        if isinstance(reply, _REFUSALS):
            return of_node(reply, self.node)
        raise reply

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """Mark the connection broken if an error occurs inside. While the run is being stopped, that is Incomplete."""
        if self.broken:
            raise Unavailable("the connection to Redis is lost", hint="the next run opens a new one")
        try:
            with self._lock:
                yield
        except ReconcileError as error:
            self.broken = True
            raise self._with_outcome(error) from error.__cause__
        except (RedisError, OSError, ValueError, AttributeError, IndexError) as error:  # the last three: severed
            self.broken = True
            raise self._with_outcome(self._lost(error)) from error

    def _lost(self, error: Exception) -> ReconcileError:
        if not self._stop.requested:
            lost = translate(of_node(error, self.node))
            under_way_bytes = sum(ticket.size_bytes for ticket in self._under_way)
            if isinstance(lost, Unavailable) and under_way_bytes > SMALLEST_LIMIT_BYTES:
                lost.hint = (
                    f"is it running? It may also take less at a time than the {under_way_bytes / 1e6:.1f} MB under way "
                    "(client-query-buffer-limit, a proxy): lower limits.batch_max_bytes"
                )
            return lost
        return Incomplete(
            f"stopped ({self._stop.reason}) while waiting for Redis; what was committed stays",
            hint="the next run continues from the checkpoint",
        )

    def _with_outcome(self, error: ReconcileError) -> ReconcileError:
        """Return the error; its message also says so if a transaction was under way, which may have been applied."""
        if any(ticket.transaction for ticket in self._under_way):
            error.message += " (the outcome of the last transaction is unknown; the next run finds out)"
        return error

    def ready(self) -> bool:
        """Whether something can be read without waiting."""
        with self._in_use():
            return bool(self._connection.can_read(0))

    def fileno(self) -> int:
        """Return the socket's file descriptor."""
        with self._in_use():
            return int(self._connection._sock.fileno())  # type: ignore[attr-defined]

    def serve(self, stop: Stop, timeout_s: float) -> Wire:
        """Serve another view from now on. With replies still under way it is broken: they belong to the view before."""
        self._stop = stop
        self.broken = self.broken or bool(self._under_way)
        self.answer_within(timeout_s)
        return self

    def answer_within(self, seconds: float) -> None:
        """Wait for an answer no longer than this from now on."""
        with contextlib.suppress(Exception):
            self._connection._sock.settimeout(seconds)  # type: ignore[attr-defined]

    def sever(self) -> None:
        """Shut the socket, from another thread: a thread that waits on it gets an error.

        This shuts the socket below TLS. Shutting an SSLSocket would first drop its encryption, while another thread may
        be writing.
        """
        with contextlib.suppress(Exception):
            number = os.dup(self._connection._sock.fileno())  # type: ignore[attr-defined]
            with socket.socket(fileno=number) as duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; it may be broken."""
        self.broken = True  # redis-py would open it again for a PING
        with contextlib.suppress(RedisError, OSError):
            self._connection.disconnect()  # type: ignore[no-untyped-call]


def _takes_more(sock: socket.socket) -> bool:
    """Whether a few bytes can be sent without waiting."""
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    return bool(poll.poll(0))


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
        except ResponseError as error:  # the first reply of all; a server may lack CLIENT
            if str(error).startswith("DENIED"):
                raise
        return wire

    try:
        # Name lookup, TCP, TLS and authentication together have to end within the limit.
        stop.abandonable(connected, Wire.close, settings.connect_timeout_s)
    except (RedisError, OSError, TypeError, ValueError) as error:  # the last two: a key without certificate
        raise _not_connected(of_node(error, wire.node), connection, settings, stop) from error
    return wire


def _moved(error: Exception) -> Unavailable:
    return Unavailable(
        f"slots of the Redis Cluster are being moved, or a node is down: {ELSEWHERE[type(error)]} {error}",
        hint="the next run asks again where they are; reconcile doctor shows the cluster",
    )


def _not_connected(error: Exception, connection: Connection, settings: RedisSettings, stop: Stop) -> Exception:
    """Return the error to raise when connecting fails."""
    translated: Exception = translate(error)
    if isinstance(error, builtins.TimeoutError):
        silent = f"Redis did not answer within {settings.connect_timeout_s:g} s of connecting"
        translated = named(Unavailable(silent, hint="is it reachable from here? redis.connect_timeout"), error)
    if not isinstance(translated, Unavailable) or isinstance(error, BusyLoadingError):
        return translated
    from reconcile.target import tls  # imported only when a connection fails

    def reason() -> UsageError | None:
        return tls.reason(error, connection)

    try:
        return stop.abandonable(reason, lambda _: None, 3 * tls.PROBE_S) or translated
    except builtins.TimeoutError:
        return translated
