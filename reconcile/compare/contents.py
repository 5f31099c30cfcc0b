"""Compare the contents of some buckets exactly: every row of the source at T with every key that Redis holds there.

One statement reads the rows and one scan the keys, however many buckets there are. Read-only. Other runs may commit
meanwhile, and a row may go and come back: each page of keys is read within one commit, and counts only if the records
of its buckets were then those of T.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from msgspec import Struct, field

from reconcile.compare import records
from reconcile.compare.sides import Rows, Sides
from reconcile.core import digest
from reconcile.core.nametable import NameTable
from reconcile.core.state import State
from reconcile.report.audit import MAX_NAMES

T = TypeVar("T")

MAX_EXAMPLES = 1000
"""Differences kept by name, over all buckets, unless more are asked for."""
LOOK_UP_KEYS = 1000
MAX_READS = 10
"""Reads of one page of keys until no commit falls into one."""


class Keys(Struct):
    """How many keys, and some of them by name."""

    count: int = 0
    names: list[bytes] = field(default_factory=list)
    """At most MAX_NAMES."""


class Difference(Struct):
    """One key that differs. kind: missing, stale or extra, seen from Redis."""

    key: bytes
    kind: str
    bucket: int


class BucketContents(Struct):
    """Digests (added-up form) of one bucket at the source and in Redis, and the keys that differ.

    redis: expired rows included whose keys are rightly absent. keys: how many are there.
    """

    source: int = 0
    redis: int = 0
    keys: int = 0
    missing: int = 0
    stale: int = 0
    extra: int = 0
    examples: tuple[Difference, ...] = ()
    claimed: dict[str | None, Keys] = field(default_factory=dict)
    repeated: Keys = field(default_factory=Keys)


def compare(
    sides: Sides,
    buckets: int,
    recorded: Mapping[int, int | None],
    commit: str,
    max_examples: int,
    claimed_by: Callable[[bytes], str | None] = lambda _: None,
) -> tuple[dict[int, BucketContents], set[int]]:
    """Compare buckets. At most max_examples keys are named per bucket, MAX_EXAMPLES over all.

    recorded: the buckets with the manifest's records as of the reading, and `commit`; None: without a manifest. Also
    returns the buckets whose records were different while their keys were read: their contents are of no one time.
    """
    task = _Comparison(sides, buckets, recorded, commit, max_examples, claimed_by)
    task.at_rows()
    task.at_keys()
    return task.contents, task.unsettled


class _Comparison:
    def __init__(
        self,
        sides: Sides,
        buckets: int,
        recorded: Mapping[int, int | None],
        commit: str,
        max_examples: int,
        claimed_by: Callable[[bytes], str | None],
    ) -> None:
        self.contents = {bucket: BucketContents() for bucket in sorted(recorded)}
        self.unsettled: set[int] = set()
        self._sides = sides
        self._buckets = buckets
        self._recorded = recorded
        self._commit = commit
        self._max_examples = max_examples
        self._claimed_by = claimed_by
        self._examples_left = max(MAX_EXAMPLES, max_examples)
        self._names_left = MAX_EXAMPLES
        self._names = NameTable(0, sides.salt)

    def at_rows(self) -> None:
        """Compare every row with what Redis holds under its key."""
        for chunk in self._sides.reading.rows_of(list(self.contents), self._buckets):
            self._sides.stop.check()
            self._sides.report.advance(len(chunk))
            rows = self._rows(chunk)
            held, unreadable = self._within_a_commit([key for key, _ in rows], partial(self._held, rows))
            for (key, value), old in zip(rows, held, strict=True):
                self._note_row(key, value, old, unreadable=key in unreadable)

    def _held(self, rows: Rows) -> tuple[list[int | None], set[bytes]]:
        """Return digests of what Redis holds under these rows' keys, and the keys whose content is unreadable."""
        held: list[int | None] = []
        for some, values in self._sides.held(rows):
            held += [self._digest_of(key, value) for (key, _), value in zip(some, values, strict=True)]
        absent = [key for (key, _), old in zip(rows, held, strict=True) if old is None]
        there = self._sides.target.exist(absent) if absent else []
        return held, {key for key, exists in zip(absent, there, strict=True) if exists}

    def _digest_of(self, key: bytes, value: bytes | None) -> int | None:
        return None if value is None else digest.row_digest(key, value, self._sides.salt)

    def _within_a_commit(self, keys: list[bytes], read: Callable[[], T]) -> T:
        """Read these keys between two looks at the state that found the same commit."""
        if not keys:
            return read()
        target = self._sides.target
        buckets = {digest.bucket_of(key, self._buckets) for key in keys}
        state = target.state()
        for _ in range(MAX_READS):
            at_first, recorded = state, self._records_now(state, buckets)
            found = read()
            state = target.state()
            if _commit_of(state) == _commit_of(at_first):
                self.unsettled |= {bucket for bucket in buckets if recorded.get(bucket) != self._recorded[bucket]}
                return found
            self._sides.stop.check()
        self.unsettled |= buckets
        return found

    def _records_now(self, state: State | None, buckets: set[int]) -> dict[int, int | None]:
        """Return the records of these buckets; empty if they belong to no one time."""
        known = {bucket: self._recorded[bucket] for bucket in buckets}
        if _commit_of(state) == self._commit or all(one is None for one in known.values()):
            return known
        if state is None or state.buckets != self._buckets:
            return {}
        if state.pending is not None and state.pending.kind != "withheld":
            return {}
        manifest = records.manifest_of(state)
        if not records.load(self._sides.target, manifest, buckets):
            return {}
        return {bucket: manifest[bucket] for bucket in buckets}

    def _rows(self, chunk: Rows) -> list[tuple[bytes, bytes]]:
        """Return the first row of each key; the others are only added up."""
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

    def _note_row(self, key: bytes, value: bytes, old: int | None, *, unreadable: bool) -> None:
        bucket = digest.bucket_of(key, self._buckets)
        found, salt = self.contents[bucket], self._sides.salt
        one = digest.row_digest(key, value, salt)
        found.source += one
        if old == one:
            found.redis += one
            found.keys += not (self._sides.expired and self._sides.expired(value))
        elif old is None and not unreadable:
            found.missing += 1
            self._name(found, key, "missing", bucket)
        else:
            found.redis += digest.unreadable_digest(key, salt) if old is None else old
            found.keys += 1
            found.stale += 1
            self._name(found, key, "stale", bucket)

    def _name(self, found: BucketContents, key: bytes, kind: str, bucket: int) -> None:
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

        def read() -> tuple[list[int | None], dict[bytes, bool]]:
            held = [self._digest_of(key, value) for page in target.pages(keys, unknown=True) for key, value in page]
            unreadable = [key for key, one in zip(keys, held, strict=True) if one is None]
            return held, dict(zip(unreadable, target.exist(unreadable), strict=True)) if unreadable else {}

        held, there = self._within_a_commit(keys, read)
        for key, one in zip(keys, held, strict=True):
            if one is None and not there[key]:  # gone since
                continue
            bucket = digest.bucket_of(key, self._buckets)
            found = self.contents[bucket]
            found.redis += digest.unreadable_digest(key, salt) if one is None else one
            found.keys += 1
            found.extra += 1
            self._note(found.claimed.setdefault(self._claimed_by(key), Keys()), key)
            self._name(found, key, "extra", bucket)


def _commit_of(state: State | None) -> str:
    """Return the id of the last transaction; empty without a state."""
    return "" if state is None else state.commit
