"""Doctor's checks of Materialize. All of them only read."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from reconcile.config.settings import Settings, ViewSettings
from reconcile.core.changes import MAX_EXAMPLES, name_of
from reconcile.core.digest import MAX_BUCKETS, MIN_BUCKETS
from reconcile.core.times import MAX_TIMESTAMP
from reconcile.errors import AccessError, UsageError
from reconcile.runs.context import map_view
from reconcile.runs.findings import Findings
from reconcile.source import catalog, query
from reconcile.source import session as sessions
from reconcile.source.catalog import CatalogObject
from reconcile.source.columns import VALUE_TYPES
from reconcile.source.frontiers import Explained
from reconcile.source.query import Mapping
from reconcile.source.reading import explain, open_reading
from reconcile.source.session import Session
from reconcile.stop import Stop

CLOCK_TOLERANCE_MS = 5_000
"""Clocks further apart than this are worth a word: lag and ages are shown by them."""
SHORT_HISTORY_MS = 2_000
"""What Materialize keeps without being asked: one to two seconds."""
RUNS_TO_MISS = 10
"""History recommended for a schedule: so many runs may fail or be late."""
LEAST_HISTORY_S = 600
COMPANION_ROWS = 100_000
"""Views smaller than this hardly gain by a companion view."""

_NEEDS = re.compile(
    r"The '(?P<role>.+)' role needs (?P<privilege>[A-Z, ]+) privileges? on (?P<kind>[A-Z ]+) (?P<name>.+)"
)
_ALTERABLE = {"materialized-view": "MATERIALIZED VIEW", "table": "TABLE", "source": "SOURCE"}


@dataclass(frozen=True, slots=True)
class Schedule:
    """What the user says of the runs to come. quick: leave out what reads every row."""

    interval_s: float | None
    quick: bool


def open_source(settings: Settings, stop: Stop, findings: Findings) -> Session | None:
    """Connection, version and cluster; None when there is nothing more to look at."""
    session = None
    with findings.checking("materialize"):
        session = sessions.connect(settings.materialize, stop, "")
        version, cluster, role = catalog.whom(session)
        findings.ok("materialize", f"Materialize {version}, as {role}, cluster {cluster}")
        if session.exposed:
            findings.warn(
                "encryption",
                "the connection to Materialize is not encrypted: password and rows can be read on the way",
                "set materialize.sslmode to require; to verify-full with sslrootcert, to be sure of the server",
            )
        _check_cluster(session, cluster, findings)
    return session


def _check_cluster(session: Session, cluster: str, findings: Findings) -> None:
    """A wrong cluster is only a notice at connect; the first query fails."""
    with findings.looking("cluster"):
        replicas = catalog.cluster_replicas(session, cluster)
        if replicas is None:
            findings.fail(
                "cluster",
                f"there is no cluster {cluster}",
                "set materialize.cluster to one of those listed by: SHOW CLUSTERS",
            )
        elif replicas == 0:
            findings.fail(
                "cluster",
                f"cluster {cluster} has no replicas: queries wait or fail",
                f"ALTER CLUSTER {query.identifier(cluster)} SET (REPLICATION FACTOR 1);",
            )
        else:
            findings.ok("cluster", f"{cluster} has {replicas} replica{'s' if replicas != 1 else ''}")


def check_view(session: Session, view: ViewSettings, schedule: Schedule, findings: Findings) -> None:
    """Everything about one view's query."""
    mapping = None
    with findings.checking("columns"), _granting(findings):
        mapping = map_view(session, view)
        kinds = [f"{c.name} {VALUE_TYPES[c.oid]}" for c in (*mapping.keys, *mapping.values)]
        findings.ok("columns", ", ".join(kinds))
    if mapping is None or not _check_access(session, mapping, findings):
        return
    rows = None
    if not schedule.quick:
        with findings.checking("keys"):
            rows = _check_keys(session, mapping, findings)
    with findings.checking("history"):
        explained = explain(session, mapping)
        _check_clock(explained, findings)
        _check_history(session, explained, view, schedule.interval_s, findings)
    with findings.checking("digest view"):
        _check_companion(session, mapping, view, rows, schedule, findings)


def _check_access(session: Session, mapping: Mapping, findings: Findings) -> bool:
    """Whether the view can be read at all: privileges on it, its schema and the cluster, and its present state."""
    with findings.checking("access"), _granting(findings):
        session.fetch(catalog.first_row(mapping))
        findings.ok("access", "the view can be read")
        return True
    return False


@contextlib.contextmanager
def _granting(findings: Findings) -> Iterator[None]:
    """What Materialize refuses inside is a finding with the statement that grants it."""
    try:
        yield
    except AccessError as error:
        findings.fail("access", error.message, grant_for(error))


def grant_for(error: AccessError) -> str | None:
    """The statement that gives what Materialize says is missing; its own words where they are not understood."""
    match = _NEEDS.fullmatch(error.hint or "")
    if match is None:
        return error.hint
    kind = match["kind"].strip()
    on = f"{kind} " if kind in ("SCHEMA", "CLUSTER", "DATABASE") else ""
    # The message quotes a qualified name as a whole.
    name = ".".join(query.identifier(part) for part in match["name"].strip('"').split("."))
    return f"GRANT {match['privilege']} ON {on}{name} TO {query.identifier(match['role'])};"


def _check_keys(session: Session, mapping: Mapping, findings: Findings) -> int:
    """NULL keys and keys with several rows; returns the number of rows."""
    rows, keyless = catalog.count_rows(session, mapping)
    key = ", ".join(query.identifier(column.name) for column in mapping.keys)
    if keyless:
        findings.fail(
            "keys",
            f"{keyless:,} of {rows:,} rows have no key (NULL): runs stop with exit code 5",
            f"add to the query: WHERE {key} IS NOT NULL",
        )
    found = session.fetch(catalog.repeated_keys(mapping))
    repeated = [(name, int(count or 0)) for name, count in found if name is not None]
    if repeated:
        names = ", ".join(f"{name_of(name)} ({count} rows)" for name, count in repeated)
        more = ", …" if len(repeated) >= MAX_EXAMPLES else ""
        findings.fail(
            "keys",
            f"some keys have several rows: {names}{more}: runs stop with exit code 5",
            f"make the key unique in the query, e.g. SELECT DISTINCT ON ({key}) … ORDER BY {key}, <what decides>",
        )
    if not keyless and not repeated:
        findings.ok("keys", f"{rows:,} rows, each with a key of its own")
    return rows


def _check_clock(explained: Explained, findings: Findings) -> None:
    """Materialize's clock against this host's."""
    if explained.frontiers.now == MAX_TIMESTAMP:
        return
    report_clock("clock", "Materialize", explained.frontiers.now, findings)


def report_clock(check: str, whose: str, theirs_ms: int, findings: Findings) -> None:
    """One clock against this host's."""
    ahead_ms = theirs_ms - time.time_ns() // 1_000_000
    if abs(ahead_ms) <= CLOCK_TOLERANCE_MS:
        findings.ok(check, f"{whose} and this host agree within {CLOCK_TOLERANCE_MS // 1000} s")
        return
    side = "ahead of" if ahead_ms > 0 else "behind"
    findings.warn(
        check,
        f"{whose} is {abs(ahead_ms) / 1000:.1f} s {side} this host: lag and ages are wrong by that, data is not",
        "synchronise the clocks (NTP)",
    )


# -- history -----------------------------------------------------------------------------------------------------


def _check_history(
    session: Session, explained: Explained, view: ViewSettings, interval_s: float | None, findings: Findings
) -> None:
    """How far back the query can be read, what limits it, and whether that spans the time between two runs."""
    frontiers = explained.frontiers
    if frontiers.now == MAX_TIMESTAMP:
        findings.ok("history", "the view is constant: there is nothing to continue from")
        return
    readable_s = max(0, frontiers.now - frontiers.since) / 1000
    objects: list[CatalogObject] = []
    trapped = False
    with findings.looking("history"):
        for source in explained.objects:
            known = catalog.find_object(session, source.id)
            if known is not None:
                objects.append(known)
        trapped = _check_index_trap(session, objects, findings)
    if trapped:
        return
    _judge_history(objects, readable_s, view, interval_s, findings)


def _check_index_trap(session: Session, objects: list[CatalogObject], findings: Findings) -> bool:
    """An index of the session's cluster is read instead of the view, and has its own, short history."""
    trapped = False
    for index in (known for known in objects if known.on_id is not None):
        relation = catalog.find_object(session, index.on_id or "")
        if relation is None or (relation.window_ms or 0) < SHORT_HISTORY_MS:
            continue
        trapped = True
        findings.warn(
            "history",
            f"index trap: {relation.name} keeps {_duration((relation.window_ms or 0) / 1000)} of history, but the "
            f"query is answered by the index {index.name}, which keeps {_duration((index.window_ms or 1000) / 1000)}: "
            "every run reconciles by snapshot",
            f"DROP INDEX {index.name};\n-- or set materialize.cluster to a cluster where this index does not exist",
        )
    return trapped


def _judge_history(
    objects: list[CatalogObject],
    readable_s: float,
    view: ViewSettings,
    interval_s: float | None,
    findings: Findings,
) -> None:
    windows_s = [known.window_ms / 1000 for known in objects if known.window_ms is not None]
    # What an object keeps is a promise; what can be read now may be more (lazy cleaning) or less (a new view).
    kept_s = min(windows_s, default=readable_s)
    now = f"the query can be read back {_duration(readable_s)} now"
    needed_s = interval_s if interval_s is not None else SHORT_HISTORY_MS / 1000
    wanted_s = max(LEAST_HISTORY_S, RUNS_TO_MISS * (interval_s or 0))
    if kept_s >= max(needed_s, 2 * (interval_s or 0)):
        findings.ok("history", f"kept for {_duration(kept_s)}; {now}")
        return
    if view.digest_view is not None:
        findings.ok("history", f"kept for {_duration(kept_s)}; the companion view makes snapshots cheap")
        return
    why = "every run reconciles by snapshot (correct, but it costs more than a delta)"
    if interval_s is not None and kept_s >= interval_s:
        why = f"one late run, with an interval of {_duration(interval_s)}, loses it and reconciles by snapshot"
    short = [known for known in objects if known.window_ms is None or known.window_ms / 1000 < wanted_s]
    findings.warn("history", f"kept for {_duration(kept_s)} only, {now}: {why}", _retain(short, wanted_s))


def _retain(objects: list[CatalogObject], wanted_s: float) -> str:
    """Statements that make the objects keep enough history."""
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


def _duration(seconds: float) -> str:
    """As Materialize and people write it: 45s, 10m, 1h; whole units only where they are exact."""
    whole = round(seconds)
    for unit, size in (("h", 3600), ("m", 60)):
        if whole >= size and whole % size == 0:
            return f"{whole // size}{unit}"
    return f"{whole}s" if seconds >= 10 or whole == seconds else f"{seconds:.1f}s"


# -- companion view ----------------------------------------------------------------------------------------------


def _check_companion(
    session: Session,
    mapping: Mapping,
    view: ViewSettings,
    rows: int | None,
    schedule: Schedule,
    findings: Findings,
) -> None:
    """The configured companion view: there, indexed, made for the query as it is now."""
    name = view.digest_view
    again = f"reconcile init --digest-view --view {view.name}"
    if name is None:
        gain = ", which makes runs without history cheap" if rows is None or rows >= COMPANION_ROWS else ""
        findings.ok("digest view", f"none is configured{gain and f' ({again} prints one{gain})'}")
        return
    try:
        session.columns(query.describe(query.companion_rows(name)))
    except UsageError as error:
        findings.fail("digest view", f"{name} cannot be used: {error.message}", f"-- the statements of: {again}")
        return
    with open_reading(session, mapping, None) as reading:
        largest = reading.largest_bucket(name)
        buckets = view.buckets or max(MIN_BUCKETS, 1 << largest.bit_length())
        if buckets > MAX_BUCKETS or largest >= buckets:
            matches = False
        else:
            matches = schedule.quick or reading.fingerprints(buckets, companion=name) == reading.fingerprints(buckets)
    if not matches:
        findings.warn(
            "digest view",
            f"{name} does not match the query: runs compute fingerprints themselves",
            f"DROP VIEW {name};\n-- then create it again with the statements of: {again}\n"
            "-- and set `buckets:` of this view to the number they were made for",
        )
        return
    checked = "is there (its content was not compared: --quick)" if schedule.quick else "matches the query"
    if not catalog.answered_by_index(session, name):
        findings.warn(
            "digest view",
            f"{name} {checked}, but has no index in this cluster: every read computes it anew",
            f"CREATE INDEX ON {name} (bucket);",
        )
        return
    findings.ok("digest view", f"{name} {checked}, {buckets:,} buckets")
