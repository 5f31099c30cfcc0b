"""A run's report as one HTML page: verdict, times and lag, heat map, drift by kind and cause, examples, history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from reconcile.core.times import span
from reconcile.report.audit import AuditReport, Coverage, PastAudit
from reconcile.report.heat import Cell, cells_of, picture
from reconcile.report.page import Room, ago, clock, day, document, escaped, footer, moment, number, table, tiles
from reconcile.report.run_report import DriftReport, ErrorReport, RunReport, ViewReport

MAX_PAGE_BYTES = 2 * 1024 * 1024
"""Once a page is this large, further keys and views are left out, with a note."""
MAX_VALUE_CHARS = 500
"""Longer values are cut."""
MAX_NAME_CHARS = 100
"""Longer names of views are cut."""
OPEN_ROWS = 50
"""A longer list of keys is folded."""
TONES = ("bad", "warn", "good")
"""In the order in which views are shown."""

VERDICTS = {
    "done": ("good", "Done"),
    "skipped": ("warn", "Skipped: another run was at work"),
    "drift": ("bad", "Drift found"),
    "changes": ("warn", "Changes are pending"),
    "partial": ("warn", "Incomplete: progress is saved"),
    "stopped": ("bad", "Stopped for safety: a human decides"),
    "failed": ("bad", "Failed"),
}
"""Status → tone and words."""
AUDIT_VERDICTS = {"done": ("good", "In sync"), "partial": ("warn", "Incomplete: not everything was judged")}
"""Where they are others for `verify`."""


def render(report: RunReport) -> str:
    """Return the page."""
    room = Room(MAX_PAGE_BYTES)
    now_ms = report.finished_ms or report.started_ms
    title = f"reconcile {report.mode}: {verdict_of(report.mode, report.status)[1]}"
    parts = [f"<header><h1>reconcile <b>{escaped(report.mode)}</b></h1>{_banner(report)}</header>\n"]
    if report.error is not None:
        parts.append(_error(report.error))
    if len(report.views) > 1:
        parts.append(_overview(report, room))
    sections = [one for n, view in _ordered(report) if (one := _view_section(n, view, report, now_ms, room))]
    if len(sections) < len(report.views):
        sections.append(f'<p class="soft">{number(len(report.views) - len(sections))} views are not shown</p>')
    return document(title, [*parts, *sections, footer(f"run {report.run_id or '–'}")])


def verdict_of(mode: str, status: str) -> tuple[str, str]:
    """Return tone and words for a run's or a view's status."""
    return (AUDIT_VERDICTS if mode == "verify" else {}).get(status) or VERDICTS[status]


def _banner(report: RunReport) -> str:
    tone, verdict = verdict_of(report.mode, report.status)
    facts = [f"exit code {int(report.exit_code)}"]
    if report.started_ms:
        facts = [moment(report.started_ms), span(max(0, report.finished_ms - report.started_ms)), *facts]
    if len(report.views) > 1:
        ended = Counter(verdict_of(report.mode, view.status)[1] for _, view in _ordered(report))
        verdicts = (f"{number(n)} {escaped(verdict[0].lower() + verdict[1:])}" for verdict, n in ended.items())
        facts.append(f"{number(len(report.views))} views: {', '.join(verdicts)}")
    return f'<div class="banner {tone}"><strong>{escaped(verdict)}</strong><span>{" · ".join(facts)}</span></div>'


def _error(error: ErrorReport) -> str:
    hint = f'<p class="soft">{escaped(error.hint)}</p>' if error.hint else ""
    return f'<div class="error"><p class="bad">{escaped(error.message)}</p>{hint}</div>\n'


def _overview(report: RunReport, room: Room) -> str:
    numeric = ["Keys", "Missing", "Stale", "Extra"] if report.mode == "verify" else ["Keys", "Put", "Deleted"]
    rows = room.fitting(_overview_row(n, view, report.mode) for n, view in _ordered(report))
    return f'<section class="card">{table(["View", "Status", *numeric, "As of"], rows, numeric)}</section>\n'


def _ordered(report: RunReport) -> list[tuple[int, ViewReport]]:
    """Return the views with their places, those that need attention first."""
    return sorted(enumerate(report.views), key=lambda one: TONES.index(verdict_of(report.mode, one[1].status)[0]))


def _overview_row(n: int, view: ViewReport, mode: str) -> str:
    tone, verdict = verdict_of(mode, view.status)
    drift = view.drift
    counts: list[int | None] = [view.keys, view.puts, view.deletes]
    if mode == "verify":
        counts = [view.keys, *([None] * 3 if drift is None else [drift.missing, drift.stale, drift.extra])]
    dry = " (dry run)" if view.dry_run else ""
    chip = f'<span class="chip {tone}">{escaped(verdict)}</span>{dry}'
    cells = f'<td class=name><a href="#v{n}">{escaped(view.view, MAX_NAME_CHARS)}</a></td><td class=w>{chip}</td>'
    cells += "".join(f"<td class=n>{number(count)}</td>" for count in counts)
    return f"<tr>{cells}<td class=w>{moment(view.as_of)}</td></tr>"


def _view_section(n: int, view: ViewReport, report: RunReport, now_ms: int, room: Room) -> str:
    """Return one view's card, folded if it is well among several; empty if the page has no room for it."""
    tone, verdict = verdict_of(report.mode, view.status)
    before, after = "".join(_above_keys(view, now_ms)), "".join(_below_keys(view, now_ms))
    name = f'<h2>{escaped(view.view, MAX_NAME_CHARS)}</h2><span class="chip {tone}">{escaped(verdict)}</span>'
    if not room.take(name + before + after):
        return ""
    drift = view.drift
    keys = "" if drift is None or not drift.keys else _named_keys(drift.keys, drift.total, room)
    if len(report.views) > 1 and tone == "good":
        folded = f'<summary><div class="top">{name}</div></summary>{before}{after}'
        return f'<details class="card" id="v{n}">{folded}</details>\n'
    return f'<section class="card" id="v{n}"><div class="top">{name}</div>{before}{keys}{after}</section>\n'


def _above_keys(view: ViewReport, now_ms: int) -> Iterator[str]:
    if view.reason:
        yield f'<p class="soft">{escaped(view.action)}: {escaped(view.reason)}</p>'
    if view.error is not None:
        yield _error(view.error)
    if view.as_of is not None or view.error is None:
        yield tiles(_tiles(view))
    for warning in view.warnings:
        yield f'<div class="note"><p>{escaped(warning)}</p></div>'
    if view.drift is not None:
        yield from _drift(view, view.drift, now_ms)


def _below_keys(view: ViewReport, now_ms: int) -> Iterator[str]:
    if view.audit is not None:
        yield from _evidence(view.audit, now_ms)
        yield _history(view.audit.history, now_ms)
    yield _facts(view)


def _tiles(view: ViewReport) -> Iterator[tuple[str, str, str]]:
    lag = "" if view.lag_ms is None else f", {span(view.lag_ms)} behind"
    yield "As of", clock(view.as_of), "" if view.as_of is None else f"{day(view.as_of)}{lag}"
    audit = view.audit
    if view.action == "verify" and audit is None:
        yield "Keys compared", number(view.keys), ""
    elif audit is not None:
        part = "the whole view" if audit.subset == "0/1" else f"slice {escaped(audit.subset)}"
        yield "Keys compared", number(view.keys), "fingerprints only" if audit.fast else part
    else:
        yield "Keys", number(view.keys), ""
        yield ("Would put" if view.dry_run else "Put"), number(view.puts), ""
        withheld = f"{number(view.deletes_withheld)} withheld" if view.deletes_withheld else ""
        yield ("Would delete" if view.dry_run else "Deleted"), number(view.deletes), withheld
    if view.drift is not None:
        buckets = f"in {number(view.drift.buckets)} of {number(view.buckets)} buckets" if view.drift.buckets else ""
        yield "Keys that differ", number(view.drift.total), buckets
    if view.duration_ms:
        yield "Took", span(view.duration_ms), f"{number(view.rows_read)} rows read"


# -- drift -----------------------------------------------------------------------------------------------------------


def _drift(view: ViewReport, drift: DriftReport, now_ms: int) -> Iterator[str]:
    cells = cells_of(view, now_ms)
    if len(cells) > 1:
        yield f"<h3>Drift by slice, and when each was last compared</h3>{picture(cells, now_ms)}"
        yield _coverage(cells, view.audit.coverage if view.audit else None, now_ms)
    if drift.total or drift.buckets:
        kinds = {"missing": drift.missing, "stale": drift.stale, "extra": drift.extra}
        yield '<div class="pair">'
        yield f"<div><h3>Drift by kind, keys</h3>{_bars(kinds)}</div>"
        yield f"<div><h3>Drift by cause, buckets</h3>{_bars(drift.causes)}</div></div>"
    if drift.lagging_buckets:
        yield (
            f'<p class="soft">{number(drift.lagging_buckets)} buckets have changed at the source since the checkpoint: '
            "not drift</p>"
        )


def _coverage(cells: list[Cell], coverage: Coverage | None, now_ms: int) -> str:
    times = [cell.compared_ms for cell in cells if cell.compared_ms is not None]
    never, n = len(cells) - len(times), number(len(cells))
    if never:
        texts = [f"{number(never)} of {n} slices were never compared"]
    elif min(times) == now_ms:
        texts = [f"All {n} slices were compared by this audit"]
    else:
        texts = [f"All {n} slices were compared at some time, the oldest {ago(min(times), now_ms)}"]
    if coverage is not None and coverage.all_by_ms is not None:
        texts.append(f"runs will have compared all of them again by {moment(coverage.all_by_ms)}")
    return f'<p class="soft small">{"; ".join(texts)}.</p>'


def _bars(counts: Mapping[str, int]) -> str:
    """Draw horizontal bars, each with its number beside it, so that no fact is in the picture only."""
    largest = max([*counts.values(), 1])
    rows = (
        f'<span>{escaped(name)}</span><i class="{"some" if count else "none"}">'
        f'<b style="width:{100 * count / largest:.1f}%"></b></i><span class="n">{number(count)}</span>'
        for name, count in counts.items()
    )
    return f'<div class="bars">{"".join(rows)}</div>'


def _named_keys(keys: list[dict[str, object]], total: int, room: Room) -> str:
    with_values = any("source" in entry for entry in keys)
    names = ["key", "kind", "cause", *(["source", "redis"] if with_values else [])]
    rows = room.fitting(_key_row(entry, names) for entry in keys)
    left = max(total, len(keys)) - len(rows)
    note = f'<p class="soft">… and {number(left)} more</p>' if left else ""
    opened = " open" if len(rows) <= OPEN_ROWS else ""
    return f"<details{opened}><summary>{number(len(rows))} keys by name</summary>{table(names, rows)}{note}</details>"


def _key_row(entry: Mapping[str, object], names: Iterable[str]) -> str:
    cells = []
    for name in names:
        value = entry.get(name)
        shown = escaped("–" if value is None else str(value), MAX_VALUE_CHARS)
        cells.append(f"<td>{shown}</td>" if name in ("kind", "cause") else f"<td><code>{shown}</code></td>")
    return f"<tr>{''.join(cells)}</tr>"


# -- beside the drift ------------------------------------------------------------------------------------------------


def _evidence(audit: AuditReport, now_ms: int) -> Iterator[str]:
    texts = []
    counters = audit.counters
    if counters is not None:
        counts = {"evicted": counters.evicted, "expired": counters.expired}
        done = " and ".join(f"{what} {number(count)}" for what, count in counts.items() if count is not None)
        policy = "" if counters.policy is None else f", maxmemory-policy {escaped(counters.policy)}"
        if done:
            since = "" if counters.since_ms is None else f"Since {moment(counters.since_ms)} "
            texts.append(f"<li>{since}Redis {done} keys (of the whole server{policy})</li>")
        if counters.restarted_ms is not None:
            texts.append(
                f"<li>Redis restarted {ago(counters.restarted_ms, now_ms)}, {moment(counters.restarted_ms)}</li>"
            )
    for one in audit.surplus:
        texts.append(
            f"<li>{number(one.keys)} keys that neither the source nor the manifest knows of; {escaped(one.whose)}: "
            f"{_names(one.names, one.keys)}</li>"
        )
    if audit.duplicates is not None and audit.duplicates.keys:
        found = audit.duplicates
        texts.append(
            f"<li>{number(found.keys)} keys have several rows in the source: {_names(found.names, found.keys)}</li>"
        )
    if texts:
        yield f"<h3>Evidence</h3><ul>{''.join(texts)}</ul>"


def _names(names: list[str], total: int) -> str:
    more = f" and {number(total - len(names))} more" if total > len(names) else ""
    return ", ".join(f"<code>{escaped(name, MAX_NAME_CHARS)}</code>" for name in names) + more


def _history(history: list[PastAudit], now_ms: int) -> str:
    if not history:
        return ""
    blocks = "".join(
        f'<i class="{"good" if one.verdict == "in sync" else "warn" if one.incomplete else "bad"}'
        f'{" fast" if one.fast else ""}" '
        f'title="{escaped(f"{ago(one.at_ms, now_ms)}: {one.verdict}")}"></i>'
        for one in reversed(history)
    )
    drifting = sum(1 for one in history if one.verdict == "drift")
    found = f"{number(drifting)} of {number(len(history))} found drift" if drifting else "none found drift"
    heads = ["when", "verdict", "what", "as of", "keys that differed"]
    rows = (
        f"<tr><td class=w>{moment(one.at_ms)}</td><td class=w>{escaped(one.verdict)}</td>"
        f"<td class=w>{_extent(one)}</td><td class=w>{moment(one.as_of)}</td><td class=n>{number(one.drift)}</td></tr>"
        for one in history
    )
    return (
        f"<h3>Past audits: {found}</h3>"
        f'<div class="past" role="img" aria-label="{found}, the newest last">{blocks}</div>'
        f"<details><summary>{number(len(history))} past audits</summary>{table(heads, rows, heads[-1:])}</details>"
    )


def _extent(audit: PastAudit) -> str:
    part = "all" if audit.subset == "0/1" else f"slice {escaped(audit.subset)}"
    return f"{part}, fingerprints only" if audit.fast else part


def _facts(view: ViewReport) -> str:
    facts: dict[str, int | None] = {
        "rows read": view.rows_read,
        "updates received": view.updates,
        "commits": view.commits,
        "buckets": view.buckets,
        "buckets read": view.buckets_read,
        "statements to Materialize": view.source_statements,
        "commands to Redis": view.redis_commands,
        "round trips to Redis": view.redis_round_trips,
    }
    rows = (f"<tr><td>{escaped(name)}</td><td class=n>{number(value)}</td></tr>" for name, value in facts.items())
    phases = (_phase_row(name, ms, view.phases_rows.get(name)) for name, ms in view.phases_ms.items())
    shown = table(["phase", "time", "rows", "rows/s"], phases, ["time", "rows", "rows/s"]) if view.phases_ms else ""
    counts = table(["what", "count"], rows, ["count"])
    both = f'<div class="pair"><div>{counts}</div><div>{shown}</div></div>'
    return f"<details><summary>What the run did</summary>{both}</details>"


def _phase_row(name: str, ms: int, rows: int | None) -> str:
    rate = round(rows * 1000 / ms) if rows and ms else None
    cells = "".join(f"<td class=n>{text}</td>" for text in (span(ms), number(rows), number(rate)))
    return f"<tr><td>{escaped(name)}</td>{cells}</tr>"
