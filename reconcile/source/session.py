"""One connection to Materialize: settings, statements, bounded waits, translated errors."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import math
import os
import re
import socket
import struct
import time
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.string import ByteaBinaryLoader

from reconcile import __version__
from reconcile.config.settings import MaterializeSettings
from reconcile.errors import Unavailable, UsageError
from reconcile.source.errors import translated
from reconcile.source.query import Column
from reconcile.stop import GRACE_S, Stop

logger = logging.getLogger(__name__)

Chunk: TypeAlias = "list[tuple[bytes | None, ...]]"
"""Some rows of a result, as the server sent them."""
CHUNK_ROWS, CHUNK_BYTES = 500, 1 << 20
"""Limits of a chunk of a finite read, except that a single row may be larger."""
ROWS_AT_ONCE = 16
"""Rows that libpq returns together; it holds all of them, and so do we. 16 cost the client no more than 500, one by one
five times as much (measured: 0.19, 0.17, 0.95 s for 500,000 rows of 120 bytes).
"""
_TCP_INFO_BYTES, _BYTES_RECEIVED = 136, 128
"""Size of the part of struct tcp_info up to tcpi_bytes_received, and that field's offset (linux/tcp.h)."""
_LIBPQ_WITH_VERSIONS = 180000
LOOK_UP_S = 2.0
"""Time allowed beyond connect_timeout per host, which libpq does not apply to name lookup."""
IDLE_IN_TRANSACTION = "10min"
"""How long a read transaction may wait for Redis between two reads; the server's default is two minutes."""


class Session:
    """An open connection in autocommit. Use `connect`.

    Every wait ends when the run ends (Stop) or the server has been silent for read_timeout_s, by raising Incomplete or
    Unavailable. Not for use by two threads at once.
    """

    def __init__(self, connection: psycopg.Connection[Any], settings: MaterializeSettings, stop: Stop) -> None:
        self._connection = connection
        self._settings = settings
        self._stop = stop
        self._answered_at = time.monotonic()
        self._rows_at_once = ROWS_AT_ONCE
        self._coming: Generator[Chunk] | None = None
        """The result that is being read, or was read last."""
        self.rows_read = 0
        self.statements = 0
        self.silent = False
        """Whether a statement was given up because the server said nothing."""
        self._environment_id: str | None = None
        self._bytes_before = 0
        """Bytes received for earlier views."""
        self._bytes_received = 0

    @property
    def stop(self) -> Stop:
        return self._stop

    @property
    def connection(self) -> psycopg.Connection[Any]:
        return self._connection

    @property
    def read_timeout_s(self) -> float:
        return self._settings.read_timeout_s

    @property
    def exposed(self) -> bool:
        """Whether password and rows cross a network unencrypted.

        Materialize asks for the password in clear text (pgwire/src/protocol.rs), and libpq continues without TLS if the
        server has none, unless configured otherwise.
        """
        pgconn = self._connection.pgconn
        address = pgconn.hostaddr.decode()
        return bool(address) and not pgconn.ssl_in_use and not ipaddress.ip_address(address.split("%")[0]).is_loopback

    @property
    def closed(self) -> bool:
        """Whether the session is unusable: it failed, or a reading was abandoned."""
        return bool(self._connection.closed)

    @property
    def encrypted(self) -> bool:
        """Whether the connection uses TLS."""
        return bool(self._connection.pgconn.ssl_in_use)

    def note_answer(self) -> None:
        """Note that the server sent something."""
        self._answered_at = time.monotonic()

    @contextlib.contextmanager
    def bounded(self, *, planning: bool = False) -> Iterator[None]:
        """Bound the statements inside: they end when the run should end or the server is silent for too long.

        planning: they only make the server plan a query.
        """
        self.statements += 1
        self.note_answer()
        limit = self._settings.read_timeout_s
        with translated(self._stop, planning=planning):
            try:
                with self._stop.watch(
                    cancel=self._cancel, sever=self._sever, expires_at=lambda: self._answered_at + limit
                ):
                    yield
            except psycopg.OperationalError as error:
                if not self._stop.requested and time.monotonic() >= self._answered_at + limit:
                    self.silent = True
                    raise Unavailable(
                        f"Materialize said nothing for {limit:g} s", hint="materialize.read_timeout"
                    ) from error
                raise

    def fetch(self, statement: str, *, planning: bool = False) -> list[tuple[bytes | None, ...]]:
        """Return all rows of a small result, every value in the server's text form. planning: it reads no data."""
        self._stop.check()
        with self.bounded(planning=planning), self._connection.cursor() as cursor:
            cursor.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def run(self, statement: str) -> None:
        """Run a statement without a result."""
        self.fetch(statement)

    def columns(self, statement: str) -> list[Column]:
        """Return names and type oids of a result. The statement must not read anything. Raises UsageError."""
        with self.bounded(planning=True), self._connection.cursor() as cursor:
            cursor.execute(statement.encode())
            return [Column(item.name, item.type_code) for item in cursor.description or []]

    def stream(self, statement: str, *, numbers: bool = False) -> Iterator[Chunk]:
        """Return the rows of a large finite result, text and bytea as raw bytes.

        Chunks have at most CHUNK_ROWS and CHUNK_BYTES, or one larger row. numbers: the result is not rows of the view
        but numbers about it, returned in the server's text form.
        """
        held: Chunk = []
        held_bytes = 0
        with contextlib.closing(self._results(statement, numbers=numbers)) as self._coming:
            for rows in self._coming:
                size = sum([len(field) for row in rows for field in row if field is not None])
                if held and (held_bytes + size > CHUNK_BYTES or len(held) + len(rows) > CHUNK_ROWS):
                    yield held
                    held, held_bytes = [], 0
                if size <= CHUNK_BYTES:
                    held += rows
                    held_bytes += size
                    continue
                # The next statement asks for fewer at once; libpq allows no change while a result is coming.
                self._rows_at_once = max(1, min(self._rows_at_once, len(rows) * CHUNK_BYTES // size))
                rows.reverse()
                while rows:
                    yield [rows.pop()]  # so that only the caller holds it
            if held:
                yield held

    def _results(self, statement: str, *, numbers: bool) -> Generator[Chunk]:
        """Yield the rows as libpq returns them."""
        self._stop.check()
        with self.bounded(), self._connection.cursor() as cursor:
            size = CHUNK_ROWS if numbers else self._rows_at_once
            rows = cursor.stream(statement.encode(), binary=not numbers, size=size)
            while some := list(islice(rows, size)):
                self.rows_read += 0 if numbers else len(some)
                self._answered_at = math.inf  # the caller's time is not the server's silence
                try:
                    yield some
                except GeneratorExit:
                    # The caller gave up. psycopg cancels the statement and reads to its end, which needs a bound.
                    self._answered_at = time.monotonic() - self._settings.read_timeout_s + GRACE_S
                    rows.close()  # type: ignore[attr-defined]
                    raise
                self.note_answer()

    def another(self) -> Session:
        """Open another session on the same server."""
        return connect(self._settings, self._stop)

    def environment_id(self) -> str:
        """Return the id of this Materialize; timestamps of another one mean nothing here."""
        if self._environment_id is None:
            ((found,),) = self.fetch("SELECT mz_environment_id()")
            self._environment_id = str(found or b"", "utf-8")
        return self._environment_id

    @property
    def idle(self) -> bool:
        """Whether another view may use it: no statement under way, no transaction open."""
        pgconn = self._connection.pgconn
        return not self.closed and pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE

    def serve(self, stop: Stop) -> None:
        """Serve another view from now on; counters restart."""
        self._stop = stop
        self._rows_at_once = ROWS_AT_ONCE
        self.rows_read = self.statements = 0
        self._bytes_before = self._count_bytes()

    @property
    def bytes_received(self) -> int:
        """Bytes received for this view, as Linux counts them; 0 elsewhere."""
        return max(0, (self._bytes_received or self._count_bytes()) - self._bytes_before)

    def close(self) -> None:
        """Close the connection, after counting the bytes received."""
        self._bytes_received = self._bytes_received or self._count_bytes()
        with contextlib.suppress(psycopg.Error):
            self._connection.close()
        if self._coming is not None:  # abandoned by an error, it would be watched until the collector came by
            with contextlib.suppress(Exception):
                self._coming.close()

    def _count_bytes(self) -> int:
        try:
            with socket.socket(fileno=os.dup(self._connection.fileno())) as duplicate:
                info = duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except (OSError, AttributeError, psycopg.Error):
            return 0
        return int(struct.unpack_from("=Q", info, _BYTES_RECEIVED)[0]) if len(info) >= _TCP_INFO_BYTES else 0

    def _cancel(self) -> None:
        try:
            self._connection.cancel_safe(timeout=3.0)
        except Exception as error:  # nothing would catch it in the watchdog's thread; severing follows
            logger.debug("cancel request failed: %s", type(error).__name__)

    def _sever(self) -> None:
        with contextlib.suppress(Exception):
            duplicate = socket.socket(fileno=os.dup(self._connection.fileno()))
            with duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)


def connect(settings: MaterializeSettings, stop: Stop) -> Session:
    """Open a session. Raises AccessError, Unavailable, UsageError."""
    stop.check()
    try:
        conninfo = _conninfo(settings, stop.remaining_s())
    except psycopg.ProgrammingError as error:
        raise UsageError("materialize.url is not a connection string libpq understands") from error
    # libpq applies connect_timeout to each address, but not to the name lookup before that.
    hosts = 1 + str(conninfo_to_dict(conninfo).get("host", "")).count(",")
    limit_s = hosts * settings.connect_timeout_s + LOOK_UP_S
    try:
        with translated(stop):
            connection: psycopg.Connection[Any] = stop.abandonable(
                lambda: psycopg.connect(conninfo, autocommit=True, prepare_threshold=None),
                lambda late: late.close(),
                limit_s,
            )
    except TimeoutError as error:
        raise Unavailable(
            f"Materialize could not be reached within {limit_s:g} s",
            hint="looking up the host name did not finish; materialize.connect_timeout",
        ) from error
    # Every value travels as the bytes the server sends: text and bytea need no decoding on their way to Redis.
    for name in ("text", "varchar", "bytea", "int8", "uuid"):
        connection.adapters.register_loader(name, ByteaBinaryLoader)
    _load_text_as_bytes(connection)
    session = Session(connection, settings, stop)
    try:
        session.run(f"SET idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION}'")
    except BaseException:
        session.close()
        raise
    return session


def _load_text_as_bytes(connection: psycopg.Connection[Any]) -> None:
    class RawText(psycopg.adapt.Loader):
        format = psycopg.pq.Format.TEXT

        def load(self, data: Any) -> bytes:
            return bytes(data)

    for oid in (0, 16, 17, 20, 21, 23, 25, 114, 700, 701, 1043, 1700, 2950, 3802):
        connection.adapters.register_loader(oid, RawText)


def _conninfo(settings: MaterializeSettings, remaining_s: float | None) -> str:
    parts: dict[str, Any] = dict(settings.libpq())
    # Options are split at spaces that no backslash precedes (pgwire/src/protocol.rs: split_options).
    options = [str(parts.get("options") or ""), "--welcome_message=off"]
    # A role's own setting may be serializable: the present could then be a time before the checkpoint.
    options.append("--transaction_isolation=strict\\ serializable")
    if settings.cluster:
        options.append("--cluster=" + re.sub(r"([\\ ])", r"\\\1", settings.cluster))
    timeout_s = settings.connect_timeout_s if remaining_s is None else min(settings.connect_timeout_s, remaining_s)
    parts |= {
        "options": " ".join(option for option in options if option),
        "application_name": f"reconcile/{__version__}",
        "connect_timeout": max(2, round(timeout_s)),
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
    if psycopg.pq.version() >= _LIBPQ_WITH_VERSIONS:
        # Materialize speaks 3.0 and refuses all others (pgwire/src/protocol.rs), which the environment may ask for.
        parts.setdefault("max_protocol_version", "3.0")
    return make_conninfo("", **parts)
