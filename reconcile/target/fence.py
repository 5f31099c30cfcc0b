"""Fenced transactions: every write of a run happens under WATCH of the state, whose token must still be the run's.

    ┌ MULTI ┬ commands ┬ EXEC ┐┌ WATCH state ┬ HGET state token ┐
    └───────┴──────────┴──────┘└─────────────┴──────────────────┘   one round trip, and the next one is armed

The next transaction may be sent only after these answers were read, so at most one is under way; the caller fills the
time by reading more of the source. A transaction is never sent twice: when no answer comes its outcome is unknown, the
run ends, and the next run reads the state to learn which it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from reconcile.errors import Incomplete, ReconcileError, Unavailable
from reconcile.target.connection import Command, Wire, checked, translate
from reconcile.target.lease import Lease, lease_lost


class Fence:
    """Writes for one run. `wire` is used for nothing else: WATCH belongs to the connection."""

    def __init__(self, wire: Wire, lease: Lease) -> None:
        self._wire = wire
        self._lease = lease
        self._under_way = 0
        self.transactions = 0
        self._arm(wire.pipeline(self._arming))

    @property
    def _arming(self) -> list[Command]:
        state = self._lease.keyspace.state
        return [("WATCH", state), ("HGET", state, "token")]

    def is_one_step(self, commands: Sequence[Command]) -> bool:
        """Whether `commit` carries these out all at once: a reader sees all of them or none."""
        return True

    def commit(self, commands: Sequence[Command]) -> list[Any]:
        """Carry out all commands in one transaction. Returns their replies. Raises LeaseLost: nothing was written."""
        self.send(commands)
        return self.settle()

    def send(self, commands: Sequence[Command]) -> list[Any]:
        """Send a transaction without waiting for its outcome. Returns the replies of the one before."""
        replies = self.settle()
        self._lease.check()
        self._transmit(commands)
        return replies

    def settle(self) -> list[Any]:
        """Read the outcome of the transaction under way, if any; returns its replies."""
        return self._collect()

    def _transmit(self, commands: Sequence[Command]) -> None:
        self._wire.send([("MULTI",), *commands, ("EXEC",), *self._arming])
        self._under_way = len(commands)

    def _collect(self) -> list[Any]:
        if not self._under_way:
            return []
        count, self._under_way = self._under_way, 0
        try:
            replies = self._wire.receive(count + 4)
        except (Incomplete, Unavailable) as error:
            error.message += " (the outcome of the last transaction is unknown; the next run finds out)"
            raise
        queued, outcome = replies[: count + 1], replies[count + 1]
        checked([*queued, outcome])
        if outcome is None:
            raise lease_lost(self._lease.keyspace.view)
        self.transactions += 1
        for reply in outcome:
            if isinstance(reply, RedisError):
                raise _half_applied(reply)
        self._arm(replies[count + 2 :])
        return list(outcome)

    def _arm(self, replies: list[Any]) -> None:
        checked(replies)
        if replies[1] != str(self._lease.token).encode():
            self._lease.lost = True


def open_fence(wire: Wire, lease: Lease) -> Fence:
    """The way to write over this connection."""
    if wire.cluster:
        from reconcile.target.cluster_fence import ClusterFence  # nobody else pays for it

        return ClusterFence(wire, lease)
    return Fence(wire, lease)


def _half_applied(error: RedisError) -> ReconcileError:
    """Redis does not roll back: the rest of the transaction was applied. The manifest no longer fits its state, which
    the next run notices and then compares everything."""
    reason = translate(error)
    return ReconcileError(
        f"Redis refused one command of a transaction: {reason.message}",
        hint="a key of reconcile's own state was overwritten by something else; the next run repairs it",
    )
