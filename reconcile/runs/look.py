"""A close look at some buckets: every row of the source at T against every key that Redis holds there.

One statement reads the rows and one scan the keys, however many buckets there are.

few rows    their names are held; whatever else a scan finds in these buckets is extra
many rows   one bit per row is held, to name some keys that are certainly extra; how many there are is what the digests
            of everything Redis holds there leave over
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reconcile.core import digest
from reconcile.core.changes import duplicate_keys, null_key
from reconcile.runs.context import ViewRun
from reconcile.runs.repair import MGET_KEYS
from reconcile.runs.sweep import GROUP_ROWS, Sieve, short
from reconcile.source.reading import Reading
from reconcile.target.keyspace import Page, scan_keys, scan_rows

MAX_EXAMPLES = 1000
"""Differences that are remembered by name, over all buckets, unless more are asked for."""


@dataclass(slots=True)
class Difference:
    """One key that differs. kind: missing, stale or extra, as seen from Redis."""

    key: bytes
    kind: str
    bucket: int


@dataclass(slots=True)
class BucketLook:
    """Exact digests (added-up form) of one bucket at the source and in Redis, and the keys that differ."""

    source: int = 0
    hashes: int = 0
    """Sum of the source's own hashes of the rows, for the fingerprint."""
    redis: int = 0
    missing: int = 0
    stale: int = 0
    extra: int = 0
    examples: tuple[Difference, ...] = ()

    @property
    def differences(self) -> int:
        return self.missing + self.stale + self.extra


def look_at(
    run: ViewRun, reading: Reading, buckets: int, chosen: Iterable[int], max_examples: int
) -> dict[int, BucketLook]:
    """Look at the chosen buckets. At most max_examples keys are named per bucket, MAX_EXAMPLES over all."""
    look = _Look(run, reading, buckets, sorted(chosen), max_examples)
    look.at_rows()
    look.at_keys()
    return look.looks


class _Look:
    def __init__(self, run: ViewRun, reading: Reading, buckets: int, chosen: list[int], max_examples: int) -> None:
        self.looks = {bucket: BucketLook() for bucket in chosen}
        self._run = run
        self._reading = reading
        self._buckets = buckets
        self._max_examples = max_examples
        self._examples_left = max(MAX_EXAMPLES, max_examples)
        self._names: set[bytes] | None = set()
        self._sieve = Sieve(seed=0)

    # -- the source ----------------------------------------------------------------------------------------------

    def at_rows(self) -> None:
        """Every row against what Redis holds under its key. Raises DataError: no key, or (few rows) a repeated one."""
        repeated: list[bytes] = []
        for chunk in self._reading.hashed_rows_of(list(self.looks), self._buckets):
            self._run.stop.check()
            rows: list[tuple[bytes, bytes]] = []
            for key, value, source_hash in chunk:
                if key is None:
                    raise null_key()
                look = self.looks[digest.bucket_of(key, self._buckets)]
                look.hashes += int.from_bytes(source_hash or b"", "big")
                if value is not None:
                    rows.append((key, value))
            self._remember(rows, repeated)
            for key, value, old in held_values(self._run, rows):
                self._note_row(key, value, old)
        if repeated:
            raise duplicate_keys(repeated)

    def _remember(self, rows: list[tuple[bytes, bytes]], repeated: list[bytes]) -> None:
        for key, _ in rows:
            self._sieve.add(key)
        names = self._names
        if names is None:
            return
        for key, _ in rows:
            name = short(key)
            if name in names:
                repeated.append(key)
            names.add(name)
        if len(names) > GROUP_ROWS:
            self._names = None

    def _note_row(self, key: bytes, value: bytes, old: bytes | None) -> None:
        bucket = digest.bucket_of(key, self._buckets)
        look = self.looks[bucket]
        one = digest.row_digest(key, value)
        look.source += one
        if old == value:
            look.redis += one
        elif old is None:
            look.missing += 1
            self._name(look, key, "missing", bucket)
        else:
            look.redis += digest.row_digest(key, old)
            look.stale += 1
            self._name(look, key, "stale", bucket)

    def _name(self, look: BucketLook, key: bytes, kind: str, bucket: int) -> None:
        if self._examples_left and len(look.examples) < self._max_examples:
            self._examples_left -= 1
            look.examples += (Difference(key, kind, bucket),)

    # -- Redis ---------------------------------------------------------------------------------------------------

    def at_keys(self) -> None:
        """Keys in Redis that the source has no row for."""
        if self._names is None:
            self._add_up_all()
        else:
            self._look_for_others(self._names)

    def _look_for_others(self, names: set[bytes]) -> None:
        run = self._run
        seen: set[bytes] = set()
        for keys in scan_keys(run.reader, run.keyspace):
            run.stop.check()
            here = [key for key in keys if digest.bucket_of(key, self._buckets) in self.looks]
            # A scan may name a key twice. So many are remembered; beyond that one too many is counted, not missed.
            fresh = [key for key in here if short(key) not in names and short(key) not in seen]
            if len(seen) < GROUP_ROWS:
                seen.update(map(short, fresh))
            if not fresh:
                continue
            for key, value in zip(fresh, run.reader.call("MGET", *fresh), strict=True):
                if value is None and not run.reader.call("EXISTS", key):
                    continue
                bucket = digest.bucket_of(key, self._buckets)
                look = self.looks[bucket]
                look.redis += _digest_of(key, value)
                look.extra += 1
                self._name(look, key, "extra", bucket)

    def _add_up_all(self) -> None:
        run = self._run
        held = dict.fromkeys(self.looks, 0)
        with contextlib.closing(scan_rows(run.reader, run.keyspace, self._is_chosen)) as pages:
            for page in pages:
                run.stop.check()
                if run.keyspace.ownership == "remembered":
                    page = self._there(page)
                self._add_page(page, held)
        for bucket, look in self.looks.items():
            look.extra = max(0, digest.count(held[bucket] - look.redis))
            look.redis = held[bucket]

    def _there(self, page: Page) -> Page:
        """The page without keys that are remembered as ours but that others have taken away."""
        odd = [key for key, value in page if value is None]
        there = self._run.reader.replies([("EXISTS", key) for key in odd]) if odd else []
        gone = {key for key, exists in zip(odd, there, strict=True) if not exists}
        return [row for row in page if row[0] not in gone]

    def _is_chosen(self, key: bytes) -> bool:
        return digest.bucket_of(key, self._buckets) in self.looks

    def _add_page(self, page: Page, held: dict[int, int]) -> None:
        for key, value in page:
            bucket = digest.bucket_of(key, self._buckets)
            held[bucket] += _digest_of(key, value)
            if value is not None and key not in self._sieve:
                self._name(self.looks[bucket], key, "extra", bucket)


def _digest_of(key: bytes, value: bytes | None) -> int:
    return digest.odd_digest(key) if value is None else digest.row_digest(key, value)


def held_values(run: ViewRun, rows: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes, bytes | None]]:
    """(key, value, what Redis holds) for each row."""
    for start in range(0, len(rows), MGET_KEYS):
        page = rows[start : start + MGET_KEYS]
        held = run.reader.call("MGET", *(key for key, _ in page))
        for (key, value), old in zip(page, held, strict=True):
            yield key, value, old
