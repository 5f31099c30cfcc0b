"""What an audit says beside the drift."""

from __future__ import annotations

import json

import pytest

from reconcile.errors import ExitCode
from reconcile.report.audit import (
    MAX_HISTORY,
    MAX_SLICES,
    AuditReport,
    Coverage,
    HeatMap,
    PastAudit,
    SliceCompared,
    audits_in,
    history_in,
    history_with,
    past_audit,
)
from reconcile.report.run_report import DriftReport, RunReport, ViewReport


@pytest.mark.parametrize("buckets", [1, 16, 1024, 131_072])
def test_a_cell_is_a_slice(buckets: int) -> None:
    """A cell holds the buckets that --subset of its number looks at, and there are never more cells than is bounded."""
    heat = HeatMap()
    for bucket in range(buckets):
        heat.note(bucket, buckets, 2 if bucket % 3 == 0 else 0)
    assert heat.slices == min(buckets, MAX_SLICES)
    for cell, keys in heat.drift.items():
        assert keys == sum(2 if b % 3 == 0 else 1 for b in range(cell, buckets, heat.slices))


def test_coverage_knows_what_waits() -> None:
    """Whoever was never compared waits longest."""
    coverage = Coverage(2, [SliceCompared(1, 500, "verify")])
    assert (coverage.never, coverage.oldest_ms) == (1, None)
    coverage.compared.append(SliceCompared(0, 400, "compare"))
    assert (coverage.never, coverage.oldest_ms) == (0, 400)


def verified(finished_ms: int, **drift: int) -> dict[str, object]:
    view = ViewReport("prices", action="verify", as_of=7, drift=DriftReport(**drift), audit=AuditReport(subset="1/4"))
    view.exit_code = ExitCode.DRIFT if drift else ExitCode.OK
    report = RunReport("id", "verify", 0, [ViewReport("other"), view], finished_ms)
    parsed: dict[str, object] = json.loads(json.dumps(report.to_dict()))
    return parsed


def test_history_from_earlier_reports() -> None:
    """Earlier JSON reports are history: the newest first, of this view only, without those that are no audits."""
    run, failed = verified(1) | {"mode": "run"}, verified(2)
    failed["views"][1]["status"] = "failed"  # type: ignore[index]
    found = audits_in(
        [verified(10), run, failed, {}, None, [], {"mode": "verify", "views": [3]}, verified(30, missing=2, stale=1)],
        "prices",
    )
    assert found == [PastAudit(30, "drift", 7, False, "1/4", 3), PastAudit(10, "in sync", 7, False, "1/4", 0)]
    assert len(audits_in([verified(n) for n in range(1, 80)], "prices")) == MAX_HISTORY


@pytest.mark.parametrize("stored", [None, 3, "x", [], {}, {"at_ms": "soon"}, {"verdict": "in sync"}])
def test_what_is_no_audit(stored: object) -> None:
    """Others can write to Redis too."""
    assert past_audit(stored) is None


def test_what_verify_remembers_is_a_past_audit() -> None:
    """The object that lies in Redis is read back whole; a field of another type is not believed."""
    stored = {"at_ms": 5, "verdict": "drift", "as_of": 4, "fast": True, "subset": "3/24", "drift": 9}
    assert past_audit(stored) == PastAudit(5, "drift", 4, True, "3/24", 9)
    assert past_audit(stored | {"drift": "many", "as_of": []}) == PastAudit(5, "drift", None, True, "3/24", 0)


def test_history_is_noted_bounded_and_read_back() -> None:
    """Audit after audit, the newest first, never more than is bounded; whatever else lies there is no history."""
    history: list[PastAudit] = []
    for n in range(MAX_HISTORY + 10):
        text = history_with(history, PastAudit(n, "in sync", n, False, "0/1", 0))
        history = history_in(text)
    assert [one.at_ms for one in history] == list(range(MAX_HISTORY + 9, 9, -1))
    assert len(text) < 8192
    for other in (None, b"", b"\xff", "{", "{}", "3", '[3, null, {"at_ms": "x"}]'):
        assert history_in(other) == []
