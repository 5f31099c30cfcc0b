"""Asking Sentinels which server is the primary; the connection to it is then like any other."""

from __future__ import annotations

from msgspec.structs import replace

from reconcile.config.settings import RedisSettings, SentinelSettings
from reconcile.errors import AccessError, ReconcileError, Unavailable, UsageError
from reconcile.stop import Stop
from reconcile.target.address import at
from reconcile.target.translation import checked, printable
from reconcile.target.wire import Wire, dial


def dial_primary(settings: RedisSettings, stop: Stop) -> Wire:
    """Connect to the primary, as named by the first Sentinel that answers.

    Raises AccessError, UsageError, Unavailable.
    """
    assert settings.sentinel is not None
    host, port = _primary(settings, settings.sentinel, stop)
    wire = dial(at(settings, host, port), stop)
    try:
        # During a failover a Sentinel may still name the old primary, and reading from that means reading the past.
        (role,) = wire.send([("ROLE",)]).replies()
        if isinstance(role, list) and role[0] != b"master":
            raise Unavailable(
                f"{host}:{port} is no longer the primary of {settings.sentinel.master}", hint="the next run asks again"
            )
    except BaseException:
        wire.close()
        raise
    return wire


def _primary(settings: RedisSettings, sentinel: SentinelSettings, stop: Stop) -> tuple[str, int]:
    """Return the primary's host and port. A Sentinel that is down, or does not know it, is passed over."""
    own = replace(settings, db=0, username=sentinel.username, password=sentinel.password)
    silent: list[str] = []
    for host, port in sentinel.hosts:
        try:
            found = _ask(at(own, host, port), sentinel.master, stop)
        except AccessError as error:
            error.hint = "check redis.sentinel.username and redis.sentinel.password"
            raise
        except Unavailable as error:
            silent.append(f"{host}:{port}: {error.message}")
            continue
        if found is not None:
            return found
    if silent:
        raise Unavailable(f"no Sentinel names a primary: {'; '.join(silent)}", hint="redis.sentinel.hosts")
    raise UsageError(f"no Sentinel knows a primary called {sentinel.master!r}", hint="redis.sentinel.master")


def _ask(settings: RedisSettings, master: str, stop: Stop) -> tuple[str, int] | None:
    wire = dial(settings, stop)
    try:
        (reply,) = checked(wire.send([("SENTINEL", "GET-MASTER-ADDR-BY-NAME", master)]).replies())
    finally:
        wire.close()
    if reply is None:
        return None
    try:
        return printable(reply[0].decode()), int(reply[1])
    except (ValueError, TypeError, IndexError) as error:
        raise ReconcileError("unexpected answer from the Sentinel", hint="redis.sentinel.hosts") from error
