"""A view's report out of those of its shards."""

from __future__ import annotations

from reconcile.errors import ExitCode, Unavailable
from reconcile.report import html, markdown
from reconcile.report.audit import AuditReport, Coverage, Duplicates, SliceCompared, SurplusReport
from reconcile.report.emf import lines
from reconcile.report.joined import join
from reconcile.report.metrics import merge
from reconcile.report.run_report import DriftReport, RunReport, ViewReport
from reconcile.report.text import render


def part(i: int, **fields: object) -> ViewReport:
    made = ViewReport(
        f"prices shard {i}/2", action="snapshot", reason="history lost", as_of=100 + i, keys=10, puts=i + 1
    )
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def joined(*parts: ViewReport, verify: bool = False, max_report: int = 20) -> ViewReport:
    whole = ViewReport("prices")
    join(whole, list(parts), verify=verify, max_report=max_report)
    return whole


def test_work_adds_up_and_the_oldest_time_counts() -> None:
    """One shard's delta beside another's snapshot is told as a snapshot."""
    whole = joined(part(0), part(1, action="delta", reason="", lag_ms=7, warnings=["w"]))
    assert (whole.view, whole.action, whole.reason) == ("prices", "snapshot", "history lost")
    assert (whole.as_of, whole.keys, whole.puts, whole.lag_ms, whole.warnings) == (100, 20, 3, 7, ["w"])
    assert joined(part(0), part(1, as_of=None)).as_of is None


def test_the_worst_failure_is_the_views() -> None:
    """Which shard it was is told, and what became of the others."""
    failed = part(1)
    failed.fail(Unavailable("Redis is away", hint="wait"))
    whole = joined(part(0, skipped=True, reason="leased"), failed)
    assert (whole.exit_code, whole.status, whole.skipped) == (ExitCode.UNAVAILABLE, "failed", False)
    assert whole.error is not None
    assert whole.error.message == "prices shard 1/2: Redis is away"
    assert whole.warnings == ["prices shard 0/2: skipped: leased"]


def test_drift_of_all_shards_is_the_views() -> None:
    """Counted whole, named as far as was asked."""
    first, second = (DriftReport(missing=1, buckets=1, causes={"x": 1}, keys=[{"key": k}]) for k in "ab")
    second.heat.note(5, 16, 3)
    whole = joined(part(0, drift=first, exit_code=ExitCode.DRIFT), part(1, drift=second), verify=True, max_report=1)
    assert whole.drift is not None
    assert (whole.status, whole.drift.missing, whole.drift.causes) == ("drift", 2, {"x": 2})
    assert (whole.drift.keys, whole.drift.heat.drift) == ([{"key": "a"}], {5: 3})


def test_what_a_shard_could_not_judge_is_the_views() -> None:
    """The audit is incomplete, not in sync; the numbers for monitoring stay those of the last complete one."""
    restless = DriftReport(unjudged_buckets=2, unjudged_keys=7)
    left = part(0, action="verify", drift=restless, buckets=16, exit_code=ExitCode.INCOMPLETE)
    whole = joined(left, part(1, action="verify", drift=DriftReport(unjudged_buckets=1)), verify=True)
    assert (whole.exit_code, whole.status) == (ExitCode.INCOMPLETE, "partial")
    assert whole.drift is not None
    assert (whole.drift.unjudged_buckets, whole.drift.unjudged_keys) == (3, 7)
    report = RunReport("id", "verify", 0, [whole])
    assert "3 of 16 buckets (7 keys) could not be" in render(report)
    assert "drift_keys" not in {series.metric for series in merge([], report)}
    assert "DriftKeys" not in lines(report)[0]
    for page in (html.render(report), markdown.render(report)):
        assert "not everything was judged" in page
        assert "In sync" not in page


def test_drift_of_one_shard_beside_the_failure_of_another() -> None:
    """Drift that was found is never hidden: the failure of the other is told with it."""
    lost = DriftReport(missing=2, buckets=1, causes={"x": 1}, keys=[{"key": "a", "kind": "missing", "cause": "x"}])
    audit = AuditReport(surplus=[SurplusReport("old", "old:", 2, ["n"])])
    failed = part(1, action="verify")
    failed.fail(Unavailable("Materialize is away", hint="wait"))
    whole = joined(part(0, drift=lost, audit=audit, exit_code=ExitCode.DRIFT), failed, verify=True)
    assert (whole.exit_code, whole.status, whole.drift) == (ExitCode.DRIFT, "drift", lost)
    assert whole.error is not None
    assert "shard 1/2: Materialize is away" in whole.error.message
    assert whole.audit is not None
    text = render(RunReport("id", "verify", 0, [whole]))
    assert "DRIFT: 2 missing" in text
    assert "Materialize is away" in text
    assert {"drift_keys", "surplus_keys"} <= {
        series.metric for series in merge([], RunReport("id", "verify", 0, [whole]))
    }


def test_evidence_of_all_shards_is_the_views() -> None:
    """And no more is covered than of the shard that was compared least."""
    audits = [
        AuditReport(
            coverage=Coverage(1, [SliceCompared(0, 50 + i, "verify")]),
            surplus=[SurplusReport("old", "old:", 2, [f"n{i}"])],
            duplicates=Duplicates(i, []),
        )
        for i in range(2)
    ]
    whole = joined(part(0, audit=audits[0], drift=DriftReport()), part(1, audit=audits[1]), verify=True)
    assert whole.audit is not None
    assert whole.audit.coverage == audits[0].coverage
    assert whole.audit.surplus == [SurplusReport("old", "old:", 4, ["n0", "n1"])]
    assert whole.audit.duplicates == Duplicates(1, [])
