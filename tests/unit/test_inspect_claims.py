"""Claims: which contradict each other, which nobody needs, whose a key is."""

from __future__ import annotations

from reconcile.core.ownership import Range
from reconcile.inspect.claims import Claims, missing_shards

STORED = {
    "a": Range("prefix", b"a:").encode(),
    "ab": Range("prefix", b"a:b:").encode(),
    "c": Range("prefix", b"c:").encode(),
    "kept": Range("remembered").encode(),
    "odd": "whatever",
}


def test_overlaps_are_pairs() -> None:
    """A prefix within another overlaps it; what cannot be read is set apart."""
    claims = Claims.read(STORED)
    assert claims.overlapping() == [("a", "ab")]
    assert claims.unreadable == ["odd"]


def test_orphans_have_neither_state_nor_view() -> None:
    """A claim is needed by a state or by a view of this configuration."""
    assert Claims.read(STORED).orphaned({"a", "kept"}, {"c"}) == ["ab"]


def test_owner_of_a_key() -> None:
    """The longest prefix has the key; remembered keys cannot be told by name."""
    claims = Claims.read(STORED)
    assert claims.owner_of(b"a:b:1") == "ab"
    assert claims.owner_of(b"a:1") == "a"
    assert claims.owner_of(b"z") is None


def test_shards_that_never_ran() -> None:
    """All n of an n that anybody has, and none of an undivided view."""
    assert missing_shards([None]) == []
    assert missing_shards([(0, 4), (3, 4)]) == [(1, 4), (2, 4)]
