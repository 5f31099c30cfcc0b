"""The primaries of a Redis Cluster, each with a connection of its own.

Redirections are not followed: when a node says that a slot is elsewhere (MOVED, ASK, TRYAGAIN, CLUSTERDOWN) the run
ends, and the next run asks again where the slots are.
"""

from __future__ import annotations

import re
from typing import Any

from redis.exceptions import RedisError

from reconcile.config.settings import RedisSettings
from reconcile.core.slots import SLOTS, SlotMap, parse_slots
from reconcile.errors import Unavailable, UsageError
from reconcile.stop import Stop
from reconcile.target.address import at
from reconcile.target.translation import checked
from reconcile.target.wire import Wire, dial
from reconcile.texts import plural

FIRST_SLOT = 8
"""The words before a node's slots, in a line of CLUSTER NODES."""


class Primaries:
    """Connections to the primaries, each opened on first use. Made by `connect`."""

    def __init__(self, settings: RedisSettings, stop: Stop, slots: SlotMap, known: dict[int, Wire]) -> None:
        """known: connections that exist already, by node."""
        self._settings = settings
        self._stop = stop
        self._known = known
        self.slots = slots
        self.count = len(slots.nodes)

    def __str__(self) -> str:
        return f"cluster of {plural(self.count, 'primary', 'primaries')}, all {SLOTS:,} slots served"

    def wire(self, node: int) -> Wire:
        """Return the connection to a node; opened on first use."""
        if node not in self._known:
            address = self.slots.nodes[node]
            self._known[node] = dial(at(self._settings, address.host, address.port), self._stop, node=True)
        return self._known[node]

    def opened(self) -> list[Wire]:
        """Return the connections opened so far."""
        return list(self._known.values())

    def owner_of(self, key: bytes) -> int:
        """Return the node that serves a key."""
        return self.slots.owner_of(key)

    def identity(self) -> bytes:
        """Return the server processes. Raises Unavailable while slots move, as a scan would miss a key that moves from
        a node not yet scanned to one that was; and if a node serves other slots than when the run began, as then there
        may be a node that the run does not know, or one that is a replica by now and has not copied everything yet."""
        tickets = [self.wire(node).send([("INFO", "server"), ("CLUSTER", "NODES")]) for node in range(self.count)]
        found = []
        for node, ticket in enumerate(tickets):
            info, nodes = ticket.replies()
            if _own_slots(nodes) != self.slots.ranges_of(node):
                raise Unavailable(
                    "slots of the Redis Cluster were moved, or a primary failed over, since the run began",
                    hint="the next run asks where they are",
                )
            run_id = re.search(rb"run_id:(\w+)", info) if isinstance(info, bytes) else None
            found.append(run_id[1] if run_id else b"")
        return b" ".join(found)


def connect(settings: RedisSettings, stop: Stop) -> Primaries:
    """Ask the first configured node that answers where the slots are. Raises AccessError, UsageError, Unavailable."""
    seed = _dial_any(settings, stop)
    try:
        layout, own_id = seed.send([("CLUSTER", "SLOTS"), ("CLUSTER", "MYID")]).replies()
        if isinstance(layout, RedisError) and "cluster support disabled" in str(layout):
            raise UsageError("redis.cluster is true, but this Redis is not a cluster", hint="leave redis.cluster out")
        slots = _read(checked([layout])[0], seed.host)
        if slots.unserved:
            raise Unavailable(
                f"{slots.unserved:,} of {SLOTS:,} slots of the Redis Cluster are served by no node",
                hint="is a primary down without a replica? see CLUSTER NODES",
            )
    except BaseException:
        seed.close()
        raise
    own = own_id.decode() if isinstance(own_id, bytes) else ""
    place = next((place for place, node in enumerate(slots.nodes) if node.node_id == own), None)
    if place is None:
        seed.close()
    return Primaries(settings, stop, slots, {} if place is None else {place: seed})


def _dial_any(settings: RedisSettings, stop: Stop) -> Wire:
    """Connect to the first node that can be reached. Raises AccessError, UsageError, Unavailable."""
    silent: list[str] = []
    for host, port in ((settings.host, settings.port), *settings.cluster_nodes):
        try:
            return dial(at(settings, host, port), stop, node=True)
        except Unavailable as error:
            if not settings.cluster_nodes:
                raise
            silent.append(error.message)
    raise Unavailable(
        f"no node of the Redis Cluster can be reached: {'; '.join(silent)}",
        hint="redis.host, redis.port and redis.cluster_nodes",
    )


def _read(reply: Any, asked: str) -> SlotMap:
    try:
        return parse_slots(reply, asked)
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise Unavailable("unexpected answer to CLUSTER SLOTS", hint="is this a Redis Cluster?") from error


def _own_slots(nodes: Any) -> list[tuple[int, int]]:
    """Return a node's own ranges of slots, by its CLUSTER NODES. Raises Unavailable while slots move to or from it."""
    lines = [line.split() for line in checked([nodes])[0].splitlines()]
    own = next((words for words in lines if len(words) >= FIRST_SLOT and b"myself" in words[2]), None)
    if own is None:
        raise Unavailable("unexpected answer to CLUSTER NODES", hint="is this a Redis Cluster?")
    words = own[FIRST_SLOT:]
    if any(word.startswith(b"[") for word in words):
        raise Unavailable("slots of the Redis Cluster are being moved", hint="the next run scans again")
    ends = [word.split(b"-") for word in words]
    return sorted((int(some[0]), int(some[-1])) for some in ends)
