"""The lease keeper: one thread that renews all leases of the process, pipelined over one connection per server.

Renewing is a courtesy: it keeps other runs from starting in vain. Safety comes from the token (fence.py).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from msgspec import Struct

from reconcile.errors import ReconcileError
from reconcile.target.names import Names
from reconcile.target.nodes import Nodes
from reconcile.target.packing import Command

logger = logging.getLogger(__name__)

HANDOVER_S = 0.5
"""How long a run that ends waits for a renewal under way: twice, the second time with its connection shut."""
ROUNDS_PER_LEASE = 3


class Renewed(Struct, eq=False):
    """A lease that the keeper renews."""

    names: Names
    owner: bytes
    token: int
    lease_ms: int


class LeaseKeeper:
    """Renews leases until they are removed. Thread-safe; in short runs it never opens its connection."""

    def __init__(self, connect: Callable[[], Nodes]) -> None:
        """connect: opens connections for the keeper alone, which the end of a run does not cut."""
        self._connect = connect
        self._nodes: Nodes | None = None
        self._kept: list[Renewed] = []
        self._changed = threading.Condition()
        self._working = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, names: Names, owner: bytes, token: int, lease_s: float) -> Renewed:
        """Renew this lease from now on. lease_s: its length."""
        renewed = Renewed(names, owner, token, max(1, round(lease_s * 1000)))
        with self._changed:
            self._kept.append(renewed)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="reconcile-lease", daemon=True)
                self._thread.start()
        return renewed

    def remove(self, renewed: Renewed) -> None:
        """Stop renewing a lease. Afterwards its owner may release it, and it stays released."""
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
        """Stop renewing leases."""
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
                    self._changed.wait(min(left_s, threading.TIMEOUT_MAX))  # a shorter lease may be added meanwhile
                if self._closed:
                    break
            # Nobody waits for this, which may take long: it touches no lease.
            if self._connected():
                with self._changed:
                    kept = list(self._kept)
                    self._working = True
                self._round(kept)
            last = time.monotonic()
        self._hang_up()

    def _due(self, last: float) -> float:
        """Return when the next round is due: a third of the shortest lease after the last one."""
        shortest_ms = min((one.lease_ms for one in self._kept), default=math.inf)
        return last + shortest_ms / 1000 / ROUNDS_PER_LEASE

    def _connected(self) -> bool:
        try:
            self._nodes = self._nodes or self._connect()
        except ReconcileError as error:
            logger.debug("leases not renewed: %s", error.message)
        return self._nodes is not None

    def _round(self, kept: list[Renewed]) -> None:
        assert self._nodes is not None
        try:
            nodes = self._nodes
            parts: dict[int, list[Renewed]] = {}
            for one in kept:
                parts.setdefault(nodes.owner_of(one.names.lease), []).append(one)
            for node, some in parts.items():
                self._renew(nodes, node, some)
        except ReconcileError as error:
            # Not fatal: the token fences writes, not the lease.
            logger.debug("leases not renewed: %s", error.message)
            self._hang_up()

    def _hang_up(self) -> None:
        nodes, self._nodes = self._nodes, None
        for wire in nodes.opened() if nodes is not None else []:
            wire.close()

    def _renew(self, nodes: Nodes, node: int, some: list[Renewed]) -> None:
        """Extend leases we still hold; take back those that expired but that nobody has taken since."""
        wire = nodes.wire(node)
        # GETRANGE, unlike GET, is hardly used by others: to runs that load meanwhile we are none (company.py).
        holders = wire.send([("GETRANGE", one.names.lease, 0, -1) for one in some]).replies()
        expired = [one for one, holder in zip(some, holders, strict=True) if holder == b""]
        tokens = wire.send([("HGET", one.names.state, "token") for one in expired]).replies()
        commands: list[Command] = [
            ("PEXPIRE", one.names.lease, one.lease_ms, "GT")  # by now it may be another's, and last longer
            for one, holder in zip(some, holders, strict=True)
            if holder == one.owner
        ]
        commands += [
            ("SET", one.names.lease, one.owner, "NX", "PX", one.lease_ms)
            for one, token in zip(expired, tokens, strict=True)
            if token == b"%d" % one.token
        ]
        if commands:
            wire.send(commands).replies()
