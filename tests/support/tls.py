"""TLS for tests: certificates made on the spot, and a front that speaks TLS before a server that cannot."""

from __future__ import annotations

import contextlib
import functools
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.platforms.shipped import tool
from tests.support.redis_servers import RedisServer, free_port, server_binary, start_redis

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
_NO_TLS_NO_ENTRY = b"SFATAL\0VFATAL\0C08004\0MTLS encryption is required\0\0"
"""Materialize's words for a client that does not ask for TLS where it must."""


@dataclass(frozen=True)
class Certificate:
    """Files of a certificate and its key, and of the authority that signed it."""

    cert: str
    key: str
    ca: str


class Authority:
    """Signs certificates with `openssl`, all of them good for two days."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self.ca, self._key = self._files(name)
        self._openssl("req", "-x509", *_new_key(self._key), "-out", self.ca, "-days", "2", "-subj", f"/CN={name}",
                      "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip

    def issue(self, name: str, *alternatives: str, days: int = 2) -> Certificate:
        """A certificate. alternatives: as in subjectAltName, e.g. IP:127.0.0.1. days: below zero for an expired one."""
        cert, key = self._files(f"{self._name}-{name}")
        request, extensions = f"{cert}.request", f"{cert}.extensions"
        lines = ["subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid"]
        lines += [f"subjectAltName={','.join(alternatives)}"] if alternatives else []
        Path(extensions).write_text("\n".join(lines))
        self._openssl("req", *_new_key(key), "-out", request, "-subj", f"/CN={name}")
        self._openssl("x509", "-req", "-in", request, "-out", cert, "-CA", self.ca, "-CAkey", self._key,
                      "-CAcreateserial", "-days", str(days), "-extfile", extensions)  # fmt: skip
        return Certificate(cert, key, self.ca)

    def _files(self, name: str) -> tuple[str, str]:
        return str(self._folder / f"{name}.pem"), str(self._folder / f"{name}.key")

    @staticmethod
    def _openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def _new_key(path: str) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path]


def self_signed(folder: Path) -> Certificate:
    """A certificate for this machine that vouches for itself: it is its own authority."""
    cert, key = str(folder / "self.pem"), str(folder / "self.key")
    command = ["openssl", "req", "-x509", *_new_key(key), "-out", cert, "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", f"subjectAltName={','.join(HERE)}"]
    command += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    subprocess.run(command, check=True, capture_output=True)
    return Certificate(cert, key, cert)


HERE = ("IP:127.0.0.1", "DNS:localhost")


@dataclass(frozen=True)
class Wallet:
    """What a test needs to be right, and wrong, about certificates."""

    server: Certificate
    itself: Certificate
    elsewhere: Certificate
    """From the same authority, for a host of another name."""
    expired: Certificate
    client: Certificate
    foreign: Certificate
    """For this machine, from an authority nobody asked."""


def make_wallet(folder: Path) -> Wallet:
    """All of them."""
    tool("openssl", debian="openssl")
    ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
    return Wallet(
        server=ours.issue("server", *HERE),
        itself=self_signed(folder),
        elsewhere=ours.issue("elsewhere", "DNS:redis.example.com"),
        expired=ours.issue("expired", *HERE, days=-1),
        client=ours.issue("client"),
        foreign=theirs.issue("foreign", *HERE),
    )


class TlsFront:
    """Speaks TLS with clients and passes what they say on to a plain server of this machine. A context manager.

    client_ca: clients must show a certificate this authority signed. postgres: TLS begins when the client asks for it,
    as PostgreSQL's clients do; those that do not ask are refused in Materialize's words.
    """

    def __init__(
        self, host: str, port: int, certificate: Certificate, *, client_ca: str | None = None, postgres: bool = False
    ) -> None:
        self._target = (host, port)
        self._postgres = postgres
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate.cert, certificate.key)
        if client_ca is not None:
            self._context.load_verify_locations(client_ca)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, name="tls-accept", daemon=True).start()

    def __enter__(self) -> TlsFront:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="tls", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """One client; whatever breaks ends it. A handshake that fails tells the client why, as servers do."""
        with contextlib.suppress(OSError), client:
            client.settimeout(30)
            if self._postgres and not _asks_for_tls(client):
                return
            with (
                self._context.wrap_socket(client, server_side=True) as secure,
                socket.create_connection(self._target) as server,
            ):
                for sock in (secure, server):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sock.settimeout(None)
                self._open |= {secure, server}
                _relay(secure, server)
                self._open -= {secure, server}


def _asks_for_tls(client: socket.socket) -> bool:
    """Answer PostgreSQL's requests for encryption until TLS is to begin. False: the client goes on without."""
    while len(head := client.recv(8, socket.MSG_WAITALL)) == 8:
        code = int.from_bytes(head[4:], "big")
        if code == _SSL_REQUEST:
            client.sendall(b"S")
            return True
        if code != _GSS_REQUEST:
            client.recv(int.from_bytes(head[:4], "big") - 8, socket.MSG_WAITALL)
            client.sendall(b"E" + (len(_NO_TLS_NO_ENTRY) + 4).to_bytes(4, "big") + _NO_TLS_NO_ENTRY)
            return False
        client.sendall(b"N")
    return False


def _relay(secure: ssl.SSLSocket, server: socket.socket) -> None:
    """Until either side hangs up. In one thread: OpenSSL's connections are not to be used by two."""
    while True:
        ready = [secure] if secure.pending() else select.select([secure, server], [], [])[0]
        for source, sink in ((secure, server), (server, secure)):
            if source in ready:
                data = source.recv(65536)
                if not data:
                    return
                sink.sendall(data)


@dataclass(frozen=True)
class TlsRedis:
    """One Redis by two ways: `plain` for the test itself, and a port that speaks TLS."""

    plain: RedisServer
    port: int


@contextlib.contextmanager
def start_tls_redis(directory: Path, certificate: Certificate, *, client_ca: str | None = None) -> Iterator[TlsRedis]:
    """A server with TLS: its own where it was built with it, else by a front."""
    if not _built_with_tls(server_binary()):
        with (
            start_redis(directory, "--databases", "16") as plain,
            TlsFront("127.0.0.1", plain.port, certificate, client_ca=client_ca) as front,
        ):
            yield TlsRedis(plain, front.port)
        return
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", certificate.cert, "--tls-key-file", certificate.key]
    options += ["--tls-ca-cert-file", client_ca or certificate.ca, "--tls-auth-clients", "yes" if client_ca else "no"]
    with start_redis(directory, *options) as plain:
        yield TlsRedis(plain, port)


@functools.cache
def _built_with_tls(binary: str) -> bool:
    """Whether it would speak TLS if it had a certificate; without one it ends at once either way."""
    command = [binary, "--port", "0", "--tls-port", "1", "--tls-cert-file", "/nonexistent"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return "Failed to configure TLS" in told.stdout + told.stderr
