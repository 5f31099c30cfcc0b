"""What differs between source (S), manifest (M) and Redis (R), bucket by bucket, and why. Seen from the target."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from reconcile.core import digest


class Cause(enum.Enum):
    """Why a bucket's rows differ."""

    CHANGED_OUTSIDE = "changed outside"
    """S = M ≠ R: someone or something else changed Redis: edit, eviction, expiry, flush."""
    MISSED = "missed updates"
    """S ≠ M = R: we missed updates."""
    BOTH = "both"
    """All three differ."""
    NO_CHECKPOINT = "no checkpoint"
    """There is no manifest to compare with."""


class Verdict(enum.Enum):
    """What one look at a bucket says."""

    EQUAL = "equal"
    DRIFT = "drift"
    LAG = "lag"
    """Redis is exactly what the checkpoint says and the source has moved on since: not drift."""


@dataclass(frozen=True, slots=True)
class Look:
    """Normal digests of one bucket at the three places, and whether the source's bucket may have moved since.

    moved: the source was read later than the checkpoint, and this bucket's fingerprint differs or is not known.
    """

    source: int
    manifest: int | None
    redis: int
    moved: bool


def judge(look: Look) -> tuple[Verdict, Cause | None]:
    """Verdict and cause for one bucket. Never cries wolf: a bucket that may merely lag is not drift."""
    if look.source == look.redis:
        return Verdict.EQUAL, None
    if look.manifest is None:
        return Verdict.DRIFT, Cause.NO_CHECKPOINT
    if look.redis == look.manifest:
        return (Verdict.LAG, None) if look.moved else (Verdict.DRIFT, Cause.MISSED)
    if look.source == look.manifest or look.moved:
        return Verdict.DRIFT, Cause.CHANGED_OUTSIDE
    return Verdict.DRIFT, Cause.BOTH


def groups_of(buckets: Iterable[int], rows_in: Sequence[int], max_rows: int) -> Iterator[list[int]]:
    """Buckets in groups of at most max_rows rows together (a larger bucket is a group of its own)."""
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


def counts_of(digests: Iterable[int]) -> list[int]:
    """Rows per bucket."""
    return [digest.count(d) for d in digests]
