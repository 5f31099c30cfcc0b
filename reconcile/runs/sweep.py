"""Find by name the keys that Redis holds in some buckets and the source lacks, and remove them. Memory is bounded.

few rows    their names are held: whatever a scan finds in these buckets beside them goes
many rows   one bit per row is held (a sieve): a scanned key whose bit is not set is certainly not at the source.
            Some surplus keys share a bit with a row and stay; the next turn, with other bits and far fewer
            buckets, gets them
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Protocol

from xxhash import xxh3_64_intdigest, xxh3_128_digest

from reconcile.core import digest
from reconcile.core.changes import duplicate_keys, null_key
from reconcile.core.drift import groups_of
from reconcile.runs.context import ViewRun
from reconcile.source.reading import Reading
from reconcile.target import keyspace as keyspaces

GROUP_ROWS = 100_000
"""At most so many keys are held at once, by name."""
SIEVE_BITS = 1 << 26
"""8 MB: with 10M rows one surplus key in seven stays for the next turn, with 1M one in seventy."""
LONG_KEY_BYTES = 64


class Changer(Protocol):
    """Where puts and deletes go."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None: ...

    def on_the_way(self, key: bytes) -> bool:
        """Whether a put or delete of this key may not have reached Redis yet."""
        ...


class Sieve:
    """One bit per key: a key that is not in it was certainly never added; one that is may share its bit with another.

    Another seed: other bits.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._mask = SIEVE_BITS - 1
        self._bits = bytearray(SIEVE_BITS // 8)

    def add(self, key: bytes) -> None:
        """Set the key's bit."""
        at = xxh3_64_intdigest(key, self._seed) & self._mask
        self._bits[at >> 3] |= 1 << (at & 7)

    def __contains__(self, key: bytes) -> bool:
        at = xxh3_64_intdigest(key, self._seed) & self._mask
        return bool(self._bits[at >> 3] >> (at & 7) & 1)


class Sweep:
    """Removes surplus keys at the reading's time. rows_in: rows per bucket at the source, NULL values or not."""

    def __init__(
        self, run: ViewRun, reading: Reading, buckets: int, rows_in: Sequence[int], changer: Changer
    ) -> None:
        self._run = run
        self._reading = reading
        self._buckets = buckets
        self._rows_in = rows_in
        self._changer = changer

    def remove(self, left: dict[int, int], names: set[bytes] | None) -> None:
        """Remove them all. left: bucket → how many there are; names: those the source has there, where known.

        Raises DataError when the source turns out to have a key twice.
        """
        if not left:
            return
        if names is not None:
            self._by_names(set(left), names)
            return
        turn = 0
        while sum(self._rows_in[bucket] for bucket in left) > GROUP_ROWS:
            turn += 1
            if not self._by_sieve(left, turn):
                break  # none of them is there (any more): what is left has to be looked at closely
        for group in groups_of(sorted(left), self._rows_in, GROUP_ROWS):
            self._by_names(set(group), self._names_of(group))

    def _by_sieve(self, left: dict[int, int], seed: int) -> int:
        """One turn over the buckets that have surplus keys left; how many were removed."""
        sieve = Sieve(seed)
        for key in self._keys_of(list(left)):
            sieve.add(key)
        removed = 0
        for key in self._scanned(left):
            bucket = digest.bucket_of(key, self._buckets)
            if bucket not in left or key in sieve:
                continue
            self._changer.delete(key)
            removed += 1
            left[bucket] -= 1
            if not left[bucket]:
                del left[bucket]
        return removed

    def _by_names(self, group: set[int], names: set[bytes]) -> None:
        for key in self._scanned(group):
            if short(key) not in names:
                self._changer.delete(key)

    def _scanned(self, group: Container[int]) -> Iterator[bytes]:
        """Owned keys of these buckets in Redis, none that was removed before. A scan may name a key twice, but none
        that is gone; and what is not gone yet when a page comes is on the way then."""
        mask = self._buckets - 1
        for keys in keyspaces.scan_keys(self._run.reader, self._run.keyspace):
            self._run.stop.check()
            here = [key for key in keys if crc32(key) & mask in group]  # bucket_of, said shortly: every key comes by
            yield from [key for key in dict.fromkeys(here) if not self._changer.on_the_way(key)]

    def _keys_of(self, group: Iterable[int]) -> Iterator[bytes]:
        """Keys that the source gives a value."""
        for chunk in self._reading.rows_of(sorted(group), self._buckets):
            self._run.stop.check()
            for key, value in chunk:
                if key is not None and value is not None:
                    yield key

    def _names_of(self, group: list[int]) -> set[bytes]:
        """(Short) names of the keys that the source gives a value. Raises DataError for a key that it gives twice."""
        names: set[bytes] = set()
        absent: set[bytes] = set()
        repeated: list[bytes] = []
        for chunk in self._reading.rows_of(group, self._buckets):
            self._run.stop.check()
            for key, value in chunk:
                if key is None:
                    raise null_key()
                name = short(key)
                if name in names or name in absent:
                    repeated.append(key)
                (absent if value is None else names).add(name)
        if repeated:
            raise duplicate_keys(repeated)
        return names


def short(key: bytes) -> bytes:
    """The key, or a 128-bit hash where it is long: a set of them stays small."""
    return key if len(key) <= LONG_KEY_BYTES else xxh3_128_digest(key)
