"""Common parts of the HTML pages: one file, no scripts, nothing loaded from elsewhere, fit to be mailed or printed.

All outside text (names of views and keys, values, messages) passes through `escaped`; the page's own policy also
forbids scripts and requests.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

from reconcile import __version__
from reconcile.core.times import MAX_TIMESTAMP, format_time, span
from reconcile.texts import printable

STYLE = """
:root { color-scheme: light dark; --ink: #1b2130; --soft: #5a6375; --paper: #f5f6f9; --card: #fff; --line: #dfe3ea;
  --good: #13723f; --good-bg: #e4f4ea; --bad: #b3231b; --bad-bg: #fdeae8; --warn: #865400; --warn-bg: #fdf1da;
  --bar: #3b6fb6; --band: #eceff4; --c0: #2f6fb3; --c1: #7fa9d6; --c2: #b9cfe7; --c3: #dbe4ee;
  --d1: #f0906f; --d2: #d6402b; --d3: #84130b }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaf0; --soft: #9ca6b7; --paper: #10141a; --card: #181d25;
  --line: #2d3541; --good: #63d295; --good-bg: #14301f; --bad: #ff8f85; --bad-bg: #3a1917; --warn: #f2bd57;
  --warn-bg: #35290f; --bar: #78a6e6; --band: #252c37; --c0: #6ba3e8; --c1: #44719f; --c2: #2f4a6d; --c3: #222d3b;
  --d1: #e8825f; --d2: #ff5a45; --d3: #ffc2b8 } }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --paper: #fff; --card: #fff; --line: #bbb;
  --good: #13723f; --good-bg: #fff; --bad: #b3231b; --bad-bg: #fff; --warn: #865400; --warn-bg: #fff; --bar: #3b6fb6;
  --band: #eee; --c0: #2f6fb3; --c1: #7fa9d6; --c2: #b9cfe7; --c3: #dbe4ee; --d1: #f0906f;
  --d2: #d6402b; --d3: #84130b }
  details:not(.card)::details-content { content-visibility: visible } tr, h3, svg, .bars, .tiles { break-inside: avoid }
  h2, h3, summary { break-after: avoid } body { font-size: 12px }
  .wide { overflow: visible !important } td.w { white-space: normal !important }
  th, td { padding-right: .45rem !important }
  td code { min-width: 0 !important }
  main { max-width: none } * { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink); background: var(--paper);
  margin: 0; overflow-wrap: break-word }
main { max-width: 66rem; margin: 0 auto; padding: 1.5rem 1rem 2rem }
h1 { font-size: 1.05rem; font-weight: 600; margin: 0; color: var(--soft) } h1 b { color: var(--ink) }
h2 { font-size: 1.2rem; margin: 0; overflow-wrap: anywhere } h3 { font-size: .95rem; margin: 1.4rem 0 .5rem }
p { margin: .35rem 0 } .soft { color: var(--soft) } .small { font-size: .87rem }
.good { color: var(--good) } .bad { color: var(--bad) } .warn { color: var(--warn) }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1.1rem 1.25rem;
  margin: 1rem 0; min-width: 0 }
.banner { border-left: 6px solid currentColor; border-radius: 10px; padding: .9rem 1.25rem; margin: .8rem 0 1rem }
.banner.good { background: var(--good-bg) } .banner.bad { background: var(--bad-bg) }
.banner.warn { background: var(--warn-bg) } .banner strong { font-size: 1.45rem; line-height: 1.25; display: block }
.banner span { color: var(--ink) }
.chip { display: inline-block; border-radius: 99px; padding: .1rem .65rem; font-size: .85rem; font-weight: 600;
  white-space: nowrap }
.chip.good { background: var(--good-bg) } .chip.bad { background: var(--bad-bg) }
.chip.warn { background: var(--warn-bg) }
.top { display: flex; flex-wrap: wrap; gap: .4rem .9rem; align-items: baseline; justify-content: space-between }
dl.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr));
  gap: .9rem 1rem; margin: 1rem 0 .2rem }
.tiles div { min-width: 0 } .tiles dt { color: var(--soft); font-size: .82rem } .tiles dd { margin: 0;
  font-size: 1.2rem;
  font-weight: 600; font-variant-numeric: tabular-nums } .tiles small { display: block; font-size: .8rem;
  font-weight: 400; color: var(--soft) }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 0 2.5rem }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { color: var(--soft); font-weight: 600; font-size: .82rem; white-space: nowrap } tr:last-child td { border: 0 }
td.n, th.n { text-align: right } td.w, td.n { white-space: nowrap } td code { display: block; min-width: 8rem }
td.name { overflow-wrap: anywhere; min-width: 7rem }
code { font: 13px/1.45 ui-monospace, SFMono-Regular, Menlo, monospace; overflow-wrap: anywhere;
  white-space: pre-wrap }
.bars { display: grid; grid-template-columns: fit-content(60%) 1fr max-content; gap: .4rem .8rem;
  align-items: center }
.bars span { overflow-wrap: anywhere; min-width: 0 } .bars i { display: block; height: .8rem; border-radius: 4px;
  background: var(--band); overflow: hidden }
.bars i b { display: block; height: 100%; background: var(--bar); min-width: 3px }
.bars i.none b { display: none } .bars .n { text-align: right; font-variant-numeric: tabular-nums }
svg { display: block; width: 100%; height: auto } svg.heat { max-width: 60rem }
.c0 { fill: var(--c0) } .c1 { fill: var(--c1) } .c2 { fill: var(--c2) } .c3 { fill: var(--c3) }
.cn { fill: none; stroke: var(--soft); stroke-width: .6; stroke-opacity: .7 }
.d1 { fill: var(--d1) } .d2 { fill: var(--d2) } .d3 { fill: var(--d3) } .dx { stroke: var(--ink); stroke-width: 1.4 }
.key { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin: .6rem 0 0; font-size: .84rem; color: var(--soft) }
.key svg { display: inline-block; width: 12px; height: 12px; margin-right: .4rem; vertical-align: -1px }
.past { display: flex; flex-wrap: wrap; gap: 3px; margin: .3rem 0 .6rem } .past i { width: 13px; height: 22px;
  border-radius: 3px; background: var(--good) }
  .past i.bad { background: var(--bad) } .past i.warn { background: var(--warn) } .past i.fast { opacity: .55 }
summary { cursor: pointer; margin: .9rem 0 .4rem; font-weight: 600; font-size: .95rem }
.error { border-left: 4px solid var(--bad); padding: .1rem 0 .1rem .9rem; margin: .8rem 0 }
.note { border-left: 4px solid var(--warn); padding: .1rem 0 .1rem .9rem; margin: .8rem 0 }
a { color: inherit } footer { margin-top: 2rem; color: var(--soft); font-size: .84rem }
main:has(.views) { max-width: 120rem }
.views { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); gap: 1rem }
.views .card { margin: 0 } .views h2 { font-size: 1.05rem } .views dl.tiles { margin: .7rem 0 0;
  grid-template-columns: 1fr 1fr; gap: .6rem 1rem } .views dd { font-size: 1rem }
details.card > summary .top { display: inline-flex; width: calc(100% - 1.5rem); vertical-align: top }
@media (max-width: 34rem) { .card, .banner { padding: .9rem } .banner strong { font-size: 1.25rem }
  th, td { padding-right: .5rem } }
"""
MAX_CHARS = 2000
"""Longer texts are cut."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def document(title: str, body: Iterable[str], *, reload_s: int | None = None) -> str:
    """Return a whole page. `title` is plain text, `body` markup; reload_s: interval at which the browser reloads."""
    again = "" if reload_s is None else f'<meta http-equiv="refresh" content="{reload_s}">'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">{again}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escaped(title)}</title><style>{STYLE}</style></head><body><main>\n{''.join(body)}</main></body></html>\n"
    )


def footer(text: str) -> str:
    """Return the last line of a page; `text` is plain."""
    return f"<footer>reconcile {escaped(__version__)} · {escaped(text)}</footer>"


def escaped(text: str | None, most: int = MAX_CHARS) -> str:
    """Return plain text as markup that renders literally; unprintable characters are escaped, more than `most` cut."""
    text = text or ""
    left = len(text) - most
    return html.escape(printable(text[:most]), quote=True) + (f"… ({number(left)} more characters)" if left > 0 else "")


def number(value: int | None) -> str:
    """Return 1,234, or a dash for None."""
    return "–" if value is None else f"{value:,}"


def moment(at_ms: int | None, part: str = "") -> str:
    """Return a time for people, with the exact millisecond as attribute and tooltip."""
    if at_ms is None:
        return "–"
    if at_ms == MAX_TIMESTAMP:
        return "never changes"
    text = format_time(at_ms)
    shown = {"date": text[:10], "time": f"{text[11:19]} UTC"}.get(part, f"{text[:10]} {text[11:19]} UTC")
    if len(text) != 24:
        shown = text
    return f'<time datetime="{text}" title="{text} ({at_ms})">{shown}</time>'


def clock(at_ms: int | None) -> str:
    """Return the time of day of a moment whose date is shown elsewhere; the tooltip has all of it."""
    return moment(at_ms, "time")


def day(at_ms: int | None) -> str:
    """Return the date of a moment whose time of day is shown elsewhere."""
    return moment(at_ms, "date")


def ago(at_ms: int, now_ms: int) -> str:
    """Return how long before `now_ms` something was."""
    return f"{span(now_ms - at_ms)} ago" if now_ms - at_ms >= 1000 else "just now"


def tiles(facts: Iterable[tuple[str, str, str]]) -> str:
    """Return large numbers side by side: (name as plain text, value as markup, remark as markup or empty)."""
    cells = (
        f"<div><dt>{escaped(name)}</dt><dd>{value}{f'<small>{remark}</small>' if remark else ''}</dd></div>"
        for name, value, remark in facts
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def table(heads: Iterable[str], rows: Iterable[str], numeric: Iterable[str] = ()) -> str:
    """Return a table that scrolls if it is too wide; `rows` are markup."""
    right = set(numeric)
    head = "".join(f"<th{' class=n' if name in right else ''}>{escaped(name)}</th>" for name in heads)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


class Room:
    """The bytes left on a page; once they are used up, names and views are left out, with a note."""

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, text: str) -> bool:
        """Reserve room for `text`. Return False if it does not fit."""
        size = len(text.encode("utf-8", "backslashreplace"))
        if size > self._left:
            return False
        self._left -= size
        return True

    def fitting(self, parts: Iterable[str]) -> list[str]:
        """Return the parts before the first that does not fit."""
        taken = []
        for part in parts:
            if not self.take(part):
                break
            taken.append(part)
        return taken
