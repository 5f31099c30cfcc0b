"""docs/report.md and docs/monitoring.md keep up with what is reported."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from reconcile.core.drift import Cause
from reconcile.core.explanation import KeyVerdict
from reconcile.report import metrics
from reconcile.report.audit import AuditReport, Coverage, Duplicates, RedisCounters, SliceCompared, SurplusReport
from reconcile.report.run_report import DriftReport, ErrorReport, RunReport, ViewReport

DOCS = Path(__file__).resolve().parents[2] / "docs"


def documented(section: str) -> set[str]:
    """The names in the first column of a section's tables."""
    text = (DOCS / "report.md").read_text(encoding="utf-8")
    (body,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    firsts = [line.split("|")[1] for line in body.splitlines() if line.startswith("| `")]
    return {name for first in firsts for name in re.findall(r"`([^`]+)`", first)}


def test_every_field_of_a_run() -> None:
    """The run's own fields are in the first table, no more and no less."""
    assert documented("The run") == RunReport("id", "run", 0).to_dict().keys()


def test_every_field_of_a_view() -> None:
    """A view's fields are in the second."""
    assert documented("A view") == ViewReport("v").to_dict().keys()


def test_every_field_and_cause_of_drift() -> None:
    """Drift's fields and causes are in the third and fourth."""
    fields = ViewReport("v", drift=DriftReport()).to_dict()["drift"].keys()
    assert documented("Drift") == fields | {cause.value for cause in Cause} | {"manifest damaged"}


@pytest.mark.parametrize(
    "value", [RedisCounters(), SurplusReport("v", "p:", 1), Duplicates(1), SliceCompared(0, 1, "verify"), Coverage(1)]
)
def test_every_field_of_an_audits_parts(
    value: RedisCounters | SurplusReport | Duplicates | SliceCompared | Coverage,
) -> None:
    """The parts of an audit are described in the row of the field that holds them."""
    (section,) = re.findall(r"^## An audit\n(.*?)(?=^## )", (DOCS / "report.md").read_text("utf-8"), re.M | re.S)
    assert {f"`{name}`" for name in value.__struct_fields__} <= set(re.findall(r"`\w+`", section))


def test_every_field_of_an_audit() -> None:
    """An audit's fields are in a table of their own."""
    assert documented("An audit") == set(AuditReport.__struct_fields__)


@pytest.mark.parametrize("name", [*ErrorReport.__struct_fields__, *(verdict.value for verdict in KeyVerdict)])
def test_words_of_the_prose(name: str) -> None:
    """Fields of an error and explain's verdicts are named in the text."""
    assert f"`{name}`" in (DOCS / "report.md").read_text(encoding="utf-8")


def test_every_phase() -> None:
    """docs/report.md lists the phases that are timed, and no other."""
    sources = [path.read_text(encoding="utf-8") for path in (DOCS.parent / "reconcile" / "runs").glob("*.py")]
    timed = {name for text in sources for name in re.findall(r"\.phase\(\"(\w+)\"", text)}
    (row,) = re.findall(r"^\| `phases_ms` .*$", (DOCS / "report.md").read_text("utf-8"), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) - {"phases_ms"} == timed


def test_every_metric() -> None:
    """docs/monitoring.md has every metric, and no other."""
    text = (DOCS / "monitoring.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(reconcile_\w+)`", text, re.MULTILINE)) == {
        f"{metrics.PREFIX}{name}" for name in metrics.HELP
    }


def test_a_report_is_json() -> None:
    """Whatever is in a report can be printed as JSON."""
    view = ViewReport("v", drift=DriftReport(keys=[{"key": "k", "kind": "stale", "cause": "both"}]))
    assert json.loads(json.dumps(RunReport("id", "verify", 0, [view]).to_dict()))["views"][0]["view"] == "v"
