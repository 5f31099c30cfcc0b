"""Whose keys are whose: ranges, and when two of them cannot stand beside each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.core.ownership import Range, contradiction, drop_command, overlap

PREFIXES = st.one_of(st.sampled_from([b"a", b"a:", b"a:b", b"b", b"r", b"reconcile:{"]), st.binary(max_size=4))
RANGES = st.one_of(
    st.builds(Range, st.just("prefix"), PREFIXES.filter(bool), st.sampled_from([b"", b"t", b"a:t"])),
    st.builds(Range, st.sampled_from(["dedicated", "remembered"]), st.just(b""), st.sampled_from([b"", b"t", b"a:t"])),
)
KEYS = st.one_of(st.sampled_from([b"", b"a:t", b"t", b"reconcile:{v}:state", b"a:b"]), st.binary(max_size=6))


@given(RANGES)
def test_stored_form_comes_back(one: Range) -> None:
    """Whatever bytes a prefix has."""
    assert Range.decode(one.encode()) == one


@pytest.mark.parametrize("text", ["", "prefix", "prefix 61", "mine 61 ", "prefix 6 ", "prefix 61  x"])
def test_other_forms_are_refused(text: str) -> None:
    """What somebody else wrote into a claim."""
    with pytest.raises(ValueError):  # noqa: PT011 - its own, fromhex's or of unpacking
        Range.decode(text)


@given(RANGES, RANGES)
def test_overlap_is_mutual(ours: Range, theirs: Range) -> None:
    """Whoever comes second learns it."""
    assert overlap(ours, theirs) == overlap(theirs, ours)


@given(RANGES, RANGES, KEYS)
def test_no_key_belongs_to_two_that_do_not_overlap(ours: Range, theirs: Range, key: bytes) -> None:
    """Keys that are told by name have one owner at most."""
    if "remembered" not in (ours.ownership, theirs.ownership) and not overlap(ours, theirs):
        assert not (ours.owns(key) and theirs.owns(key))
        assert not (theirs.timestamp_key and ours.owns(theirs.timestamp_key))


@given(RANGES, KEYS)
def test_what_is_refused_is_never_owned(one: Range, key: bytes) -> None:
    """reconcile's own keys and the timestamp are neither written nor deleted as a view's, and all others under the
    prefix are; the short way agrees."""
    assert one.owns(key) == (key.startswith(one.prefix) and not one.refuses(key))
    if one.prefix_suffices:
        assert one.owns(key) == key.startswith(one.prefix)


A, B, AB = Range("prefix", b"a:"), Range("prefix", b"b:"), Range("prefix", b"a:b:")
ALL, OWN = Range("dedicated"), Range("remembered")
WITH_TIMESTAMP = Range("dedicated", timestamp_key=b"t")


@pytest.mark.parametrize(
    ("one", "key", "owned"),
    [
        (A, b"a:1", True),
        (A, b"b:1", False),
        (ALL, b"anything", True),
        (ALL, b"reconcile:{v}:state", False),
        (ALL, b"reconcile:v", True),
        (WITH_TIMESTAMP, b"t", False),
        (WITH_TIMESTAMP, b"t2", True),
        (WITH_TIMESTAMP, b"reconcile:{v}:state", False),
        (ALL, b"", True),
    ],
)
def test_whose_key_it_is(one: Range, key: bytes, owned: bool) -> None:
    """reconcile's own keys, and the timestamp, are no view's rows; all others in the range are."""
    assert one.owns(key) is owned


@pytest.mark.parametrize(
    ("one", "enough", "named"),
    [
        (A, True, "the prefix 'a:'"),
        (Range("prefix", b"a:", b"t"), True, "the prefix 'a:'"),
        (Range("prefix", b"a:", b"a:t"), False, "the prefix 'a:'"),
        (Range("prefix", b"r"), False, "the prefix 'r'"),
        (Range("prefix", b"reconcile:{v"), False, "the prefix 'reconcile:{v'"),
        (ALL, False, "all of the database (redis.dedicated)"),
        (OWN, False, "the keys it has written (no prefix)"),
    ],
)
def test_where_the_prefix_says_it_all(one: Range, enough: bool, named: str) -> None:
    """Unless one of reconcile's own keys, or the timestamp, may lie under it; and what a range is called."""
    assert (one.prefix_suffices, str(one)) == (enough, named)


@pytest.mark.parametrize(
    ("ours", "claims", "words"),
    [
        (A, {}, None),
        (A, {"v": A, "w": B}, None),
        (A, {"w": AB}, "would write the same keys"),
        (AB, {"w": A}, "would write the same keys"),
        (A, {"v": B}, "keys are not moved"),
        (A, {"v": OWN}, None),
        (OWN, {"v": A}, "keys are not moved"),
        (ALL, {"w": OWN}, "would write the same keys"),
        (OWN, {"w": OWN}, None),
        (Range("prefix", b"a:", b"t"), {"w": Range("prefix", b"b:", b"t")}, "would write the same keys"),
        (A, {"w": Range("prefix", b"b:", b"a:t")}, "would write the same keys"),
        (Range("remembered", b"", b"a:t"), {"w": A}, "would write the same keys"),
        (Range("prefix", b"a:", b"a:t"), {"w": B}, None),
        (OWN, {"w": Range("remembered", b"", b"t")}, None),
    ],
)
def test_contradictions(ours: Range, claims: dict[str, Range], words: str | None) -> None:
    """Beside other claims, and beside the view's own earlier one; both are named."""
    stop = contradiction("v", ours, claims)
    if words is None:
        assert stop is None
        return
    assert stop is not None
    assert words in stop.message
    assert stop.hint is not None
    assert "reconcile drop" in stop.hint


def test_the_command_that_drops_a_view() -> None:
    """Names as they were configured, not as they are escaped in a tag; a namespace only where it is another."""
    assert drop_command("old", "new") == "reconcile drop old"
    assert drop_command("a.old%2Ename", "a.new") == "reconcile drop old.name"
    assert drop_command("a b.old%7B", "new") == "RECONCILE_REDIS__NAMESPACE='a b' reconcile drop 'old{'"
    assert drop_command("old", "a.new") == "reconcile drop old --config <a configuration without redis.namespace>"
