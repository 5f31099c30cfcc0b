"""The report for job summaries: a table that no key or message can break."""

from __future__ import annotations

import re

from reconcile.errors import ExitCode, Unavailable
from reconcile.report import markdown
from reconcile.report.run_report import DriftReport, RunReport, ViewReport


def drifted(key: str = "p:a") -> ViewReport:
    view = ViewReport("prices", action="verify", as_of=1_763_920_000_123, keys=5, exit_code=ExitCode.DRIFT)
    view.drift = DriftReport(
        missing=30, stale=1, keys=[{"key": key, "kind": "missing", "cause": "changed outside"}] * 31
    )
    return view


def test_verdict_table_and_keys() -> None:
    """The verdict is the heading, each view a row, the first keys a list with the number of the others."""
    lines = markdown.render(RunReport("id", "verify", 1_763_920_000_000, [drifted()], 1_763_920_001_500)).splitlines()
    assert lines[0] == "## ❌ reconcile verify: Drift found"
    assert lines[2] == "2025-11-23T17:46:40.000Z, 1.5 s, exit code 3"
    assert "| prices | ❌ Drift found | 2025-11-23T17:46:40.123Z | 5 | 0 | 0 | 30 | 1 | 0 |" in lines
    assert lines.count("* missing, changed outside: p\\:a") == markdown.MAX_KEYS
    assert "* … and 11 more keys" in lines


def test_nothing_from_outside_is_markup() -> None:
    """Pipes, line breaks, links, mentions and HTML stay text."""
    nasty = "|\n# <script>@all [x](http://e) ![y](z) `c` https://e\x1b"
    view = drifted(nasty)
    view.fail(Unavailable(nasty, hint=nasty))
    view.view, view.warnings = nasty, [nasty]
    report = RunReport("id", "verify", 1, [view], 2)
    report.fail(Unavailable(nasty, hint=nasty))
    text = markdown.render(report)
    assert all(line.isprintable() for line in text.splitlines())
    assert not re.search(r"(?<!\\)[<@`\[]", text)
    assert "https://" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [10, 10]


def test_many_views_are_bounded() -> None:
    """A job summary ends at a megabyte."""
    text = markdown.render(RunReport("id", "run", 1, [ViewReport(f"v{n}") for n in range(1000)], 2))
    assert "… and 800 more views" in text


def test_a_failure_before_any_view() -> None:
    """Configuration errors stand without a table."""
    report = RunReport("", "run", 0)
    report.fail(Unavailable("no configuration", hint="write one"))
    assert markdown.render(report) == "## ❌ reconcile run: Failed\n\nexit code 6\n\n**no configuration** write one\n\n"
