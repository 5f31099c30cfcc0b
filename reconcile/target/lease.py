"""The right to write one view: a short lease, and a fencing token that makes it safe.

The lease (a string with an expiry) keeps runs from overlapping; it is renewed while a run works. The token (a counter
that never goes back) is written into the state at each acquire, and every write of a run is a transaction that WATCHes
the state. So a run that was frozen past its lease finds the state touched and its writes refused:

    1. A acquires, token 1 in state.       2. A is frozen; the lease expires.
    3. B acquires, token 2 in state.       4. A wakes, MULTI … EXEC under WATCH state: refused. Data included.

The lease key itself is never WATCHed for data: its expiry would abort transactions that are fine.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator

from redis.exceptions import RedisError

from reconcile.errors import LeaseHeld, LeaseLost, ReconcileError
from reconcile.target.connection import Command, Wire, translate
from reconcile.target.keyspace import Keyspace

logger = logging.getLogger(__name__)

HANDOVER_S = 0.5
"""How long the end of a run waits for a renewal under way; twice, the second time with its connection shut."""


class Lease:
    """A held lease. `token` fences this run's writes."""

    def __init__(self, keyspace: Keyspace, owner: bytes, token: int, lease_ms: int) -> None:
        self.keyspace = keyspace
        self.owner = owner
        self.token = token
        self.lease_ms = lease_ms
        self.lost = False
        self._wire: Wire | None = None
        self._released = threading.Event()

    def check(self) -> None:
        """Raise LeaseLost once another run has taken over."""
        if self.lost:
            raise lease_lost(self.keyspace.view)

    @contextlib.contextmanager
    def renewed(self, open_wire: Callable[[], Wire]) -> Iterator[None]:
        """Keep the lease alive while inside, in a thread with a connection of its own. Short runs never open it."""
        thread = threading.Thread(target=self._keep, args=(open_wire,), name="reconcile-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._released.set()
            thread.join(HANDOVER_S)
            if thread.is_alive() and (wire := self._wire) is not None:
                wire.sever()
                thread.join(HANDOVER_S)

    def _keep(self, open_wire: Callable[[], Wire]) -> None:
        wire: Wire | None = None
        while not self._released.wait(self.lease_ms / 3000):
            try:
                self._wire = wire = wire or open_wire()
                if self._released.is_set():  # connecting took longer than the run
                    break
                if not self._renew(wire):
                    self.lost = True  # never taken back: the fence may have found out in the meantime
            except ReconcileError as error:
                # Not fatal: writes are fenced by the token, not by the lease.
                logger.debug("lease not renewed: %s", error.message)
                if wire is not None:
                    wire.close()
                    self._wire = wire = None
            if self.lost:
                break
        if wire is not None:
            wire.close()

    def _renew(self, wire: Wire) -> bool:
        """Extend the lease if it is still ours; take it again if it merely expired. False: another run has it."""
        name = self.keyspace.lease
        _, holder = wire.replies([("WATCH", name), ("GET", name)])
        if holder == self.owner:
            wire.replies([("MULTI",), ("PEXPIRE", name, self.lease_ms), ("EXEC",)])
            return True
        wire.replies([("UNWATCH",)])
        if holder is not None:
            return False
        (token,) = wire.replies([("HGET", self.keyspace.state, "token")])
        if token != str(self.token).encode():
            return False
        (taken,) = wire.replies([("SET", name, self.owner, "NX", "PX", self.lease_ms)])
        return taken is not None

    def release(self, wire: Wire) -> None:
        """Give the lease back, if it is still ours, so that the next run need not wait for it to expire."""
        give_back(wire, self.keyspace, self.owner)


def new_owner() -> bytes:
    """A name nobody else has, for the holder of a lease."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}".encode()


def acquire(
    wire: Wire, keyspace: Keyspace, lease_s: float, *, owner: bytes | None = None, reset: bool = False
) -> Lease:
    """Take the lease and write a new token into the state. reset: forget what is stored of earlier runs.

    Raises LeaseHeld. After any other error the lease may have been taken: `give_back` it.
    """
    owner = owner or new_owner()
    lease_ms = max(1, round(lease_s * 1000))
    (taken,) = wire.replies([("SET", keyspace.lease, owner, "NX", "PX", lease_ms)])
    if taken is None:
        raise held(wire, keyspace)
    (token,) = wire.replies([("INCR", keyspace.token)])
    _, known, holder = wire.pipeline(
        [("WATCH", keyspace.state), ("HGET", keyspace.state, "token"), ("GET", keyspace.lease)]
    )
    if isinstance(known, RedisError) and not reset:
        raise translate(known)
    if holder != owner:
        wire.replies([("UNWATCH",)])
        raise held(wire, keyspace)
    commands: list[Command] = [("MULTI",)]
    if reset:
        commands.append(("DEL", keyspace.state, keyspace.manifest, keyspace.fingerprints, keyspace.audit))
    stored = int(known) if isinstance(known, bytes) and known.isdigit() else 0
    if stored >= token:  # the counter was lost (evicted, restored): never reuse a token
        token = stored + 1
        commands.append(("SET", keyspace.token, token))
    commands += [("HSET", keyspace.state, "token", token), ("EXEC",)]
    if wire.replies(commands)[-1] is None:
        raise held(wire, keyspace)
    if wire.cluster:
        from reconcile.target.cluster_fence import raise_fences  # nobody else pays for it

        token = raise_fences(wire, keyspace, token)
    return Lease(keyspace, owner, token, lease_ms)


def give_back(wire: Wire, keyspace: Keyspace, owner: bytes) -> None:
    """Delete the lease if this owner has it."""
    name = keyspace.lease
    _, holder = wire.replies([("WATCH", name), ("GET", name)])
    if holder == owner:
        wire.replies([("MULTI",), ("DEL", name), ("EXEC",)])
    else:
        wire.replies([("UNWATCH",)])


def holder_of(wire: Wire, keyspace: Keyspace) -> tuple[str, int] | None:
    """(owner, milliseconds left) of the lease; None when free."""
    owner, left_ms = wire.replies([("GET", keyspace.lease), ("PTTL", keyspace.lease)])
    return None if owner is None else (owner.decode("utf-8", "replace"), int(left_ms))


def lease_lost(view: str) -> LeaseLost:
    """The error of a run that was overtaken."""
    return LeaseLost(
        f"another run took over view {view}; this one wrote nothing after that",
        hint="this process was paused for longer than its lease; nothing to do",
        view=view,
    )


def held(wire: Wire, keyspace: Keyspace) -> LeaseHeld:
    """The error of a run that found another at work."""
    holder = holder_of(wire, keyspace)
    who = f"{holder[0]} for another {max(0, holder[1]) / 1000:.1f} s unless renewed" if holder else "another run"
    return LeaseHeld(f"view {keyspace.view} is being written by {who}", view=keyspace.view)
