"""Claims: which contradict each other, which nobody needs, whose a key is."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from reconcile.core.ownership import Range, overlap
from reconcile.inspect.claims import ClaimTable

STORED = {
    "a": Range("prefix", b"a:").encode(),
    "ab": Range("prefix", b"a:b:").encode(),
    "c": Range("prefix", b"c:").encode(),
    "kept": Range("remembered").encode(),
    "odd": "whatever",
}


def test_overlaps_are_pairs() -> None:
    """A prefix within another overlaps it; what cannot be read is set apart."""
    claims = ClaimTable.parse(STORED)
    assert claims.overlapping() == [("a", "ab")]
    assert claims.unreadable == ["odd"]


RANGES = st.builds(
    Range,
    st.sampled_from(["prefix", "prefix", "prefix", "dedicated", "remembered"]),
    st.text("ab:", max_size=4).map(str.encode),
    st.sampled_from([b"", b"", b"t", b"u", b"a:t", b"a"]),
).map(lambda made: made if made.ownership == "prefix" else Range(made.ownership, b"", made.timestamp_key))


@given(st.lists(RANGES, max_size=8))
def test_overlaps_are_those_of_the_rule(ranges: list[Range]) -> None:
    """The quick way finds what comparing each with each would find."""
    claims = ClaimTable({f"view-{n}": one for n, one in enumerate(ranges)}, [])
    pairs = combinations(claims.ranges.items(), 2)
    expected = sorted((one, two) for (one, ours), (two, theirs) in pairs if overlap(ours, theirs))
    assert claims.overlapping() == expected
    for tag in claims.ranges:
        assert claims.contested(tag) == [
            other for other in claims.ranges if sorted((tag, other)) in map(list, expected)
        ]


def test_orphans_have_neither_state_nor_view() -> None:
    """A claim is needed by a state or by a view of this configuration."""
    assert ClaimTable.parse(STORED).orphaned({"a", "kept"}, {"c"}) == ["ab"]


def test_owner_of_a_key() -> None:
    """The longest prefix has the key; remembered keys cannot be told by name."""
    claims = ClaimTable.parse(STORED)
    assert claims.owner_of(b"a:b:1") == "ab"
    assert claims.owner_of(b"a:1") == "a"
    assert claims.owner_of(b"z") is None
