"""Doctor's estimate of what runs of a view cost, for each way to learn what changed (docs/scale.md)."""

from __future__ import annotations

from reconcile.config.settings import ViewSettings
from reconcile.core import cost
from reconcile.core.cost import Demand, SourceCosts, Way
from reconcile.core.digest import COMPANION_ROWS_PER_BUCKET, choose_buckets
from reconcile.core.times import format_duration
from reconcile.errors import UsageError
from reconcile.inspect.doctor_history import fingerprint_s
from reconcile.inspect.findings import Findings
from reconcile.source import query
from reconcile.source.companion import describe_companion
from reconcile.source.query import Mapping
from reconcile.source.session import Session
from reconcile.texts import plural

EVERY_S = 60.0
"""Assumed between two runs, unless --every gives it."""
FOLLOWED_S = 3600.0
SAID: dict[Way, str] = {
    "fingerprints": "by fingerprints on demand",
    "companion": "by a companion view",
    "delta": "by delta, with history",
    "follow": "following for an hour (--for 1h)",
}
CHOOSE: dict[Way, str] = {
    "fingerprints": "nothing has to be set up",
    "companion": "a companion view (reconcile init --companion)",
    "delta": "RETAIN HISTORY, and deltas",
    "follow": "RETAIN HISTORY, and reconcile run --for 1h every hour",
}


def check_cost(
    session: Session,
    mapping: Mapping,
    view: ViewSettings,
    rows: int,
    took_s: float | None,
    every_s: float | None,
    findings: Findings,
) -> None:
    """Report what a run that finds nothing new costs in each way, and which way is the cheapest.

    took_s: how long all fingerprints took on demand; None: not measured yet. every_s: seconds from run to run.
    """
    every_s = every_s or EVERY_S
    buckets = view.buckets or choose_buckets(rows)
    if took_s is None:
        took_s = fingerprint_s(session, mapping, buckets)
    ((mean,),) = session.fetch(query.mean_bytes(mapping))
    demand = Demand(rows, buckets, row_bytes=float(mean or 0) + len(mapping.key.prefix))
    source = SourceCosts().scaled(cost.factor(demand, took_s))
    by_way: dict[Way, Demand] = dict.fromkeys(SAID, demand)
    by_way["companion"] = Demand(rows, _companion_buckets(session, view, rows), demand.row_bytes)
    runs_per_start = max(1.0, FOLLOWED_S / every_s)
    costs = {way: cost.cost(way, by_way[way], source, runs_per_start=runs_per_start).total_s for way in SAID}
    best = min(costs, key=lambda way: costs[way])
    listed = ", ".join(f"{costs[way]:.2g} s {SAID[way]}" for way in SAID)
    saved = costs["fingerprints"] - costs["companion"]
    findings.ok(
        "cost",
        f"{plural(rows, 'row')}, estimated from {took_s:.2g} s measured for the fingerprints. A run every "
        f"{format_duration(every_s)} that finds nothing new: {listed}. A companion view saves {saved:.2g} s a run. "
        f"Cheapest: {CHOOSE[best]}",
    )


def _companion_buckets(session: Session, view: ViewSettings, rows: int) -> int:
    if view.companion is not None:
        try:
            return describe_companion(session, view.companion).buckets
        except UsageError:  # the check of the companion view says so
            pass
    return view.buckets or choose_buckets(rows, COMPANION_ROWS_PER_BUCKET)
