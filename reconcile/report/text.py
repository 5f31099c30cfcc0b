"""A report for people: one line per view, then what needs attention."""

from __future__ import annotations

from collections.abc import Iterator

from reconcile.core.times import format_time
from reconcile.report.run_report import DriftReport, RunReport, ViewReport
from reconcile.texts import printable


def render(report: RunReport) -> str:
    """Several lines, without trailing newline."""
    lines = [line for view in report.views for line in _view_lines(view, report.mode)]
    if report.error is not None:
        lines += error_lines(report.error.message, report.error.hint)
    return "\n".join(lines)


def error_lines(message: str, hint: str | None) -> list[str]:
    """An error and what to do next."""
    return [f"error: {printable(message)}", *([f"  hint: {printable(hint)}"] if hint else [])]


def _view_lines(view: ViewReport, mode: str) -> Iterator[str]:
    head = _headline(view, mode)
    if head:
        yield f"{view.view}: {head}"
    if view.drift is not None:
        yield from _drift_lines(view.drift)
    for warning in view.warnings:
        yield f"  note: {printable(warning)}"
    if view.error is not None:
        message, *hint = error_lines(view.error.message, view.error.hint)
        yield f"{view.view}: {message}"
        yield from hint


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
            what += f"; read {_number(view.buckets_read)} of {_number(view.buckets)} buckets"
    else:
        what = f"delta: {changes}; {_number(view.updates)} updates, {_number(view.commits)} commits"
    return f"{what}{_position(view)}"


def _verdict(view: ViewReport) -> str:
    drift = view.drift
    if drift is None:
        return ""
    if drift.total or drift.buckets:
        return (
            f"DRIFT: {_number(drift.missing)} missing, {_number(drift.stale)} stale, {_number(drift.extra)} extra "
            f"in {_number(drift.buckets)} buckets{_position(view)}"
        )
    return "" if view.error is not None else f"in sync{_position(view)}"


def _drift_lines(drift: DriftReport) -> Iterator[str]:
    for entry in drift.keys:
        line = f"  {entry['kind']:<8} {entry['key']}  ({entry['cause']})"
        if "source" in entry:
            line += f"  source={entry['source']!r} redis={entry['redis']!r}"
        yield line
    unnamed = drift.total - len(drift.keys)
    if unnamed > 0:
        yield f"  … and {_number(unnamed)} more (--max-report)"
    if drift.lagging_buckets:
        yield f"  note: {_number(drift.lagging_buckets)} buckets have changed at the source since then (not drift)"


def _position(view: ViewReport) -> str:
    if view.as_of is None:
        return ""
    keys = f"; {_number(view.keys)} keys" if view.keys is not None else ""
    return f"{keys}; as of {view.as_of} ({format_time(view.as_of)})"


def _number(value: int | None) -> str:
    return f"{value or 0:,}"
