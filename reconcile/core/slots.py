"""Map keys of a Redis Cluster to slots, and slots to primaries."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import count, groupby
from operator import itemgetter
from typing import Any

from msgspec import Struct

SLOTS = 16384

UNSERVED = -1


class Primary(Struct, frozen=True):
    """A primary, by the address that clients use."""

    node_id: str
    host: str
    port: int


class SlotMap(Struct, frozen=True, dict=True):
    """The primaries, and owners[slot]: the index in `nodes` of the one that serves the slot, or UNSERVED."""

    nodes: tuple[Primary, ...]
    owners: tuple[int, ...]

    @property
    def unserved(self) -> int:
        return self.owners.count(UNSERVED)

    def owner_of(self, key: bytes) -> int:
        return self.owners[slot_of(key)]

    def address(self, node: int) -> str:
        """Return host and port, for people."""
        return f"{self.nodes[node].host}:{self.nodes[node].port}"

    def ranges_of(self, node: int) -> list[tuple[int, int]]:
        """Return the slots that a node serves as ranges, first and last included, in order."""
        return self._ranges[node]

    @cached_property
    def _ranges(self) -> dict[int, list[tuple[int, int]]]:
        found: dict[int, list[tuple[int, int]]] = {}
        first = 0
        for node, same in groupby(self.owners):
            following = first + sum(1 for _ in same)
            found.setdefault(node, []).append((first, following - 1))
            first = following
        return found


def slot_of(key: bytes) -> int:
    """Return the slot: CRC16 of the key, or of its hash tag (the text between the first { and the next }, if any)."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) & (SLOTS - 1)


def parse_slots(reply: Iterable[Any], asked: str) -> SlotMap:
    """Parse the answer to CLUSTER SLOTS. asked: the host that gave it, which may leave its own name empty.

    Raises ValueError, TypeError or IndexError for anything else.
    """
    nodes: dict[str, Primary] = {}
    places: dict[str, int] = {}
    owners = [UNSERVED] * SLOTS
    for first, last, (host, port, node_id, *more), *_ in sorted(reply, key=itemgetter(0)):
        name = node_id.decode()
        if name not in nodes:
            places[name] = len(nodes)
            nodes[name] = Primary(name, _address(host, more).decode() or asked, int(port))
        owners[first : last + 1] = [places[name]] * (last + 1 - first)
    if len(owners) != SLOTS:
        raise ValueError("slots")
    return SlotMap(tuple(nodes.values()), tuple(owners))


def _address(host: bytes | None, more: list[Any]) -> bytes:
    """Return the name to connect to; empty if it is that of the node that was asked. A node that is to be known by a
    host name, but has none yet, is called "?": then its IP address stands beside."""
    beside = more[0] if more and isinstance(more[0], list) else []
    return dict(zip(beside[::2], beside[1::2], strict=False)).get(b"ip", host) if host == b"?" else host or b""


def tags_for(slots: SlotMap, nodes: set[int]) -> Iterator[tuple[int, bytes]]:
    """Return (node, hash tag) for each node: the smallest number whose slot it serves. Depends on the map alone."""
    missing = set(nodes)
    for number in count():
        if not missing:
            return
        tag = str(number).encode()
        node = slots.owner_of(tag)
        if node in missing:
            missing.remove(node)
            yield node, tag
