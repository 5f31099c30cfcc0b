"""A run's report as Markdown, for job summaries (GitHub, GitLab): verdict, a table of views, the first keys."""

from __future__ import annotations

import re
from collections.abc import Iterator

from reconcile.core.times import format_time, span
from reconcile.report.html import verdict_of
from reconcile.report.run_report import RunReport, ViewReport
from reconcile.report.text import evidence
from reconcile.texts import printable

MAX_KEYS = 20
"""Keys named per view."""
MAX_VIEWS = 200
"""Views listed; a job summary is limited to a megabyte."""
_MARKS = {"good": "✅", "warn": "⚠️", "bad": "❌"}
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|<>~&@:-])")


def render(report: RunReport) -> str:
    """Return several lines, with one line break at the end."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: RunReport) -> Iterator[str]:
    tone, verdict = verdict_of(report.mode, report.status)
    yield f"## {_MARKS[tone]} reconcile {report.mode}: {verdict}"
    yield ""
    if report.started_ms:
        took = span(max(0, report.finished_ms - report.started_ms))
        yield f"{format_time(report.started_ms)}, {took}, exit code {int(report.exit_code)}"
    else:
        yield f"exit code {int(report.exit_code)}"
    yield ""
    if report.error is not None:
        yield f"**{plain(report.error.message)}** {plain(report.error.hint or '')}".rstrip()
        yield ""
    if report.views:
        yield "| view | verdict | as of | keys | put | deleted | missing | stale | extra |"
        yield "|---|---|---|---:|---:|---:|---:|---:|---:|"
        yield from (_row(view, report.mode) for view in report.views[:MAX_VIEWS])
        yield ""
        if len(report.views) > MAX_VIEWS:
            yield f"… and {len(report.views) - MAX_VIEWS:,} more views"
            yield ""
    for view in report.views[:MAX_VIEWS]:
        yield from _details(view)


def _row(view: ViewReport, mode: str) -> str:
    tone, verdict = verdict_of(mode, view.status)
    drift = view.drift
    counts: list[int | None] = [view.keys, view.puts, view.deletes]
    counts += [None] * 3 if drift is None else [drift.missing, drift.stale, drift.extra]
    as_of = "–" if view.as_of is None else format_time(view.as_of)
    numbers = ["–" if count is None else f"{count:,}" for count in counts]
    return f"| {' | '.join([plain(view.view), f'{_MARKS[tone]} {verdict}', as_of, *numbers])} |"


def _details(view: ViewReport) -> Iterator[str]:
    said = [f"* evidence: {plain(line)}" for line in evidence(view)]
    said += [f"* {plain(warning)}" for warning in view.warnings]
    if view.error is not None:
        said.append(f"* **{plain(view.error.message)}** {plain(view.error.hint or '')}".rstrip())
    keys = view.drift.keys if view.drift is not None else []
    if said or keys:
        yield f"### {plain(view.view)}"
        yield ""
        yield from said
        yield from (f"* {entry['kind']}, {entry['cause']}: {plain(str(entry['key']))}" for entry in keys[:MAX_KEYS])
        left = max(view.drift.total, len(keys)) - min(len(keys), MAX_KEYS) if view.drift is not None and keys else 0
        if left:
            yield f"* … and {left:,} more keys"
        yield ""


def plain(text: str) -> str:
    """Return text that renders literally: no markup, no mention, no line break, no end of a cell."""
    return _SPECIAL.sub(r"\\\1", printable(text))
