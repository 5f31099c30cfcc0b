"""Compare some buckets exactly: every row of the source at T with every key that Redis holds there.

One statement reads the rows and one scan the keys, however many buckets there are. Read-only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from reconcile.compare.sides import Rows, Sides
from reconcile.core import digest
from reconcile.core.nametable import NameTable
from reconcile.report.audit import MAX_NAMES

MAX_EXAMPLES = 1000
"""Differences kept by name, over all buckets, unless more are asked for."""
LOOK_UP_KEYS = 1000


@dataclass(slots=True)
class Keys:
    """How many keys, and some of them by name."""

    count: int = 0
    names: list[bytes] = field(default_factory=list)
    """At most MAX_NAMES."""


@dataclass(slots=True)
class Difference:
    """One key that differs. kind: missing, stale or extra, seen from Redis."""

    key: bytes
    kind: str
    bucket: int


@dataclass(slots=True)
class Contents:
    """Digests (added-up form) of one bucket at the source and in Redis, and the keys that differ."""

    source: int = 0
    redis: int = 0
    missing: int = 0
    stale: int = 0
    extra: int = 0
    examples: tuple[Difference, ...] = ()
    claimed: dict[str | None, Keys] = field(default_factory=dict)
    repeated: Keys = field(default_factory=Keys)


def look_at(
    sides: Sides,
    buckets: int,
    chosen: Iterable[int],
    max_examples: int,
    claimed_by: Callable[[bytes], str | None] = lambda _: None,
) -> dict[int, Contents]:
    """Compare the chosen buckets. At most max_examples keys are named per bucket, MAX_EXAMPLES over all.

    Raises DataError for a key with several rows.
    """
    task = _Comparison(sides, buckets, sorted(chosen), max_examples, claimed_by)
    task.at_rows()
    task.at_keys()
    return task.contents


class _Comparison:
    def __init__(
        self,
        sides: Sides,
        buckets: int,
        chosen: list[int],
        max_examples: int,
        claimed_by: Callable[[bytes], str | None],
    ) -> None:
        self.contents = {bucket: Contents() for bucket in chosen}
        self._sides = sides
        self._buckets = buckets
        self._chosen = chosen
        self._max_examples = max_examples
        self._claimed_by = claimed_by
        self._examples_left = max(MAX_EXAMPLES, max_examples)
        self._names_left = MAX_EXAMPLES
        self._names = NameTable(0, sides.salt)

    def at_rows(self) -> None:
        """Compare every row with what Redis holds under its key."""
        for chunk in self._sides.reading.rows_of(self._chosen, self._buckets):
            self._sides.stop.check()
            self._sides.report.advance(len(chunk))
            rows = self._rows(chunk)
            held = self._sides.held(rows)
            absent = [key for (key, _), old in zip(rows, held, strict=True) if old is None]
            there = self._sides.target.exist(absent) if absent else []
            unreadable = {key for key, exists in zip(absent, there, strict=True) if exists}
            for (key, value), old in zip(rows, held, strict=True):
                self._note_row(key, value, old, unreadable=key in unreadable)

    def _rows(self, chunk: Rows) -> list[tuple[bytes, bytes]]:
        """The first row of each key; the others are only added up."""
        rows: list[tuple[bytes, bytes]] = []
        for key, value in chunk:
            if value is None:
                continue
            if self._names.add(key):
                rows.append((key, value))
            else:
                found = self.contents[digest.bucket_of(key, self._buckets)]
                found.source += digest.row_digest(key, value, self._sides.salt)
                self._note(found.repeated, key)
        return rows

    def _note(self, keys: Keys, key: bytes) -> None:
        keys.count += 1
        if self._names_left and len(keys.names) < MAX_NAMES and key not in keys.names:
            self._names_left -= 1
            keys.names.append(key)

    def _note_row(self, key: bytes, value: bytes, old: bytes | None, *, unreadable: bool) -> None:
        bucket = digest.bucket_of(key, self._buckets)
        found, salt = self.contents[bucket], self._sides.salt
        one = digest.row_digest(key, value, salt)
        found.source += one
        if old == value:
            found.redis += one
        elif old is None and not unreadable:
            found.missing += 1
            self._name(found, key, "missing", bucket)
        else:
            found.redis += digest.unreadable_digest(key, salt) if old is None else digest.row_digest(key, old, salt)
            found.stale += 1
            self._name(found, key, "stale", bucket)

    def _name(self, found: Contents, key: bytes, kind: str, bucket: int) -> None:
        if self._examples_left and len(found.examples) < self._max_examples:
            self._examples_left -= 1
            found.examples += (Difference(key, kind, bucket),)

    def at_keys(self) -> None:
        """Add keys in Redis without a row in the source."""
        seen = NameTable(0, self._sides.salt)
        for page in self._sides.target.names():
            self._sides.stop.check()
            here = [key for key in page if digest.bucket_of(key, self._buckets) in self.contents]
            # A scan may name a key twice.
            fresh = [key for key in here if key not in self._names and seen.add(key)]
            for start in range(0, len(fresh), LOOK_UP_KEYS):
                self._note_extra(fresh[start : start + LOOK_UP_KEYS])

    def _note_extra(self, keys: list[bytes]) -> None:
        target, salt = self._sides.target, self._sides.salt
        values = target.values(keys)
        unreadable = [key for key, value in zip(keys, values, strict=True) if value is None]
        there = dict(zip(unreadable, target.exist(unreadable), strict=True)) if unreadable else {}
        for key, value in zip(keys, values, strict=True):
            if value is None and not there[key]:  # gone since
                continue
            bucket = digest.bucket_of(key, self._buckets)
            found = self.contents[bucket]
            found.redis += digest.unreadable_digest(key, salt) if value is None else digest.row_digest(key, value, salt)
            found.extra += 1
            self._note(found.claimed.setdefault(self._claimed_by(key), Keys()), key)
            self._name(found, key, "extra", bucket)
