"""Consolidate updates (row, time, diff) into changes: a net put or delete per key.

Within one Materialize timestamp updates come in no useful order (an addition may precede the retraction it replaces),
and a row may be added and retracted many times over a closed range. So a whole range is netted per row, and only what
remains is used. `Net` does this while updates arrive, so that little work is left when a range closes and only rows
that may be written are held.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Collection, Iterable, Sequence, Set
from itertools import chain, repeat

from msgspec import Struct, field
from xxhash import xxh3_64_intdigest

from reconcile.core.digest import ONE, bucket_of, row_digest
from reconcile.errors import DataError

MAX_EXAMPLES = 5

ENTRY_COST_BYTES = 120
"""Memory per key of a Net beyond the bytes of key and value, and per bucket whose digest changes: headers, dict entry,
mark or sum. Measured with tracemalloc: 110 to 122, depending on how full the dicts are.
"""

_NULL = hash(None)
"""Mark of a row whose value is NULL."""


class Changes(Struct):
    """The net effect of a closed range. A row with a NULL value is a key that Redis does not hold."""

    puts: dict[bytes, bytes] = field(default_factory=dict)
    deletes: list[bytes] = field(default_factory=list)
    inserts: list[bytes] = field(default_factory=list)
    """Keys of `puts` that did not exist before the range."""
    digests: dict[int, int] = field(default_factory=dict)
    """Bucket → difference to add to its digest."""
    marks: dict[bytes, int] = field(default_factory=dict)
    """Key of a retracted row → Python's hash of its value."""
    alike_buckets: set[int] = field(default_factory=set)
    """Buckets in which rows came and went that are alike here. At the source they may differ, in when they expire: of a
    row with a NULL value that is never stored, and of others all times before 1970 are one."""

    def __bool__(self) -> bool:
        return bool(self.puts or self.deletes or self.touched)

    @property
    def touched(self) -> Set[int]:
        """Buckets whose source rows may have changed: their fingerprints become unknown."""
        return self.digests.keys() | self.alike_buckets if self.alike_buckets else self.digests.keys()

    @property
    def size_bytes(self) -> int:
        """Bytes of keys and values to write."""
        return sum(map(len, self.puts)) + sum(map(len, self.puts.values())) + sum(map(len, self.deletes))


class Net:
    """Updates of one range, netted as they come.

    added     key → value of an added row
    removed   key → mark of a retracted row. Its value is not kept: the mark, Python's hash of the value (keyed by a
              secret of the process), tells whether the same row comes again
    unsettled (key, mark) → (value, diff) of rows that do not fit: the key has such a row already, or came several
              times. Most cancel out; in the end the others find their place or are refused
    """

    __slots__ = ("_added", "_buckets", "_digests", "_nulls", "_removed", "_salt", "_text_bytes", "_unsettled")

    def __init__(self, buckets: int, salt: int) -> None:
        """buckets: power of two; salt: the state's digest salt."""
        self._buckets = buckets
        self._salt = salt
        self._added: dict[bytes, bytes | None] = {}
        self._removed: dict[bytes, int] = {}
        self._unsettled: dict[tuple[bytes | None, int], tuple[bytes | None, int]] = {}
        self._digests: dict[int, int] = {}
        self._nulls: set[int] = set()
        self._text_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._added or self._removed or self._unsettled or self._digests or self._nulls)

    @property
    def size_bytes(self) -> int:
        """Bytes of memory held."""
        entries = len(self._added) + len(self._removed) + 2 * len(self._unsettled)
        entries += len(self._digests) + len(self._nulls)
        return self._text_bytes + entries * ENTRY_COST_BYTES

    @property
    def largest_bytes(self) -> int:
        """Bytes of memory that the largest row to write takes alone."""
        rows = chain(self._added.items(), ((key, value) for (key, _), (value, _) in self._unsettled.items()))
        return max((len(key or b"") + len(value or b"") + ENTRY_COST_BYTES for key, value in rows), default=0)

    def update(self, keys: Sequence[bytes | None], values: Sequence[bytes | None], diffs: Sequence[bytes]) -> None:
        """Add rows, each with its diff as decimal text. The hot loop of every delta."""
        try:
            seeds = map(xxh3_64_intdigest, values, repeat(self._salt))  # type: ignore[arg-type]
            hashes = list(map(xxh3_64_intdigest, keys, seeds))  # type: ignore[arg-type]
        except TypeError:  # a NULL among them
            self._update_one_by_one(keys, values, diffs)
            return
        mask, added, removed, digests = self._buckets - 1, self._added, self._removed, self._digests
        text_bytes = 0
        rows: Iterable[tuple[bytes, bytes, bytes, int, int]]
        rows = zip(keys, values, diffs, hashes, map(hash, values), strict=True)  # type: ignore[arg-type]
        for key, value, diff, row_hash, mark in rows:
            bucket = crc32(key) & mask
            if diff == b"1":
                digests[bucket] = digests.get(bucket, 0) + ONE + row_hash
                if removed.get(key) == mark:
                    del removed[key]
                    text_bytes -= len(key)
                elif key in added:
                    self._keep_unsettled(key, value, mark, 1)
                else:
                    added[key] = value
                    text_bytes += len(key) + len(value)
            elif diff == b"-1":
                digests[bucket] = digests.get(bucket, 0) - ONE - row_hash
                if added.get(key) == value:
                    del added[key]
                    text_bytes -= len(key) + len(value)
                elif key in removed:
                    self._keep_unsettled(key, value, mark, -1)
                else:
                    removed[key] = mark
                    text_bytes += len(key)
            else:
                digests[bucket] = digests.get(bucket, 0) + int(diff) * (ONE + row_hash)
                self._keep_unsettled(key, value, mark, int(diff))
        self._text_bytes += text_bytes

    def _update_one_by_one(
        self, keys: Sequence[bytes | None], values: Sequence[bytes | None], diffs: Sequence[bytes]
    ) -> None:
        for key, value, diff in zip(keys, values, diffs, strict=True):
            if key is not None and value is not None:
                self._add_digest(bucket_of(key, self._buckets), int(diff) * row_digest(key, value, self._salt))
            elif key is not None:
                self._nulls.add(bucket_of(key, self._buckets))
            self._keep_unsettled(key, value, hash(value), int(diff))
        self._settle()

    def merge(self, later: Net) -> None:
        """Add the updates of another Net, which covers the following range."""
        self._nulls |= later._nulls
        for bucket, more in later._digests.items():
            self._add_digest(bucket, more)
        for key, mark in later._removed.items():
            self._keep_unsettled(key, None, mark, -1)
        for key, value in later._added.items():
            self._keep_unsettled(key, value, hash(value), 1)
        for (name, mark), (value, diff) in later._unsettled.items():
            self._keep_unsettled(name, value, mark, diff)
        self._settle()

    @property
    def settled(self) -> bool:
        """Whether every key has one row or none, as far as these updates tell: `changes` would not raise."""
        self._settle()
        return not self._unsettled

    def changes(self) -> Changes:
        """Return the net changes of the closed range. Uses up this Net.

        Raises DataError for a NULL key, or a key with several rows: silently picking one would make the cache wrong. If
        several rows of a key went, and one came at most, it had them before (NULL or expired, at a first load).
        """
        self._settle()
        if self._unsettled:
            names = [key for key, _ in self._unsettled if key is not None]
            if len(names) < len(self._unsettled):
                raise null_key()
            went = all(diff < 0 for _, diff in self._unsettled.values())
            raise duplicates_before(names) if went else duplicate_keys(names)
        added, removed, digests = self._added, self._removed, self._digests
        alike = self._nulls | {bucket for bucket, more in digests.items() if not more}
        for bucket in alike:
            if not digests.get(bucket, 1):
                del digests[bucket]
        if self._nulls:
            self._drop_null_values()
        deletes = [key for key in removed if key not in added]
        updates = len(removed) - len(deletes)
        inserts = [key for key in added if key not in removed] if len(added) > updates else []
        return Changes(added, deletes, inserts, digests, removed, alike)  # type: ignore[arg-type]

    def _drop_null_values(self) -> None:
        """Drop rows with NULL values, which Redis does not hold."""
        for key in [key for key, value in self._added.items() if value is None]:
            del self._added[key]
        for key in [key for key, mark in self._removed.items() if mark == _NULL]:
            del self._removed[key]

    def _add_digest(self, bucket: int, more: int) -> None:
        self._digests[bucket] = self._digests.get(bucket, 0) + more

    def _keep_unsettled(self, key: bytes | None, value: bytes | None, mark: int, diff: int) -> None:
        """Keep a row that does not fit. value: None if NULL, or if unknown because the row was retracted."""
        held, before = self._unsettled.pop((key, mark), (None, 0))
        if before:
            self._text_bytes -= len(key or b"") + len(held or b"")
        if before + diff:
            held = held if held is not None else value
            self._unsettled[key, mark] = (held, before + diff)
            self._text_bytes += len(key or b"") + len(held or b"")

    def _settle(self) -> None:
        """Move unsettled rows to `added` and `removed`; rows that would give a key several rows stay."""
        if not self._unsettled:
            return
        for key in {key for key, _ in self._unsettled if key is not None}:
            if key in self._added:
                value = self._added.pop(key)
                self._text_bytes -= len(key) + len(value or b"")
                self._keep_unsettled(key, value, hash(value), 1)
            if key in self._removed:
                self._text_bytes -= len(key)
                self._keep_unsettled(key, None, self._removed.pop(key), -1)
        for (name, mark), (value, diff) in list(self._unsettled.items()):
            if name is None:
                continue
            if diff == 1 and name not in self._added:
                self._added[name] = value
                self._text_bytes += len(name) + len(value or b"")
            elif diff == -1 and name not in self._removed:
                self._removed[name] = mark
                self._text_bytes += len(name)
            else:
                continue
            self._keep_unsettled(name, None, mark, -diff)


def null_key() -> DataError:
    """Return the error for a row without a key."""
    return DataError(
        "the view has a row whose key is NULL",
        hint="filter such rows in the query (WHERE key IS NOT NULL); until then the checkpoint stays",
    )


def duplicate_keys(keys: Collection[bytes]) -> DataError:
    """Return the error for keys with several rows, with examples."""
    return DataError(
        f"{'one key has' if len(set(keys)) == 1 else 'keys with'} several rows: {_examples(keys)}",
        hint="make the key unique in the query (DISTINCT ON, GROUP BY); Redis holds one value per key",
    )


def duplicates_before(keys: Collection[bytes]) -> DataError:
    """Return the error for keys of which several rows went, so that the checkpoint had several."""
    error = DataError(
        f"keys that had several rows at the checkpoint: {_examples(keys)}",
        hint="the view may be right by now: reconcile run finds out",
    )
    error.past = True
    return error


def _examples(keys: Collection[bytes]) -> str:
    names = sorted({name_of(key) for key in keys})
    more = len(names) - MAX_EXAMPLES
    return ", ".join(names[:MAX_EXAMPLES]) + (f" and {more} more" if more > 0 else "")


def name_of(key: bytes) -> str:
    """Return a key for display: text if it is printable UTF-8, else escaped; cut at 120 characters."""
    text = key.decode("utf-8", "backslashreplace")
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return shown if len(shown) <= 120 else shown[:117] + "..."
