"""Fenced transactions: every write of a run happens under WATCH of the state, which must still be as the run left it.

    ┌ MULTI ┬ commands, HSET state commit ┬ EXEC ┐┌ WATCH state ┬ HMGET state token commit ┐
    └───────┴─────────────────────────────┴──────┘└─────────────┴──────────────────────────┘   one round trip

Each transaction has a random name, its commit id. After the WATCH that guards the next one, token and commit must be
those of this run's last transaction: then nobody has written between the two, and everything that was read on this
connection since (it is one server: docs/adr/0014) is still what the next transaction replaces. A run knows a commit id
only from its own transactions and never takes over one that it read: tokens recur after a failover.

At most one transaction is under way. None is ever sent twice: when no answer comes its outcome is unknown, the run
ends, and the next run reads the state to learn which it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from reconcile.core.state import Pending, State
from reconcile.errors import ReconcileError
from reconcile.target import commands as written
from reconcile.target import lease
from reconcile.target.lease import Right
from reconcile.target.names import Names
from reconcile.target.translation import checked, translate
from reconcile.target.wire import Command, Ticket, Wire


@dataclasses.dataclass(slots=True)
class _UnderWay:
    ticket: Ticket
    commands: int
    commit: str
    state: State | None


class Fence:
    """Transactions on the state's slot for one run."""

    def __init__(self, wire: Wire, names: Names, right: Right, known: State | None) -> None:
        """known: the state as last read, None if there is none."""
        self._wire = wire
        self._names = names
        self._under_way: _UnderWay | None = None
        self.token = right.token
        self.commit = right.commit
        self.state = known
        """As last read, or written by a settled transaction."""
        self.lost = False
        self._arm(right.armed)

    @property
    def ticket(self) -> Ticket | None:
        """Of the transaction under way."""
        return None if self._under_way is None else self._under_way.ticket

    def check(self) -> None:
        """Raise LeaseLost once another run has taken over."""
        if self.lost:
            raise lease.lost(self._names.view)

    def transact(self, some: Sequence[Command], state: State | None, commit: str | None = None) -> None:
        """Send a transaction; none may be under way. state: what it makes of the state, None: nothing."""
        assert self._under_way is None, "settle first"
        self.check()
        commit = commit or lease.new_commit()
        last = written.state(self._names, state, self.token, commit)
        ticket = self._wire.send([("MULTI",), *some, last, ("EXEC",), *lease.arming(self._names)], transaction=True)
        self._under_way = _UnderWay(ticket, len(some) + 1, commit, state)

    def end(self, some: Sequence[Command]) -> None:
        """Carry out a last transaction, which leaves no state. Raises LeaseLost: nothing was written."""
        self.settle()
        self.check()
        self.lost = True
        if self._wire.send([("MULTI",), *some, ("EXEC",)], transaction=True).checked()[-1] is None:
            raise lease.lost(self._names.view)

    def settle(self) -> list[Any] | None:
        """The replies of the transaction under way, None if there is none. Raises LeaseLost: nothing was written."""
        if self._under_way is None:
            return None
        sent, self._under_way = self._under_way, None
        replies = sent.ticket.replies()
        outcome = replies[sent.commands + 1]
        armed = replies[sent.commands + 2 :]
        if outcome is None:
            self.lost = True
            raise lease.lost(self._names.view)
        if any(isinstance(reply, RedisError) for reply in replies[: sent.commands + 2]):
            self._arm(armed)  # refused while it was queued: nothing was written
            checked(replies)
        self.commit = sent.commit
        self.state = sent.state or self.state
        self._arm(armed)
        for reply in outcome:
            if isinstance(reply, RedisError):
                raise self._half_applied(reply)
        return list(outcome[:-1])

    def _arm(self, replies: list[Any]) -> None:
        known = checked(replies)[1]
        self.lost = self.lost or known != [b"%d" % self.token, self.commit.encode()]

    def _half_applied(self, error: RedisError) -> ReconcileError:
        """Redis does not roll back: the rest of the transaction was applied. The state must not go on saying that
        Redis equals a time, nor the fingerprints that a bucket has not changed."""
        reason = translate(error)
        if self.state is not None and not self.lost:
            until = self.state.as_of if self.state.as_of is not None else 0
            doubted = dataclasses.replace(self.state, pending=Pending("snapshot", until))
            self.transact([("DEL", self._names.fingerprints)], doubted)
            self.settle()
        return ReconcileError(
            f"Redis refused one command of a transaction: {reason.message}",
            hint="a key of reconcile's own was overwritten by something else; the next run compares every key",
        )
