"""A cluster: a write takes up to three steps, as no transaction spans the state's slot and the data.

state's slot   HSET state pending                 an earlier write of the caller, or the first step of this one
each node      EVAL fence: token, mark? ─▶ mark, data
state's slot   MULTI records, HSET state, marks EXEC
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

from reconcile.target import commands as written
from reconcile.target import fences, lease
from reconcile.target.base import Base
from reconcile.target.fences import Fences, NodeWrite
from reconcile.target.lease import Right
from reconcile.target.names import Names
from reconcile.target.packing import Arg, Command, tuples
from reconcile.target.port import Outcome, Write
from reconcile.target.primaries import Primaries
from reconcile.target.wire import Ticket

UNPACKED = 7_000
"""Arguments of one command in a script, beside its name and key: Lua's unpack returns 7,999 values at most."""


class Cluster(Base):
    """A view in a Redis Cluster. At most one step is under way: data, or a transaction on the state."""

    atomic = False
    _nodes: Primaries
    _fences: Fences | None = None
    _data: list[Ticket]
    """Replies to come from the scripts under way."""
    _absent: bool | None = None
    """Whether every put of the last write happened; None: it had none, or the caller knows already."""

    def _take(self, names: Names, right: Right) -> Right:
        right, self._fences = fences.raise_fences(self._nodes, names, right)
        self._data = []
        return right

    def _prepared(self, write: Write) -> Callable[[], None]:
        return partial(self._carry_out, write, self._by_node(write))

    def _carry_out(self, write: Write, by_node: dict[int, NodeWrite]) -> None:
        fence = self._armed
        assert self._fences is not None
        state = write.state
        some = list(written.records(self._names, write))
        if by_node:
            marked = fence.state is not None and fence.state.pending is not None
            if not marked and state is not None and state.pending is not None and not some:
                self._transact([], write)
                fence.settle()
                marked, state = True, None
            assert marked, "data written in several steps needs the pending mark first"
            self._data = self._fences.send(by_node, self._mode(write))
        if beside := written.timestamp(self.range.timestamp_key, state, fence.state):
            self._settle_data()  # it promises that all data is written, and lies on one node
            self._data = [self._fences.send_beside(key, value) for key, value in beside]
        if state is not None or some or not by_node:
            self._settle_data()
            self._transact(some, write)

    def _transact(self, some: list[Command], write: Write) -> None:
        assert self._fences is not None
        commit = lease.new_commit()
        self._armed.transact([*some, self._fences.note(commit)], write.state, commit)

    @property
    def _written_by(self) -> frozenset[str]:
        return super()._written_by | {"SET"}  # in WRITE; MSET takes keys of one slot only

    def _mode(self, write: Write) -> str:
        if self._layout.one_by_one:
            return "fresh" if write.only_new and self._layout.adds else "commands"
        return "new" if write.only_new else "all"

    def _by_node(self, write: Write) -> dict[int, NodeWrite]:
        """Return what each node has to write."""
        found: dict[int, NodeWrite] = {}
        for key in write.deletes:
            self._of_node(found, key).deletes.append(key)
        if self._layout.one_by_one:
            puts: dict[int, dict[bytes, bytes]] = {}
            for key, value in write.puts.items():
                puts.setdefault(self._nodes.owner_of(key), {})[key] = value
            for node, some in puts.items():
                commands = tuples(self._layout.write(some, only_new=write.only_new))
                each = map(written.flat, _clearing(commands) if self._layout.adds else commands)
                found.setdefault(node, NodeWrite([], [])).puts = list(chain.from_iterable(each))
        else:
            for key, value in write.puts.items():
                self._of_node(found, key).puts += (key, value)
        return found

    def _of_node(self, found: dict[int, NodeWrite], key: bytes) -> NodeWrite:
        return found.setdefault(self._nodes.owner_of(key), NodeWrite([], []))

    def _settled(self) -> Outcome | None:
        if self._fence is None:
            return None
        under_way = bool(self._data) or self._absent is not None
        self._settle_data()
        settled = self._fence.settle() is not None
        absent, self._absent = self._absent, None
        return Outcome(collided=absent is False) if settled or under_way else None

    def _settle_data(self) -> None:
        if self._data:
            assert self._fences is not None
            tickets, self._data = self._data, []
            self._absent = self._fences.settle(tickets) and self._absent is not False

    def _on_nodes(self) -> list[bytes]:
        assert self._fences is not None
        return self._fences.keys

    def ready(self) -> bool:
        """See port."""
        ticket = self._armed.ticket
        waiting = [one for one in (*self._data, ticket) if one is not None and not one.arrived]
        return not waiting or self._home.ready()


def _clearing(commands: Iterator[Command]) -> Iterator[Command]:
    """Yield the same commands, the first of each key after an UNLINK: they find it in the processor's cache. Those are
    no deletes of the write, as a full Redis would not refuse what follows these. A command of more fields than a script
    can unpack becomes several."""
    seen: set[Arg] = set()
    for command in commands:
        if command[1] not in seen:
            seen.add(command[1])
            yield ("UNLINK", command[1])
        for at in range(2, len(command), UNPACKED):
            yield (*command[:2], *command[at : at + UNPACKED])
