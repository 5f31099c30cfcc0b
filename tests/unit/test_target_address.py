"""From the configured node of a Redis Cluster to the others: only the address changes."""

from __future__ import annotations

from reconcile.config.settings import RedisSettings, Secret
from reconcile.target.address import at


def test_another_node_keeps_everything_else() -> None:
    """TLS, user, password and limits hold for every node."""
    given = RedisSettings(
        host="first",
        port=6379,
        username="u",
        password=Secret("s"),
        tls=True,
        tls_verify="ca",
        timeout_s=7,
        cluster=True,
    )
    found = at(given, "fd00::2", 7001)
    assert (found.host, found.port) == ("fd00::2", 7001)
    assert (found.username, found.password, found.tls, found.tls_verify, found.timeout_s) == (
        "u", Secret("s"), True, "ca", 7,
    )  # fmt: skip
