"""A report as Prometheus metrics: a file for node_exporter's textfile collector, groups for a Pushgateway.

Labels are `view` and `mode`. Several schedules (`run` every minute, `verify` every night) may share a file, and their
files may lie in one directory, where equal series would spoil the whole scrape.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator

from msgspec import Struct

from reconcile.report.files import is_replaceable, write_file
from reconcile.report.run_report import RunReport, ViewReport

PREFIX = "reconcile_"
MAX_FILE_BYTES = 4 * 1024 * 1024
"""A larger file is not one of ours; it is replaced without being read."""

LAST_SUCCESS = "last_success_timestamp_seconds"
DRIFT, SURPLUS, COMPARED = "drift_keys", "surplus_keys", "oldest_compare_timestamp_seconds"
OUTLIVING = frozenset({LAST_SUCCESS, DRIFT, SURPLUS, COMPARED})
"""Metrics that a run without a new value leaves as they were: an alert about drift must not end because Redis is away.
"""
HELP = {
    LAST_SUCCESS: "When a run last ended with exit code 0 and was neither skipped nor a dry run.",
    "last_run_timestamp_seconds": "When a run last ended, however it did.",
    "last_duration_seconds": "How long the last run worked on this view.",
    "exit_code": "Exit code of the last run for this view.",
    "rows": "Rows read and changed by the last run; withheld: deletes that need consent.",
    "keys": "Keys of the view in Redis, as the last run left or found them.",
    DRIFT: "Keys that differ, as found by the last completed verify.",
    SURPLUS: "Keys in Redis that neither the source nor the manifest knows of, as found by the last verify.",
    COMPARED: "When the slice that has waited longest was last compared with what Redis really holds.",
    "source_lag_seconds": "Wall clock minus the time of the content Redis holds, at the end of the last run.",
}

Owner = tuple[str, str]
"""(view, mode); the view is empty for a failure before any view."""
_SERIES = re.compile(
    r'(?P<metric>[a-z_]+)\{view="(?P<view>[^"\\]*)",mode="(?P<mode>[^"\\]*)"'
    r'(?P<rest>(?:,[a-z]+="[^"\\]*")*)\} (?P<value>\S+)'
)


class Series(Struct, frozen=True):
    """One line of the file; `rest` holds the labels after view and mode, as written."""

    metric: str
    owner: Owner
    rest: str
    value: str

    def __str__(self) -> str:
        view, mode = self.owner
        return f'{PREFIX}{self.metric}{{view="{view}",mode="{mode}"{self.rest}}} {self.value}'


def write_textfile(report: RunReport, path: str) -> None:
    """Update the file with one run. Raises OSError.

    Series of other views and modes stay, as do those in OUTLIVING for which this run has no value.
    """
    write_file(path, render(merge(_read(path), report)))


def merge(before: list[Series], report: RunReport) -> list[Series]:
    """Return the file's series after this run. Pure, except for the clock if a run never began."""
    new = list(_of_run(report))
    owners = {series.owner for series in new}
    if report.views:
        owners.add(("", report.mode))
    replaced = {(series.owner, series.metric) for series in new}
    kept = [
        series
        for series in before
        if series.owner not in owners or (series.metric in OUTLIVING and (series.owner, series.metric) not in replaced)
    ]
    return kept + new


def render(all_series: list[Series]) -> str:
    """Return the file's text. The exposition format wants the series of one metric together."""
    lines = []
    for metric, text in HELP.items():
        mine = [str(series) for series in all_series if series.metric == metric]
        if mine:
            lines += [f"# HELP {PREFIX}{metric} {text}", f"# TYPE {PREFIX}{metric} gauge", *mine]
    return "".join(line + "\n" for line in lines)


def _read(path: str) -> list[Series]:
    """Return the series of an earlier file; foreign lines are dropped, and anything but a file is not read."""
    if not is_replaceable(path):
        return []
    try:
        if os.path.getsize(path) > MAX_FILE_BYTES:
            return []
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        match = _SERIES.fullmatch(line.removeprefix(PREFIX))
        if match is not None and match["metric"] in HELP:
            found.append(Series(match["metric"], (match["view"], match["mode"]), match["rest"], match["value"]))
    return found


def by_owner(report: RunReport) -> dict[Owner, list[Series]]:
    """Return a run's series by view and mode."""
    groups: dict[Owner, list[Series]] = {}
    for series in _of_run(report):
        groups.setdefault(series.owner, []).append(series)
    return groups


def _of_run(report: RunReport) -> Iterator[Series]:
    finished_s = (report.finished_ms or time.time_ns() // 1_000_000) / 1000
    for view in report.views:
        yield from _of_view(view, (view.view, report.mode), finished_s)
    if not report.views:
        yield Series("last_run_timestamp_seconds", ("", report.mode), "", f"{finished_s:.3f}")
        yield Series("exit_code", ("", report.mode), "", str(int(report.exit_code)))


def _of_view(view: ViewReport, owner: Owner, finished_s: float) -> Iterator[Series]:
    if view.succeeded:
        yield Series(LAST_SUCCESS, owner, "", f"{finished_s:.3f}")
    yield Series("last_run_timestamp_seconds", owner, "", f"{finished_s:.3f}")
    yield Series("last_duration_seconds", owner, "", f"{view.duration_ms / 1000:.3f}")
    yield Series("exit_code", owner, "", str(int(view.exit_code)))
    rows = {"read": view.rows_read, "put": view.puts, "delete": view.deletes, "withheld": view.deletes_withheld}
    for op, count in rows.items():
        yield Series("rows", owner, f',op="{op}"', str(count))
    if view.drift is not None and view.audited:
        kinds = {"missing": view.drift.missing, "stale": view.drift.stale, "extra": view.drift.extra}
        for kind, count in kinds.items():
            yield Series(DRIFT, owner, f',kind="{kind}"', str(count))
    yield from _of_audit(view, owner)
    if view.keys is not None:
        yield Series("keys", owner, "", str(view.keys))
    if view.lag_ms is not None:
        yield Series("source_lag_seconds", owner, "", f"{view.lag_ms / 1000:.3f}")


def _of_audit(view: ViewReport, owner: Owner) -> Iterator[Series]:
    audit = view.audit
    if audit is None or not view.audited:
        return
    yield Series(SURPLUS, owner, "", str(sum(one.keys for one in audit.surplus)))
    if audit.coverage is not None and audit.coverage.oldest_ms is not None:
        yield Series(COMPARED, owner, "", f"{audit.coverage.oldest_ms / 1000:.3f}")
