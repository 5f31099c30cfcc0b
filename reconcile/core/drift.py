"""Compare source (S), manifest (M) and Redis (R) bucket by bucket, and name the cause of drift."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from reconcile.core import digest
from reconcile.core.digest import Normal


class Cause(enum.Enum):
    """Why a bucket's rows differ."""

    CHANGED_OUTSIDE = "changed outside"
    """S = M ≠ R: something else changed Redis: an edit, an eviction, an expiry, a flush."""
    MISSED = "missed updates"
    """S ≠ M = R: updates were missed."""
    BOTH = "both"
    """All three differ."""
    SURPLUS = "waits for consent"
    """Unexplained keys that wait for consent."""
    NO_CHECKPOINT = "no checkpoint"
    """There is no manifest to compare with."""


class Verdict(enum.Enum):
    """The verdict on one bucket."""

    EQUAL = "equal"
    DRIFT = "drift"
    LAG = "lag"
    """Redis matches the checkpoint; the source has changed since. Not drift."""


class Triple(Struct, frozen=True):
    """Normal digests of one bucket at source, manifest and Redis.

    moved: the source was read later than the checkpoint, and this bucket's fingerprint differs or is unknown.
    gone: see `gone`.
    """

    source: Normal
    manifest: Normal | None
    redis: Normal
    moved: bool
    gone: bool = False


def gone(keys: int, recorded: int | None, *, expires: bool) -> bool:
    """Whether Redis has fewer keys in a bucket than the manifest counts, so that rows may have expired there.

    recorded: the bucket's digest in the manifest, in added-up form.
    """
    return expires and keys < digest.count(recorded or 0)


def judge(seen: Triple) -> tuple[Verdict, Cause | None]:
    """Return verdict and cause for one bucket. A bucket that may merely lag is not drift."""
    if seen.source == seen.redis:
        return Verdict.EQUAL, None
    if seen.manifest is None:
        return Verdict.DRIFT, Cause.NO_CHECKPOINT
    if seen.redis == seen.manifest:
        return (Verdict.LAG, None) if seen.moved else (Verdict.DRIFT, Cause.MISSED)
    if seen.moved and seen.gone:  # it may have expired; the next run examines the bucket in any case
        return Verdict.LAG, None
    if seen.source == seen.manifest or seen.moved:
        return Verdict.DRIFT, Cause.CHANGED_OUTSIDE
    return Verdict.DRIFT, Cause.BOTH


def groups_of(buckets: Iterable[int], rows_in: Sequence[int], max_rows: int) -> Iterator[list[int]]:
    """Split buckets into groups of at most max_rows rows (a larger bucket is a group of its own)."""
    group: list[int] = []
    rows = 0
    for bucket in buckets:
        if group and rows + rows_in[bucket] > max_rows:
            yield group
            group, rows = [], 0
        group.append(bucket)
        rows += rows_in[bucket]
    if group:
        yield group
