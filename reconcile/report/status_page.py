"""All views side by side on one page, to be written after each run.

The page is made from the objects of `status --json` (docs/report.md), reloads every minute, and shows views that need
attention first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reconcile.core.times import format_time, span
from reconcile.report.page import Room, ago, clock, document, escaped, footer, moment, number, tiles

RELOAD_S = 60
MAX_PAGE_BYTES = 4 * 1024 * 1024
"""Once a page is this large, further views are left out, with a note."""
MAX_NAME_CHARS = 100
"""Longer names are cut."""
_ORDER = {"bad": 0, "warn": 1, "good": 2}


def render(statuses: Sequence[Mapping[str, Any]], at_ms: int) -> str:
    """Return the page for the views' statuses as of at_ms."""
    room = Room(MAX_PAGE_BYTES)
    judged = sorted(((*_judge(status), status) for status in statuses), key=lambda one: _ORDER[one[0]])
    cards = room.fitting(_card(tone, word, status, at_ms) for tone, word, status in judged)
    left = len(judged) - len(cards)
    note = f'<p class="soft">{number(left)} views are not shown</p>' if left else ""
    body = [
        f"<header><h1>reconcile <b>status</b></h1>{_banner([tone for tone, _, _ in judged], at_ms)}</header>\n",
        f'<div class="views">{"".join(cards)}</div>{note}',
        footer(f"as of {format_time(at_ms)}; this page reloads every minute"),
    ]
    return document("reconcile status", body, reload_s=RELOAD_S)


def _judge(status: Mapping[str, Any]) -> tuple[str, str]:
    """Return tone and word for one view."""
    audit, claim = status.get("audit") or {}, status.get("claim") or {}
    if status.get("error"):
        return "bad", "not readable"
    if status.get("problem"):
        return "bad", "too old"
    if audit.get("verdict") == "drift":
        return "bad", "drift at the last verify"
    if status.get("as_of") is None:
        return "warn", "never synchronised"
    if status.get("pending") == "withheld":
        return "bad", "deletes withheld"
    if status.get("surplus"):
        return "bad", "keys wait for consent"
    if claim.get("problem") and claim.get("claimed"):  # one that is missing the next run restores
        return "bad", "claims disagree"
    if status.get("pending"):
        return "warn", "unfinished"
    if (status.get("compare") or {}).get("overdue"):
        return "warn", "compare overdue"
    return "good", "being written" if status.get("lease") else "synchronised"


def _banner(tones: Sequence[str], at_ms: int) -> str:
    bad, warn = tones.count("bad"), tones.count("warn")
    tone = "bad" if bad else "warn" if warn or not tones else "good"
    said = [f"{number(bad)} {'needs' if bad == 1 else 'need'} attention"] if bad else []
    said += [f"{number(warn)} {'is' if warn == 1 else 'are'} incomplete"] if warn else []
    words = ", ".join(said) or ("All is well" if tones else "No views")
    return (
        f'<div class="banner {tone}"><strong>{words}</strong>'
        f"<span>{number(len(tones))} views · {moment(at_ms)}</span></div>"
    )


def _card(tone: str, word: str, status: Mapping[str, Any], at_ms: int) -> str:
    parts = [
        f'<section class="card"><div class="top"><h2>{escaped(str(status["view"]), MAX_NAME_CHARS)}</h2>'
        f'<span class="chip {tone}">{escaped(word)}</span></div>'
    ]
    for trouble in _troubles(status):
        parts.append(f'<p class="bad">{escaped(trouble)}</p>')
    parts.append(tiles(_facts(status, at_ms)))
    lease = status.get("lease")
    if lease:
        owner, left = escaped(str(lease["owner"]), MAX_NAME_CHARS), span(lease["left_ms"])
        parts.append(f'<p class="soft small">being written by {owner}, {left} of its lease left</p>')
    if status.get("pending"):
        parts.append(f'<p class="warn small">pending: {escaped(str(status["pending"]))}</p>')
    return "".join(parts) + "</section>\n"


def _troubles(status: Mapping[str, Any]) -> Iterator[str]:
    """Yield what needs attention, one line each."""
    if error := status.get("error"):
        yield str(error["message"])
    elif problem := status.get("problem"):
        yield str(problem)
    if claim := (status.get("claim") or {}).get("problem"):
        yield str(claim)
    if status.get("surplus"):
        yield f"{number(status['surplus'])} keys that the source lacks wait for consent"
    if (status.get("compare") or {}).get("overdue"):
        yield "the rolling compare is overdue"


def _facts(status: Mapping[str, Any], at_ms: int) -> Iterator[tuple[str, str, str]]:
    lag_ms, as_of, updated_ms = status.get("lag_ms"), status.get("as_of"), status.get("updated_at_ms")
    yield "Lag", "–" if lag_ms is None else span(lag_ms), "" if as_of is None else f"as of {clock(as_of)}"
    yield "Keys", number(status.get("keys")), ""
    yield "Last written", "–" if updated_ms is None else ago(updated_ms, at_ms), clock(updated_ms) if updated_ms else ""
    audit = status.get("audit")
    if audit:
        yield "Last verify", escaped(str(audit["verdict"]), MAX_NAME_CHARS), ago(audit["at_ms"], at_ms)
    else:
        yield "Last verify", "–", "never"
