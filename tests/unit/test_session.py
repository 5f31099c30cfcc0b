"""A session's settings and what it says of itself; the connection is libpq's answers only."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from reconcile.source.session import Session
from reconcile.stop import Stop


@pytest.mark.parametrize(
    ("address", "encrypted", "exposed"),
    [
        (b"10.0.0.7", False, True),
        (b"10.0.0.7", True, False),
        (b"127.0.0.1", False, False),
        (b"::1", False, False),
        (b"fe80::1%eth0", False, True),
        (b"", False, False),  # a Unix socket
    ],
)
def test_what_crosses_a_network_unencrypted(address: bytes, *, encrypted: bool, exposed: bool) -> None:
    """A network: anything but this host itself."""
    connection: Any = SimpleNamespace(pgconn=SimpleNamespace(hostaddr=address, ssl_in_use=encrypted))
    settings: Any = SimpleNamespace()
    assert Session(connection, settings, Stop()).exposed is exposed
