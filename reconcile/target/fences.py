"""Fences of a cluster, where no transaction spans the state's slot and the data: one on each primary, beside the data.

A fence is a hash in some slot of the primary. It holds the token of the run that may write there, and a mark of what
was last written under it. A script checks both before it writes data: so each node by itself refuses a run that was
overtaken, and writes planned on data that it no longer holds. A run that takes the lease raises all fences before it
reads anything.

From the marks the next run learns whether each node still holds what the state says was written. After a failover or a
restart a node may have lost its last seconds while the state's node did not, or the other way round.
docs/adr/0010-redis-cluster.md has the proof.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from redis.exceptions import ClusterCrossSlotError, RedisError

from reconcile.core.slots import SLOTS, tags_for
from reconcile.core.state import Pending
from reconcile.core.times import MAX_TIMESTAMP
from reconcile.errors import Unavailable, UsageError
from reconcile.target import commands as written
from reconcile.target import lease
from reconcile.target.lease import Right
from reconcile.target.names import Names
from reconcile.target.packing import Arg, Command
from reconcile.target.primaries import Primaries
from reconcile.target.translation import checked, of_another_type, own_words
from reconcile.target.wire import Ticket

logger = logging.getLogger(__name__)

AT = b"at"
"""A field of the list of fences: the commit id of the last transaction on the state. A mark begins with the commit id
it was made under."""
ATTEMPTS = 3

RAISE = """
local held = redis.pcall('HMGET', KEYS[1], 'token', 'mark')
if held.err then
  redis.call('DEL', KEYS[1])
  held = {}
end
local token = #(held[1] or '') < 16 and tonumber(held[1] or '-1') or -1
if token < tonumber(ARGV[1]) then redis.call('HSET', KEYS[1], 'token', ARGV[1]) end
return {held[1] or '', held[2] or ''}
"""

WRITE = """
local held = redis.call('HMGET', KEYS[1], 'token', 'mark')
if held[1] ~= ARGV[1] then return -1 end
if (held[2] or '') ~= ARGV[2] then return -2 end
local first = 6 + tonumber(ARGV[5])
for i = 6, first - 1 do redis.call('UNLINK', ARGV[i]) end
redis.call('HSET', KEYS[1], 'mark', ARGV[3])
local absent = 1
if ARGV[4] == 'all' then
  for i = first, #ARGV, 2 do redis.call('SET', ARGV[i], ARGV[i + 1]) end
elseif ARGV[4] == 'new' then
  for i = first, #ARGV, 2 do
    if not redis.call('SET', ARGV[i], ARGV[i + 1], 'NX') then absent = 0 end
  end
else
  local i, fresh = first, ARGV[4] == 'fresh'
  while i <= #ARGV do
    local last = i + tonumber(ARGV[i])
    local reply = redis.call(unpack(ARGV, i + 1, last))
    if not reply or (fresh and ARGV[i + 1] == 'UNLINK' and reply > 0) then absent = 0 end
    i = last + 1
  end
end
return absent
"""
"""ARGV: token; the mark this run saw last; the new mark; 'all' (overwrite), 'new' (only new keys), 'commands', or
'fresh' (commands, of which UNLINK should find nothing); the number of deletes; the deletes; then puts, or the commands,
each after the number of its arguments.
Returns -1: overtaken, -2: another mark, 0: a key existed, 1: all done. Deletes come first: a full Redis (noeviction)
refuses a script that begins with anything else."""

BESIDE = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return -1 end
redis.call('SET', ARGV[2], ARGV[3])
return 1
"""
"""Sets the timestamp key. It is no row, so the mark stays."""

OVERTAKEN, CHANGED = -1, -2


class NodeWrite(Struct):
    """What one node has to write."""

    deletes: list[bytes]
    puts: list[Arg]


class Fences:
    """One run's writes under its fences."""

    def __init__(self, primaries: Primaries, names: Names, token: int, at: bytes, marks: Mapping[bytes, bytes]) -> None:
        """at: commit id of the last transaction on the state. marks: tag of each fence → its mark."""
        self._primaries = primaries
        self._names = names
        self._token = token
        self._seen = dict(marks)
        self._tags = {primaries.owner_of(tag): tag for tag in marks}
        self._run = secrets.token_hex(4).encode()
        self._steps = 0
        self._new: dict[bytes, bytes] = {}
        """Marks made since the last transaction on the state."""
        self.at = at

    @property
    def keys(self) -> list[bytes]:
        """The fences themselves."""
        return [self._names.fence(tag) for tag in self._tags.values()]

    def note(self, commit: str) -> Command:
        """Return the command with which the transaction `commit` records the marks made since the one before."""
        self.at = commit.encode()
        marks = [part for pair in self._new.items() for part in pair]
        self._new = {}
        return ("HSET", self._names.fences, AT, self.at, *marks)

    def send(self, writes: Mapping[int, NodeWrite], mode: str) -> list[Ticket]:
        """Send each node what it has to write. mode: see WRITE."""
        tags = {node: self._tag(node) for node in sorted(writes)}
        tickets = []
        for node, tag in tags.items():
            write = writes[node]
            self._steps += 1
            mark = b"%b.%b.%d" % (self.at, self._run, self._steps)
            head: Command = ("EVAL", WRITE, 1, self._names.fence(tag), self._token, self._seen[tag], mark)
            script = (*head, mode, len(write.deletes), *write.deletes, *write.puts)
            self._seen[tag] = self._new[tag] = mark
            tickets.append(self._primaries.wire(node).send([script]))
        return tickets

    def send_beside(self, key: bytes, value: bytes) -> Ticket:
        """Set a key that is no row."""
        node = self._primaries.owner_of(key)
        script: Command = ("EVAL", BESIDE, 1, self._names.fence(self._tag(node)), self._token, key, value)
        return self._primaries.wire(node).send([script])

    def settle(self, tickets: Sequence[Ticket]) -> bool:
        """Wait for the nodes. Returns whether every put happened. Raises LeaseLost, Unavailable, UsageError."""
        replies = [reply for ticket in tickets for reply in ticket.replies()]
        for reply in replies:
            if isinstance(reply, RedisError) and "non local key" in str(reply):
                raise Unavailable("slots of the Redis Cluster were moved", hint="the next run asks where they are")
            if (refusal := _refusal(reply)) is not None:
                raise refusal
        checked(replies)
        if OVERTAKEN in replies:
            raise lease.lost(self._names.view)
        if CHANGED in replies:
            raise Unavailable(
                "a node of the Redis Cluster does not hold what was last written to it",
                hint="the next run repairs it",
            )
        return 0 not in replies

    def _tag(self, node: int) -> bytes:
        """Return the tag of a node's fence. Each node got one when the lease was taken."""
        if node not in self._tags:
            raise Unavailable(
                "the nodes of the Redis Cluster have changed since the run began", hint="the next run continues"
            )
        return self._tags[node]


def try_script(primaries: Primaries, names: Names) -> None:
    """Try a script that uses keys as WRITE does, but writes nothing. Raises UsageError if it is refused."""
    fence = names.fence(b"0")
    node = primaries.owner_of(fence)
    others = (names.fence(b"%d" % number) for number in range(1, SLOTS))
    other = next((key for key in others if primaries.owner_of(key) == node), fence)
    script: Command = ("EVAL", "return redis.call('EXISTS', ARGV[1])", 1, fence, other)
    (reply,) = primaries.wire(node).send([script]).replies()
    if (refusal := _refusal(reply)) is not None:
        raise refusal
    checked([reply])


def _refusal(reply: Any) -> UsageError | None:
    """Return the error for a reply that forbids scripts to use keys of several slots; None for any other reply."""
    text = str(reply).lower()
    refused = isinstance(reply, RedisError) and ("undeclared" in text or "same slot" in text or "cross slot" in text)
    if not refused and not isinstance(reply, ClusterCrossSlotError):
        return None
    return UsageError(
        f"this Redis Cluster refuses scripts that use keys of several slots: {own_words(reply)}",
        hint="ElastiCache Serverless and some proxies do; use a cluster with nodes of your own (docs/operations.md)",
    )


# -- taking the lease -------------------------------------------------------------------------------------------------


def raise_fences(primaries: Primaries, names: Names, right: Right) -> tuple[Right, Fences]:
    """Shut out earlier runs on every node. Returns the right to write; its token is larger where a fence had that one.

    Where a fence and the state disagree about what was last written, a node has lost data. Then the state is marked as
    an unfinished snapshot and the fingerprints are deleted, so that every key is compared. Raises LeaseHeld,
    Unavailable.
    """
    home = primaries.wire(primaries.owner_of(names.state))
    token, commit, armed = right.token, right.commit, right.armed
    for _ in range(ATTEMPTS):
        if checked(armed)[1] != [b"%d" % token, commit.encode()]:
            raise lease.held(home, names)
        fields, listed = home.send([("HGETALL", names.state), ("HGETALL", names.fences)]).replies()
        state, known = _fields(fields), _fields(listed)
        at = known.pop(AT, b"")
        chosen = _choose(primaries, known)
        tags = [*known, *(tag for tag in chosen.values() if tag not in known)]
        tickets = [
            primaries.wire(primaries.owner_of(tag)).send([("EVAL", RAISE, 1, names.fence(tag), token)]) for tag in tags
        ]
        found = [ticket.checked()[0] for ticket in tickets]
        largest = max(lease.number(other) for other, _ in found)
        if largest >= token:  # the counter was lost (a failover, a restore): never reuse a token
            token = largest + 1
            commit, armed = _transact(primaries, names, token, [("SET", names.token, token)])
            continue
        marks = {tag: mark for tag, (_, mark) in zip(tags, found, strict=True)}
        lost = {tag for tag, (other, mark) in zip(tags, found, strict=True) if not other or mark != known.get(tag)}
        repeated = {tag for tag in lost if _under_way(state) and at and marks[tag].startswith(at + b".")}
        missed = bool((lost & known.keys()) - repeated)
        kept = {tag: marks[tag] for tag in chosen.values()}
        listing: list[Arg] = [AT, at, *(part for pair in kept.items() for part in pair)]
        commands: list[Command] = [("DEL", names.fences), ("HSET", names.fences, *listing)]
        if (missed or not known) and state.get(b"format"):
            if missed:
                logger.warning("a node of the cluster does not hold what was last written to it: every key is compared")
            else:  # lost, or the number of shards has changed
                logger.warning("nothing tells yet what the nodes of the cluster should hold: every key is compared")
            as_of = state.get(b"as_of", b"")
            until = int(as_of) if as_of.isdigit() and len(as_of) <= len(str(MAX_TIMESTAMP)) else 0
            anew = b'"anew": true' in state.get(b"pending", b"")
            doubt = written.pending_field(Pending("snapshot", until, anew=anew))
            commands.append(("HSET", names.state, "pending", doubt))
            commands.append(("DEL", names.fingerprints))
        commit, armed = _transact(primaries, names, token, commands)
        return Right(token, commit, armed), Fences(primaries, names, token, at, kept)
    raise Unavailable("the fences of the Redis Cluster kept changing", hint="the next run tries again")


def _under_way(state: Mapping[bytes, bytes]) -> bool:
    """Whether data may have been written since the last transaction on the state; withheld deletes do not count."""
    pending = state.get(b"pending", b"")
    return bool(pending) and b'"withheld"' not in pending


def _choose(primaries: Primaries, known: Mapping[bytes, bytes]) -> dict[int, bytes]:
    """Return node → tag of its fence: an existing one if possible."""
    chosen = {primaries.owner_of(tag): tag for tag in sorted(known, reverse=True)}
    chosen.update(tags_for(primaries.slots, set(range(primaries.count)) - chosen.keys()))
    return chosen


def _transact(primaries: Primaries, names: Names, token: int, some: list[Command]) -> tuple[str, list[Any]]:
    """Carry out a transaction on the state; returns its commit id and the replies to `arming`. Raises LeaseHeld."""
    home = primaries.wire(primaries.owner_of(names.state))
    commit = lease.new_commit()
    last: Command = ("HSET", names.state, "token", token, "commit", commit)
    replies = home.send([("MULTI",), *some, last, ("EXEC",), *lease.arming(names)]).replies()
    done, armed = replies[: len(some) + 3], replies[len(some) + 3 :]
    if checked(done)[-1] is None:
        raise lease.held(home, names)
    checked(done[-1])
    return commit, armed


def _fields(reply: Any) -> dict[bytes, bytes]:
    """Return the fields of a hash; none if the key holds something else."""
    if of_another_type(reply):
        return {}
    checked([reply])
    return dict(zip(reply[::2], reply[1::2], strict=True))
