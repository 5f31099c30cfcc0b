"""Why a connection to Redis failed, if TLS is the reason.

Redis gives little away. A server that expects TLS hangs up on clients without it. One without TLS takes the greeting
for an unfinished command and waits. One that wants a client certificate may hang up before its reason has been read. So
when connecting fails, this module finds out why; connections that succeed pay nothing.

Only mistakes that a person has to correct are reported, not alerts that a broken network caused.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Callable

from redis.connection import Connection, SSLConnection
from redis.exceptions import RedisError

from reconcile.errors import UsageError

PROBE_S = 1.0
"""How long a probe of a port waits for an answer; at most two are made."""

_TRUST = "redis.tls_ca_cert: the authorities (PEM) to trust, or the server's certificate if it signed itself"
_NAME = "connect by a name that the server's certificate was made for (its subjectAltName)"
_DATES = "renew the server's certificate; or is the clock of this host wrong?"
_VERIFY_HINTS = {62: _NAME, 64: _NAME, 9: _DATES, 10: _DATES}
"""By OpenSSL's X509_V_ERR_…: HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH, CERT_NOT_YET_VALID, CERT_HAS_EXPIRED."""
_NO_TLS = "WRONG_VERSION_NUMBER|PACKET_LENGTH_TOO_LONG|RECORD_LAYER_FAILURE"
_CLIENT_REFUSED = "ALERT.*(CERTIFICATE|UNKNOWN_CA|HANDSHAKE_FAILURE|ACCESS_DENIED)"
_DISAGREED = "PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL|NO_SHARED_CIPHER|UNRECOGNIZED_NAME"


def reason(error: Exception, connection: Connection) -> UsageError | None:
    """Return what is wrong with TLS when connecting failed with this error; None: nothing found.

    May probe the server, for a little over 2 * PROBE_S.
    """
    if not isinstance(connection, SSLConnection):
        is_socket = not hasattr(connection, "port")
        return None if is_socket or not _speaks_tls(connection.host, connection.port) else _tls_expected()
    if (found := _wrong_files(connection) or _explained(_tls_error(error))) is not None:
        return found
    if _speaks_plainly(connection.host, connection.port):
        return _no_tls_here()
    return _explained(_refusal(connection))


def _wrong_files(connection: SSLConnection) -> UsageError | None:
    """Return what is wrong with our own certificate files, if anything."""
    authorities, cert, key = connection.ca_certs, connection.certfile, connection.keyfile
    password = connection.certificate_password or ""  # without one OpenSSL would ask the terminal
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    loads: list[tuple[str, object, Callable[[], object]]] = [
        (f"redis.tls_ca_cert ({authorities})", authorities, lambda: context.load_verify_locations(authorities)),
        (
            f"redis.tls_cert ({cert or 'not given'}), redis.tls_key ({key or 'not given'})",
            cert or key,
            lambda: context.load_cert_chain(cert or "", key, password),
        ),
    ]
    for what, given, load in loads:
        try:
            if given:
                load()
        except OSError as error:  # an SSLError is one
            text = _text(error) if isinstance(error, ssl.SSLError) else error.strerror
            return UsageError(
                f"{what}: {text}", hint="PEM files; certificate and key belong together, and one file may hold both"
            )
    return None


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """Return the TLS error that caused redis-py's."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _explained(error: ssl.SSLError | None) -> UsageError | None:
    what = "" if error is None else error.reason or ""
    if error is None or not what:
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = _VERIFY_HINTS.get(error.verify_code, _TRUST)
        return UsageError(f"TLS to Redis fails: {_text(error)}", hint=hint)
    if re.search(_NO_TLS, what):
        return _no_tls_here()
    if re.search(_CLIENT_REFUSED, what):
        return UsageError(
            f"TLS to Redis fails: the server says: {_text(error)}",
            hint="it seems to ask for a client certificate, signed by an authority it trusts: "
            "redis.tls_cert and redis.tls_key",
        )
    if re.search(_DISAGREED, what):
        return UsageError(
            f"TLS to Redis fails: {_text(error)}", hint="versions, ciphers or the host name that the server supports"
        )
    return None


def _text(error: ssl.SSLError) -> str:
    """Return OpenSSL's message without its codes."""
    return re.sub(r"^\[[^\]]*\] | \(_ssl\.c:\d+\)$", "", str(error.args[-1]))


def _tls_expected() -> UsageError:
    return UsageError(
        "this port of Redis expects TLS", hint="redis.tls: true, or rediss:// instead of redis://; or another port"
    )


def _no_tls_here() -> UsageError:
    return UsageError(
        "TLS to Redis fails: this port does not speak it",
        hint="redis:// instead of rediss://, or without redis.tls; or another port",
    )


def _speaks_tls(host: str, port: int) -> bool:
    """Whether this port answers a TLS greeting. Nothing is sent after that, so the server need not be trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), PROBE_S) as plain, context.wrap_socket(plain):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False


def _speaks_plainly(host: str, port: int) -> bool:
    """Whether this port answers a Redis command without TLS."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), PROBE_S) as plain:
        plain.sendall(b"PING\r\n")
        return plain.recv(1) in (b"+", b"-")
    return False


def _refusal(connection: SSLConnection) -> ssl.SSLError | None:
    """Return why the server refuses our certificate, or a client without one; None: it does not.

    In TLS 1.3 it says so only after the handshake is over for us. A client that writes next may find the connection
    reset before it has read the reason; so this one only reads.
    """
    try:
        with connection._connect() as secure:  # type: ignore[no-untyped-call]
            secure.settimeout(PROBE_S)
            secure.recv(1)
    except (OSError, RedisError) as error:
        return _tls_error(error)
    return None
