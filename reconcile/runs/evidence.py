"""What verify reports beside drift: Redis' counters, whose the surplus is, and keys with several rows in the source.

Evidence does not change the verdict; what cannot be read is left out.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct, field

from reconcile.compare.contents import BucketContents, Keys
from reconcile.core.changes import name_of
from reconcile.core.drift import Cause
from reconcile.core.ownership import Range, owner_of
from reconcile.core.state import Turn
from reconcile.errors import ReconcileError
from reconcile.report.audit import MAX_NAMES, Duplicates, RedisCounters, SurplusReport
from reconcile.runs.context import ViewRun
from reconcile.source.reading import Reading
from reconcile.target.port import Counters

MAX_GROUPED_ROWS = 100_000
"""The most rows that Materialize groups by key to find keys with several rows: it holds them in memory."""
UPTIME_UNIT_MS = 1000
"""Redis tells its uptime in whole seconds, so a server may seem to have started up to a second too early."""

_UNEXPLAINED = (Cause.CHANGED_OUTSIDE, Cause.SURPLUS, Cause.NO_CHECKPOINT)
"""Causes of drift where the manifest does not count the bucket's extra keys."""


class Evidence(Struct):
    """Evidence collected while one view is audited."""

    run: ViewRun
    duplicates: Duplicates | None = None
    surplus: dict[str | None, SurplusReport] = field(default_factory=dict)
    _others: dict[str, Range] | None = None

    def claimed_by(self) -> Callable[[bytes], str | None]:
        """Return a function that names the other view that claims a key, if one does."""
        if self._others is None:
            self._others = self.run.target.claims_of_others()
        others = self._others
        return lambda key: owner_of(key, others)

    def add(self, seen: BucketContents, cause: Cause | None) -> None:
        """Add what was found in one bucket. cause: why it differs; None: it is equal or lags."""
        self.add_duplicates(seen.repeated)
        if cause not in _UNEXPLAINED:
            return
        for claim, keys in seen.claimed.items():
            covered = self.run.target.range if claim is None or self._others is None else self._others[claim]
            noted = self.surplus.setdefault(claim, SurplusReport(claim, str(covered)))
            noted.keys += keys.count
            noted.names += _some(keys, noted.names)

    def add_duplicates(self, keys: Keys) -> None:
        """Add keys with several rows. Without any, this notes that there are none."""
        noted = self.duplicates = self.duplicates or Duplicates()
        noted.keys += keys.count
        noted.names += _some(keys, noted.names)

    def look_for_duplicates(self, reading: Reading, lagging: list[int], buckets: int, rows: int) -> None:
        """Look for keys with several rows in lagging buckets, which are not compared row by row: while a key has
        several rows no run commits, so its bucket lags. rows: how many rows these buckets have."""
        if rows > MAX_GROUPED_ROWS:
            return
        count, names = reading.repeated_keys(lagging, buckets, MAX_NAMES) if lagging else (0, [])
        self.add_duplicates(Keys(count, names))

    def counters(self) -> RedisCounters | None:
        """Return Redis' counters since a run last read them; None if it does not give any."""
        try:
            return since_last_look(self.run.target.counters(), self.run.state.turn, self.run.now_ms())
        except ReconcileError:
            return None


def since_last_look(counters: Counters, turn: Turn, now_ms: int) -> RedisCounters | None:
    """Return Redis' counters since a run last noted them in `turn`; None if INFO gives none."""
    if not counters.run_ids:
        return None
    started_ms = None if counters.uptime_s is None else max(0, now_ms - counters.uptime_s * 1000)
    same = counters.run_ids == turn.run_id
    restarted = False
    if started_ms is not None and turn.run_id and not same and started_ms + UPTIME_UNIT_MS > turn.looked_ms:
        restarted, started_ms = True, max(started_ms, turn.looked_ms)
    before = turn if same else Turn()
    since_ms = turn.looked_ms or None if same else started_ms
    if " " in counters.run_ids and not same:
        since_ms = None  # several servers, and each counts since its own start
    return RedisCounters(
        since_ms=since_ms,
        restarted_ms=started_ms if restarted else None,
        evicted=_more(counters.evicted, before.evicted),
        expired=_more(counters.expired, before.expired),
        policy=counters.policy,
    )


def _more(now: int | None, before: int) -> int | None:
    """Return by how much a counter has grown; after CONFIG RESETSTAT, all of it."""
    return None if now is None else now - before if now >= before else now


def _some(keys: Keys, known: list[str]) -> list[str]:
    return [name_of(name) for name in keys.names[: MAX_NAMES - len(known)]]
