"""Map keys of a Redis Cluster to slots, and slots to primaries."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from msgspec import Struct

SLOTS = 16384

UNSERVED = -1


class Primary(Struct, frozen=True):
    """A primary, by the address that clients use."""

    node_id: str
    host: str
    port: int


class SlotMap(Struct, frozen=True):
    """The primaries, and owners[slot]: the index in `nodes` of the one that serves the slot, or UNSERVED."""

    nodes: tuple[Primary, ...]
    owners: tuple[int, ...]

    @property
    def unserved(self) -> int:
        return self.owners.count(UNSERVED)

    def owner_of(self, key: bytes) -> int:
        return self.owners[slot_of(key)]


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
    for first, last, (host, port, node_id, *_), *_ in sorted(reply):
        name = node_id.decode()
        if name not in nodes:
            places[name] = len(nodes)
            nodes[name] = Primary(name, (host or b"").decode() or asked, int(port))
        owners[first : last + 1] = [places[name]] * (last + 1 - first)
    if len(owners) != SLOTS:
        raise ValueError("slots")
    return SlotMap(tuple(nodes.values()), tuple(owners))


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
