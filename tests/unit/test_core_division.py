"""Another division: records are handed on bucket by bucket, and no more is claimed than is known."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from reconcile.core import digest
from reconcile.core.digest import UNKNOWN, Fingerprints
from reconcile.core.division import Kept, joined, split, summed
from reconcile.core.records import total_text
from reconcile.core.state import Identity, Peak, Pending, State, Turn

B = 32
STRANGER = b"p:stranger53"
"""A key of bucket 5."""
BLANK = State(salt=99, source_salt="b" * 32)
ROWS = [(b"p:k%d" % n, b"v%d" % n) for n in range(500)]


def whole(**changes: object) -> Kept:
    """A view of 500 rows at time 1000, with surplus in bucket 5."""
    manifest = [0] * B
    digest.add_rows(manifest, ROWS, 7)
    surplus = {5: digest.row_digest(STRANGER, b"x", 7)}
    state = State(
        as_of=1000, identity=Identity("s", "m"), buckets=B, keys=len(ROWS), digest=total_text(sum(manifest)), surplus=1,
        surplus_names=(STRANGER,), salt=7, source_salt="a" * 32, fingerprint_salt="a" * 32, turn=Turn(done_ms=50),
        updated_at_ms=10,
    )  # fmt: skip
    return Kept(replace(state, **changes), manifest, _fingerprints(), surplus)  # type: ignore[arg-type]


def _fingerprints() -> Fingerprints:
    made = digest.same_fingerprint(B, digest.fingerprint(0))
    for bucket in range(B):
        made[bucket] = digest.fingerprint(bucket + 1000)
    return made


@pytest.mark.parametrize("n", [2, 4, 16])
def test_there_and_back(n: int) -> None:
    """A clean view is clean in n shards, and the same when it is whole again."""
    before = whole()
    parts = split(before, n)
    assert len(parts) == n
    assert [part.state.pending for part in parts if part.state] == [None] * n
    assert sum(part.state.keys for part in parts if part.state) == len(ROWS)
    assert [bucket for part in parts for bucket in part.surplus] == [5]
    assert [part.state.surplus_names for part in parts if part.state and part.state.surplus] == [(STRANGER,)]
    assert sum(len(part.state.surplus_names) for part in parts if part.state) == 1
    after = joined(parts, BLANK)
    assert after == before


@pytest.mark.parametrize("n", [2, 8])
def test_from_n_to_m(n: int) -> None:
    """Without a detour in what they hold: what comes out is what the whole would be split into."""
    assert split(joined(split(whole(), n), BLANK), 4) == split(whole(), 4)


def test_a_shard_knows_its_own_buckets_only() -> None:
    """The others' are those of a view without rows there."""
    for i, part in enumerate(split(whole(), 4)):
        assert part.manifest is not None
        assert part.fingerprints is not None
        for bucket in range(B):
            ours = bucket % 4 == i
            assert bool(part.manifest[bucket]) == ours
            assert (part.fingerprints[bucket] == digest.fingerprint(0)) != ours


def test_the_guard_measures_by_the_checkpoint() -> None:
    """While deletes are withheld the manifest counts them beside the new rows, and what was there before the last
    shrinking counts for an hour: neither ends because the view is divided anew."""
    before = whole(keys=200, pending=Pending("withheld", 2000), peak=Peak(5, 900, 100))
    parts = split(before, 4)
    assert [(part.state.keys, part.state.peak) for part in parts if part.state] == [(50, Peak(5, 225, 25))] * 4
    after = joined(parts, BLANK).state
    assert after is not None
    assert (after.keys, after.peak) == (200, Peak(5, 900, 100))


def test_shards_of_different_times() -> None:
    """As old as the oldest, and not complete at any time: the next run takes a snapshot, by fingerprints."""
    parts = split(whole(), 4)
    assert parts[2].state is not None
    parts[2].state = replace(parts[2].state, as_of=900)
    after = joined(parts, BLANK)
    assert after.state is not None
    assert (after.state.as_of, after.state.pending) == (900, Pending("snapshot", 900))
    assert (after.manifest, after.fingerprints) == (whole().manifest, whole().fingerprints)


def test_a_shard_that_never_ran() -> None:
    """Nothing is known of its buckets, nor whose keys lie there; the rest stays explained."""
    parts = split(whole(), 4)
    parts[1] = Kept(BLANK)
    after = joined(parts, BLANK)
    assert after.state is not None
    assert after.manifest is not None
    assert after.fingerprints is not None
    assert (after.state.as_of, after.state.pending) == (None, Pending("snapshot", 0, anew=True))
    for bucket in range(B):
        assert bool(after.manifest[bucket]) == (bucket % 4 != 1)
        assert (after.fingerprints[bucket] == UNKNOWN) == (bucket % 4 == 1)


def test_shards_with_other_numbers_of_buckets() -> None:
    """The coarser one is a fold of the finer."""
    parts = split(whole(), 2)
    assert parts[0].manifest is not None
    assert parts[0].state is not None
    coarse = digest.fold(parts[0].manifest, 16)
    parts[0] = Kept(replace(parts[0].state, buckets=16), coarse, None)
    after = joined(parts, BLANK)
    assert after.state is not None
    assert after.manifest == digest.fold(whole().manifest or [], 16)
    assert (after.state.buckets, after.state.keys) == (16, len(ROWS))


@pytest.mark.parametrize("changes", [{"salt": 8}, {"identity": Identity("s", "other")}, {"identity": None}])
def test_what_cannot_be_added_up(changes: dict[str, object]) -> None:
    """Another salt or mapping: nothing is known then."""
    parts = split(whole(), 2)
    assert parts[1].state is not None
    parts[1].state = replace(parts[1].state, **changes)  # type: ignore[arg-type]
    assert joined(parts, BLANK) == Kept(BLANK)


def test_a_manifest_that_is_not_there() -> None:
    """The state alone says nothing of what Redis holds."""
    assert joined([replace(whole(), manifest=None)], BLANK) == Kept(BLANK)
    assert joined([Kept(None)], BLANK) == Kept(BLANK)


def test_what_a_whole_view_shows() -> None:
    """Its oldest time, all of its keys; none as long as a shard has none."""
    states = [part.state for part in split(whole(), 4)]
    assert states[3] is not None
    states[3] = replace(states[3], as_of=800, turn=Turn(done_ms=20))
    found = summed(states)
    assert found is not None
    assert (found.as_of, found.keys, found.turn.done_ms) == (800, len(ROWS), 20)
    states[0] = replace(states[0], pending=Pending("snapshot", 1)) if states[0] else None
    states[2] = replace(states[2], pending=Pending("withheld", 1)) if states[2] else None
    waits = summed(states)
    assert waits is not None
    assert waits.pending == Pending("withheld", 1)  # the next run settles the other
    missing = summed([*states[:3], None])
    assert missing is not None
    assert missing.as_of is None
    assert summed([None, None]) is None
