"""From the configured node of a Redis Cluster to the others: only the address changes."""

from __future__ import annotations

import pytest

from reconcile.config.settings import RedisSettings, Secret
from reconcile.core.slots import Node
from reconcile.target.cluster import _at


@pytest.mark.parametrize(
    ("url", "host", "expected"),
    [
        ("redis://first:6379/0", "10.0.0.2", "redis://10.0.0.2:7001/0"),
        ("rediss://user:p%40ss@first/0?ssl_cert_reqs=none", "b.cache", "rediss://user:p%40ss@b.cache:7001/0?ssl_cert_reqs=none"),
        ("redis://:secret@[::1]:6379", "fd00::2", "redis://:secret@[fd00::2]:7001"),
    ],
)  # fmt: skip
def test_a_url_keeps_everything_else(url: str, host: str, expected: str) -> None:
    """Scheme (TLS or not), user, password and options hold for every node."""
    found = _at(RedisSettings(url=Secret(url), host="first", cluster=True), Node("id", host, 7001))
    assert found.url is not None
    assert found.url.reveal() == expected


def test_parts_keep_everything_else() -> None:
    """The same without a URL."""
    given = RedisSettings(
        host="first", port=6379, username="u", password=Secret("s"), tls=True, timeout_s=7, cluster=True
    )
    found = _at(given, Node("id", "second", 7001))
    assert (found.host, found.port, found.url) == ("second", 7001, None)
    assert (found.username, found.password, found.tls, found.timeout_s) == ("u", Secret("s"), True, 7)
