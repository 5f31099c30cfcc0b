"""Where the keys are: one server, or the primaries of a cluster (primaries.py)."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from typing import Protocol

from redis.exceptions import RedisError

from reconcile.stop import Stop
from reconcile.target.wire import Wire


class Nodes(Protocol):
    """Where the keys are: one server, or the primaries of a cluster."""

    count: int

    def __str__(self) -> str:
        """A description of the cluster for people; empty for one server."""
        ...

    def wire(self, node: int) -> Wire:
        """Return the connection to a node; opened on first use."""
        ...

    def opened(self) -> list[Wire]:
        """Return the connections opened so far."""
        ...

    def owner_of(self, key: bytes) -> int:
        """Return the node that serves a key."""
        ...

    def identity(self) -> bytes:
        """Return the server processes and the slots each serves. Raises Unavailable while slots move."""
        ...


class OneNode:
    """One server, over one connection."""

    count = 1

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def __str__(self) -> str:
        return ""

    def wire(self, node: int) -> Wire:
        """Return the connection."""
        return self._wire

    def opened(self) -> list[Wire]:
        """Return the connection, in a list."""
        return [self._wire]

    def owner_of(self, key: bytes) -> int:
        """Return 0."""
        return 0

    def identity(self) -> bytes:
        """Return the server's run id; empty if INFO does not give it (managed services)."""
        (reply,) = self._wire.send([("INFO", "server")]).replies()
        match = None if isinstance(reply, RedisError) else re.search(rb"run_id:(\w+)", reply)
        return match[1] if match else b""


def guarded(nodes: Nodes, stop: Stop) -> AbstractContextManager[None]:
    """Inside the block, keep idle connections open, and end blocked waits soon after the run should have ended."""

    def sever() -> None:
        for wire in nodes.opened():
            wire.sever()

    def stay() -> None:
        for wire in nodes.opened():
            wire.stay()

    return stop.watch(cancel=None, sever=sever, stay=stay)
