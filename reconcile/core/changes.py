"""From updates (row, time, diff) to changes (net put or delete of one key).

Within one Materialize timestamp updates come in no useful order (a row's addition may precede the retraction it
replaces), and a row may be added and retracted many times over a closed range. So all of a closed range is netted
per row first; only what remains is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from reconcile.core.digest import bucket_of, row_digest
from reconcile.errors import DataError

KeyValue = tuple[bytes | None, bytes | None]

MAX_EXAMPLES = 5


@dataclass(slots=True)
class Changes:
    """Net effect of a closed range. A row with a NULL value is a key that Redis does not hold."""

    puts: dict[bytes, bytes] = field(default_factory=dict)
    deletes: list[bytes] = field(default_factory=list)
    inserts: list[bytes] = field(default_factory=list)
    """Keys of `puts` that were not there before the range."""
    digests: dict[int, int] = field(default_factory=dict)
    """Bucket → what to add to its digest."""
    touched: set[int] = field(default_factory=set)
    """Buckets whose source rows changed, NULL values included: their fingerprints are no longer known."""

    def __bool__(self) -> bool:
        return bool(self.puts or self.deletes or self.touched)

    @property
    def size_bytes(self) -> int:
        """Bytes of keys and values to write."""
        return sum(map(len, self.puts)) + sum(map(len, self.puts.values())) + sum(map(len, self.deletes))


def consolidate(updates: Iterable[tuple[bytes | None, bytes | None, int]], buckets: int) -> Changes:
    """Changes of a closed range from its netted updates (key, value, diff ≠ 0).

    Raises DataError for a NULL key, or a key with several rows: silently picking one would be a wrong cache.
    """
    added: dict[bytes, bytes | None] = {}
    removed: dict[bytes, int | None] = {}
    bad: list[bytes] = []
    for key, value, diff in updates:
        if key is None:
            raise null_key()
        if diff not in (1, -1) or key in (added if diff > 0 else removed):
            bad.append(key)
        if diff > 0:
            added[key] = value
        else:
            removed[key] = None if value is None else row_digest(key, value)  # the digest is all that is needed of it
    if bad:
        raise duplicate_keys(bad)
    return _changes(added, removed, buckets)


def _changes(added: dict[bytes, bytes | None], removed: dict[bytes, int | None], buckets: int) -> Changes:
    """removed: key → digest of the row that went, None where Redis held nothing for it."""
    changes = Changes()
    digests, touched = changes.digests, changes.touched
    for key, old in removed.items():
        bucket = bucket_of(key, buckets)
        touched.add(bucket)
        if old is not None:
            digests[bucket] = digests.get(bucket, 0) - old
            if added.get(key) is None:
                changes.deletes.append(key)
    for key, value in added.items():
        bucket = bucket_of(key, buckets)
        touched.add(bucket)
        if value is not None:
            digests[bucket] = digests.get(bucket, 0) + row_digest(key, value)
            changes.puts[key] = value
            if removed.get(key) is None:
                changes.inserts.append(key)
    return changes


def null_key() -> DataError:
    """The error for a row without key."""
    return DataError(
        "the view has a row whose key is NULL",
        hint="filter such rows in the query (WHERE key IS NOT NULL); nothing was written for this time",
    )


def duplicate_keys(keys: Iterable[bytes]) -> DataError:
    """The error for keys with several rows, naming examples."""
    names = sorted({name_of(key) for key in keys})
    shown = ", ".join(names[:MAX_EXAMPLES]) + (f" and {len(names) - MAX_EXAMPLES} more" if len(names) > 5 else "")
    return DataError(
        f"one key has several rows: {shown}",
        hint="make the key unique in the query (DISTINCT ON, GROUP BY); Redis holds one value per key",
    )


def name_of(key: bytes) -> str:
    """A key for people: text where it is printable UTF-8, escaped otherwise, cut at 120 characters."""
    text = key.decode("utf-8", "backslashreplace")
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return shown if len(shown) <= 120 else shown[:117] + "..."
