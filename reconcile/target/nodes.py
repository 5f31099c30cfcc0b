"""Where the keys are: one server, or the primaries of a cluster (primaries.py)."""

from __future__ import annotations

import re
from typing import Protocol

from redis.exceptions import RedisError

from reconcile.target.wire import Wire


class Nodes(Protocol):
    """Where the keys are: one server, or the primaries of a cluster."""

    count: int

    def __str__(self) -> str:
        """What the cluster is, for people; empty for one server."""
        ...

    def wire(self, node: int) -> Wire:
        """The connection to a node; opened when it is first used."""
        ...

    def opened(self) -> list[Wire]:
        """The connections there are."""
        ...

    def owner_of(self, key: bytes) -> int:
        """The node that serves a key."""
        ...

    def identity(self) -> bytes:
        """Which processes answer, and what each serves. Raises Unavailable while slots move."""
        ...


class OneNode:
    """The only connection there is."""

    count = 1

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def __str__(self) -> str:
        return ""

    def wire(self, node: int) -> Wire:
        """It."""
        return self._wire

    def opened(self) -> list[Wire]:
        """It."""
        return [self._wire]

    def owner_of(self, key: bytes) -> int:
        """Nobody else."""
        return 0

    def identity(self) -> bytes:
        """The process that answers; empty where INFO does not tell (managed services)."""
        (reply,) = self._wire.send([("INFO", "server")]).replies()
        match = None if isinstance(reply, RedisError) else re.search(rb"run_id:(\w+)", reply)
        return match[1] if match else b""
