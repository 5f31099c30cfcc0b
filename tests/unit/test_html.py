"""The report page: complete in itself, harmless whatever keys and values say, bounded, replaced as a whole."""

from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path

import pytest

from reconcile.errors import ExitCode, Unavailable
from reconcile.report import heat, html
from reconcile.report.audit import (
    AuditReport,
    Coverage,
    Duplicates,
    PastAudit,
    RedisCounters,
    SliceCompared,
    SurplusReport,
)
from reconcile.report.files import write_file
from reconcile.report.run_report import DriftReport, RunReport, ViewReport

NASTY = "<script>alert(1)</script>\" onload='x' & \ud800"


def drifted(**fields: object) -> ViewReport:
    drift = DriftReport(missing=3, stale=1, buckets=2, causes={"changed outside": 2})
    drift.keys = [{"key": "p:a", "kind": "missing", "cause": "changed outside"}]
    view = ViewReport("prices", action="verify", as_of=1_763_920_000_123, keys=5, drift=drift, exit_code=ExitCode.DRIFT)
    for name, value in fields.items():
        setattr(view, name, value)
    return view


def page(*views: ViewReport, mode: str = "verify") -> str:
    return html.render(RunReport("run-1", mode, 1_763_920_000_000, list(views), 1_763_920_001_000))


class Tags(HTMLParser):
    """Every tag, and whether they are balanced."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == []
    return tags


def test_shows_verdict_counts_bars_and_keys() -> None:
    """A page with drift names the verdict, pictures it and lists the keys."""
    text = page(drifted())
    assert "Drift found" in text
    assert {"i", "details", "table"} <= parsed(text).seen
    for shown in ("prices", "p:a", "changed outside", "2025-11-23T17:46:40.123Z"):
        assert shown in text


def test_in_sync_has_no_bars() -> None:
    """Where nothing differs there is nothing to picture."""
    text = page(ViewReport("prices", action="verify", drift=DriftReport(), keys=5))
    assert "In sync" in text
    assert "Drift by" not in text
    assert "<svg" not in text


def test_views_beyond_the_pages_size_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many views those that fit are shown, and it says how many are not."""
    monkeypatch.setattr(html, "MAX_PAGE_BYTES", 50_000)
    text = page(*(drifted() for _ in range(100)))
    assert len(text) < 70_000
    assert "views are not shown" in text
    parsed(text)


def test_history_evidence_and_coverage() -> None:
    """What an audit knows beside the drift is on its page."""
    audit = AuditReport(
        counters=RedisCounters(1, 2, 1204, 0, "allkeys-lru"),
        surplus=[SurplusReport("prices", "the prefix 'price:'", 17, ["price:x"])],
        duplicates=Duplicates(2, ["price:7"]),
        coverage=Coverage(4, [SliceCompared(0, 1, "compare")], 1_763_920_000_000),
        history=[PastAudit(5, "drift", 4, True, "3/8", 9), PastAudit(3, "in sync", 2, False, "0/1", 0)],
        fast=True,
    )
    text = page(drifted(audit=audit, buckets=4))
    parsed(text)
    for shown in (
        "evicted 1,204",
        "allkeys-lru",
        "17 keys that neither the source nor the manifest knows of; view prices claims the prefix &#x27;price:&#x27;",
        "price:x and 16 more",
        "price:7",
        "3 of 4 slices",
        "1 of 2 found drift",
        "slice 3/8, fingerprints only",
        "2025-11-23 17:46:40 UTC",
    ):
        assert shown in text.replace("<code>", "").replace("</code>", ""), shown


def test_cells_say_when_they_were_compared() -> None:
    """A cell's age is this audit's where it looked, else that of coverage; drift has its own colour."""
    day_ms = 86_400_000
    coverage = Coverage(4, [SliceCompared(1, 10 * day_ms, "compare"), SliceCompared(2, day_ms, "verify")])
    view = drifted(audit=AuditReport(subset="3/4", coverage=coverage), buckets=16)
    assert view.drift is not None
    view.drift.heat.note(7, 16, 2)
    cells = heat.cells_of(view, 10 * day_ms + 7_200_000)
    assert [cell.age for cell in cells] == [heat.NEVER, 1, heat.OLDER, 0] * 4
    assert [cell.drift for cell in cells] == [0] * 7 + [2] + [0] * 8
    assert {cell.by for cell in cells} == {"", "compare", "verify", "this audit"}


def test_a_fast_audit_compares_no_slice() -> None:
    """Fingerprints say nothing about what Redis really holds."""
    cells = heat.cells_of(drifted(audit=AuditReport(fast=True), buckets=4), 5)
    assert {cell.age for cell in cells} == {heat.NEVER}


def test_nothing_is_loaded_and_no_script_runs() -> None:
    """The file is complete in itself and its own policy forbids the rest."""
    text = page(drifted())
    assert "script" not in parsed(text).seen
    assert "http://" not in text
    assert "https://" not in text
    assert "default-src 'none'" in text


def test_everything_from_outside_is_escaped() -> None:
    """Names, values and messages cannot become markup."""
    view = drifted(warnings=[NASTY], reason=NASTY)
    assert view.drift is not None
    view.drift.keys = [{"key": NASTY, "kind": "stale", "cause": NASTY, "source": NASTY, "redis": NASTY}]
    view.drift.causes = {NASTY: 1}
    view.phases_ms = {NASTY: 1}
    view.fail(Unavailable(NASTY, hint=NASTY))
    view.view = NASTY
    report = RunReport(NASTY, "verify", 0, [view])
    report.fail(Unavailable(NASTY, hint=NASTY))
    text = html.render(report)
    tags = parsed(text)
    assert "script" not in tags.seen
    assert "onload" not in tags.attributes
    assert "<script" not in text


def test_page_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys beyond the page's size are counted, not shown."""
    monkeypatch.setattr(html, "MAX_PAGE_BYTES", 20_000)
    view = drifted()
    assert view.drift is not None
    view.drift.missing = 10_000
    view.drift.keys = [{"key": f"p:{n}", "kind": "missing", "cause": "changed outside"} for n in range(10_000)]
    text = page(view)
    assert len(text) < 30_000
    assert "more</p>" in text
    parsed(text)


def test_long_values_are_cut() -> None:
    """One huge value does not make a huge page."""
    view = drifted()
    assert view.drift is not None
    view.drift.keys[0] |= {"source": "x" * 100_000, "redis": None}
    assert len(page(view)) < 20_000


@pytest.mark.parametrize("mode", ["run", "snapshot", "delta", "verify"])
@pytest.mark.parametrize("code", list(ExitCode))
def test_every_mode_and_outcome_has_a_page(mode: str, code: ExitCode) -> None:
    """The page is well-formed whatever the run was and however it ended."""
    view = ViewReport("prices", exit_code=code)
    parsed(page(view, mode=mode))


def test_failure_before_any_view() -> None:
    """An error before any view was looked at is on the page."""
    report = RunReport("", "run", 0)
    report.fail(Unavailable("no configuration", hint="write one"))
    text = html.render(report)
    assert "no configuration" in text
    assert "write one" in text
    parsed(text)


def test_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves the earlier page and nothing else."""
    path = tmp_path / "page.html"
    report = RunReport("run-1", "verify", 0, [drifted()])
    write_file(str(path), html.render(report))
    before = path.read_text(encoding="utf-8")
    assert before.endswith("</html>\n")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_file(str(path), html.render(RunReport("run-2", "verify", 0)))
    assert path.read_text(encoding="utf-8") == before
    assert os.listdir(tmp_path) == ["page.html"]
