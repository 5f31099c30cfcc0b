"""Doctor's checks of retained history, and of the companion view, which makes history matter less."""

from __future__ import annotations

import math
import secrets
import time

from msgspec import Struct

from reconcile.config.settings import ViewSettings
from reconcile.core.digest import choose_buckets
from reconcile.core.times import MAX_TIMESTAMP, format_duration, span
from reconcile.errors import UsageError
from reconcile.inspect.findings import Findings
from reconcile.source import catalog
from reconcile.source.catalog import CatalogObject
from reconcile.source.companion import describe_companion
from reconcile.source.frontiers import Explained
from reconcile.source.query import Mapping
from reconcile.source.reading import open_reading
from reconcile.source.session import Session
from reconcile.texts import plural

SHORT_HISTORY_S = 2.0
"""History that Materialize keeps by default: one to two seconds."""
RUNS_TO_MISS = 10
"""The recommended history lets this many runs fail or be late."""
LEAST_HISTORY_S = 600
PAYS_S, PAYS_SHARE = 0.5, 0.02
"""A companion view pays off if computing the fingerprints takes longer than this, or than this share of the interval
between runs.
"""
MEASURED_ONCE_S = 5.0

_ALTERABLE = {"materialized-view": "MATERIALIZED VIEW", "table": "TABLE", "source": "SOURCE"}


class Schedule(Struct, frozen=True):
    """The intended schedule of runs. quick: skip checks that read every row or every key name."""

    every_s: float | None
    quick: bool


def check_history(
    session: Session, explained: Explained, view: ViewSettings, every_s: float | None, findings: Findings
) -> bool:
    """Check how far back the query can be read, what limits that, and whether it spans the interval between runs.

    Returns whether runs can usually continue from their checkpoint.
    """
    frontiers = explained.frontiers
    if frontiers.now == MAX_TIMESTAMP:
        findings.ok("history", "the view is constant: there are no changes to follow")
        return True
    readable_s = max(0, frontiers.now - frontiers.since) / 1000
    objects: list[CatalogObject] = []
    trapped = False
    with findings.looking("history"):
        for source in explained.objects:
            known = catalog.find_object(session, source.id)
            if known is not None:
                objects.append(known)
        trapped = _check_index_trap(session, objects, findings)
    return not trapped and _judge(objects, readable_s, view, every_s, findings)


def _check_index_trap(session: Session, objects: list[CatalogObject], findings: Findings) -> bool:
    """Report an index of the session's cluster that is read instead of the view, with its own short history."""
    trapped = False
    for index in (known for known in objects if known.on_id is not None):
        relation = catalog.find_object(session, index.on_id or "")
        if relation is None or (relation.window_ms or 0) < SHORT_HISTORY_S * 1000:
            continue
        trapped = True
        of_relation, of_index = (format_duration((ms or 1000) / 1000) for ms in (relation.window_ms, index.window_ms))
        findings.warn(
            "history",
            f"index trap: {relation.name} keeps {of_relation} of history, but the query is answered by the index "
            f"{index.name}, which keeps {of_index}: every run reconciles by snapshot",
            f"DROP INDEX {index.name};\n-- or set materialize.cluster to a cluster where this index does not exist",
        )
    return trapped


def _judge(
    objects: list[CatalogObject], readable_s: float, view: ViewSettings, every_s: float | None, findings: Findings
) -> bool:
    windows_s = [known.window_ms / 1000 for known in objects if known.window_ms is not None]
    # Retained history is a promise; readable now may be more (lazy compaction) or less (a new view).
    kept_s = min(windows_s, default=readable_s)
    now = f"the query can be read back to {span(readable_s * 1000)} ago"
    wanted_s = max(LEAST_HISTORY_S, RUNS_TO_MISS * (every_s or 0))
    kept = format_duration(round(kept_s, 1))
    if kept_s >= max(SHORT_HISTORY_S, 2 * (every_s or 0)):
        findings.ok("history", f"kept for {kept}; {now}")
        return True
    if view.companion is not None:
        findings.ok("history", f"kept for {kept}; the companion view makes snapshots cheap")
        return False
    why = "every run reconciles by snapshot (correct, but it costs more than a delta)"
    if every_s is not None and kept_s >= every_s:
        why = f"with runs every {format_duration(every_s)}, one late run loses it and reconciles by snapshot"
    short = [known for known in objects if known.window_ms is None or known.window_ms / 1000 < wanted_s]
    findings.warn("history", f"kept for only {kept} ({now}): {why}", _retain(short, wanted_s))
    return False


def _retain(objects: list[CatalogObject], wanted_s: float) -> str:
    """Return statements that make the objects keep enough history."""
    lines = []
    for known in objects:
        kind = _ALTERABLE.get(known.kind)
        if kind is not None:
            minutes = math.ceil(wanted_s / 60)
            lines.append(f"ALTER {kind} {known.name} SET (RETAIN HISTORY FOR '{minutes} minutes');")
        elif known.kind == "index":
            lines.append(
                f"-- {known.name} is an index, whose history is always short: let the query read a materialized view "
                "without an index in this cluster"
            )
    return "\n".join(lines) or "-- let the query read a materialized view created WITH (RETAIN HISTORY FOR '1hr')"


# -- companion view ----------------------------------------------------------------------------------------------------


def check_companion(
    session: Session,
    mapping: Mapping,
    view: ViewSettings,
    rows: int | None,
    schedule: Schedule,
    findings: Findings,
    *,
    resumable: bool,
) -> float | None:
    """Check that the companion view exists, is indexed and matches the current query; or whether one would pay off.

    rows: of the view, None: not counted. resumable: runs have history to continue from. Returns the seconds that
    computing all fingerprints took without one, if measured.
    """
    if view.companion is None:
        return _check_absent(session, mapping, view, rows, schedule, findings, resumable=resumable)
    _check_present(session, mapping, view, view.companion, findings)
    return None


def _check_present(session: Session, mapping: Mapping, view: ViewSettings, name: str, findings: Findings) -> None:
    again = f"reconcile init --companion --view {view.name}"
    try:
        definition = describe_companion(session, name)
    except UsageError as error:
        findings.fail("companion view", f"{name} cannot be used: {error.message}", f"-- the statements of: {again}")
        return
    if view.buckets not in (None, definition.buckets):
        findings.warn(
            "companion view",
            f"{name} was made for {definition.buckets:,} buckets, and the configuration says {view.buckets:,}",
            f"set buckets: {definition.buckets} for this view, or leave it out",
        )
        return
    if not definition.proved(session, mapping):
        findings.warn(
            "companion view",
            f"{name} does not match the query: runs compute fingerprints themselves",
            f"DROP VIEW {name};\n-- then create it again with the statements of: {again}",
        )
        return
    if not catalog.answered_by_index(session, name):
        findings.warn(
            "companion view",
            f"{name} matches the query, but has no index in this cluster: every read computes it anew",
            f"CREATE INDEX ON {name} (bucket);",
        )
        return
    findings.ok("companion view", f"{name} matches the query, {definition.buckets:,} buckets")


def _check_absent(
    session: Session,
    mapping: Mapping,
    view: ViewSettings,
    rows: int | None,
    schedule: Schedule,
    findings: Findings,
    *,
    resumable: bool,
) -> float | None:
    if rows is None or schedule.quick:
        findings.ok("companion view", "none is configured")
        return None
    took_s = fingerprint_s(session, mapping, view.buckets or choose_buckets(rows))
    measured = f"without one, Materialize needs {took_s:.2f} s to compute the fingerprints of {plural(rows, 'row')}"
    pays = took_s >= PAYS_S or (schedule.every_s is not None and took_s >= PAYS_SHARE * schedule.every_s)
    if not pays:
        findings.ok("companion view", f"none is configured; {measured}, so it would save little")
    elif resumable:
        findings.ok("companion view", f"none is configured; {measured}, each time history is lost")
    else:
        share = "" if schedule.every_s is None else f" ({took_s / schedule.every_s:.0%} of the time between two runs)"
        findings.warn(
            "companion view",
            f"none is configured, though it would pay off: {measured}, in every run{share}",
            f"reconcile init --companion --view {view.name}\n# prints the statements, and what to configure",
        )
    return took_s


def fingerprint_s(session: Session, mapping: Mapping, buckets: int) -> float:
    """Return the seconds it takes to compute all fingerprints, which a companion view saves a run without history.

    The first time may include planning, or waking the cluster: a short one is measured twice.
    """
    took_s = math.inf
    for _ in range(2):
        with open_reading(session, mapping, None) as reading:
            began = time.monotonic()
            reading.fingerprints(buckets, secrets.token_hex(16))
            took_s = min(took_s, time.monotonic() - began)
        if took_s > MEASURED_ONCE_S:
            break
    return took_s
