"""Digests: sums of row hashes, computed the same way for the source's rows and for Redis' content.

    row hash   r = xxh3_64(key, seed = xxh3_64(value, seed = salt))     key: as in Redis; value: its framed bytes
    bucket     b = crc32(key) mod B                        B a power of two
    digest     D[b] = (count, Σ r mod 2^64)

Sums, not XOR, with which equal rows would cancel. While a digest is being added up, one Python int holds it:

    digest = count · 2^96 + Σ r          so adding or subtracting a row is one operation on one list element

2^96 leaves room for 2^31 rows before Σ r could reach the count. `normal` converts the int to the form that is compared
and stored: count · 2^64 + (Σ r mod 2^64).

The digest salt is eight random bytes, kept only in the state. Without a salt, anybody who controls some rows of a
bucket could choose them so that they cancel a change to another row.

A fingerprint is the same idea at the source: Σ seahash(row), computed by Materialize. To us it is opaque; it is only
compared with other fingerprints of the same bucket.
"""

from __future__ import annotations

import sys
from array import array
from binascii import crc32
from collections.abc import Iterable, Mapping, Sequence
from typing import NewType, TypeAlias

from xxhash import xxh3_64_intdigest

ONE = 1 << 96
_HALF = 1 << 95
_M64 = (1 << 64) - 1
RECORD_BYTES = 16
FINGERPRINT_BYTES = 8

MIN_BUCKETS = 16
MAX_BUCKETS = 1 << 17
ROWS_PER_BUCKET = 64
"""Intended rows per bucket. When one row changes, its whole bucket is read; but each bucket takes 24 bytes in Redis and
one group in the fingerprint query, which costs the source as much as hashing several rows.
"""
COMPANION_ROWS_PER_BUCKET = 16
"""Intended rows per bucket with a companion view, which keeps its groups up to date: more groups take memory, but no
time per run.
"""

UNKNOWN = 0
"""The fingerprint of a bucket that has been touched since its fingerprint was taken, or that never had one."""

Normal = NewType("Normal", int)
"""A digest in the form that is compared and stored: count · 2^64 + (Σ r mod 2^64). A plain int is still being added up.
"""
Words: TypeAlias = "array[int]"
"""A manifest as 64-bit numbers: count and sum of bucket b at 2b and 2b + 1. Takes a tenth of the memory of ints."""
Fingerprints: TypeAlias = "array[int]"
"""One fingerprint per bucket, 8 bytes each; there may be 2^17 of them, in several copies."""
_UINT64 = "Q"


def row_hash(key: bytes, value: bytes, salt: int) -> int:
    """Return the 64-bit hash of one stored row. salt: the state's digest salt, 0 .. 2^64 − 1."""
    return xxh3_64_intdigest(key, xxh3_64_intdigest(value, salt))


def bucket_of(key: bytes, buckets: int) -> int:
    """Return the bucket of a Redis key. Materialize computes the same as crc32(key) % B."""
    return crc32(key) & (buckets - 1)


def choose_buckets(rows: int, rows_per_bucket: int = ROWS_PER_BUCKET) -> int:
    """Return the number of buckets for so many rows: a power of two, with about rows_per_bucket rows each."""
    wanted = max(1, rows // rows_per_bucket)
    return min(MAX_BUCKETS, max(MIN_BUCKETS, 1 << (wanted - 1).bit_length()))


def outgrown(rows: int, buckets: int) -> bool:
    """Whether a view has outgrown its number of buckets so far that choosing again pays off."""
    return choose_buckets(rows) >= buckets * 4


def add_rows(digests: list[int], rows: Iterable[tuple[bytes, bytes | None]], salt: int) -> None:
    """Add (key, value) rows to the digests of their buckets, in place. NULL values are not stored and do not count.

    The hot loop of every full read.
    """
    mask = len(digests) - 1
    hash64 = xxh3_64_intdigest
    for key, value in rows:
        if value is not None:
            digests[crc32(key) & mask] += ONE + hash64(key, hash64(value, salt))


def row_digest(key: bytes, value: bytes, salt: int) -> int:
    """Return the digest of a single row, to add or subtract."""
    return ONE + xxh3_64_intdigest(key, xxh3_64_intdigest(value, salt))


def unreadable_digest(key: bytes, salt: int) -> int:
    """Return the digest of a key whose content the layout cannot read (or that vanished meanwhile). Equals no row's."""
    return ONE + xxh3_64_intdigest(key, salt ^ _M64)


def held_digest(key: bytes, value: bytes | None, salt: int) -> int:
    """Return the digest of a key that Redis holds. value: None if the layout cannot read it."""
    return unreadable_digest(key, salt) if value is None else row_digest(key, value, salt)


def normal(digest: int) -> Normal:
    """Return the normal form of an added-up digest: count · 2^64 + (sum mod 2^64)."""
    return Normal((((digest + _HALF) >> 96) << 64) | (digest & _M64))


def added(normal_form: Normal) -> int:
    """Return the added-up form of a digest in normal form."""
    return ((normal_form >> 64) << 96) | (normal_form & _M64)


def count(digest: int) -> int:
    """Return the row count of an added-up digest; negative if more was subtracted than added."""
    return (digest + _HALF) >> 96


def total(digests: Iterable[int]) -> Normal:
    """Return one digest over all buckets, in normal form."""
    return normal(sum(digests))


def fold(digests: Sequence[int], buckets: int) -> list[int]:
    """Return the digests of the same rows in fewer buckets (both powers of two: crc32 mod B is the last bits)."""
    folded = list(digests[:buckets])
    for start in range(buckets, len(digests), buckets):
        for bucket in range(buckets):
            folded[bucket] += digests[start + bucket]
    return folded


def differing(ours: Sequence[int], theirs: Sequence[int]) -> list[int]:
    """Return the buckets whose digests differ, ascending. Both sequences are added-up digests of equal length."""
    return [b for b, (x, y) in enumerate(zip(ours, theirs, strict=True)) if x != y and normal(x) != normal(y)]


def encode_manifest(digests: Iterable[int]) -> bytes:
    """Return RECORD_BYTES per bucket, big-endian: 8 bytes count, 8 bytes sum. Counts must not be negative."""
    return b"".join([normal(d).to_bytes(RECORD_BYTES, "big") for d in digests])


def decode_manifest(stored: bytes) -> list[int]:
    """Return the digests of encode_manifest, in added-up form. Raises ValueError for a wrong length."""
    if len(stored) % RECORD_BYTES:
        raise ValueError("manifest length is not a multiple of its record")
    from_bytes = int.from_bytes
    records = (from_bytes(stored[i : i + RECORD_BYTES], "big") for i in range(0, len(stored), RECORD_BYTES))
    return [added(Normal(r)) for r in records]


def manifest_words(stored: bytes) -> Words:
    """Return a stored manifest as words. Raises ValueError for a wrong length."""
    return _swapped(array(_UINT64, stored))


def encode_words(words: Words) -> bytes:
    """Return the stored form of a manifest."""
    stored = _swapped(words).tobytes()
    _swapped(words)  # back: a copy would be megabytes
    return stored


def digest_in_words(words: Words, bucket: int) -> int:
    """Return a bucket's digest, in added-up form."""
    return (words[2 * bucket] << 96) | words[2 * bucket + 1]


def total_of_words(words: Words) -> Normal:
    """Return one digest over all buckets, in normal form."""
    return Normal((sum(words[::2]) << 64) | (sum(words[1::2]) & _M64))


def add_to_words(words: Words, more: Mapping[int, int]) -> bool:
    """Add to digests in place. Return False if a count would become negative; the words are unusable then."""
    for bucket, one in more.items():
        rows = words[2 * bucket] + ((one + _HALF) >> 96)
        if rows < 0:
            return False
        words[2 * bucket] = rows
        words[2 * bucket + 1] = (words[2 * bucket + 1] + one) & _M64
    return True


def fingerprint(hash_sum: int) -> int:
    """Return the stored form of Materialize's sum of hashes: 1 .. 2^64−1, as 0 means UNKNOWN."""
    return hash_sum % _M64 + 1


EMPTY = fingerprint(0).to_bytes(FINGERPRINT_BYTES, "big")
"""The stored fingerprint of a bucket without rows."""


def fold_fingerprints(fingerprints: Fingerprints, buckets: int) -> Fingerprints:
    """Return the fingerprints of the same rows in fewer buckets. None may be unknown."""
    return array(_UINT64, [1 + total % _M64 for total in fold([known - 1 for known in fingerprints], buckets)])


def same_fingerprint(buckets: int, value: int) -> Fingerprints:
    """Return the same fingerprint for every bucket."""
    return array(_UINT64, [value]) * buckets


def encode_fingerprints(fingerprints: Fingerprints) -> bytes:
    """Return FINGERPRINT_BYTES per bucket, big-endian."""
    return _swapped(fingerprints[:]).tobytes()


def decode_fingerprints(stored: bytes) -> Fingerprints:
    """Raises ValueError for a wrong length."""
    return _swapped(array(_UINT64, stored))


def _swapped(numbers: array[int]) -> array[int]:
    """Convert big-endian words to native order or back, in place."""
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def mask_of(chosen: Iterable[int], buckets: int) -> bytes:
    """Return one byte per bucket, 1 if chosen: get_byte on it costs Materialize the same for any choice."""
    mask = bytearray(buckets)
    for bucket in chosen:
        mask[bucket] = 1
    return bytes(mask)
