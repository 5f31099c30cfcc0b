"""One connection to Redis that never repeats anything by itself.

redis-py's client replays a MULTI that timed out, and reports WatchError for one that was applied. So we use its
Connection (address, TLS, authentication, RESP parsing) and do our own sending: every command is sent once, and when
the answer does not come the caller learns that the outcome is unknown.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import re
import socket
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import redis
from hiredis import pack_command
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry

from reconcile.config.settings import RedisSettings
from reconcile.errors import AccessError, Incomplete, ReconcileError, Unavailable, UsageError
from reconcile.stop import Stop

Arg = bytes | str | int
Command = tuple[Arg, ...]
ErrorReply = RedisError
"""An error among the answers of `Wire.pipeline`, for callers that expect some commands to be refused."""

W = TypeVar("W", bound="Wire")

ELSEWHERE = {MovedError: "MOVED", AskError: "ASK", TryAgainError: "TRYAGAIN", ClusterDownError: "CLUSTERDOWN"}
"""What nodes of a cluster say about slots that they do not serve; redis-py takes the name off the text."""


class Wire:
    """A Redis connection for one thread. Use `connect`."""

    cluster = ""
    """What the cluster behind it is, for people. Empty: one server, where everything can be one transaction."""

    def __init__(self, connection: redis.Connection, stop: Stop) -> None:
        self._connection = connection
        self._stop = stop
        self.broken = False
        """It failed once: never used again. redis-py would connect anew, without our WATCH and past every bound."""
        self.round_trips = 0
        self.commands = 0
        self.bytes_sent = 0

    def call(self, *command: Arg) -> Any:
        """One command, one answer. Raises a translated error."""
        return self.replies([command])[0]

    def replies(self, commands: Sequence[Command]) -> list[Any]:
        """Send all, then read all answers. Raises the first error among them, translated."""
        return checked(self.pipeline(commands))

    def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Send all, then read all answers; error replies are returned in place, not raised."""
        self.send(commands)
        return self.receive(len(commands))

    def send(self, commands: Sequence[Command]) -> None:
        """Send without waiting for the answers: the caller reads as many with `receive`."""
        packed = [pack_command(command) for command in commands]  # type: ignore[arg-type]
        self.commands += len(commands)
        self.bytes_sent += sum(map(len, packed))
        with self._in_use():
            self._connection.send_packed_command(packed)  # type: ignore[no-untyped-call]

    def receive(self, count: int) -> list[Any]:
        """Answers of `count` commands sent before; error replies in place."""
        self.round_trips += 1
        replies = []
        with self._in_use():
            for _ in range(count):
                try:
                    replies.append(self._connection.read_response(disable_decoding=True))
                except (BusyLoadingError, AuthenticationError) as error:  # connection errors by type, replies by nature
                    replies.append(error)
                except ResponseError as error:
                    replies.append(error)
        return replies

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """What fails inside breaks the connection. While the run ends that is no news: it becomes Incomplete."""
        if self.broken:
            raise Unavailable("the connection to Redis is lost", hint="the next run makes a new one")
        try:
            yield
        except (RedisError, OSError, ValueError, AttributeError) as error:  # the last two: severed while reading
            self.broken = True
            if self._stop.requested:
                raise Incomplete(
                    f"stopped ({self._stop.reason}) while waiting for Redis; what was committed stays",
                    hint="the next run goes on from the checkpoint",
                ) from error
            raise translate(error) from error

    def identity(self) -> bytes:
        """Which server process answers; empty where INFO does not tell (managed services)."""
        (reply,) = self.pipeline([("INFO", "server")])
        match = None if isinstance(reply, RedisError) else re.search(rb"run_id:(\w+)", reply)
        return match[1] if match else b""

    def answer_within(self, seconds: float) -> None:
        """From now on no answer is waited for longer."""
        with contextlib.suppress(Exception):
            self._connection._sock.settimeout(seconds)  # type: ignore[attr-defined]

    @contextlib.contextmanager
    def bounded(self) -> Iterator[None]:
        """Inside, a blocked wait ends soon after the run should have ended."""
        with self._stop.watch(cancel=None, sever=self.sever):
            yield

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


def connect(settings: RedisSettings, stop: Stop) -> Wire:
    """Open a connection. Raises AccessError, UsageError (no such database), Unavailable."""
    if settings.cluster:
        from reconcile.target import cluster  # nobody else pays for it

        return cluster.connect(settings, stop)
    return dial(settings, stop, Wire)


def dial(settings: RedisSettings, stop: Stop, kind: type[W]) -> W:
    """Open a connection to one server."""
    stop.check()
    connection = _new_connection(settings)
    wire = kind(connection, stop)

    def connected() -> W:
        connection.connect()  # type: ignore[no-untyped-call]
        return wire

    try:
        # Name lookup, TCP, TLS, authentication: all of it within the limit, whatever each of them would wait for.
        return stop.abandonable(connected, Wire.close, settings.connect_timeout_s)
    except (RedisError, OSError, TypeError, ValueError) as error:  # the last two: a key without certificate
        raise _not_connected(error, connection, settings, stop) from error


def _not_connected(error: Exception, connection: redis.Connection, settings: RedisSettings, stop: Stop) -> Exception:
    """What it means that connecting failed."""
    translated = translate(error)
    if isinstance(error, builtins.TimeoutError):
        translated = Unavailable(
            f"Redis did not answer within {settings.connect_timeout_s:g} s of connecting",
            hint="is it reachable from here? redis.connect_timeout",
        )
    if not isinstance(translated, Unavailable) or isinstance(error, BusyLoadingError):
        return translated
    from reconcile.target import tls  # only those whose connection fails pay for it

    try:
        return stop.abandonable(lambda: tls.reason(error, connection), lambda _: None, 3 * tls.PROBE_S) or translated
    except builtins.TimeoutError:
        return translated


def _new_connection(settings: RedisSettings) -> redis.Connection:
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "socket_timeout": settings.timeout_s,
        "socket_connect_timeout": settings.connect_timeout_s,
        "socket_keepalive": True,
        "protocol": 2,
        "client_name": "reconcile",
        "health_check_interval": 0,
    }
    if settings.username:
        options["username"] = settings.username
    if settings.password is not None:
        options["password"] = settings.password.reveal()
    files = {
        "ssl_ca_certs": settings.tls_ca_cert,
        "ssl_certfile": settings.tls_cert,
        "ssl_keyfile": settings.tls_key,
    }
    chosen = {name: value for name, value in files.items() if value}
    try:
        if settings.url is not None:
            secure = settings.url.reveal().startswith("rediss:")
            pool = redis.ConnectionPool.from_url(settings.url.reveal(), **options, **(chosen if secure else {}))
        else:
            kind = redis.SSLConnection if settings.tls else redis.Connection
            options |= {"host": settings.host, "port": settings.port, "db": settings.db}
            options |= chosen if settings.tls else {}
            pool = redis.ConnectionPool(kind, **options)
        connection = pool.make_connection()
    except (ValueError, TypeError, RedisError) as error:
        raise UsageError(
            f"redis.url is not usable: {type(error).__name__}", hint="redis://[user:password@]host:port/db"
        ) from error
    # The driver's name and version: two round trips, and a command that servers before 7.2 do not know in ACL rules.
    # The option for it has another name in newer versions of redis-py; setting the attributes works with all of them.
    for name in ("driver_info", "lib_name", "lib_version"):
        setattr(connection, name, None)
    return connection  # type: ignore[return-value]


def checked(replies: list[Any]) -> list[Any]:
    """The same replies. Raises the first error among them, translated."""
    for reply in replies:
        if isinstance(reply, RedisError):
            raise translate(reply)
    return replies


def translate(error: Exception) -> ReconcileError:
    """What a Redis error means for the user."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    upper = text.upper()
    if isinstance(error, AuthenticationError) or upper.startswith(("WRONGPASS", "NOAUTH")):
        return AccessError(f"Redis refused access: {text}", hint="check redis.username and redis.password")
    if isinstance(error, NoPermissionError) or upper.startswith("ACL FAILURE"):
        return AccessError(
            f"Redis refused a command: {text}", hint="docs/operations.md lists the ACL rules reconcile needs"
        )
    if "DB INDEX" in upper:
        return UsageError(f"Redis has no such database: {text}", hint="check redis.db")
    if isinstance(error, ReadOnlyError):
        return Unavailable(f"this Redis is a read-only replica: {text}", hint="connect to the primary")
    if isinstance(error, OutOfMemoryError):
        return Unavailable(
            f"Redis is out of memory: {text}", hint="raise maxmemory or make room; nothing of this batch was written"
        )
    if type(error) in ELSEWHERE or isinstance(error, ClusterCrossSlotError):
        return UsageError(
            f"this is a node of a Redis Cluster: {ELSEWHERE.get(type(error), 'CROSSSLOT')} {text}",
            hint="set redis.cluster: true (RECONCILE_REDIS__CLUSTER=true); reconcile doctor shows the rest",
        )
    if upper.startswith(("MISCONF", "NOREPLICAS", "BUSY", "LOADING", "MASTERDOWN")) or isinstance(
        error, BusyLoadingError
    ):
        return Unavailable(f"Redis cannot write now: {text}", hint="see Redis' own log; the next run tries again")
    if isinstance(error, ResponseError):
        return ReconcileError(f"Redis refuses a command: {text}")
    return Unavailable(f"Redis is not available: {text}", hint="is it running, and reachable from here?")
