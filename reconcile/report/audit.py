"""The parts of an audit beyond drift: counters, surplus, duplicates, coverage, earlier audits. All are bounded values.

Auditors fill them in; parts that were not examined stay None or empty, and the renderers say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

MAX_SLICES = 1024
"""Cells of a heat map, and slices that coverage lists; a power of two. With more, several share one."""
MAX_HISTORY = 50
"""Earlier audits kept per view."""
MAX_NAMES = 10
"""Keys named per claim's surplus, and of the duplicates."""


class HeatMap(Struct):
    """Where the drift is. Cell i holds the buckets b with b mod slices = i, as does `verify --subset i/slices`."""

    slices: int = 0
    """A power of two, at most MAX_SLICES; 0: nothing was recorded."""
    drift: dict[int, int] = field(default_factory=dict)
    """Cell → keys that differ, at least 1 for a bucket that differs; cells without drift are omitted."""

    def note(self, bucket: int, buckets: int, keys: int) -> None:
        """Record that one of `buckets` buckets differs in this many keys."""
        self.slices = min(buckets, MAX_SLICES)
        cell = bucket % self.slices
        self.drift[cell] = self.drift.get(cell, 0) + max(1, keys)

    def to_dict(self) -> dict[str, Any]:
        return {"slices": self.slices, "drift": {str(cell): keys for cell, keys in sorted(self.drift.items())}}


class RedisCounters(Struct):
    """Redis' counters since `since_ms`, for all its keys, not only this view's. None: not reported."""

    since_ms: int | None = None
    """When a run last recorded the counters, or the server's start if that came later."""
    restarted_ms: int | None = None
    """When the server started, if that was after a run last recorded the counters."""
    evicted: int | None = None
    expired: int | None = None
    policy: str | None = None
    """maxmemory-policy."""


class SurplusReport(Struct):
    """Keys in the view's range that neither the source nor the manifest accounts for, by who else claims them."""

    claim: str | None
    """Another view (with its namespace) whose claim contains them; None: no other view claims them."""
    range: str
    """The range of that claim, or else of the view's own: `the prefix 'prices:'`."""
    keys: int = 0
    names: list[str] = field(default_factory=list)
    """At most MAX_NAMES, as text."""

    @property
    def whose(self) -> str:
        """Who else claims them, for people."""
        if self.claim is None:
            return f"claimed by no other view (this one has {self.range})"
        return f"view {self.claim} claims {self.range}"


class Duplicates(Struct):
    """Keys with several rows in the source, among the buckets that differ from Redis."""

    keys: int = 0
    names: list[str] = field(default_factory=list)
    """At most MAX_NAMES, as text."""


class SliceCompared(Struct):
    """When one slice was last compared."""

    slice: int
    at_ms: int
    by: str
    """`verify`, `compare`, `snapshot`."""


class Coverage(Struct):
    """When each slice of a view was last compared with what Redis really holds."""

    slices: int
    """A power of two, at most MAX_SLICES."""
    compared: list[SliceCompared] = field(default_factory=list)
    """By slice; slices that were never compared are omitted."""
    all_by_ms: int | None = None
    """When all slices will have been compared again at the present pace; None: unknown."""

    @property
    def never(self) -> int:
        """Number of slices that were never compared."""
        return self.slices - len(self.compared)

    @property
    def oldest_ms(self) -> int | None:
        """When the slice with the oldest compare was compared; None: some slice never was."""
        return None if self.never or not self.compared else min(one.at_ms for one in self.compared)


class PastAudit(Struct):
    """One verify, as recorded in Redis beside the state."""

    at_ms: int
    verdict: str
    """`in sync`, `drift`, `deletes withheld` or `incomplete`."""
    as_of: int | None
    fast: bool
    subset: str
    """i/n; 0/1: everything."""
    drift: int
    """Number of keys that differed."""

    @property
    def incomplete(self) -> bool:
        """Whether some buckets could not be judged."""
        return self.verdict == "incomplete"


class AuditReport(Struct):
    """What `verify` recorded beyond drift."""

    fast: bool = False
    """Fingerprints and manifest only."""
    subset: str = "0/1"
    """The slice that was compared, i/n; 0/1: everything."""
    counters: RedisCounters | None = None
    surplus: list[SurplusReport] = field(default_factory=list)
    duplicates: Duplicates | None = None
    """None: not checked."""
    coverage: Coverage | None = None
    history: list[PastAudit] = field(default_factory=list)
    """Earlier audits, newest first, at most MAX_HISTORY."""


def past_audit(stored: object) -> PastAudit | None:
    """Return a recorded audit from its JSON object; None for anything else, as others can write to Redis too."""
    if not isinstance(stored, Mapping) or not isinstance(stored.get("at_ms"), int):
        return None
    as_of, drift = stored.get("as_of"), stored.get("drift")
    return PastAudit(
        at_ms=stored["at_ms"],
        verdict=str(stored.get("verdict", "")),
        as_of=as_of if isinstance(as_of, int) else None,
        fast=stored.get("fast") is True,
        subset=str(stored.get("subset", "0/1")),
        drift=drift if isinstance(drift, int) else 0,
    )
