"""Slots of a Redis Cluster: the specification's rules, and what CLUSTER SLOTS says."""

from __future__ import annotations

from typing import Any

import pytest

from reconcile.core.slots import SLOTS, UNSERVED, Primary, parse_slots, slot_of, tags_for


@pytest.mark.parametrize(
    ("key", "same_as"),
    [
        (b"{user1000}.following", b"user1000"),
        (b"foo{}{bar}", None),
        (b"foo{{bar}}zap", b"{bar"),
        (b"foo{bar}{zap}", b"bar"),
        (b"foo{bar", None),
        (b"foo}bar{", None),
        (b"{}", None),
        (b"reconcile:{orders}:state", b"orders"),
    ],
)
def test_hash_tags(key: bytes, same_as: bytes | None) -> None:
    """The examples of the specification: what stands in the first pair of braces, unless that is nothing."""
    if same_as is not None:
        assert slot_of(key) == slot_of(same_as)
        return
    assert slot_of(key) == crc16(key) % SLOTS


def crc16(data: bytes) -> int:
    """CRC16/XMODEM bit by bit, as the specification defines it."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
        crc &= 0xFFFF
    return crc


@pytest.mark.parametrize("key", [b"", b"123456789", b"p:k1", bytes(range(256)).replace(b"{", b"")])
def test_checksum(key: bytes) -> None:
    """The checksum, for any bytes. 0x31C3 is the specification's own example."""
    assert slot_of(key) == crc16(key) % SLOTS
    assert crc16(b"123456789") == 0x31C3


A: list[Any] = [b"10.0.0.1", 6379, b"a", []]
B: list[Any] = [b"", 6380, b"b"]
REPLICA: list[Any] = [b"10.0.0.3", 6379, b"c", []]


def test_what_the_cluster_says() -> None:
    """A node may have several ranges, replicas do not count, a node without a name is the one that was asked."""
    slots = parse_slots([[8000, 16383, B, REPLICA], [0, 999, A], [1000, 7999, A, REPLICA]], "asked")
    assert slots.nodes == (Primary("a", "10.0.0.1", 6379), Primary("b", "asked", 6380))
    assert (slots.owners[0], slots.owners[7999], slots.owners[8000]) == (0, 0, 1)
    assert (slots.ranges_of(0), slots.ranges_of(1)) == ([(0, 7999)], [(8000, 16383)])
    assert slots.unserved == 0
    assert slots.nodes[slots.owner_of(b"p:k1")] == slots.nodes[slot_of(b"p:k1") >= 8000]


def test_a_host_name_that_is_not_known_yet() -> None:
    """The node is reached by its IP address, where the cluster gives one."""
    beside = [b"?", 6379, b"a", [b"ip", b"10.0.0.1"]]
    slots = parse_slots([[0, 9999, beside], [10000, 16383, [b"?", 6379, b"b", []]]], "asked")
    assert [node.host for node in slots.nodes] == ["10.0.0.1", "?"]


def test_slots_that_nobody_serves() -> None:
    """They are counted, and not taken for the first node's."""
    slots = parse_slots([[0, 99, A], [200, 16383, B]], "asked")
    assert slots.unserved == 100
    assert slots.owners[150] == UNSERVED
    assert slots.ranges_of(0) == [(0, 99)]
    assert slots.ranges_of(UNSERVED) == [(100, 199)]


@pytest.mark.parametrize("reply", [[[0]], [[0, 1, [b"h"]]], [[0, 99999, A]], [1], [[0, 1, [b"h", b"x", b"id"]]]])
def test_nonsense_is_refused(reply: list[Any]) -> None:
    """With an error that the caller expects."""
    with pytest.raises((ValueError, TypeError, IndexError)):
        parse_slots(reply, "asked")


def test_a_tag_for_every_node() -> None:
    """Each tag's slot is served by its node; the choice depends on nothing but the map."""
    slots = parse_slots([[0, 16382, A], [16383, 16383, B]], "asked")
    tags = dict(tags_for(slots, {0, 1}))
    assert {node: slots.owner_of(tag) for node, tag in tags.items()} == {0: 0, 1: 1}
    assert tags == dict(tags_for(slots, {0, 1}))
    assert list(tags_for(slots, set())) == []
