"""Digests: the published definitions, and that adding up in any order is the same as computing again."""

from __future__ import annotations

import zlib
from array import array
from collections import Counter
from itertools import pairwise

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from reconcile.core import digest

KEYS = st.binary(max_size=12)
VALUES = st.binary(max_size=20)
ROWS = st.tuples(KEYS, VALUES)
BUCKETS = st.sampled_from([1, 2, 16, 64, 1024])
SALT = 0x5EED5A17
HASHES = st.one_of(st.sampled_from([0, 1, 2**63, 2**64 - 2, 2**64 - 1]), st.integers(0, 2**64 - 1))


def recomputed(rows: Counter[tuple[bytes, bytes]], buckets: int) -> list[tuple[int, int]]:
    """(count, sum mod 2^64) per bucket, from the definition alone."""
    result = [(0, 0)] * buckets
    for (key, value), times in rows.items():
        bucket = zlib.crc32(key) % buckets
        count, total = result[bucket]
        one = xxhash.xxh3_64_intdigest(key, seed=xxhash.xxh3_64_intdigest(value, seed=SALT))
        result[bucket] = (count + times, (total + times * one) % 2**64)
    return result


def as_normal(pairs: list[tuple[int, int]]) -> list[int]:
    return [(count << 64) | total for count, total in pairs]


@given(KEYS, VALUES)
def test_row_hash_is_xxh3_of_the_key_seeded_by_that_of_the_value(key: bytes, value: bytes) -> None:
    """The row hash is the published one, whatever the bytes."""
    seed = xxhash.xxh3_64_intdigest(value, seed=SALT)
    assert digest.row_hash(key, value, SALT) == xxhash.xxh3_64_intdigest(key, seed=seed)


@given(KEYS, VALUES, st.integers(1, 2**64 - 1))
def test_another_salt_makes_another_hash(key: bytes, value: bytes, salt: int) -> None:
    """Whoever does not know the salt cannot tell what cancels a row."""
    assert digest.row_hash(key, value, 0) != digest.row_hash(key, value, salt)


@given(KEYS, BUCKETS)
def test_a_bucket_is_crc32_modulo_their_number(key: bytes, buckets: int) -> None:
    """Materialize computes the same bucket as crc32(key) % B."""
    assert digest.bucket_of(key, buckets) == zlib.crc32(key) % buckets


@pytest.mark.parametrize(
    ("text", "crc", "hash_"),
    [(b"", 0, None), (b"foobar", 2666930069, None), (b"a", 3904355907, 8733285809965572592)],
)
def test_known_values(text: bytes, crc: int, hash_: int | None) -> None:
    """crc32 is the one recorded on a real Materialize; a changed xxhash would orphan every stored manifest."""
    assert digest.bucket_of(text, 1 << 32) == crc
    if hash_ is not None:
        assert digest.row_hash(text, b"1", 0) == hash_


@given(st.lists(st.tuples(ROWS, st.integers(-3, 3)), max_size=40), BUCKETS)
def test_any_interleaving_of_additions_and_subtractions_equals_recomputation(
    steps: list[tuple[tuple[bytes, bytes], int]], buckets: int
) -> None:
    """Order does not matter, and what was added and subtracted leaves no trace, negative balances included."""
    digests = [0] * buckets
    rows: Counter[tuple[bytes, bytes]] = Counter()
    for (key, value), times in steps:
        digests[digest.bucket_of(key, buckets)] += times * digest.row_digest(key, value, SALT)
        rows[key, value] += times
    assert [digest.normal(d) for d in digests] == as_normal(recomputed(rows, buckets))
    assert [digest.count(d) for d in digests] == [count for count, _ in recomputed(rows, buckets)]


@given(st.lists(st.tuples(HASHES, st.booleans()), max_size=200))
def test_sums_wrap_at_64_bits_and_never_reach_the_count(steps: list[tuple[int, bool]]) -> None:
    """Hashes near 2^64 carry out of the sum, and borrows out of it never change the count."""
    added_up = sum((digest.ONE + h) if plus else -(digest.ONE + h) for h, plus in steps)
    count = sum(1 if plus else -1 for _, plus in steps)
    total = sum(h if plus else -h for h, plus in steps) % 2**64
    assert digest.count(added_up) == count
    assert digest.normal(added_up) == (count << 64) | total


def test_the_count_holds_for_a_billion_rows_of_the_largest_hash() -> None:
    """Far beyond any bucket's size the sum still does not reach the count, whichever its sign."""
    for rows in (2**30, 2**31 - 1):
        assert digest.count(rows * (digest.ONE + 2**64 - 1)) == rows
        assert digest.count(-rows * (digest.ONE + 2**64 - 1)) == -rows


@given(st.lists(ROWS, max_size=30), st.lists(ROWS, max_size=30))
def test_normal_and_added_forms_convert_into_each_other(
    plus: list[tuple[bytes, bytes]], minus: list[tuple[bytes, bytes]]
) -> None:
    """A stored digest can be read back and added to as if it had never been stored."""
    value = sum(digest.row_digest(*row, SALT) for row in plus) - sum(digest.row_digest(*row, SALT) for row in minus)
    read_back = digest.added(digest.normal(value))
    assert digest.normal(read_back) == digest.normal(value)
    assert digest.count(read_back) == digest.count(value)
    more = digest.row_digest(b"k", b"v", SALT)
    assert digest.normal(read_back + more) == digest.normal(value + more)


@given(st.lists(st.tuples(KEYS, st.one_of(st.none(), VALUES)), max_size=40), BUCKETS)
def test_add_rows_counts_what_redis_would_hold(rows: list[tuple[bytes, bytes | None]], buckets: int) -> None:
    """NULL values are not stored and not counted; everything else adds up to the definition."""
    digests = [0] * buckets
    digest.add_rows(digests, rows, SALT)
    held = Counter((key, value) for key, value in rows if value is not None)
    assert [digest.normal(d) for d in digests] == as_normal(recomputed(held, buckets))


def test_equal_rows_do_not_cancel() -> None:
    """Two equal rows are told from none (XOR could not), and from one."""
    one = digest.row_digest(b"k", b"v", SALT)
    assert len({digest.normal(n * one) for n in range(4)}) == 4


@given(KEYS, VALUES, VALUES)
def test_a_changed_value_changes_the_digest(key: bytes, old: bytes, new: bytes) -> None:
    """Different values of one key have different digests (a collision would be found once in 2^64)."""
    assert (digest.row_digest(key, old, SALT) == digest.row_digest(key, new, SALT)) == (old == new)


@given(KEYS, VALUES)
def test_a_key_that_cannot_be_read_looks_like_no_row(key: bytes, value: bytes) -> None:
    """A list or hash under one of our keys counts as a key and as content no row has."""
    assert digest.unreadable_digest(key, SALT) != digest.row_digest(key, value, SALT)
    assert digest.count(digest.unreadable_digest(key, SALT)) == 1


@given(st.lists(ROWS, max_size=60), st.sampled_from([(64, 16), (64, 64), (1024, 1), (16, 2)]))
def test_fold_equals_recomputation_in_fewer_buckets(rows: list[tuple[bytes, bytes]], sizes: tuple[int, int]) -> None:
    """Digests taken at the finest granularity serve any coarser one."""
    fine, coarse = [0] * sizes[0], [0] * sizes[1]
    digest.add_rows(fine, rows, SALT)
    digest.add_rows(coarse, rows, SALT)
    assert digest.fold(fine, sizes[1]) == coarse


@given(st.lists(ROWS, max_size=60), st.lists(ROWS, max_size=6), BUCKETS)
def test_differing_names_the_buckets_that_differ(
    common: list[tuple[bytes, bytes]], more: list[tuple[bytes, bytes]], buckets: int
) -> None:
    """Two sides that hold the same rows differ nowhere; a row more shows in its bucket."""
    ours, theirs = [0] * buckets, [0] * buckets
    digest.add_rows(ours, common, SALT)
    digest.add_rows(theirs, reversed(common), SALT)
    assert digest.differing(ours, theirs) == []
    digest.add_rows(ours, more, SALT)
    assert digest.differing(ours, theirs) == sorted({digest.bucket_of(key, buckets) for key, _ in more})


@given(st.lists(ROWS, max_size=60), BUCKETS)
def test_a_manifest_survives_storage(rows: list[tuple[bytes, bytes]], buckets: int) -> None:
    """Encoding writes 16 bytes a bucket, count then sum, big-endian; decoding gives the same digests."""
    digests = [0] * buckets
    digest.add_rows(digests, rows, SALT)
    stored = digest.encode_manifest(digests)
    assert len(stored) == buckets * digest.RECORD_BYTES
    assert stored == b"".join(
        count.to_bytes(8, "big") + total.to_bytes(8, "big") for count, total in recomputed(Counter(rows), buckets)
    )
    assert digest.differing(digest.decode_manifest(stored), digests) == []
    assert digest.total(digests) == digest.normal(sum(digest.decode_manifest(stored)))


@given(st.lists(ROWS, max_size=40, unique=True), st.data(), BUCKETS)
def test_a_manifest_in_words_is_the_same_manifest(
    rows: list[tuple[bytes, bytes]], data: st.DataObject, buckets: int
) -> None:
    """Rows that go and rows that come change it as they change digests, across 2^64; too many that go are noticed."""
    digests = [0] * buckets
    digest.add_rows(digests, rows, SALT)
    words = digest.manifest_words(digest.encode_manifest(digests))
    gone = data.draw(st.sets(st.sampled_from(rows))) if rows else set()
    come = data.draw(st.lists(ROWS, max_size=10))
    more: dict[int, int] = {}
    for sign, some in ((-1, gone), (1, come)):
        for key, value in some:
            bucket = digest.bucket_of(key, buckets)
            more[bucket] = more.get(bucket, 0) + sign * digest.row_digest(key, value, SALT)
            digests[bucket] += sign * digest.row_digest(key, value, SALT)
    assert digest.add_to_words(words, more)
    assert digest.encode_words(words) == digest.encode_manifest(digests)
    in_words = [digest.normal(digest.digest_in_words(words, bucket)) for bucket in range(buckets)]
    assert in_words == [digest.normal(one) for one in digests]
    assert digest.total_of_words(words) == digest.total(digests)
    assert not digest.add_to_words(words, {0: -(digest.count(digests[0]) + 1) * digest.ONE})


@given(st.lists(st.integers(0, 2**64 - 1), max_size=40))
def test_fingerprints_survive_storage(fingerprints: list[int]) -> None:
    """Encoding writes 8 bytes a bucket, big-endian; decoding gives the same numbers."""
    stored = digest.encode_fingerprints(array("Q", fingerprints))
    assert stored == b"".join(f.to_bytes(8, "big") for f in fingerprints)
    assert list(digest.decode_fingerprints(stored)) == fingerprints


@pytest.mark.parametrize("length", [1, 7, 15, 17, 31])
def test_a_broken_length_is_refused(length: int) -> None:
    """A manifest or fingerprints that were cut do not decode to something else."""
    with pytest.raises(ValueError, match="multiple"):
        digest.decode_manifest(b"x" * length)
    if length % digest.FINGERPRINT_BYTES:
        with pytest.raises(ValueError, match="multiple"):
            digest.decode_fingerprints(b"x" * length)


def test_a_negative_count_is_not_stored() -> None:
    """More subtracted than added cannot be written as if it were a count."""
    with pytest.raises(OverflowError):
        digest.encode_manifest([-digest.row_digest(b"k", b"v", SALT)])


@given(st.integers(0, 2**100))
def test_a_fingerprint_never_says_unknown(total: int) -> None:
    """0 is kept for 'not known', whatever Materialize's sum; it fits 64 bits."""
    assert digest.UNKNOWN < digest.fingerprint(total) < 2**64


@given(st.integers(0, 10**9), st.sampled_from([digest.ROWS_PER_BUCKET, digest.COMPANION_ROWS_PER_BUCKET]))
def test_the_number_of_buckets_is_a_bounded_power_of_two(rows: int, per_bucket: int) -> None:
    """Neither tiny nor huge views get a number that does not fit the state, and none is not a power of two."""
    buckets = digest.choose_buckets(rows, per_bucket)
    assert digest.MIN_BUCKETS <= buckets <= digest.MAX_BUCKETS
    assert buckets & (buckets - 1) == 0
    if digest.MIN_BUCKETS < buckets < digest.MAX_BUCKETS:
        assert per_bucket / 2 <= rows / buckets <= per_bucket * (1 + 1 / buckets)


def test_more_rows_never_mean_fewer_buckets() -> None:
    """The choice grows with the view."""
    chosen = [digest.choose_buckets(rows) for rows in range(0, 3_000_000, 997)]
    assert all(before <= after for before, after in pairwise(chosen))
    assert (chosen[0], digest.choose_buckets(10**9)) == (digest.MIN_BUCKETS, digest.MAX_BUCKETS)


@given(st.integers(0, 10**8), st.integers(0, 10**8))
@settings(max_examples=200)
def test_buckets_are_outgrown_only_by_a_multiple(before: int, after: int) -> None:
    """A view that shrinks, or doubles, keeps its buckets: choosing again reads everything."""
    outgrown = digest.outgrown(after, digest.choose_buckets(before))
    assert outgrown == (digest.choose_buckets(after) >= 4 * digest.choose_buckets(before))
    if after <= before:
        assert not outgrown


@given(st.sets(st.integers(0, 63)))
def test_a_mask_has_one_byte_per_bucket(chosen: set[int]) -> None:
    """get_byte(mask, b) is 1 exactly for the chosen buckets."""
    mask = digest.mask_of(chosen, 64)
    assert len(mask) == 64
    assert {b for b, byte in enumerate(mask) if byte == 1} == chosen
    assert set(mask) <= {0, 1}
