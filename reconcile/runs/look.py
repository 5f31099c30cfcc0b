"""A close look at some buckets: every row of the source at T against every key that Redis holds there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from reconcile.core import digest
from reconcile.core.changes import duplicate_keys, null_key
from reconcile.core.drift import groups_of
from reconcile.runs.context import ViewRun
from reconcile.runs.repair import MGET_KEYS
from reconcile.runs.sweep import GROUP_ROWS, short
from reconcile.source.reading import Reading
from reconcile.target import keyspace as keyspaces


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
    examples: list[Difference] = field(default_factory=list)

    @property
    def differences(self) -> int:
        return self.missing + self.stale + self.extra


def look_at(
    run: ViewRun, reading: Reading, buckets: int, chosen: Iterable[int], rows_in: Sequence[int], max_examples: int
) -> dict[int, BucketLook]:
    """Look at the chosen buckets, in groups of bounded size. At most max_examples keys are named per bucket."""
    looks: dict[int, BucketLook] = {}
    for group in groups_of(sorted(chosen), rows_in, GROUP_ROWS):
        run.stop.check()
        looks |= _look_at_group(run, reading, buckets, group, max_examples)
    return looks


def _look_at_group(
    run: ViewRun, reading: Reading, buckets: int, group: list[int], max_examples: int
) -> dict[int, BucketLook]:
    looks = {bucket: BucketLook() for bucket in group}
    names: set[bytes] = set()
    repeated: list[bytes] = []
    for chunk in reading.hashed_rows_of(group, buckets):
        run.stop.check()
        rows: list[tuple[bytes, bytes]] = []
        for key, value, source_hash in chunk:
            if key is None:
                raise null_key()
            looks[digest.bucket_of(key, buckets)].hashes += int.from_bytes(source_hash or b"", "big")
            if value is None:
                continue
            if short(key) in names:
                repeated.append(key)
            names.add(short(key))
            rows.append((key, value))
        for key, value, old in held_values(run, rows):
            _note_row(looks[digest.bucket_of(key, buckets)], key, value, old, buckets, max_examples)
    if repeated:
        raise duplicate_keys(repeated)
    _note_extra(run, buckets, looks, names, max_examples)
    return looks


def held_values(run: ViewRun, rows: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes, bytes | None]]:
    """(key, value, what Redis holds) for each row."""
    for start in range(0, len(rows), MGET_KEYS):
        page = rows[start : start + MGET_KEYS]
        held = run.reader.call("MGET", *(key for key, _ in page))
        for (key, value), old in zip(page, held, strict=True):
            yield key, value, old


def _note_row(look: BucketLook, key: bytes, value: bytes, old: bytes | None, buckets: int, max_examples: int) -> None:
    one = digest.row_digest(key, value)
    look.source += one
    if old == value:
        look.redis += one
        return
    if old is None:
        look.missing += 1
        kind = "missing"
    else:
        look.redis += digest.row_digest(key, old)
        look.stale += 1
        kind = "stale"
    if len(look.examples) < max_examples:
        look.examples.append(Difference(key, kind, digest.bucket_of(key, buckets)))


def _note_extra(run: ViewRun, buckets: int, looks: dict[int, BucketLook], names: set[bytes], max_examples: int) -> None:
    """Keys in Redis that the source has no row for. A scan may name one twice."""
    seen: set[bytes] = set()
    for keys in keyspaces.scan_keys(run.reader, run.keyspace):
        run.stop.check()
        here = [key for key in keys if digest.bucket_of(key, buckets) in looks and short(key) not in names]
        fresh = [key for key in here if short(key) not in seen]
        seen.update(map(short, fresh))
        if not fresh:
            continue
        for key, value in zip(fresh, run.reader.call("MGET", *fresh), strict=True):
            if value is None and not run.reader.call("EXISTS", key):
                continue
            bucket = digest.bucket_of(key, buckets)
            look = looks[bucket]
            look.redis += digest.odd_digest(key) if value is None else digest.row_digest(key, value)
            look.extra += 1
            if len(look.examples) < max_examples:
                look.examples.append(Difference(key, "extra", bucket))
