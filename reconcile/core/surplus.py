"""Decide which keys that Redis holds and the source lacks are the view's own. Of what it wrote only sums are known.

In a bucket let the candidates be the owned names that the source lacks, and `lost` the source's keys that Redis lacks.
`beyond` is what the manifest says of the bucket beyond the source's keys as Redis holds them:

    beyond = manifest − Σ digest(old value of every key of the source that Redis holds)

The candidates that the view wrote, together with the lost keys it had written, add up to exactly that. A subset of the
right number with the right sum is no accident: a wrong one fits once in 2^64 tries, and the salt is a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import comb

from reconcile.core import digest

MAX_TRIES = 1 << 17
"""Limit on subset sums: 93 candidates of which 3 are explained take 0.1 s; for 94, subsets of three are not tried."""
MAX_ITEMS = 400
"""With more candidates in one bucket, only all or none is tried."""

_M64 = (1 << 64) - 1


def explained(candidates: Sequence[int], lost: Sequence[int], beyond: int) -> set[int] | None:
    """Return the hashes of the candidates that the view wrote, or None if no subset fits.

    candidates, lost: row hashes (64 bits); lost ones are of the values the source has now. beyond: added-up digest.
    """
    wanted, total = digest.count(beyond), beyond & _M64
    items = [*candidates, *lost]
    if not 0 <= wanted <= len(items):
        return None
    if wanted in (0, len(items)):
        fits = (sum(items) if wanted else 0) & _M64 == total
        return (set(candidates) if wanted else set()) if fits else None
    if wanted == len(candidates) and sum(candidates) & _M64 == total:
        return set(candidates)
    few = min(wanted, len(items) - wanted)
    if len(items) > MAX_ITEMS or comb(len(items), few) > MAX_TRIES:
        return None
    # Look for the smaller of the two halves: those that are in, or those that are left out.
    target = total if few == wanted else (sum(items) - total) & _M64
    for chosen in combinations(range(len(items)), few):
        if sum([items[at] for at in chosen]) & _M64 == target:
            inside = set(chosen) if few == wanted else set(range(len(items))) - set(chosen)
            return {candidates[at] for at in inside if at < len(candidates)}
    return None
