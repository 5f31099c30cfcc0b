"""The pages in a real browser: laid out at three widths, light and dark, and harmless whatever keys and values say."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconcile.errors import ExitCode, Unavailable
from reconcile.report import html, status_page
from reconcile.report.audit import (
    AuditReport,
    Coverage,
    Duplicates,
    PastAudit,
    RedisCounters,
    SliceCompared,
    SurplusReport,
)
from reconcile.report.run_report import DriftReport, RunReport, ViewReport
from tests.support import browser

NOW_MS = 1_795_458_494_613
HOUR_MS = 3_600_000
NASTY = (
    "</title></style></td>\"'><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
    "<a href=javascript:alert(1)>x</a> \x1b[31m\x00\u202e"
)
LONG = "k" * 300


def audited(text: str = "price:7") -> ViewReport:
    """A view about which everything is known, with `text` wherever something comes from outside."""
    drift = DriftReport(missing=31, stale=12, extra=3, buckets=3, lagging_buckets=4, causes={"changed outside": 3})
    for bucket in (5, 700, 9000):
        drift.heat.note(bucket, 16_384, bucket)
    drift.causes[text] = 1
    kinds = ("missing", "stale", "extra", "stale")
    drift.keys = [
        {"key": key, "kind": kind, "cause": "changed outside", "source": key, "redis": None}
        for kind, key in zip(kinds, (text, LONG, "ключ 🔑", text), strict=True)
    ]
    audit = AuditReport(
        counters=RedisCounters(NOW_MS - HOUR_MS, NOW_MS - HOUR_MS, 1204, 0, text),
        surplus=[SurplusReport(text, text, 17, [text, LONG])],
        duplicates=Duplicates(2, [text]),
        coverage=Coverage(64, [SliceCompared(i, NOW_MS - i * 9 * HOUR_MS, text) for i in range(50)], NOW_MS + HOUR_MS),
        history=[
            PastAudit(NOW_MS - n * HOUR_MS, "drift" if n % 4 else "in sync", NOW_MS, n % 3 == 0, "0/1", n)
            for n in range(1, 50)
        ],
        subset="5/8",
    )
    view = ViewReport(text, action="verify", as_of=NOW_MS, lag_ms=1432, keys=998_231, buckets=16_384, drift=drift)
    view.audit, view.exit_code, view.duration_ms = audit, ExitCode.DRIFT, 9312
    view.phases_ms, view.phases_rows = {"read": 8120, text: 1}, {"read": 1_000_000}
    view.warnings, view.reason = [text, LONG], text
    return view


def failed(text: str) -> ViewReport:
    view = ViewReport("stock", action="verify")
    view.fail(Unavailable(text, hint=LONG))
    return view


def status(text: str = "prices", **fields: object) -> dict[str, object]:
    """One view as `status --json` prints it."""
    return {
        "view": text,
        "as_of": NOW_MS,
        "lag_ms": 1432,
        "updated_at_ms": NOW_MS,
        "keys": 998_231,
        "buckets": 16_384,
        "pending": None,
        "lease": {"owner": text, "left_ms": 12_000},
        "audit": {"at_ms": NOW_MS - HOUR_MS, "verdict": "in sync"},
        **fields,
    }


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_of_an_audit(tmp_path: Path, dark: bool) -> None:
    """Nothing sticks out at any width, everything can be read, and the heat map has its place and its cells."""
    page = html.render(RunReport("run-1", "verify", NOW_MS, [audited(), failed("it is away")], NOW_MS))
    found = browser.laid_out(page, tmp_path, dark=dark)
    assert [one["width"] for one in found] == list(browser.WIDTHS)
    for one in found:
        assert (one["overflow"], one["outside"], one["faint"]) == (0, 0, [])
        assert one["cards"] == 3
        assert one["cells"] == 3
        assert 250 < one["heat"][0] <= 960
        for text in ("Failed", "price:7", "998,231", "missing", "changed outside", "it is away", "ключ 🔑"):
            assert any(text in shown for shown in one["shown"]), text
        assert (sum(one["backdrop"][:3]) < 200) is dark


def test_the_page_of_many_views(tmp_path: Path) -> None:
    """What needs attention comes first, the rest is folded; a name of 10 kB costs a few lines."""
    well = [ViewReport(f"view-{n}", action="verify", as_of=NOW_MS, drift=DriftReport()) for n in range(18)]
    views = [*well, audited("k" * 10_000), failed("it is away")]
    page = html.render(RunReport("run-1", "verify", NOW_MS, views, NOW_MS))
    assert "20 views: 1 drift found, 1 failed, 18 in sync" in page
    for one in browser.laid_out(page, tmp_path):
        assert (one["overflow"], one["outside"], one["faint"], one["cards"]) == (0, 0, [], 21)
        assert one["height"] < 20_000


def test_nothing_is_cut_off_in_print(tmp_path: Path) -> None:
    """Paper does not scroll: with the rules for print no table is wider than its place, and what is folded is open."""
    page = html.render(RunReport("run-1", "verify", NOW_MS, [audited(), failed("it is away")], NOW_MS))
    for one in browser.laid_out(page.replace("@media print", "@media all"), tmp_path, dark=True)[1:]:
        assert (one["overflow"], one["outside"], one["scrolling"], one["faint"]) == (0, 0, 0, [])
        assert "commands to Redis" in one["shown"]
        assert sum(one["backdrop"][:3]) == 3 * 255


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_of_all_views(tmp_path: Path, dark: bool) -> None:
    """Cards fill the width, what needs attention comes first."""
    views = [status(f"v{n}") for n in range(9)] + [status("late", problem="written 17 min ago")]
    views += [status("new", as_of=None, lag_ms=None, updated_at_ms=None, keys=None, lease=None, audit=None)]
    found = browser.laid_out(status_page.render(views, NOW_MS), tmp_path, dark=dark)
    for one in found:
        assert (one["overflow"], one["outside"], one["faint"], one["cards"]) == (0, 0, [], 11)
        assert one["verdict"] == "1 needs attention, 1 is incomplete"
        assert one["shown"].index("late") < one["shown"].index("new") < one["shown"].index("v0")


def test_nothing_from_outside_becomes_markup(tmp_path: Path) -> None:
    """Tags, quotes, handlers and control characters in every name and value: text, even without the policy."""
    report = RunReport(NASTY, "verify", NOW_MS, [audited(NASTY), failed(NASTY)], NOW_MS)
    report.fail(Unavailable(NASTY, hint=NASTY))
    cards = [status(NASTY, problem=NASTY, pending=NASTY, audit={"at_ms": NOW_MS, "verdict": NASTY})]
    for n, page in enumerate((html.render(report), status_page.render(cards, NOW_MS))):
        assert "Content-Security-Policy" in page
        directory = tmp_path / str(n)
        directory.mkdir()
        for one in browser.laid_out(page.replace("Content-Security-Policy", "x"), directory):
            assert (one["scripts"], one["images"], one["handlers"], one["overflow"]) == (0, 0, 0, 0)
            assert one["title"].startswith("reconcile ")
            assert any("document.title='pwned'</script>" in shown for shown in one["shown"])
            assert not any(c in shown for shown in one["shown"] for c in "\x1b\x00\u202e")
