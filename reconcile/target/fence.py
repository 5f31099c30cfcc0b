"""Fenced transactions: every write of a run is a transaction under WATCH of the state, as this run left it.

    ┌ MULTI ┬ commands, HSET state commit ┬ EXEC ┐┌ WATCH state ┬ HMGET state token commit ┐
    └───────┴─────────────────────────────┴──────┘└─────────────┴──────────────────────────┘   one round trip

Each transaction has a random name, its commit id. After the WATCH that guards the next transaction, the state must
still have the token and commit id of this run's last one. Then nobody has written in between, and whatever was read on
this connection since (one server: docs/adr/0014) is still what the next transaction replaces. A run accepts only commit
ids it made itself, never one that it read: after a failover, tokens recur.

At most one transaction is under way, and none is sent twice. When no answer comes the outcome is unknown: the run ends,
and the next run reads the state to learn what happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from redis.exceptions import RedisError

from reconcile.core import pending
from reconcile.core.changes import name_of
from reconcile.core.state import State
from reconcile.errors import ReconcileError, StateError
from reconcile.target import commands as written
from reconcile.target import lease
from reconcile.target.lease import Right
from reconcile.target.names import Names
from reconcile.target.packing import Command, Some, keys_of
from reconcile.target.translation import all_well, checked, of_another_type, translate
from reconcile.target.wire import Ticket, Wire


class _UnderWay(Struct):
    ticket: Ticket
    keys: list[Any]
    """The first key of each command, the state's last."""
    commit: str
    state: State | None


class Fence:
    """Transactions of one run on the state's slot."""

    def __init__(self, wire: Wire, names: Names, right: Right, known: State | None) -> None:
        """known: the state as last read; None: there was none."""
        self._wire = wire
        self._names = names
        self._under_way: _UnderWay | None = None
        self.token = right.token
        self.commit = right.commit
        self.state = known
        """As last read, or as a settled transaction wrote it."""
        self.lost = False
        self._arm(right.armed)

    @property
    def ticket(self) -> Ticket | None:
        """Replies to come from the transaction under way."""
        return None if self._under_way is None else self._under_way.ticket

    def check(self) -> None:
        """Raise LeaseLost once another run has taken over."""
        if self.lost:
            raise lease.lost(self._names.view)

    def transact(self, some: Sequence[Some], state: State | None, commit: str | None = None) -> None:
        """Send a transaction; none may be under way. state: the new state; None: it stays. Raises LeaseLost."""
        assert self._under_way is None, "settle first"
        self.check()
        commit = commit or lease.new_commit()
        last = written.state(self._names, state, self.token, commit)
        ticket = self._wire.send([("MULTI",), *some, last, ("EXEC",), *lease.arming(self._names)], transaction=True)
        self._under_way = _UnderWay(ticket, list(keys_of((*some, last))), commit, state)

    def end(self, some: Sequence[Command]) -> None:
        """Carry out the last transaction, which leaves no state. Raises LeaseLost, having written nothing."""
        self.settle()
        self.check()
        self.lost = True
        if self._wire.send([("MULTI",), *some, ("EXEC",)], transaction=True).checked()[-1] is None:
            raise lease.lost(self._names.view)

    def settle(self) -> list[Any] | None:
        """Wait for the transaction under way; returns its replies, or None if there is none.

        Raises LeaseLost if another run took over; then nothing was written."""
        if self._under_way is None:
            return None
        sent, self._under_way = self._under_way, None
        replies = sent.ticket.replies()
        count = len(sent.keys)
        outcome = replies[count + 1]
        armed = replies[count + 2 :]
        if outcome is None:
            self.lost = True
            raise lease.lost(self._names.view)
        if not all_well(replies[: count + 2]):
            self._arm(armed)  # a command was refused while queued, so nothing was written
            checked(replies)
        self.commit = sent.commit
        self.state = sent.state or self.state
        self._arm(armed)
        if not all_well(outcome):
            for key, reply in zip(sent.keys, outcome, strict=True):
                if isinstance(reply, RedisError):
                    raise self._half_applied(key, reply)
        return list(outcome[:-1])

    def _arm(self, replies: list[Any]) -> None:
        known = checked(replies)[1]
        self.lost = self.lost or known != [b"%d" % self.token, self.commit.encode()]

    def _half_applied(self, key: bytes, error: RedisError) -> ReconcileError:
        """Return the error, after marking the state. Redis does not roll back: the other commands were applied. So the
        state may no longer say that Redis equals a time, nor fingerprints that a bucket has not changed."""
        reason = translate(error)
        if self.state is not None and not self.lost:
            until = self.state.as_of if self.state.as_of is not None else 0
            doubted = replace(self.state, pending=pending.after(self.state, "lose", until))
            self.transact([("DEL", self._names.fingerprints)], doubted)
            self.settle()
        kind = StateError if of_another_type(error) else ReconcileError
        return kind(
            f"Redis refused one command of a transaction, on {name_of(key)}: {reason.message}",
            hint="if it is one of reconcile's own keys, something else overwrote it: delete it; the next run compares "
            "every key",
        )
