"""One thread that renews all leases of a process, each round pipelined over one connection per server.

A courtesy: it keeps other runs from starting in vain. What keeps them apart is the token (fence.py).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from reconcile.errors import ReconcileError
from reconcile.target.names import Names
from reconcile.target.nodes import Nodes
from reconcile.target.wire import Command

logger = logging.getLogger(__name__)

HANDOVER_S = 0.5
"""How long the end of a run waits for a renewal under way; twice, the second time with its connection shut."""
ROUNDS_PER_LEASE = 3


@dataclass(slots=True, eq=False)
class Renewed:
    """A lease that is kept alive."""

    names: Names
    owner: bytes
    token: int
    lease_ms: int


class LeaseKeeper:
    """Renews leases until they are removed. Safe to use from any thread; short runs never open its connection."""

    def __init__(self, connect: Callable[[], Nodes]) -> None:
        """connect: a connection of its own, without the end of a run to cut it short."""
        self._connect = connect
        self._nodes: Nodes | None = None
        self._kept: list[Renewed] = []
        self._changed = threading.Condition()
        self._working = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, names: Names, owner: bytes, token: int, lease_s: float) -> Renewed:
        """Keep this lease alive from now on."""
        renewed = Renewed(names, owner, token, max(1, round(lease_s * 1000)))
        with self._changed:
            self._kept.append(renewed)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="reconcile-lease", daemon=True)
                self._thread.start()
        return renewed

    def remove(self, renewed: Renewed) -> None:
        """Keep it no longer; afterwards its owner may give it back, and it stays given back."""
        with self._changed:
            if renewed in self._kept:
                self._kept.remove(renewed)
            if not self._changed.wait_for(lambda: not self._working, HANDOVER_S):
                self._sever()
                self._changed.wait_for(lambda: not self._working, HANDOVER_S)

    def __enter__(self) -> LeaseKeeper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Renew nothing any more."""
        with self._changed:
            self._closed = True
            self._kept.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(HANDOVER_S)
            if self._thread.is_alive():
                self._sever()
                self._thread.join(HANDOVER_S)

    def _sever(self) -> None:
        for wire in self._nodes.opened() if self._nodes is not None else []:
            wire.sever()

    def _keep(self) -> None:
        last = time.monotonic()
        while True:
            with self._changed:
                self._working = False
                self._changed.notify_all()
                while not self._closed and (left_s := self._due(last) - time.monotonic()) > 0:
                    self._changed.wait(min(left_s, threading.TIMEOUT_MAX))  # a lease that is added may be shorter
                if self._closed:
                    break
                kept = list(self._kept)
                self._working = True
            self._round(kept)
            last = time.monotonic()
        self._hang_up()

    def _due(self, last: float) -> float:
        """When a third of the shortest lease has passed since the last round."""
        shortest_ms = min((one.lease_ms for one in self._kept), default=math.inf)
        return last + shortest_ms / 1000 / ROUNDS_PER_LEASE

    def _round(self, kept: list[Renewed]) -> None:
        try:
            self._nodes = nodes = self._nodes or self._connect()
            parts: dict[int, list[Renewed]] = {}
            for one in kept:
                parts.setdefault(nodes.owner_of(one.names.lease), []).append(one)
            for node, some in parts.items():
                self._renew(nodes, node, some)
        except ReconcileError as error:
            # Not fatal: writes are fenced by the token, not by the lease.
            logger.debug("leases not renewed: %s", error.message)
            self._hang_up()

    def _hang_up(self) -> None:
        nodes, self._nodes = self._nodes, None
        for wire in nodes.opened() if nodes is not None else []:
            wire.close()

    def _renew(self, nodes: Nodes, node: int, some: list[Renewed]) -> None:
        """Extend leases that are still ours; take those again that merely expired."""
        wire = nodes.wire(node)
        looks: list[Command] = []
        for one in some:
            looks += [("GET", one.names.lease), ("HGET", one.names.state, "token")]
        replies = wire.send(looks).replies()
        commands: list[Command] = []
        for one, holder, token in zip(some, replies[::2], replies[1::2], strict=True):
            if holder == one.owner:
                commands.append(("PEXPIRE", one.names.lease, one.lease_ms))
            elif token == b"%d" % one.token:
                commands.append(("SET", one.names.lease, one.owner, "NX", "PX", one.lease_ms))
        if commands:
            wire.send(commands).replies()
