"""A report for people: one line per view that still tells a month later what was done, why, how much, how long and as
of when; then what needs attention.
"""

from __future__ import annotations

from collections.abc import Iterator

from reconcile.core.times import format_time, span
from reconcile.report.run_report import DriftReport, RunReport, ViewReport
from reconcile.texts import plural, printable


def render(report: RunReport) -> str:
    """Return several lines, without trailing newline."""
    lines = [line for view in report.views for line in _view_lines(view, report.mode)]
    if report.error is not None:
        lines += error_lines(report.error.message, report.error.hint)
    return "\n".join(lines)


def summaries(report: RunReport) -> list[str]:
    """Return one line per view for the log, whatever its outcome; one for the run if there was no view."""
    if not report.views:
        return [f"{report.mode}: exit {int(report.exit_code)}: {report.error.message if report.error else 'no views'}"]
    return [_summary(view, report.mode) for view in report.views]


def _summary(view: ViewReport, mode: str) -> str:
    parts = [_headline(view, mode)]
    if view.error is not None:
        parts.append(f"{printable(view.error.message)}{'' if parts[0] else _took(view)}")
    ended = "; ".join(part for part in parts if part) or view.status
    return f"{view.view}: {mode}: {ended}; exit {int(view.exit_code)}"


def error_lines(message: str, hint: str | None) -> list[str]:
    """Return an error and its hint."""
    return [f"error: {printable(message)}", *([f"  hint: {printable(hint)}"] if hint else [])]


def _view_lines(view: ViewReport, mode: str) -> Iterator[str]:
    head = _headline(view, mode)
    failure: list[str] = []
    if view.error is not None:
        message, *hint = error_lines(view.error.message, view.error.hint)
        failure = [f"{view.view}: {message}", *hint]
    if head:
        yield f"{view.view}: {head}"
    else:
        yield from failure  # some line has to name the view before the notes on it
    if view.drift is not None:
        yield from _drift_lines(view.drift, fast=view.audit is not None and view.audit.fast)
    for line in evidence(view):
        yield f"  evidence: {printable(line)}"
    for warning in view.warnings:
        yield f"  note: {printable(warning)}"
    if view.drift is not None and (view.drift.total or view.drift.buckets):
        yield f"  hint: {_remedy(view, view.drift)}"
    if head:
        yield from failure


def _headline(view: ViewReport, mode: str) -> str:
    if view.skipped:
        return f"skipped: {printable(view.reason)}"
    if mode == "verify":
        return _verdict(view)
    if view.error is not None and not (view.puts or view.deletes or view.commits):
        return ""
    would = "would " if view.dry_run else ""
    changes = f"{would}put {_number(view.puts)}, {would}delete {_number(view.deletes)}"
    if view.action == "none" and not view.commits:
        what = "nothing to do"
    elif view.action == "snapshot":
        kind = "deep snapshot" if view.deep else "snapshot"
        what = f"{kind} ({view.reason}): {changes}"
        if view.buckets and not view.deep:
            what += f"; read {_number(view.buckets_read)} of {plural(view.buckets, 'bucket')}"
    else:
        what = f"delta: {changes}; {plural(view.updates, 'update')}, {plural(view.commits, 'commit')}"
    return f"{what}{_position(view)}"


def _verdict(view: ViewReport) -> str:
    drift = view.drift
    if drift is None:
        return ""
    if drift.total or drift.buckets:
        return (
            f"DRIFT: {_number(drift.missing)} missing, {_number(drift.stale)} stale, {_number(drift.extra)} extra "
            f"in {plural(drift.buckets, 'bucket')}{_position(view)}"
        )
    if view.error is not None:
        return ""
    if drift.unjudged_buckets:
        left = f"{_number(drift.unjudged_buckets)} of {plural(view.buckets or 0, 'bucket')}"
        keys = plural(drift.unjudged_keys, "key")
        return f"incomplete: no drift in what was judged, but {left} ({keys}) could not be{_position(view)}"
    return f"in sync{_position(view)}"


def _drift_lines(drift: DriftReport, *, fast: bool) -> Iterator[str]:
    for entry in drift.keys:
        line = f"  {entry['kind']:<8} {printable(str(entry['key']))}  ({entry['cause']})"
        if "source" in entry:
            line += f"  source={entry['source']!r} redis={entry['redis']!r}"
        yield line
    if fast and drift.causes:  # no key says why
        yield "  cause: " + ", ".join(f"{cause} ({plural(n, 'bucket')})" for cause, n in drift.causes.items())
    unnamed = drift.total - len(drift.keys)
    if unnamed > 0:
        yield "  verify without --fast names the keys" if fast else f"  … and {_number(unnamed)} more (--max-report)"
    if drift.lagging_buckets:
        have = "has" if drift.lagging_buckets == 1 else "have"
        yield f"  note: {plural(drift.lagging_buckets, 'bucket')} {have} changed at the source since then (not drift)"


def _remedy(view: ViewReport, drift: DriftReport) -> str:
    """Return what settles the drift."""
    from reconcile.core.drift import Cause  # imports xxhash

    if view.as_of is None:
        return f"run: reconcile run --view {view.view}"
    if drift.causes.keys() == {Cause.SURPLUS.value}:
        return f"if these keys may go, run: reconcile snapshot --view {view.view} --allow-deletes"
    return f"to repair it now, run: reconcile snapshot --view {view.view} --deep"


def evidence(view: ViewReport) -> Iterator[str]:
    """Yield what an audit found beside the drift, as lines of plain text; names in them are not escaped."""
    audit = view.audit
    if audit is None:
        return
    counters = audit.counters
    if counters is not None:
        since = f" since {format_time(counters.since_ms)}" if counters.since_ms is not None else ""
        if counters.evicted:
            yield f"Redis evicted {plural(counters.evicted, 'key')}{since} ({counters.policy or 'policy unknown'})"
        if counters.expired and view.drift is not None and view.drift.missing:
            yield f"Redis expired {plural(counters.expired, 'key')}{since}, of all that it holds"
        if counters.restarted_ms is not None:
            yield f"Redis restarted at {format_time(counters.restarted_ms)}"
    for one in audit.surplus:
        yield (
            f"surplus: {plural(one.keys, 'key')} that neither source nor manifest knows; {one.whose}: "
            f"{_some(one.names, one.keys)}"
        )
    if audit.duplicates is not None and audit.duplicates.keys:
        found = audit.duplicates
        several = "has" if found.keys == 1 else "have"
        yield f"{plural(found.keys, 'key')} {several} several rows in the source: {_some(found.names, found.keys)}"
    coverage = audit.coverage
    if coverage is not None and coverage.never:
        yield f"{_number(coverage.never)} of {_number(coverage.slices)} slices were never compared"


def _some(names: list[str], total: int) -> str:
    return ", ".join(names) + (f" and {_number(total - len(names))} more" if total > len(names) else "")


def _position(view: ViewReport) -> str:
    if view.as_of is None:
        return _took(view)
    keys = f"; {plural(view.keys, 'key')}" if view.keys is not None else ""
    return f"{keys}{_took(view)}; as of {view.as_of} ({format_time(view.as_of)})"


def _took(view: ViewReport) -> str:
    return f"; took {span(view.duration_ms)}" if view.duration_ms else ""


def _number(value: int | None) -> str:
    return f"{value or 0:,}"
