"""One client's connection: startup, simple and extended queries, COPY, errors."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reconcile_standin import encoding, wire
from reconcile_standin.definitions import parse
from reconcile_standin.dispatch import Answer, Dispatcher
from reconcile_standin.problem import SqlError
from reconcile_standin.statements import duration_ms
from reconcile_standin.translate import Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reconcile_standin.batches import Rows
    from reconcile_standin.session import Session
    from reconcile_standin.syntax import Parsed


@dataclass
class Prepared:
    """A parsed statement and its parameters' types; None is the empty query."""

    parsed: Parsed | None
    oids: list[int]


@dataclass
class Portal:
    """A bound statement, and where its execution has got to."""

    prepared: Prepared
    params: tuple[Parameter, ...]
    formats: list[int]
    answer: Answer | None = None
    batches: Iterator[Rows] | None = None
    left: Rows = ()
    sent: int = 0


class Closed(Exception):  # noqa: N818 - an ordinary end
    """The client said good-bye or went away."""


# Told apart by identity from an empty batch.
_END: Rows = []
_BINARY_INTS = {21: "!h", 23: "!i", 20: "!q", 26: "!I", 701: "!d", 700: "!f"}


def _parameter(data: bytes | None, oid: int, form: int) -> Parameter:
    if data is None:
        return Parameter(None, oid)
    if form == 0:
        return Parameter(data.decode(), oid)
    if oid in _BINARY_INTS:
        return Parameter(str(struct.unpack(_BINARY_INTS[oid], data)[0]), oid)
    if oid == 16:
        return Parameter("t" if data[0] else "f", oid)
    if oid == 17:
        return Parameter("\\x" + data.hex(), oid)
    if oid in (0, 25, 705, 1043, 114):
        return Parameter(data.decode(), oid)
    raise SqlError.unsupported(f"a binary parameter of type {oid}")


class Connection:
    """Talks to one client until it leaves."""

    def __init__(self, sock: socket.socket, session: Session) -> None:
        self._sock = sock
        self._session = session
        self._dispatcher = Dispatcher(session)
        self._file = sock.makefile("rb", 65536)
        self._prepared: dict[str, Prepared] = {}
        self._portals: dict[str, Portal] = {}
        self._skip = False
        self._out = bytearray()
        session.alive = self._alive

    def _alive(self) -> bool:
        if not hasattr(self._sock, "pending"):
            waiting = select.poll()  # select() takes no descriptor above 1023
            waiting.register(self._sock, select.POLLIN)
            if waiting.poll(0):
                try:
                    return self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
                except BlockingIOError:
                    return True
        return True

    def _send(self, data: bytes) -> None:
        """Queue small messages; sending blocks while the client does not read, and with it the query."""
        self._out += data
        if len(self._out) > 65536:
            self._flush()

    def _flush(self) -> None:
        self._send_notices()
        if self._out:
            out, self._out = self._out, bytearray()
            self._sock.sendall(out)

    def _send_notices(self) -> None:
        notices, self._session.notices = self._session.notices, []
        for notice in notices:
            self._out += wire.notice(notice)

    def _read(self) -> tuple[bytes, bytes]:
        self._sock.settimeout(self._idle_limit())
        try:
            head = self._file.read(5)
        except TimeoutError:
            raise SqlError(
                "terminating connection due to idle-in-transaction timeout", "25P03", severity="FATAL"
            ) from None
        finally:
            self._sock.settimeout(None)
        if len(head) < 5:
            raise Closed
        size = int.from_bytes(head[1:], "big") - 4
        if not 0 <= size <= wire.MAX_MESSAGE:
            raise SqlError("invalid message length", "08P01", severity="FATAL")
        data = self._file.read(size)
        if len(data) < size:
            raise Closed
        return head[:1], data

    def _idle_limit(self) -> float | None:
        if self._session.transaction is None:
            return None
        text = self._session.variables.get("idle_in_transaction_session_timeout").strip()
        milliseconds = int(text) if text.isdigit() else duration_ms(text)
        return milliseconds / 1000 if milliseconds else None

    def serve(self) -> None:
        """Answer until the client leaves."""
        self._send(wire.ready(self._status()))
        self._flush()
        while True:
            kind, data = self._read()
            if kind == b"X":
                raise Closed
            handler = _HANDLERS.get(kind)
            if handler is None:
                raise SqlError(f"unexpected message type {kind!r}", "08P01", severity="FATAL")
            if self._skip and kind not in b"S":
                continue
            self._session.start()
            try:
                handler(self, wire.Reader(data))
            except SqlError as problem:
                self._fail(problem)
                self._skip = kind != b"Q"
            finally:
                self._session.finish()
            if kind == b"Q":
                self._ready()

    def _status(self) -> bytes:
        if self._session.failed:
            return b"E"
        return b"I" if self._session.transaction is None else b"T"

    def _ready(self) -> None:
        self._send_notices()
        self._out += wire.ready(self._status())
        self._flush()

    def _fail(self, problem: SqlError) -> None:
        if self._session.transaction is not None:
            self._session.failed = True
        self._portals.clear()
        self._send_notices()
        self._send(wire.error(problem))
        self._flush()

    def _query(self, reader: wire.Reader) -> None:
        statements = parse(reader.string())
        if not statements:
            self._send(wire.EMPTY_QUERY)
            return
        for answer in self._dispatcher.run_all(statements):
            self._send_notices()
            if answer.columns is not None and answer.copy is None:
                self._send(wire.row_description(answer.columns, []))
            portal = Portal(Prepared(None, []), (), [], answer, iter(answer.batches))
            self._stream(portal, 0)

    def _stream(self, portal: Portal, limit: int) -> None:
        """Send rows: all, or up to a limit."""
        answer, batches = portal.answer, portal.batches
        assert answer is not None
        assert batches is not None
        if answer.copy is not None:
            self._copy(answer, batches)
            return
        columns = answer.columns or ()
        encode = encoding.encoders(columns, portal.formats)
        sent = 0
        try:
            while True:
                rows = portal.left or next(batches, _END)
                if rows is _END:
                    break
                portal.left = ()
                if limit and sent + len(rows) > limit:
                    portal.left = rows[limit - sent :]
                    rows = rows[: limit - sent]
                self._out += encoding.data_rows(rows, encode)
                sent += len(rows)
                portal.sent += len(rows)
                self._flush()
                if limit and sent >= limit:
                    self._send(wire.PORTAL_SUSPENDED)
                    return
        finally:
            if not limit:
                _close(batches)
        self._send_notices()
        self._send(wire.command_complete(f"{answer.tag}{portal.sent}" if answer.counted else answer.tag))

    def _copy(self, answer: Answer, batches: Iterator[Rows]) -> None:
        columns = answer.columns or ()
        binary = answer.copy == "binary"
        encode = encoding.encoders(columns, [int(binary)])
        body = encoding.CopyBinary() if binary else None
        write: Callable[[Rows, Any], bytes] = body or (
            encoding.copy_csv if answer.copy == "csv" else encoding.copy_text
        )
        self._send(wire.copy_out(len(columns), binary=binary))
        self._flush()
        count = 0
        try:
            for rows in batches:
                if rows:
                    self._out += write(rows, encode)
                    count += len(rows)
                    self._flush()
        finally:
            _close(batches)
        if body is not None:
            self._send(body.finish())
        self._send(wire.COPY_DONE + wire.command_complete(f"COPY {count}"))

    def _parse(self, reader: wire.Reader) -> None:
        name, sql = reader.string(), reader.string()
        oids = [reader.int32() for _ in range(reader.int16())]
        statements = parse(sql)
        if len(statements) > 1:
            raise SqlError("cannot insert multiple commands into a prepared statement", "42601")
        parsed = statements[0] if statements else None
        wanted = parsed.params if parsed is not None else 0
        oids += [0] * (wanted - len(oids))
        self._prepared[name] = Prepared(parsed, oids)
        self._send(wire.PARSE_COMPLETE)

    def _bind(self, reader: wire.Reader) -> None:
        portal_name, name = reader.string(), reader.string()
        prepared = self._statement(name)
        formats = reader.int16s()
        values = [reader.value() for _ in range(reader.int16())]
        if len(values) != len(prepared.oids):
            raise SqlError(f"request supplied {len(values)} parameters, but statement requires {len(prepared.oids)}",
                           "08P01")  # fmt: skip
        each = formats if len(formats) == len(values) else [formats[0] if formats else 0] * len(values)
        params = tuple(map(_parameter, values, prepared.oids, each))
        self._portals[portal_name] = Portal(prepared, params, reader.int16s())
        self._send(wire.BIND_COMPLETE)

    def _statement(self, name: str) -> Prepared:
        if name not in self._prepared:
            raise SqlError(f'prepared statement "{name}" does not exist', "26000")
        return self._prepared[name]

    def _portal(self, name: str) -> Portal:
        if name not in self._portals:
            raise SqlError(f'portal "{name}" does not exist', "34000")
        return self._portals[name]

    def _describe(self, reader: wire.Reader) -> None:
        kind, name = reader.take(1), reader.string()
        if kind == b"S":
            prepared = self._statement(name)
            params = tuple(Parameter(None, oid) for oid in prepared.oids)
            self._send(wire.parameter_description([oid or 25 for oid in prepared.oids]))
            formats: list[int] = []
        else:
            portal = self._portal(name)
            prepared, params, formats = portal.prepared, portal.params, portal.formats
        columns = None
        if prepared.parsed is not None and not self._session.failed:
            columns = self._dispatcher.describe(prepared.parsed.statement, params)
        self._send(wire.NO_DATA if columns is None else wire.row_description(columns, formats))

    def _execute(self, reader: wire.Reader) -> None:
        portal = self._portal(reader.string())
        limit = reader.int32()
        parsed = portal.prepared.parsed
        if parsed is None:
            self._send(wire.EMPTY_QUERY)
            return
        if portal.answer is None:
            portal.answer = self._dispatcher.run(parsed.statement, portal.params)
            portal.batches = iter(portal.answer.batches)
        self._send_notices()
        self._stream(portal, limit)

    def _close(self, reader: wire.Reader) -> None:
        kind, name = reader.take(1), reader.string()
        (self._prepared if kind == b"S" else self._portals).pop(name, None)
        self._send(wire.CLOSE_COMPLETE)

    def _sync(self, _reader: wire.Reader) -> None:
        self._skip = False
        if self._session.transaction is None:
            self._portals.clear()
        self._ready()

    def _flush_request(self, _reader: wire.Reader) -> None:
        self._flush()

    def fatal(self, problem: SqlError) -> None:
        """Say why the connection ends."""
        with contextlib.suppress(OSError):
            self._out += wire.error(problem)
            self._flush()

    def close(self) -> None:
        """Let go of the socket, which stays open for as long as its file does."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        self._file.close()


def _close(batches: Iterator[Rows]) -> None:
    close = getattr(batches, "close", None)
    if close is not None:
        close()


_HANDLERS: dict[bytes, Callable[[Connection, wire.Reader], None]] = {
    b"Q": Connection._query,
    b"P": Connection._parse,
    b"B": Connection._bind,
    b"D": Connection._describe,
    b"E": Connection._execute,
    b"C": Connection._close,
    b"S": Connection._sync,
    b"H": Connection._flush_request,
}
