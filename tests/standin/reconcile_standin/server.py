"""The server: accepts clients, a thread each, and lets time pass."""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
import shutil
import socket
import ssl
import tempfile
import threading
from dataclasses import dataclass

from reconcile_standin import wire
from reconcile_standin.connection import Closed, Connection
from reconcile_standin.maintenance import Maintainer
from reconcile_standin.problem import SqlError
from reconcile_standin.session import Notice, Session
from reconcile_standin.storage import Store
from reconcile_standin.variables import REPORTED

_COMPACT_EVERY = 3


@dataclass(frozen=True, slots=True)
class Settings:
    """How to serve."""

    host: str
    port: int
    data_dir: str | None
    tick_ms: int
    password: str | None
    tls_cert: str | None
    tls_key: str | None
    max_connections: int


class Server:
    """One stand-in for Materialize."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._temporary = None if settings.data_dir else tempfile.mkdtemp(prefix="reconcile-standin-")
        self.store = Store(settings.data_dir or str(self._temporary))
        self._sessions: dict[tuple[int, int], Session] = {}
        self._pids = itertools.count(1)
        self._stop = threading.Event()
        self._listener = socket.create_server((settings.host, settings.port), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._tls: ssl.SSLContext | None = None
        if settings.tls_cert is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(settings.tls_cert, settings.tls_key)

    def start(self) -> None:
        """Serve, in threads of its own, until `stop`."""
        maintainer = Maintainer(self.store)
        threading.Thread(target=self._tick, name="tick", daemon=True).start()
        threading.Thread(target=maintainer.run, args=(self._stop,), name="maintainer", daemon=True).start()
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def stop(self) -> None:
        """Serve no more clients and close the store; the threads end with the process."""
        self._stop.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.store.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                break
            threading.Thread(target=self._client, args=(sock,), daemon=True).start()

    def _tick(self) -> None:
        store, count = self.store, itertools.count(1)
        while not self._stop.wait(self._settings.tick_ms / 1000):
            # A commit in progress has its time already: time must not pass it.
            if store.lock.acquire(blocking=False):
                try:
                    store.clock.publish(store.clock.now())
                    if next(count) % _COMPACT_EVERY == 0:
                        store.compact()
                finally:
                    store.lock.release()

    def _client(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError, Closed, ValueError), sock:
            started = self._startup(sock)
            if started is not None:
                self._serve(*started)

    def _startup(self, sock: socket.socket) -> tuple[socket.socket, dict[str, str]] | None:
        sock.settimeout(30)
        while True:
            size = int.from_bytes(_exactly(sock, 4), "big")
            if not 8 <= size <= 65536:
                return None
            data = _exactly(sock, size - 4)
            code = int.from_bytes(data[:4], "big")
            if code == wire.SSL_REQUEST and self._tls is not None:
                sock.sendall(b"S")
                sock = self._tls.wrap_socket(sock, server_side=True)
            elif code in (wire.SSL_REQUEST, wire.GSS_REQUEST):
                sock.sendall(b"N")
            elif code == wire.CANCEL_REQUEST:
                self._cancel(data)
                return None
            elif code != wire.PROTOCOL:
                text = "server does not support the client's requested protocol version"
                sock.sendall(wire.error(SqlError(text, "08004", severity="FATAL")))
                return None
            else:
                sock.settimeout(None)
                parts = data[4:].split(b"\0")
                pairs = zip(parts[::2], parts[1::2], strict=False)
                return sock, {k.decode(): v.decode() for k, v in pairs if k}

    def _cancel(self, data: bytes) -> None:
        reader = wire.Reader(data[4:])
        session = self._sessions.get((reader.int32(), reader.int32()))
        if session is not None:
            session.cancel()

    def _serve(self, sock: socket.socket, options: dict[str, str]) -> None:
        role = options.get("user", "materialize")
        problem = self._refusal(sock, role)
        if problem is not None:
            sock.sendall(wire.error(problem))
            return
        pid, secret = next(self._pids), secrets.randbelow(2**31)
        session = Session(self.store, role, pid)
        session.variables.set("max_connections", str(self._settings.max_connections))
        self._apply_options(session, options)
        self._sessions[pid, secret] = session
        self.store.sessions[pid] = role
        connection = Connection(sock, session)
        try:
            sock.sendall(_greeting(session, pid, secret))
            connection.serve()
        except SqlError as fatal:
            connection.fatal(fatal)
        finally:
            del self._sessions[pid, secret], self.store.sessions[pid]
            connection.close()
            session.close()

    def _refusal(self, sock: socket.socket, role: str) -> SqlError | None:
        if self._settings.password is not None:
            sock.sendall(wire.AUTHENTICATION_CLEARTEXT)
            head = _exactly(sock, 5)
            given = _exactly(sock, int.from_bytes(head[1:], "big") - 4).rstrip(b"\0").decode()
            if not secrets.compare_digest(given.encode(), self._settings.password.encode()):
                return SqlError("invalid password", "28P01", severity="FATAL")
        current, limit = len(self._sessions), self._settings.max_connections
        if current >= limit:
            counts = f"desired: {current + 1}, limit: {limit}, current: {current}"
            message = f"creating connection would violate max_connections limit ({counts})"
            return SqlError(message, "53000", severity="FATAL")
        if role not in self.store.catalog.roles:
            return SqlError(f'role "{role}" does not exist', "28000", severity="FATAL")
        return None

    def _apply_options(self, session: Session, options: dict[str, str]) -> None:
        """Settings of the startup message; a bad one is only a notice."""
        for name, value in [*options.items(), *_parsed_options(options.get("options", ""))]:
            if name in ("user", "options", "replication"):
                continue
            try:
                session.variables.set(name, value)
            except SqlError as problem:
                session.notice(Notice(problem.message, problem.code))


def _parsed_options(text: str) -> list[tuple[str, str]]:
    """`--a=b -c c=d`"""
    found = []
    words = iter(re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|[^\\ ])+", text))
    for word in words:
        setting = next(words, "") if word == "-c" else word.removeprefix("--").removeprefix("-c")
        name, _, value = setting.partition("=")
        if name:
            found.append((name, value))
    return found


def _greeting(session: Session, pid: int, secret: int) -> bytes:
    settings = b"".join(wire.parameter_status(name, session.variables.get(name)) for name in REPORTED)
    return wire.AUTHENTICATION_OK + settings + wire.backend_key(pid, secret)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise Closed
        data += more
    return data
