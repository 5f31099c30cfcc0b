"""Settings → redis-py's Connection, with everything switched off that it would do on its own."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry

from reconcile.config.settings import RedisSettings


def new_connection(settings: RedisSettings) -> Connection:
    """Return a connection, not opened yet, to the server that the settings name; Sentinels have been asked before."""
    options: dict[str, Any] = {
        "db": settings.db,
        "username": settings.username,
        "password": settings.password.reveal() if settings.password is not None else None,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": settings.timeout_s,
        "socket_connect_timeout": settings.connect_timeout_s,
        "protocol": 2,
        "health_check_interval": 0,
    }
    connection: Any
    if settings.unix_socket_path is not None:
        connection = UnixDomainSocketConnection(settings.unix_socket_path, **options)  # type: ignore[abstract,no-untyped-call]
    else:
        options |= {"host": settings.host, "port": settings.port, "socket_keepalive": True}
        options |= _tls(settings) if settings.tls else {}
        kind = SSLConnection if settings.tls else Connection
        connection = kind(**options)
    # Do not send the driver's name and version: that takes two round trips, and servers before 7.2 do not know the
    # command in ACL rules. The option's name differs between versions of redis-py; the attributes work with all.
    for name in ("driver_info", "lib_name", "lib_version"):
        setattr(connection, name, None)
    return connection  # type: ignore[no-any-return]


def _tls(settings: RedisSettings) -> dict[str, Any]:
    """tls_verify `ca` checks the authority but not the host name; `none` checks nothing."""
    return {
        "ssl_ca_certs": settings.tls_ca_cert,
        "ssl_certfile": settings.tls_cert,
        "ssl_keyfile": settings.tls_key,
        "ssl_cert_reqs": "none" if settings.tls_verify == "none" else "required",
        "ssl_check_hostname": settings.tls_verify == "full",
    }


def at(settings: RedisSettings, host: str, port: int) -> RedisSettings:
    """Return the same settings with another server's address."""
    return replace(settings, unix_socket_path=None, sentinel=None, host=host, port=port)
