"""One server: a write is one transaction of data, records and state."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from reconcile.target import commands as written
from reconcile.target.base import Base
from reconcile.target.lease import Right
from reconcile.target.names import Names
from reconcile.target.port import Outcome, Write
from reconcile.target.wire import Command, pack


class Single(Base):
    """A view on one server."""

    atomic = True
    _puts = range(0)
    """Where the replies to `only_new` puts are among those of the transaction under way."""

    def _take(self, names: Names, right: Right) -> Right:
        return right

    def _prepared(self, write: Write) -> Callable[[], None]:
        head = [*written.unlinks(write.deletes)]
        puts = self._layout.write(write.puts, only_new=write.only_new)
        if self._armed.ticket is not None:
            puts = [pack(command) for command in puts]
        tell = write.only_new and self._layout.new_by_itself

        def carry_out() -> None:
            self._puts = range(len(head), len(head) + len(puts)) if tell else range(0)
            self._armed.transact([*head, *puts, *self._rest(write)], write.state)

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
        return Outcome(collided=any(not replies[place] for place in self._puts))

    def ready(self) -> bool:
        """See port."""
        ticket = self._armed.ticket
        return ticket is None or ticket.arrived or self._home.ready()
