"""Manifest, fingerprints and surplus as records: whatever was changed, what is stored is what it adds up to."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from reconcile.core import digest
from reconcile.core.records import (
    HELD_BYTES,
    NO_RECORDS,
    Manifest,
    Records,
    Waiting,
    cleared,
    decode_waiting,
    empty_manifest,
    fingerprint_records,
    forget,
    of_all,
    of_shard,
    surplus_in,
    total_text,
    waiting_records,
    whole_manifest,
)
from reconcile.core.shards import shards_of

BUCKETS = st.integers(0, 7).map(lambda n: 1 << n)
ROWS = st.lists(st.integers(0, 2**64 - 1), max_size=4).map(lambda rows: sum(digest.ONE + one for one in rows))


def stored(digests: list[int]) -> bytes:
    whole = whole_manifest(digests).whole
    assert whole is not None
    return whole


def carried_out(before: bytes, records: Records, size: int) -> bytes:
    """What Redis holds after the records were written."""
    if records.whole is not None:
        return records.whole
    after = bytearray(before)
    for bucket, record in records.some.items():
        assert len(record) == size
        after[bucket * size : (bucket + 1) * size] = record
    return bytes(after)


@given(st.data(), BUCKETS, st.booleans())
def test_changed_manifest_is_that_of_the_new_digests(data: st.DataObject, buckets: int, whole: bool) -> None:
    """Read whole or in part, written whole or in part."""
    digests = data.draw(st.lists(ROWS, min_size=buckets, max_size=buckets))
    changed = data.draw(st.dictionaries(st.integers(0, buckets - 1), ROWS))
    before = stored(digests)
    manifest = Manifest(buckets, total_text(sum(digests)))
    size = digest.RECORD_BYTES
    some = {bucket: before[bucket * size : (bucket + 1) * size] for bucket in changed}
    assert manifest.take(before if whole else some)
    records = manifest.change(changed)
    after = [changed.get(bucket, one) for bucket, one in enumerate(digests)]
    assert carried_out(before, records, size) == stored(after)
    assert total_text(manifest.total) == total_text(sum(after))
    assert manifest.keys == digest.count(sum(after))
    assert {bucket: digest.normal(manifest[bucket]) for bucket in changed} == {
        bucket: digest.normal(one) for bucket, one in changed.items()
    }


@given(st.data(), BUCKETS)
def test_a_manifest_that_is_not_the_states_is_not_trusted(data: st.DataObject, buckets: int) -> None:
    """Another total, or another length."""
    digests = data.draw(st.lists(ROWS, min_size=buckets, max_size=buckets))
    other = Manifest(buckets, total_text(sum(digests) + digest.ONE + 1))
    assert not other.take(stored(digests))
    assert not Manifest(buckets, total_text(sum(digests))).take(stored(digests)[:-1])
    assert not Manifest(buckets, total_text(sum(digests))).take({0: b""})


def test_less_than_no_rows_is_noticed() -> None:
    """Deletes of rows that were never counted."""
    for read in (stored([0, 0]), {0: bytes(digest.RECORD_BYTES)}):
        manifest = Manifest(2, total_text(0))
        assert manifest.take(read)
        assert not manifest.add({0: -(digest.ONE + 5)})


@given(st.data(), BUCKETS)
def test_fingerprints_after_their_records_were_written(data: st.DataObject, buckets: int) -> None:
    """From none, from another number, from any others."""
    prints = st.lists(st.integers(0, 2**64 - 1), min_size=buckets, max_size=buckets).map(lambda of: array("Q", of))
    new, old = data.draw(prints), data.draw(st.one_of(st.none(), prints))
    before = b"" if old is None else digest.encode_fingerprints(old)
    records = fingerprint_records(new, old)
    assert carried_out(before, records, digest.FINGERPRINT_BYTES) == digest.encode_fingerprints(new)
    assert fingerprint_records(new, new) == NO_RECORDS
    touched = data.draw(st.sets(st.integers(0, buckets - 1)))
    before = digest.encode_fingerprints(new)
    after = carried_out(before, forget(new, touched), digest.FINGERPRINT_BYTES)
    assert before == digest.encode_fingerprints(new), "what is stored has not changed before the records are written"
    assert after == digest.encode_fingerprints(cleared(new, touched))
    assert list(cleared(new, touched)) == [digest.UNKNOWN if b in touched else one for b, one in enumerate(new)]
    assert forget(cleared(new, touched), touched) == NO_RECORDS


@given(st.data(), BUCKETS, st.booleans())
def test_fingerprints_that_may_have_been_forgotten_meanwhile(data: st.DataObject, buckets: int, sent: bool) -> None:
    """A change that fits one write is not announced by another, which would forget: the end is the same."""
    prints = st.lists(st.integers(0, 3), min_size=buckets, max_size=buckets).map(lambda of: array("Q", of))
    new, old = data.draw(prints), data.draw(prints)
    touched = data.draw(st.sets(st.integers(0, buckets - 1)))
    before = digest.encode_fingerprints(cleared(old, touched) if sent else old)
    records = fingerprint_records(new, old, touched)
    assert carried_out(before, records, digest.FINGERPRINT_BYTES) == digest.encode_fingerprints(new)


@given(st.data(), st.integers(0, 4).map(lambda n: 1 << n), st.sampled_from([8, 16]))
def test_a_shard_stores_its_own_records_only(data: st.DataObject, n: int, size: int) -> None:
    """And all are there when they are read; each place is that of one bucket."""
    buckets = n * data.draw(st.sampled_from([1, 2, 8]))
    other = data.draw(st.binary(min_size=size, max_size=size))
    own = [data.draw(st.binary(min_size=size, max_size=size)) for _ in range(buckets // n)]
    for shard in shards_of(n):
        whole = of_all(b"".join(own), size, shard, other)
        records = [whole[b * size : (b + 1) * size] for b in range(buckets)]
        assert records == [own[b // n] if b % n == shard.i else other for b in range(buckets)]
        assert of_shard(whole, size, shard) == b"".join(own)


@given(*[st.dictionaries(st.integers(0, digest.MAX_BUCKETS - 1), ROWS)] * 2)
def test_what_waits_comes_back(surplus: dict[int, int], withheld: dict[int, int]) -> None:
    """Nothing at all is an absent key."""
    surplus, withheld = ({b: digest.added(digest.normal(x)) for b, x in one.items()} for one in (surplus, withheld))
    waiting = Waiting(surplus, withheld, {b: b + 1 for b in [*surplus, *withheld][::2]})
    assert not waiting_records(waiting, waiting)
    whole = waiting_records(waiting, replace(waiting, seen={0: 1 << 63})).whole
    assert whole is not None
    assert decode_waiting(whole) == waiting
    elsewhere = waiting.outside(surplus)
    assert elsewhere.buckets == withheld.keys() - surplus.keys() >= elsewhere.seen.keys()
    with pytest.raises(ValueError, match="length"):
        decode_waiting(whole + b"\0")


@given(st.sets(st.binary(max_size=4), min_size=1), st.sampled_from([16, 64, 256]), st.sampled_from([16, 64, 256]))
def test_surplus_in_another_number_of_buckets(names: set[bytes], before: int, buckets: int) -> None:
    """No bucket that has such a key is left out; of fewer, the sums are exact."""

    def in_buckets(number: int) -> dict[int, int]:
        digests = [0] * number
        digest.add_rows(digests, [(name, b"x") for name in names], 0)
        return {bucket: one for bucket, one in enumerate(digests) if one}

    found = surplus_in(in_buckets(before), before, buckets)
    assert {digest.bucket_of(name, buckets) for name in names} <= found.keys()
    assert max(found) < buckets
    if buckets <= before:
        assert found == in_buckets(buckets)


def test_a_new_manifest_is_written_whole() -> None:
    """However few of its buckets have changed: what is stored may be of another mapping, or nothing."""
    manifest = empty_manifest(1024)
    for bucket in (5, 7):
        assert manifest.change({bucket: digest.ONE}).whole is not None


def test_what_is_held_of_a_manifest_between_commits_is_bounded() -> None:
    """However many buckets are touched, one by one or at once, little stays held, and what is read again is right."""
    buckets = 1 << 17
    digests = [0] * buckets
    manifest = Manifest(buckets, total_text(0))

    def touch(some: range) -> None:
        missing = manifest.missing(some)
        if missing is None:
            assert manifest.take(stored(digests))
        else:
            assert manifest.take({b: stored(digests[b : b + 1]) for b in missing})
        assert manifest.add(dict.fromkeys(some, digest.ONE + 7))
        for b in some:
            digests[b] += digest.ONE + 7
        manifest.trim()
        assert manifest.size_bytes <= HELD_BYTES

    for b in range(5000):
        touch(range(b, b + 1))
    touch(range(0, buckets, 2))
    touch(range(3, 4))
    assert manifest.keys == sum(map(digest.count, digests))
    assert manifest.take(stored(digests)), "the total does not fit"
