"""What an audit says beside the drift: counters, surplus, duplicates, coverage, earlier audits. Values, all bounded.

Whoever audits fills them in; what nobody looked at stays None or empty, and the renderers say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_SLICES = 1024
"""Cells of a heat map, and slices that coverage tells one by one; a power of two. More are taken together."""
MAX_HISTORY = 50
"""Earlier audits that are kept of one view, the newest."""
MAX_NAMES = 10
"""Keys named of one claim's surplus, and of the duplicates."""


@dataclass(slots=True)
class HeatMap:
    """Where the drift is. Cell i holds the buckets b with b mod slices = i: `verify --subset i/slices` looks at it."""

    slices: int = 0
    """A power of two, at most MAX_SLICES; 0: nothing was noted."""
    drift: dict[int, int] = field(default_factory=dict)
    """Cell → keys that differ, at least 1 for a bucket that differs; cells without drift are left out."""

    def note(self, bucket: int, buckets: int, keys: int) -> None:
        """One of `buckets` buckets differs in so many keys."""
        self.slices = min(buckets, MAX_SLICES)
        cell = bucket % self.slices
        self.drift[cell] = self.drift.get(cell, 0) + max(1, keys)

    def to_dict(self) -> dict[str, Any]:
        return {"slices": self.slices, "drift": {str(cell): keys for cell, keys in sorted(self.drift.items())}}


@dataclass(slots=True)
class RedisCounters:
    """What Redis counted since `since_ms`, of all its keys, not only of ours. None: it would not say."""

    since_ms: int | None = None
    """When a run last noted the counters, or the server's start where that came later."""
    restarted_ms: int | None = None
    """When the server started, if that was after a run last noted the counters."""
    evicted: int | None = None
    expired: int | None = None
    policy: str | None = None
    """maxmemory-policy."""


@dataclass(slots=True)
class Surplus:
    """Keys of the view's range that neither the source nor the manifest knows of, by who else claims them."""

    claim: str | None
    """Another view (with its namespace) whose claim they lie in; None: nobody else claims them."""
    range: str
    """What that claim, or else the view's own, covers: `the prefix 'prices:'`."""
    keys: int = 0
    names: list[str] = field(default_factory=list)
    """At most MAX_NAMES, as text."""

    @property
    def whose(self) -> str:
        """Who else claims them, for people."""
        if self.claim is None:
            return f"no other view claims them (this one has {self.range})"
        return f"view {self.claim} claims {self.range}"


@dataclass(slots=True)
class Duplicates:
    """Keys with several rows in the source, among the buckets that differ from Redis."""

    keys: int = 0
    names: list[str] = field(default_factory=list)
    """At most MAX_NAMES, as text."""


@dataclass(slots=True)
class SliceCompared:
    """When one slice was last compared."""

    slice: int
    at_ms: int
    by: str
    """`verify`, `compare`, `snapshot`."""


@dataclass(slots=True)
class Coverage:
    """How long ago each slice of a view was compared with what Redis really holds."""

    slices: int
    """A power of two, at most MAX_SLICES."""
    compared: list[SliceCompared] = field(default_factory=list)
    """By slice; one that was never compared is left out."""
    all_by_ms: int | None = None
    """When everything will have been compared at the present pace; None: not known."""

    @property
    def never(self) -> int:
        """Slices that were never compared."""
        return self.slices - len(self.compared)

    @property
    def oldest_ms(self) -> int | None:
        """When the slice that waits longest was compared; None: one never was."""
        return None if self.never or not self.compared else min(one.at_ms for one in self.compared)


@dataclass(slots=True)
class PastAudit:
    """One verify, as it is remembered in Redis beside the state."""

    at_ms: int
    verdict: str
    """`in sync` or `drift`."""
    as_of: int | None
    fast: bool
    subset: str
    """i/n; 0/1: everything."""
    drift: int
    """Keys that differed."""


@dataclass(slots=True)
class AuditReport:
    """What `verify` noted beside the drift."""

    fast: bool = False
    """Fingerprints and manifest only."""
    subset: str = "0/1"
    """The slice that was compared, i/n; 0/1: everything."""
    counters: RedisCounters | None = None
    surplus: list[Surplus] = field(default_factory=list)
    duplicates: Duplicates | None = None
    """None: not looked for."""
    coverage: Coverage | None = None
    history: list[PastAudit] = field(default_factory=list)
    """Earlier audits, the newest first, at most MAX_HISTORY."""


def past_audit(stored: object) -> PastAudit | None:
    """One remembered audit from its JSON object; None for anything else: others can write to Redis too."""
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
