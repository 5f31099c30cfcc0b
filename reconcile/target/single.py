"""One server: a write is one transaction of data, records and state."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator

from reconcile.target import commands as written
from reconcile.target.base import Base
from reconcile.target.lease import Right
from reconcile.target.names import Names
from reconcile.target.packing import Command, kinds_of, pack
from reconcile.target.port import Outcome, Write


class Single(Base):
    """A view on one server."""

    atomic = True
    _told = range(0)
    """Where, among the replies to the transaction under way, those are that tell whether an `only_new` key existed."""

    def _take(self, names: Names, right: Right) -> Right:
        return right

    def _prepared(self, write: Write) -> Callable[[], None]:
        deletes = [*written.unlinks(write.deletes)]
        cleared = [*written.unlinks(write.puts)] if self._layout.adds else []
        puts = self._layout.write(write.puts, only_new=write.only_new)
        told = len(cleared) or kinds_of(puts).total()
        packed = [pack(puts)] if self._armed.ticket is not None else puts

        def carry_out() -> None:
            self._told = range(len(deletes), len(deletes) + told) if write.only_new else range(0)
            self._armed.transact([*deletes, *cleared, *packed, *self._rest(write)], write.state)

        return carry_out

    def _rest(self, write: Write) -> Iterator[Command]:
        if self.range.ownership == "remembered":
            yield from written.remembering(self._names, write.puts, write.deletes)
        yield from written.records(self._names, write)
        for key, value in written.timestamp(self.range.timestamp_key, write.state, self._armed.state):
            yield ("SET", key, value)

    def _settled(self) -> Outcome | None:
        if self._fence is None or (replies := self._fence.settle()) is None:
            return None
        existed = bool if self._layout.adds else operator.not_  # keys deleted, or not written
        return Outcome(collided=any(existed(replies[place]) for place in self._told))

    def ready(self) -> bool:
        """See port."""
        ticket = self._armed.ticket
        return ticket is None or ticket.arrived or self._home.ready()
