"""Writes in a cluster, where no transaction reaches from the state's slot to the data: a fence beside the data.

Every primary has a fence of the view, a hash in some slot that it serves: the token of the run that may write there,
and a mark of what was last written under it. Data is written by a script that looks at the fence first, so a run that
was overtaken is refused by each node by itself. Taking the lease raises all fences before anything is read.

    state's slot   HSET state pending          transactions under WATCH state, as on a single server
    each node      EVAL fence: token? ─▶ mark, data
    state's slot   manifest, HSET state as_of, marks

The marks tell the next run whether each node still holds what the state says was written: one that was failed over or
restarted may have lost its last seconds while the state's node did not, or the other way round.
docs/adr/0010-redis-cluster.md has the proof.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from redis.exceptions import ClusterCrossSlotError, RedisError

from reconcile.core.slots import SLOTS, tags_for
from reconcile.errors import Unavailable, UsageError
from reconcile.target.cluster import ClusterWire
from reconcile.target.connection import Arg, Command, Wire, checked
from reconcile.target.fence import Fence
from reconcile.target.keyspace import Keyspace
from reconcile.target.lease import Lease, held, lease_lost

logger = logging.getLogger(__name__)

AT = b"at"
"""Field of the list of fences: names the last transaction on the state. Marks begin with the one they belong to."""
ATTEMPTS = 3

RAISE = """
local held = redis.call('HMGET', KEYS[1], 'token', 'mark')
if tonumber(held[1] or '-1') < tonumber(ARGV[1]) then redis.call('HSET', KEYS[1], 'token', ARGV[1]) end
return {held[1] or '', held[2] or ''}
"""

WRITE = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return -1 end
local first = 5 + tonumber(ARGV[4])
for i = 5, first - 1 do redis.call('UNLINK', ARGV[i]) end
redis.call('HSET', KEYS[1], 'mark', ARGV[2])
if ARGV[3] == 'all' then
  for i = first, #ARGV, 2 do redis.call('SET', ARGV[i], ARGV[i + 1]) end
  return 1
end
local absent = 1
for i = first, #ARGV, 2 do
  if not redis.call('SET', ARGV[i], ARGV[i + 1], 'NX') then absent = 0 end
end
return absent
"""
"""ARGV: token, mark, 'all' or 'new' keys only, number of deletes, deletes, puts. -1: overtaken, 0: a key existed.
Deletes come first: a full Redis (noeviction) refuses a script that begins with anything else."""


class ClusterFence(Fence):
    """Writes for one run in a cluster. At most one step is under way: a transaction on the state, or data."""

    def __init__(self, wire: Wire, lease: Lease) -> None:
        assert isinstance(wire, ClusterWire)
        super().__init__(wire, lease)
        self._slots = wire.slots
        fields = _fields(wire.call("HGETALL", lease.keyspace.fences))
        self._at = fields.pop(AT, b"")
        self._tags = {wire.slots.owner_of(tag): tag for tag in fields}
        self._name = secrets.token_hex(4).encode()
        self._steps = 0
        self._marks: dict[bytes, bytes] = {}
        """Tags that were written under since the last transaction on the state, and how."""
        self._data: list[Command] | None = None
        """The data commands under way."""
        self._scripts = 0
        self._earlier: dict[int, Any] = {}
        """Replies by place, of the steps before the one under way."""
        self._places: list[int] = []
        """The places of the commands under way among those of the caller."""

    def is_one_step(self, commands: Sequence[Command]) -> bool:
        return all(map(self._is_state, commands))

    def send(self, commands: Sequence[Command]) -> list[Any]:
        """State that comes first in the list is written before the data, everything else of the state after it."""
        replies = self.settle()
        self._lease.check()
        everything = range(len(commands))
        data = [place for place in everything if not self._is_state(commands[place])]
        leading = next((n for n in everything if commands[n][1] != self._lease.keyspace.state), 0) if data else 0
        after = [place for place in everything[leading:] if self._is_state(commands[place])]
        steps = [step for step in (list(everything[:leading]), data, after) if step]
        for number, step in enumerate(steps):
            if number:
                self._earlier |= self._settle_step()
            some = [commands[place] for place in step]
            self._places = step
            if step is data:
                self._send_data(some)
            else:
                self._send_state(some)
        return replies

    def settle(self) -> list[Any]:
        found = self._settle_step() if self._places else {}
        found |= self._earlier
        self._earlier = {}
        return [found[place] for place in sorted(found)]

    def _settle_step(self) -> dict[int, Any]:
        places, self._places = self._places, []
        replies = self._collect()[:-1] if self._data is None else self._settle_data()
        return dict(zip(places, replies, strict=True))

    def _is_state(self, command: Command) -> bool:
        return self._lease.keyspace.is_state(command[1])

    # -- the state's slot ----------------------------------------------------------------------------------------

    def _send_state(self, commands: list[Command]) -> None:
        """A transaction that also notes what was written under each fence since the last one."""
        self._steps += 1
        self._at = b"%d.%b.%d" % (self._lease.token, self._name, self._steps)
        marks = [part for pair in self._marks.items() for part in pair]
        self._transmit([*commands, ("HSET", self._lease.keyspace.fences, AT, self._at, *marks)])
        self._marks = {}

    # -- the data ------------------------------------------------------------------------------------------------

    def _send_data(self, commands: list[Command]) -> None:
        deletes: dict[int, list[Arg]] = {}
        puts: dict[int, list[Arg]] = {}
        owner_of = self._slots.owner_of
        for verb, *arguments in commands:
            if verb == "UNLINK":
                for key in arguments:
                    deletes.setdefault(owner_of(key), []).append(key)  # type: ignore[arg-type]
                continue
            for key, value in zip(arguments[::2], arguments[1::2], strict=True):
                puts.setdefault(owner_of(key), []).extend((key, value))  # type: ignore[arg-type]
        which = "new" if any(command[0] == "MSETNX" for command in commands) else "all"
        scripts: list[Command] = []
        for node in sorted(deletes.keys() | puts.keys()):
            tag = self._tag(node)
            self._steps += 1
            self._marks[tag] = b"%b.%b.%d" % (self._at, self._name, self._steps)
            gone = deletes.get(node, [])
            head: Command = ("EVAL", WRITE, 1, self._lease.keyspace.fence(tag), self._lease.token, self._marks[tag])
            scripts.append((*head, which, len(gone), *gone, *puts.get(node, [])))
        self._wire.send(scripts)
        self._data, self._scripts = commands, len(scripts)

    def _settle_data(self) -> list[Any]:
        commands, self._data = self._data or [], None
        replies = self._wire.receive(self._scripts)
        for reply in replies:
            if isinstance(reply, RedisError) and "non local key" in str(reply):
                raise Unavailable("slots of the Redis Cluster were moved", hint="the next run asks where they are")
            if (refusal := _refusal(reply)) is not None:
                raise refusal
        checked(replies)
        if -1 in replies:
            raise lease_lost(self._lease.keyspace.view)
        self.transactions += 1
        return [min(replies)] * len(commands)

    def _tag(self, node: int) -> bytes:
        """The fence of a node. There was one for each when the lease was taken."""
        if node not in self._tags:
            raise Unavailable(
                "the nodes of the Redis Cluster have changed since the run began", hint="the next run goes on"
            )
        return self._tags[node]


def try_script(wire: Wire, keyspace: Keyspace) -> None:
    """A script as `WRITE` uses its keys, that writes nothing. Raises UsageError where such scripts are refused."""
    assert isinstance(wire, ClusterWire)
    fence = keyspace.fence(b"0")
    node = wire.slots.owner_of(fence)
    others = (keyspace.fence(b"%d" % number) for number in range(1, SLOTS))
    other = next((key for key in others if wire.slots.owner_of(key) == node), fence)
    (reply,) = wire.pipeline([("EVAL", "return redis.call('EXISTS', ARGV[1])", 1, fence, other)])
    if (refusal := _refusal(reply)) is not None:
        raise refusal
    checked([reply])


def _refusal(reply: Any) -> UsageError | None:
    """The error where the answer to a script says that it may not use keys of several slots."""
    text = str(reply).lower()
    refused = isinstance(reply, RedisError) and ("undeclared" in text or "same slot" in text or "cross slot" in text)
    if not refused and not isinstance(reply, ClusterCrossSlotError):
        return None
    return UsageError(
        f"this Redis Cluster refuses scripts that use keys of several slots: {str(reply).splitlines()[0]}",
        hint="ElastiCache Serverless and some proxies do; use a cluster of nodes (docs/operations.md)",
    )


# -- taking the lease -------------------------------------------------------------------------------------------------


def raise_fences(wire: Wire, keyspace: Keyspace, token: int) -> int:
    """Shut out every earlier run on every node. Returns the token, a larger one where a fence knew the given one.

    What a fence does not know though the state does, or the other way round, was lost by a node: the state is marked
    as an unfinished snapshot then, so that every key is compared. Raises LeaseHeld.
    """
    assert isinstance(wire, ClusterWire)
    for _ in range(ATTEMPTS):
        watched = wire.replies([("WATCH", keyspace.state), ("HGETALL", keyspace.state), ("HGETALL", keyspace.fences)])
        state, known = map(_fields, watched[1:])
        if state.get(b"token") != b"%d" % token:
            wire.replies([("UNWATCH",)])
            raise held(wire, keyspace)
        at = known.pop(AT, b"%d" % token)
        chosen = _choose(wire, known)
        tags = [*known, *(tag for tag in chosen.values() if tag not in known)]
        found = wire.replies([("EVAL", RAISE, 1, keyspace.fence(tag), token) for tag in tags])
        largest = max(int(other or 0) for other, _ in found)
        if largest >= token:  # the counter was lost (a failover, a restore): never reuse a token
            token = largest + 1
            commands: list[Command] = [("HSET", keyspace.state, "token", token), ("SET", keyspace.token, token)]
            _transaction(wire, keyspace, commands)
            continue
        marks = {tag: mark for tag, (_, mark) in zip(tags, found, strict=True)}
        lost = {tag for tag, (other, mark) in zip(tags, found, strict=True) if not other or mark != known.get(tag)}
        under_way = {tag for tag in lost if state.get(b"pending") and marks[tag].startswith(at + b".")}
        doubtful = bool((lost & known.keys()) - under_way) or not known
        fields: list[Arg] = [AT, at, *(part for tag in chosen.values() for part in (tag, marks[tag]))]
        commands = [("DEL", keyspace.fences), ("HSET", keyspace.fences, *fields)]
        if doubtful and state.get(b"as_of"):
            logger.warning("a node of the cluster does not hold what was last written to it: every key is compared")
            pending = b'{"kind": "snapshot", "until": %b}' % state[b"as_of"]
            commands.append(("HSET", keyspace.state, "pending", pending))
        _transaction(wire, keyspace, commands)
        return token
    raise Unavailable("the fences of the Redis Cluster change while they are raised", hint="the next run tries again")


def _choose(wire: ClusterWire, known: Mapping[bytes, bytes]) -> dict[int, bytes]:
    """Node → tag of its fence: one that is there already if possible."""
    chosen = {wire.slots.owner_of(tag): tag for tag in sorted(known, reverse=True)}
    chosen.update(tags_for(wire.slots, set(range(len(wire.slots.nodes))) - chosen.keys()))
    return chosen


def _transaction(wire: ClusterWire, keyspace: Keyspace, commands: list[Command]) -> None:
    if wire.replies([("MULTI",), *commands, ("EXEC",)])[-1] is None:
        raise held(wire, keyspace)


def _fields(reply: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(reply[::2], reply[1::2], strict=True))
