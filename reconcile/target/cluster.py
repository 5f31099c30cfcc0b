"""The connections to the primaries of a Redis Cluster, used like one.

Commands go to the node that serves their key; those of many keys are split by slot and their answers put together in
order; SCAN and DBSIZE go to every primary. Nothing is sent twice and no redirection is followed: a node that says that
a slot is elsewhere (MOVED, ASK, TRYAGAIN, CLUSTERDOWN) ends the run, and the next one asks for the slots anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis.exceptions import RedisError

from reconcile.config.settings import RedisSettings, Secret
from reconcile.core.slots import SLOTS, Node, SlotMap, read_slots, slot_of
from reconcile.errors import ReconcileError, Unavailable, UsageError
from reconcile.stop import Stop
from reconcile.target.connection import ELSEWHERE, Arg, Command, Wire, checked, dial

KEYLESS = frozenset(["CONFIG", "EXEC", "INFO", "MULTI", "TIME", "UNWATCH"])
"""Commands without a key that any one node may answer: they go to where the transaction or the WATCH is."""

Join = Callable[[list[Any]], Any]


@dataclasses.dataclass(slots=True)
class Part:
    """One command for one node: the place of its answer among those of the node."""

    node: int
    place: int


@dataclasses.dataclass(slots=True)
class Plan:
    """Where the answers of one command come from, and what they are together."""

    parts: list[Part]
    join: Join


class NodeWire(Wire):
    """A connection to one node. A redirection is no answer: the caller's picture of the cluster is old."""

    def receive(self, count: int) -> list[Any]:
        replies = super().receive(count)
        for reply in replies:
            if type(reply) in ELSEWHERE:
                self.broken = True
                raise Unavailable(
                    f"slots of the Redis Cluster are being moved, or a node is down: {ELSEWHERE[type(reply)]} {reply}",
                    hint="the next run asks where they are; reconcile doctor shows the cluster",
                )
        return replies


class ClusterWire(Wire):
    """A cluster for one thread. Use `connection.connect`."""

    def __init__(self, settings: RedisSettings, stop: Stop, slots: SlotMap, known: dict[int, NodeWire]) -> None:
        """known: nodes that a connection exists to."""
        self._settings = settings
        self._stop = stop
        self._known = known
        self._home = min(known, default=0)
        self._patience_s: float | None = None
        self._under_way: deque[tuple[list[Plan], dict[int, int]]] = deque()
        self.slots = slots
        count = len(slots.nodes)
        self.cluster = f"cluster of {count} primar{'y' if count == 1 else 'ies'}, all {SLOTS:,} slots served"
        self.broken = False
        self.round_trips = 0
        self.commands = 0
        self.bytes_sent = 0

    # -- sending and receiving -----------------------------------------------------------------------------------

    def send(self, commands: Sequence[Command]) -> None:
        """Send each command, or its parts, to the nodes that serve its keys."""
        outgoing: dict[int, list[Command]] = {}
        plans: list[Plan] = []
        block: int | None = None
        for place, command in enumerate(commands):
            if command[0] == "MULTI":
                block = self._owner(_key_of(commands[place + 1 :]))
            plans.append(self._route(command, block, outgoing))
            if command[0] == "EXEC":
                block = None
        with self._in_use():
            for node, some in outgoing.items():
                self._node(node).send(some)
                self.commands += len(some)
        self.bytes_sent = sum(wire.bytes_sent for wire in self._known.values())
        self._under_way.append((plans, {node: len(some) for node, some in outgoing.items()}))

    def receive(self, count: int) -> list[Any]:
        """Answers of what was sent in one go before."""
        self.round_trips += 1
        with self._in_use():
            plans, expected = self._under_way.popleft()
            assert len(plans) == count
            replies = {node: self._node(node).receive(number) for node, number in expected.items()}
        return [_joined(plan, replies) for plan in plans]

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """When one node fails the answers of the others are not waited for: none of them is used again."""
        if self.broken:
            raise Unavailable("the connection to Redis is lost", hint="the next run makes a new one")
        try:
            yield
        except ReconcileError:
            self.broken = True
            raise

    def _node(self, node: int) -> NodeWire:
        wire = self._known.get(node)
        if wire is None:
            wire = dial(_at(self._settings, self.slots.nodes[node]), self._stop, NodeWire)
            if self._patience_s is not None:
                wire.answer_within(self._patience_s)
            self._known[node] = wire
        return wire

    # -- where to ------------------------------------------------------------------------------------------------

    def _route(self, command: Command, block: int | None, outgoing: dict[int, list[Command]]) -> Plan:
        def part(node: int, one: Command) -> Part:
            some = outgoing.setdefault(node, [])
            some.append(one)
            return Part(node, len(some) - 1)

        verb, everyone = command[0], range(len(self.slots.nodes))
        if block is not None:
            self._home = block
            return Plan([part(block, command)], _only)
        if verb == "MGET":
            groups = _by_slot(command[1:])
            parts = [part(self.slots.owners[slot], ("MGET", *keys.values())) for slot, keys in groups.items()]
            return Plan(parts, _in_order([list(keys) for keys in groups.values()]))
        if verb == "EXISTS":
            groups = _by_slot(command[1:])
            return Plan(
                [part(self.slots.owners[slot], ("EXISTS", *keys.values())) for slot, keys in groups.items()], sum
            )
        if verb == "DBSIZE":
            return Plan([part(node, command) for node in everyone], sum)
        if verb == "SCAN":
            node, cursor = _cursor(command[1])
            return Plan([part(node, ("SCAN", cursor, *command[2:]))], _scanned(node, len(everyone)))
        node = self._home if verb in KEYLESS else self._owner(_key_of([command]))
        if verb == "WATCH":
            self._home = node
        return Plan([part(node, command)], _only)

    def _owner(self, key: bytes) -> int:
        return self.slots.owner_of(key)

    # -- all of them ---------------------------------------------------------------------------------------------

    def identity(self) -> bytes:
        """The processes that answer, and which slots each says it serves. Raises Unavailable while slots move: a key
        that goes from a node not yet scanned to one that was would not be found."""
        told = []
        with self._in_use():
            for node in range(len(self.slots.nodes)):
                self._node(node).send([("INFO", "server"), ("CLUSTER", "NODES")])
            for node in range(len(self.slots.nodes)):
                info, nodes = self._node(node).receive(2)
                run_id = re.search(rb"run_id:(\w+)", info) if isinstance(info, bytes) else None
                told += [run_id[1] if run_id else b"", _own_slots(nodes)]
        self.round_trips += 1
        return b" ".join(told)

    def answer_within(self, seconds: float) -> None:
        self._patience_s = seconds
        for wire in list(self._known.values()):
            wire.answer_within(seconds)

    def sever(self) -> None:
        for wire in list(self._known.values()):
            wire.sever()

    def close(self) -> None:
        for wire in list(self._known.values()):
            wire.close()


def connect(settings: RedisSettings, stop: Stop) -> ClusterWire:
    """Ask the configured node where the slots are. Raises AccessError, UsageError, Unavailable."""
    seed = dial(settings, stop, NodeWire)
    try:
        layout, own_id = seed.pipeline([("CLUSTER", "SLOTS"), ("CLUSTER", "MYID")])
        if isinstance(layout, RedisError) and "cluster support disabled" in str(layout):
            raise UsageError("redis.cluster is true, but this Redis is not a cluster", hint="leave redis.cluster out")
        slots = _read(checked([layout])[0], settings.host)
        if slots.unserved:
            raise Unavailable(
                f"{slots.unserved:,} of {SLOTS:,} slots of the Redis Cluster are served by no node",
                hint="is a primary down, without a replica? CLUSTER NODES",
            )
    except BaseException:
        seed.close()
        raise
    own = own_id.decode() if isinstance(own_id, bytes) else ""
    at = next((place for place, node in enumerate(slots.nodes) if node.node_id == own), None)
    if at is None:
        seed.close()
    return ClusterWire(settings, stop, slots, {} if at is None else {at: seed})


def _read(reply: Any, asked: str) -> SlotMap:
    try:
        return read_slots(reply, asked)
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise Unavailable("the answer to CLUSTER SLOTS is not understood", hint="is this a Redis Cluster?") from error


def _at(settings: RedisSettings, node: Node) -> RedisSettings:
    """The same settings, but for another node's address."""
    url = None
    if settings.url is not None:
        parts = urlsplit(settings.url.reveal())
        login, at, _ = parts.netloc.rpartition("@")
        host = f"[{node.host}]" if ":" in node.host else node.host
        url = Secret(urlunsplit(parts._replace(netloc=f"{login}{at}{host}:{node.port}")))
    return dataclasses.replace(settings, url=url, host=node.host, port=node.port)


# -- parts of commands, and answers together --------------------------------------------------------------------------


def _key_of(commands: Sequence[Command]) -> bytes:
    """The first key of the first command that has one."""
    command = next(command for command in commands if command[0] not in KEYLESS)
    key = command[3 if command[0] == "EVAL" else 1]
    return key if isinstance(key, bytes) else str(key).encode()


def _by_slot(keys: Sequence[Arg]) -> dict[int, dict[int, Arg]]:
    """Slot → place among the keys → key."""
    groups: dict[int, dict[int, Arg]] = {}
    for place, key in enumerate(keys):
        assert isinstance(key, bytes)
        groups.setdefault(slot_of(key), {})[place] = key
    return groups


def _joined(plan: Plan, replies: dict[int, list[Any]]) -> Any:
    found = [replies[part.node][part.place] for part in plan.parts]
    error = next((reply for reply in found if isinstance(reply, RedisError)), None)
    return plan.join(found) if error is None else error


def _only(found: list[Any]) -> Any:
    return found[0]


def _in_order(places: list[list[int]]) -> Join:
    def join(found: list[Any]) -> list[Any]:
        values: list[Any] = [None] * sum(map(len, places))
        for group, some in zip(places, found, strict=True):
            for place, value in zip(group, some, strict=True):
                values[place] = value
        return values

    return join


def _cursor(given: Arg) -> tuple[int, bytes]:
    """A cursor of ours is node:cursor; 0 begins at the first node."""
    node, separator, cursor = (given if isinstance(given, bytes) else str(given).encode()).partition(b":")
    return (int(node), cursor) if separator else (0, b"0")


def _scanned(node: int, nodes: int) -> Join:
    def join(found: list[Any]) -> list[Any]:
        ((cursor, keys),) = found
        if cursor != b"0":
            return [b"%d:%b" % (node, cursor), keys]
        return [b"0" if node + 1 == nodes else b"%d:0" % (node + 1), keys]

    return join


def _own_slots(nodes: Any) -> bytes:
    """What a node says of itself in CLUSTER NODES: id and slots. Raises Unavailable while it gives or takes some."""
    text = checked([nodes])[0]
    lines = [line.split() for line in text.splitlines()]
    own = next(words for words in lines if b"myself" in words[2])
    if any(word.startswith(b"[") for word in own[8:]):
        raise Unavailable("slots of the Redis Cluster are being moved", hint="the next run scans again")
    return b" ".join([own[0], *own[8:]])
