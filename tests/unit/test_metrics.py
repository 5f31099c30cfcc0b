"""The metrics file: valid exposition format, one writer's view of many runs."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from reconcile.errors import ExitCode, Unavailable
from reconcile.report import metrics
from reconcile.report.audit import AuditReport, Coverage, SliceCompared, SurplusReport
from reconcile.report.run_report import DriftReport, RunReport, ViewReport

LINE = re.compile(r'[a-z_]+\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\} -?\d+(\.\d+)?')


def run(*views: ViewReport, mode: str = "run", finished_ms: int = 2_000_500) -> RunReport:
    return RunReport("run-1", mode, 2_000_000, list(views), finished_ms)


def failed(name: str = "prices") -> ViewReport:
    view = ViewReport(name)
    view.fail(Unavailable("gone"))
    return view


def written(path: Path, *reports: RunReport) -> dict[str, str]:
    """Series → value after these runs."""
    for report in reports:
        metrics.write_textfile(report, str(path))
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(LINE.fullmatch(line) for line in lines), lines
    series = [line.rsplit(" ", 1)[0] for line in lines]
    assert len(series) == len(set(series)), "a series may be given once"
    return dict(zip(series, (line.rsplit(" ", 1)[1] for line in lines), strict=True))


def of(metric: str, view: str = "prices", mode: str = "run", rest: str = "") -> str:
    return f'reconcile_{metric}{{view="{view}",mode="{mode}"{rest}}}'


SUCCESS = of("last_success_timestamp_seconds")


def test_a_run_that_succeeded(tmp_path: Path) -> None:
    """A success sets every series that applies, and none about drift."""
    view = ViewReport(
        "prices", rows_read=7, duration_ms=500, keys=9, puts=3, deletes=1, deletes_withheld=2, lag_ms=1500
    )
    found = written(tmp_path / "m.prom", run(view))
    assert found[SUCCESS] == "2000.500"
    assert found[of("last_run_timestamp_seconds")] == "2000.500"
    assert found[of("last_duration_seconds")] == "0.500"
    assert found[of("exit_code")] == "0"
    assert found[of("keys")] == "9"
    assert found[of("source_lag_seconds")] == "1.500"
    rows = {op: found[of("rows", rest=f',op="{op}"')] for op in ("read", "put", "delete", "withheld")}
    assert rows == {"read": "7", "put": "3", "delete": "1", "withheld": "2"}
    assert not any("drift" in series for series in found)


def test_metrics_of_one_name_stand_together_with_their_type(tmp_path: Path) -> None:
    """Series of one metric follow its HELP and TYPE, as the format wants."""
    path = tmp_path / "m.prom"
    written(path, run(ViewReport("a"), ViewReport("b")))
    names = [re.split(r"[{ ]", line)[0] for line in path.read_text().splitlines() if not line.startswith("#")]
    assert len([name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]) == len(set(names))
    types = re.findall(r"# TYPE (\S+) gauge", path.read_text())
    assert types == list(dict.fromkeys(names))


def test_a_failure_keeps_the_last_success(tmp_path: Path) -> None:
    """The time of the last success survives failures; everything else is of the last run."""
    found = written(tmp_path / "m.prom", run(ViewReport("prices", puts=3)), run(failed(), finished_ms=9_000_000))
    assert found[SUCCESS] == "2000.500"
    assert found[of("last_run_timestamp_seconds")] == "9000.000"
    assert found[of("exit_code")] == "6"
    assert found[of("rows", rest=',op="put"')] == "0"


def test_a_failure_alone_has_no_success(tmp_path: Path) -> None:
    """There is no success before the first one."""
    assert SUCCESS not in written(tmp_path / "m.prom", run(failed()))


def test_skipped_and_dry_runs_are_no_success(tmp_path: Path) -> None:
    """Redis was not brought up to date by them."""
    skipped, dry = ViewReport("prices", skipped=True), ViewReport("prices", dry_run=True)
    assert SUCCESS not in written(tmp_path / "m.prom", run(skipped), run(dry))


def test_other_views_and_modes_stay(tmp_path: Path) -> None:
    """Several schedules may share a file."""
    verified = ViewReport("prices", drift=DriftReport(missing=4), exit_code=ExitCode.DRIFT)
    found = written(
        tmp_path / "m.prom",
        run(ViewReport("stock")),
        run(verified, mode="verify"),
        run(ViewReport("prices"), finished_ms=3_000_000),
    )
    assert found[of("last_success_timestamp_seconds", view="stock")] == "2000.500"
    assert found[of("drift_keys", mode="verify", rest=',kind="missing"')] == "4"
    assert of("last_success_timestamp_seconds", mode="verify") not in found
    assert found[SUCCESS] == "3000.000"


def test_drift_of_a_verify_that_failed_is_not_told(tmp_path: Path) -> None:
    """Zero keys found by half an audit would look like health; what the audit before it found stands."""
    view = failed()
    view.drift = DriftReport()
    assert not any("drift" in series for series in written(tmp_path / "m.prom", run(view, mode="verify")))
    verified = ViewReport("prices", drift=DriftReport(missing=4), exit_code=ExitCode.DRIFT)
    found = written(tmp_path / "m.prom", run(verified, mode="verify"), run(view, mode="verify"))
    assert found[of("drift_keys", mode="verify", rest=',kind="missing"')] == "4"
    assert found[of("exit_code", mode="verify")] == "6"


def test_what_an_audit_notes_beside_drift(tmp_path: Path) -> None:
    """Surplus of all claims together; the oldest comparison only once everything has been compared."""
    audit = AuditReport(surplus=[SurplusReport("a", "a:", 3), SurplusReport("b", "b:", 4)], coverage=Coverage(2))
    view = ViewReport("prices", drift=DriftReport(), audit=audit)
    found = written(tmp_path / "m.prom", run(view, mode="verify"))
    assert found[of("surplus_keys", mode="verify")] == "7"
    oldest = of("oldest_compare_timestamp_seconds", mode="verify")
    assert oldest not in found
    audit.coverage = Coverage(2, [SliceCompared(0, 5000, "verify"), SliceCompared(1, 4000, "compare")])
    assert written(tmp_path / "m.prom", run(view, mode="verify"))[oldest] == "4.000"


def test_a_configuration_error_is_told_and_forgotten(tmp_path: Path) -> None:
    """A failure without view has a series of its own until a run gets further."""
    path = tmp_path / "m.prom"
    broken = RunReport("", "run", 0)
    broken.fail(Unavailable("no configuration"))
    found = written(path, run(ViewReport("prices")), broken)
    assert found[of("exit_code", view="")] == "6"
    assert found[SUCCESS] == "2000.500"
    assert of("exit_code", view="") not in written(path, run(ViewReport("prices")))


def test_a_file_of_something_else_is_replaced(tmp_path: Path) -> None:
    """Unreadable content does not stop a run's metrics."""
    path = tmp_path / "m.prom"
    path.write_bytes(b"\xff\xfe not ours\nnode_load1 3\nreconcile_rows{broken 1\n")
    found = written(path, run(ViewReport("prices")))
    assert all(series.startswith("reconcile_") for series in found)


def test_others_may_read_it(tmp_path: Path) -> None:
    """The collector runs as another user, and sees no temporary files."""
    path = tmp_path / "m.prom"
    before = os.umask(0o022)
    try:
        metrics.write_textfile(run(ViewReport("prices")), str(path))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["m.prom"]
