"""A report as one HTML file: no scripts, nothing loaded from elsewhere, fit to be mailed or printed.

Everything that comes from outside (names of views and keys, values, messages) passes through `_escaped`; the page's
own policy forbids scripts and requests besides.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping

from reconcile import __version__
from reconcile.core.times import format_time
from reconcile.report.files import write_file
from reconcile.report.run_report import ErrorReport, RunReport, ViewReport

MAX_PAGE_BYTES = 2 * 1024 * 1024
"""Named keys are left out, with a note, once the page is this large."""
MAX_VALUE_CHARS = 500
"""Longer values are cut."""

OPEN_ROWS = 50
"""So many named keys are shown at once; more are folded away."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6474; --paper: #fff; --line: #d9dee7; --good: #1a7f4b;
  --bad: #b3261e; --warn: #8a5a00; --bar: #3b6fb6; --band: #eef1f6 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa4b5; --paper: #14181f; --line: #323947;
  --good: #5ccf8f; --bad: #ff8a80; --warn: #f0b84a; --bar: #7aa7e6; --band: #222935 } }
@media print { :root { --ink: #000; --soft: #444; --paper: #fff; --line: #aaa; --good: #1a7f4b; --bad: #b3261e;
  --warn: #8a5a00; --bar: #3b6fb6; --band: #eee } details::details-content { content-visibility: visible }
  svg rect { print-color-adjust: exact } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
h3 { font-size: .95rem; margin: 1rem 0 .25rem } p { margin: .3rem 0 } .soft { color: var(--soft) }
.verdict { font-size: 1.1rem; font-weight: 600; margin: .5rem 0 }
.good { color: var(--good) } .bad { color: var(--bad) } .warn { color: var(--warn) }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top }
th { color: var(--soft); font-weight: 600; font-size: .85rem }
td.n, th.n { text-align: right } td.w { white-space: nowrap } td code { display: block; min-width: 8rem }
code { font: 13px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; white-space: pre-wrap }
summary { cursor: pointer; margin: .5rem 0 } svg { display: block; max-width: 100% }
svg text { font: 13px system-ui, sans-serif; fill: var(--ink) } svg .track { fill: var(--band) }
svg .bar { fill: var(--bar) } footer { margin-top: 3rem; color: var(--soft); font-size: .85rem }
"""
_HEAD = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
    '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">\n'
)
_VERDICTS = {
    "done": ("good", "Done"),
    "skipped": ("warn", "Skipped: another run was at work"),
    "drift": ("bad", "Drift found"),
    "changes": ("warn", "Changes are pending"),
    "partial": ("warn", "Incomplete: progress is saved"),
    "stopped": ("bad", "Stopped for safety: a human decides"),
    "failed": ("bad", "Failed"),
}
_BAR_WIDTH, _BAR_STEP, _LABEL_WIDTH, _COUNT_WIDTH = 360, 26, 150, 110


def write_page(report: RunReport, path: str, *, private: bool) -> None:
    """Write the page for one run; private: for its owner only. Raises OSError; the file is complete or as before."""
    write_file(path, render(report), private=private)


def render(report: RunReport) -> str:
    """The page as text."""
    room = _Room(MAX_PAGE_BYTES)
    title = f"reconcile {report.mode}"
    parts = [
        f"{_HEAD}<title>{_escaped(title)}: {_escaped(report.status)}</title><style>{_STYLE}</style></head><body>\n",
        f"<header><h1>{_escaped(title)}</h1>{_headline(report)}</header>\n",
    ]
    if report.error is not None:
        parts.append(_error(report.error))
    if report.views:
        parts.append(_overview(report))
    for text in parts:
        room.take(text)
    parts += [_view_section(view, room) for view in report.views]
    parts.append(
        f"<footer>reconcile {_escaped(__version__)} · run {_escaped(report.run_id or '–')}</footer></body></html>\n"
    )
    return "".join(parts)


class _Room:
    """What is left of the page's size."""

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, text: str) -> bool:
        """Whether `text` still fits; if so, its size is gone."""
        size = len(text.encode("utf-8", "backslashreplace"))
        if size > self._left:
            return False
        self._left -= size
        return True


def _headline(report: RunReport) -> str:
    tone, verdict = _VERDICTS[report.status]
    if report.mode == "verify" and report.status == "done":
        verdict = "In sync"
    seconds = max(0, report.finished_ms - report.started_ms) / 1000
    when = f"{format_time(report.started_ms)}, {seconds:.1f} s · " if report.started_ms else ""
    return (
        f'<p class="verdict {tone}">{_escaped(verdict)}</p>'
        f'<p class="soft">{_escaped(when)}exit code {int(report.exit_code)}</p>'
    )


def _error(error: ErrorReport) -> str:
    hint = f'<p class="soft">{_escaped(error.hint)}</p>' if error.hint else ""
    return f'<p class="bad">{_escaped(error.message)}</p>{hint}\n'


def _overview(report: RunReport) -> str:
    heads = ["View", "Status", "Action", "As of", "Keys", "Put", "Deleted", "Missing", "Stale", "Extra"]
    numeric = heads.index("Keys")
    head = "".join(f"<th{' class=n' if i >= numeric else ''}>{name}</th>" for i, name in enumerate(heads))
    rows = "".join(_overview_row(view) for view in report.views)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>\n'


def _overview_row(view: ViewReport) -> str:
    tone, _ = _VERDICTS[view.status]
    as_of = "–" if view.as_of is None else format_time(view.as_of)
    drift = view.drift
    counts: list[int | None] = [view.keys, view.puts, view.deletes]
    counts += [None] * 3 if drift is None else [drift.missing, drift.stale, drift.extra]
    action = f"{view.action} (dry run)" if view.dry_run else view.action
    cells = f'<td>{_escaped(view.view)}</td><td class="{tone}">{_escaped(view.status)}</td>'
    cells += f"<td>{_escaped(action)}</td><td>{_escaped(as_of)}</td>"
    cells += "".join(f"<td class=n>{_number(count)}</td>" for count in counts)
    return f"<tr>{cells}</tr>"


def _view_section(view: ViewReport, room: _Room) -> str:
    parts = [f"<section><h2>{_escaped(view.view)}</h2>"]
    if view.reason:
        parts.append(f'<p class="soft">{_escaped(view.reason)}</p>')
    if view.error is not None:
        parts.append(_error(view.error))
    parts += [f'<p class="warn">{_escaped(warning)}</p>' for warning in view.warnings]
    drift = view.drift
    if drift is not None:
        if drift.total or drift.buckets:
            kinds = {"missing": drift.missing, "stale": drift.stale, "extra": drift.extra}
            parts += [_bars("Drift by kind (keys)", kinds), _bars("Drift by cause (buckets)", drift.causes)]
        if drift.lagging_buckets:
            parts.append(
                f'<p class="soft">{_number(drift.lagging_buckets)} buckets have changed at the source '
                "since the checkpoint (not drift)</p>"
            )
    for text in parts:
        room.take(text)
    if drift is not None and drift.keys:
        parts.append(_named_keys(drift.keys, drift.total, room))
    parts.append(_facts(view))
    return "".join(parts) + "</section>\n"


def _bars(title: str, counts: Mapping[str, int]) -> str:
    """Horizontal bars; numbers stand beside them, so the picture is never the only place of a fact."""
    if not any(counts.values()):
        return ""
    largest = max(counts.values())
    width = _LABEL_WIDTH + _BAR_WIDTH + _COUNT_WIDTH
    rows = []
    for n, (name, count) in enumerate(counts.items()):
        y = n * _BAR_STEP
        length = max(2.0, _BAR_WIDTH * count / largest) if count else 0.0
        rows.append(
            f'<text x="0" y="{y + 17}">{_escaped(name)}</text>'
            f'<rect class="track" x="{_LABEL_WIDTH}" y="{y + 4}" width="{_BAR_WIDTH}" height="18" rx="3"/>'
            f'<rect class="bar" x="{_LABEL_WIDTH}" y="{y + 4}" width="{length:.1f}" height="18" rx="3"/>'
            f'<text x="{_LABEL_WIDTH + _BAR_WIDTH + 10}" y="{y + 17}">{_number(count)}</text>'
        )
    label = "; ".join(f"{name}: {count}" for name, count in counts.items())
    height = len(counts) * _BAR_STEP
    return (
        f'<h3>{_escaped(title)}</h3><svg role="img" aria-label="{_escaped(label)}" width="{width}" '
        f'viewBox="0 0 {width} {height}">{"".join(rows)}</svg>'
    )


def _named_keys(keys: list[dict[str, object]], total: int, room: _Room) -> str:
    with_values = any("source" in entry for entry in keys)
    names = ["key", "kind", "cause", *(["source", "redis"] if with_values else [])]
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = list(_fitting((_key_row(entry, names) for entry in keys), room))
    left = max(total, len(keys)) - len(rows)
    note = f'<p class="soft">… and {_number(left)} more</p>' if left else ""
    opened = " open" if len(rows) <= OPEN_ROWS else ""
    return (
        f'<details{opened}><summary>{_number(len(rows))} keys by name</summary><div class="wide"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{note}</details>"
    )


def _key_row(entry: Mapping[str, object], names: Iterable[str]) -> str:
    cells = []
    for name in names:
        value = entry.get(name)
        shown = "–" if value is None else str(value)
        shown = shown if len(shown) <= MAX_VALUE_CHARS else shown[:MAX_VALUE_CHARS] + "…"
        plain = name in ("kind", "cause")
        cells.append(f"<td class=w>{_escaped(shown)}</td>" if plain else f"<td><code>{_escaped(shown)}</code></td>")
    return f"<tr>{''.join(cells)}</tr>"


def _fitting(rows: Iterable[str], room: _Room) -> Iterator[str]:
    for row in rows:
        if not room.take(row):
            return
        yield row


def _facts(view: ViewReport) -> str:
    facts: dict[str, int | None] = {
        "rows read": view.rows_read,
        "updates received": view.updates,
        "commits": view.commits,
        "deletes withheld": view.deletes_withheld,
        "buckets": view.buckets,
        "buckets read": view.buckets_read,
        "lag, ms": view.lag_ms,
        "statements to Materialize": view.source_statements,
        "commands to Redis": view.redis_commands,
        "round trips to Redis": view.redis_round_trips,
    }
    facts |= {f"phase {name}, ms": ms for name, ms in view.phases_ms.items()}
    rows = "".join(
        f"<tr><td>{_escaped(name)}</td><td class=n>{_number(value)}</td></tr>" for name, value in facts.items()
    )
    return f"<details><summary>What the run did</summary><table><tbody>{rows}</tbody></table></details>"


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _escaped(text: str | None) -> str:
    return html.escape(text or "", quote=True)
