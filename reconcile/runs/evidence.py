"""What verify says beside the drift: Redis' counters, whose the surplus is, keys with several rows in the source.

Evidence changes no verdict, and what cannot be had is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from reconcile.compare.closely import Contents, Keys
from reconcile.core.changes import name_of
from reconcile.core.drift import Cause
from reconcile.core.ownership import Range, owner_of
from reconcile.core.state import Turn
from reconcile.errors import ReconcileError
from reconcile.report.audit import MAX_NAMES, Duplicates, RedisCounters, Surplus
from reconcile.runs.context import ViewRun
from reconcile.source.reading import Reading
from reconcile.target.port import Counters

MAX_GROUPED_ROWS = 100_000
"""Rows that Materialize is asked to group by key, to find those that come twice: it holds them in memory."""

_UNEXPLAINED = (Cause.CHANGED_OUTSIDE, Cause.SURPLUS, Cause.NO_CHECKPOINT)
"""Causes of a bucket whose extra keys the manifest does not know of."""


@dataclass(slots=True)
class Evidence:
    """Collected while one view is audited."""

    run: ViewRun
    duplicates: Duplicates | None = None
    surplus: dict[str | None, Surplus] = field(default_factory=dict)
    _others: dict[str, Range] | None = None

    def claimed_by(self) -> Callable[[bytes], str | None]:
        """Who else claims a key by its name."""
        if self._others is None:
            self._others = self.run.target.claims_of_others()
        others = self._others
        return lambda key: owner_of(key, others)

    def add(self, seen: Contents, cause: Cause | None) -> None:
        """Note what was found in one bucket. cause: why it differs; None: it does not, or merely lags."""
        self.add_duplicates(seen.repeated)
        if cause not in _UNEXPLAINED:
            return
        for claim, keys in seen.claimed.items():
            covered = self.run.target.range if claim is None or self._others is None else self._others[claim]
            noted = self.surplus.setdefault(claim, Surplus(claim, str(covered)))
            noted.keys += keys.count
            noted.names += _some(keys, noted.names)

    def add_duplicates(self, keys: Keys) -> None:
        """Note keys with several rows; also that there are none."""
        noted = self.duplicates = self.duplicates or Duplicates()
        noted.keys += keys.count
        noted.names += _some(keys, noted.names)

    def look_for_duplicates(self, reading: Reading, lagging: list[int], buckets: int, rows: int) -> None:
        """In buckets that nobody looks at more closely: where a key has several rows no run commits, so they lag.

        rows: how many they have."""
        if rows > MAX_GROUPED_ROWS:
            return
        count, names = reading.repeated_keys(lagging, buckets, MAX_NAMES) if lagging else (0, [])
        self.add_duplicates(Keys(count, names))

    def counters(self) -> RedisCounters | None:
        """What Redis counted since a run last looked; None where it does not say."""
        try:
            return since_last_look(self.run.target.counters(), self.run.state.turn, self.run.now_ms())
        except ReconcileError:
            return None


def since_last_look(counters: Counters, turn: Turn, now_ms: int) -> RedisCounters | None:
    """turn: what a run noted last. None where Redis says nothing of itself."""
    if not counters.run_ids:
        return None
    started_ms = None if counters.uptime_s is None else max(0, now_ms - counters.uptime_s * 1000)
    same = counters.run_ids == turn.run_id
    before = turn if same else Turn()
    since_ms = turn.looked_ms or None if same else started_ms
    if " " in counters.run_ids and not same:
        since_ms = None  # of several servers, each counts since a start of its own
    restarted = bool(turn.run_id) and not same and started_ms is not None and started_ms >= turn.looked_ms
    return RedisCounters(
        since_ms=since_ms,
        restarted_ms=started_ms if restarted else None,
        evicted=_more(counters.evicted, before.evicted),
        expired=_more(counters.expired, before.expired),
        policy=counters.policy,
    )


def _more(now: int | None, before: int) -> int | None:
    """How far a counter has come; CONFIG RESETSTAT begins anew."""
    return None if now is None else now - before if now >= before else now


def _some(keys: Keys, known: list[str]) -> list[str]:
    return [name_of(name) for name in keys.names[: MAX_NAMES - len(known)]]
