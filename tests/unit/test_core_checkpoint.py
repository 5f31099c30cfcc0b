"""The next state from the one before: as_of moves only with complete content."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconcile.core import checkpoint, digest
from reconcile.core.checkpoint import Content
from reconcile.core.state import Identity, Pending, State, decode, encode

IDENTITIES = st.builds(Identity, st.sampled_from(["one", "two"]), st.sampled_from(["m", "n"]))
CONTENTS = st.builds(
    Content,
    buckets=st.sampled_from([1, 16, 64]),
    total=st.lists(st.integers(0, 2**64 - 1), max_size=5).map(lambda rows: sum(digest.ONE + one for one in rows)),
    identity=IDENTITIES,
    surplus=st.dictionaries(st.integers(0, 15), st.integers(0, 2**64 - 1).map(lambda one: digest.ONE + one)),
    surplus_names=st.lists(st.binary(max_size=9), max_size=3).map(tuple),
    fingerprint_salt=st.sampled_from(["", "0" * 32]),
    companion=st.just(""),
)
MARKS = st.one_of(
    st.none(), st.builds(Pending, st.sampled_from(["snapshot", "delta", "withheld"]), st.integers(0, 99), st.booleans())
)
BASES = st.builds(
    lambda as_of, identity, mark: State(
        salt=1, as_of=as_of, identity=identity, buckets=1, keys=7, digest="0" * 32, pending=mark
    ),
    st.one_of(st.none(), st.integers(0, 99)),
    st.sampled_from([None, Identity("before", "mapping")]),
    MARKS,
)


@given(BASES, CONTENTS, st.integers(100, 10**6), st.integers(0, 10**13))
def test_what_each_says_of_redis(base: State, content: Content, until: int, now_ms: int) -> None:
    """Reached is complete; withheld, partly and marked leave the checkpoint where it is and say that more is to do."""
    reached = checkpoint.reached(base, until, content, now_ms)
    withheld = checkpoint.partly(base, "withhold", until, content, now_ms, 3)
    partly = checkpoint.partly(base, "begin snapshot", until, content, now_ms, 3)
    again = checkpoint.partly(partly, "begin snapshot", until, content, now_ms, 4)
    assert again.pending is not None
    assert again.pending.deleted == 4
    assert checkpoint.marked(partly, "begin snapshot", until, now_ms).pending == partly.pending
    marked = checkpoint.marked(base, "begin delta", until, now_ms)
    assert (reached.as_of, reached.pending) == (until, None)
    for other, kind in ((withheld, "withheld"), (partly, "snapshot"), (marked, "delta")):
        assert other.as_of == base.as_of
        assert other.pending is not None
        assert (other.pending.kind, other.pending.until) == (kind, until)
    for one in (reached, withheld, partly):
        assert one.counted == digest.count(content.total)
        assert int(one.digest, 16) == digest.normal(content.total)
        assert one.surplus == len(content.surplus)
        assert one.buckets == content.buckets
        assert one.identity is not None
        assert one.identity.mapping == content.identity.mapping
        assert one.peak.keys >= one.counted
    assert (reached.identity, reached.keys) == (content.identity, reached.counted)
    for one in (withheld, partly):
        assert one.identity is not None
        if base.as_of is None or base.identity is None:
            assert (one.identity.source, one.keys) == (content.identity.source, one.counted)
        else:
            assert (one.identity.source, one.keys) == (base.identity.source, base.keys)
    assert (marked.keys, marked.digest, marked.identity) == (base.keys, base.digest, base.identity)


@given(BASES, CONTENTS, st.integers(100, 10**6), st.integers(0, 10**13))
def test_what_was_made_can_be_stored(base: State, content: Content, until: int, now_ms: int) -> None:
    """And comes back as it was."""
    for made in (
        checkpoint.reached(base, until, content, now_ms),
        checkpoint.partly(base, "withhold", until, content, now_ms, 0),
        checkpoint.partly(base, "begin anew", until, content, now_ms, 5),
    ):
        assert decode(encode(made), "v") == made
