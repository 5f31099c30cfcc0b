"""The shipped alert rules and dashboard: only metrics that exist, and a real Prometheus that loads them."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconcile.config.settings import MetricsSettings, Secret
from reconcile.errors import ExitCode, SafetyStop
from reconcile.report import metrics, sinks
from reconcile.report.audit import AuditReport, Coverage, SliceCompared
from reconcile.report.run_report import DriftReport, RunReport, ViewReport
from tests.support.redis_servers import free_port
from tests.support.tools import require

SHIPPED = Path(__file__).resolve().parents[2] / "cron" / "monitoring"
ALERTS, DASHBOARD = SHIPPED / "alerts.yaml", SHIPPED / "dashboard.json"
WAIT_S = 60.0


def rules() -> dict[str, dict[str, Any]]:
    """Alert → its rule."""
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def queries() -> list[str]:
    """Every expression of the dashboard, for all views."""
    return [target["expr"].replace("$view", ".*") for panel in panels() for target in panel["targets"]]


@pytest.mark.parametrize("path", [ALERTS, DASHBOARD], ids=lambda path: path.name)
def test_only_metrics_that_exist(path: Path) -> None:
    """A rule about a metric nobody writes would never fire."""
    used = set(re.findall(r"\breconcile_[a-z_]+", path.read_text()))
    assert used <= {f"{metrics.PREFIX}{name}" for name in metrics.HELP}
    labels = set(re.findall(r'(\w+)(?:=~?|!=)\\?"', path.read_text()))
    assert labels <= {"view", "mode", "op", "kind"}


def test_every_metric_is_on_the_dashboard() -> None:
    """What is written can be seen."""
    seen = set(re.findall(r"\breconcile_[a-z_]+", " ".join(queries())))
    assert seen == {f"{metrics.PREFIX}{name}" for name in metrics.HELP} - {"reconcile_last_run_timestamp_seconds"}


def test_the_manual_lists_every_rule() -> None:
    """docs/monitoring.md has a line for each alert, and for no other."""
    manual = (SHIPPED.parents[1] / "docs" / "monitoring.md").read_text()
    assert set(re.findall(r"^\| `(Reconcile\w+)`", manual, re.MULTILINE)) == rules().keys()


def test_panels_have_their_own_place() -> None:
    """No two panels lie upon each other, none beyond the dashboard's 24 columns."""
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


# -- rules, one by one, over a simulated time ------------------------------------------------------------------------

RUN = 'view="prices",mode="run"'
VERIFY = 'view="prices",mode="verify"'
HEALTHY = {
    f"reconcile_last_success_timestamp_seconds{{{RUN}}}": "0+60x4000",
    f"reconcile_last_run_timestamp_seconds{{{RUN}}}": "0+60x4000",
    f"reconcile_exit_code{{{RUN}}}": "0x4000",
    f"reconcile_exit_code{{{VERIFY}}}": "0x4000",
    f'reconcile_rows{{{RUN},op="withheld"}}': "0x4000",
    f"reconcile_source_lag_seconds{{{RUN}}}": "1x4000",
    f'reconcile_drift_keys{{{VERIFY},kind="stale"}}': "0x4000",
    f"reconcile_last_run_timestamp_seconds{{{VERIFY}}}": "0+60x4000",
}
FAULTS: dict[str, dict[str, str | None]] = {
    "ReconcileStale": {f"reconcile_last_success_timestamp_seconds{{{RUN}}}": "0x4000"},
    "ReconcileNeverSucceeded": {f"reconcile_last_success_timestamp_seconds{{{RUN}}}": None},
    "ReconcileNeedsAHuman": {f"reconcile_exit_code{{{RUN}}}": "5x4000"},
    "ReconcileFailing": {f"reconcile_exit_code{{{RUN}}}": "2x4000"},
    "ReconcileUnavailable": {f"reconcile_exit_code{{{RUN}}}": "6x4000"},
    "ReconcileDrift": {f'reconcile_drift_keys{{{VERIFY},kind="stale"}}': "3x4000"},
    "ReconcileDeletesWithheld": {f'reconcile_rows{{{RUN},op="withheld"}}': "7x4000"},
    "ReconcileLagging": {f"reconcile_source_lag_seconds{{{RUN}}}": "900x4000"},
    "ReconcileNotVerified": {f"reconcile_last_run_timestamp_seconds{{{VERIFY}}}": "0x4000"},
}


def test_every_rule_has_its_fault() -> None:
    """The table below is complete, and each rule says what to do."""
    assert FAULTS.keys() == rules().keys()
    assert all({"summary", "action"} == rule["annotations"].keys() for rule in rules().values())


@pytest.mark.parametrize("fault", ["none", *FAULTS])
def test_a_fault_fires_its_rule_and_no_other(fault: str, tmp_path: Path) -> None:
    """After three days of a schedule of one minute: silence where all is well, else the one alert that names it."""
    series = {**HEALTHY, **FAULTS.get(fault, {})}
    inputs = [{"series": name, "values": values} for name, values in series.items() if values is not None]
    plain = [{**rule, "annotations": {}} for rule in rules().values()]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "reconcile", "rules": plain}]}))
    expected = {name: [] for name in rules()} | ({fault: [_fired(fault)]} if fault != "none" else {})
    cases = [{"eval_time": "3900m", "alertname": name, "exp_alerts": alerts} for name, alerts in expected.items()]
    tests = [{"interval": "1m", "input_series": inputs, "alert_rule_test": cases}]
    unit = {"rule_files": ["rules.yaml"], "evaluation_interval": "5m", "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(unit))
    done = subprocess.run(
        [require("promtool"), "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _fired(alert: str) -> dict[str, Any]:
    labels = {**rules()[alert]["labels"], "view": "prices"}
    if alert in ("ReconcileNeedsAHuman", "ReconcileFailing", "ReconcileUnavailable"):
        labels["mode"] = "run"
    return {"exp_labels": labels}


# -- a real Prometheus -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(command: list[str], ready_url: str, directory: Path) -> Iterator[None]:
    """A server of that command, until the block ends."""
    with (directory / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
    try:
        waited(lambda: _answers(ready_url) or process.poll() is not None, f"{command[0]} to be ready")
        assert process.poll() is None, (directory / "server.log").read_text()[-2000:]
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def waited(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until, f"waited {WAIT_S:g} s for {what}"
        time.sleep(0.1)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Prometheus:
    """Scrapes what `targets` serve, several times a second, with the shipped rules."""

    def __init__(self, directory: Path, targets: list[str], *, path: str = "/metrics") -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.directory = directory
        scrape = {
            "job_name": "node",
            "honor_labels": True,
            "metrics_path": path,
            "static_configs": [{"targets": targets}],
        }
        settings = {
            "global": {"scrape_interval": "300ms", "scrape_timeout": "300ms", "evaluation_interval": "300ms"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [scrape],
        }
        (directory / "prometheus.yaml").write_text(yaml.safe_dump(settings))

    def running(self) -> contextlib.AbstractContextManager[None]:
        command = [require("prometheus"), "--config.file=prometheus.yaml", f"--web.listen-address={self.address}"]
        command += [f"--storage.tsdb.path={self.directory / 'tsdb'}"]
        return running(command, f"http://{self.address}/-/ready", self.directory)

    def ask(self, path: str, **parameters: str) -> Any:
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as response:
            answer = json.load(response)
        assert answer["status"] == "success"
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def firing(self) -> set[str]:
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing"}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def good_runs() -> list[RunReport]:
    ran = ViewReport("prices", puts=3, rows_read=7, keys=9, lag_ms=800, duration_ms=40)
    verified = ViewReport("prices", keys=9, drift=DriftReport(), audit=AuditReport())
    assert verified.audit is not None
    verified.audit.coverage = Coverage(1, [SliceCompared(0, now_ms(), "verify")])
    return [RunReport("1", mode, now_ms(), [view], now_ms()) for mode, view in (("run", ran), ("verify", verified))]


def bad_runs() -> list[RunReport]:
    stopped = ViewReport("prices", deletes_withheld=12)
    stopped.fail(SafetyStop("900 of 1000 keys would be deleted"))
    drifted = ViewReport("prices", drift=DriftReport(stale=2), exit_code=ExitCode.DRIFT)
    return [RunReport("2", mode, now_ms(), [view], now_ms()) for mode, view in (("run", stopped), ("verify", drifted))]


def test_a_real_prometheus_reads_the_file_and_fires(tmp_path: Path) -> None:
    """Served as node_exporter does: after good runs silence and data in each panel, the right alerts after bad ones."""
    served, home = tmp_path / "served", tmp_path / "home"
    served.mkdir()
    home.mkdir()
    path = served / "metrics"
    for report in good_runs():
        metrics.write_textfile(report, str(path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    prometheus = Prometheus(home, [f"127.0.0.1:{server.server_port}"])
    try:
        with prometheus.running():
            waited(lambda: bool(prometheus.query("reconcile_oldest_compare_timestamp_seconds")), "the first scrape")
            assert len(prometheus.ask("rules")["groups"][0]["rules"]) == len(rules())
            waited(lambda: all(map(prometheus.query, queries())), "data in each panel")  # a scrape may be too slow
            assert prometheus.firing() == set()
            for report in bad_runs():
                metrics.write_textfile(report, str(path))
            expected = {"ReconcileNeedsAHuman", "ReconcileDrift", "ReconcileDeletesWithheld"}
            waited(lambda: prometheus.firing() == expected, "the alerts")
            (success,) = prometheus.query(
                "time() - last_over_time(reconcile_last_success_timestamp_seconds{mode='run'}[5m])"
            )
            assert 0 <= float(success["value"][1]) < 2 * WAIT_S + 60
    finally:
        server.shutdown()
        server.server_close()


def test_a_real_pushgateway(tmp_path: Path) -> None:
    """What is pushed is there with its labels; a failure leaves the last success and what the last audit found."""
    address = f"127.0.0.1:{free_port()}"
    # Debian's keeps what was pushed in a file for all of them, so that a test would see the one before.
    command = [require("prometheus-pushgateway"), f"--web.listen-address={address}", "--persistence.file="]
    with running(command, f"http://{address}/-/ready", tmp_path):
        settings = MetricsSettings(pushgateway=Secret(f"http://{address}"))

        def pushed() -> dict[str, str]:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
                lines = response.read().decode().splitlines()
            return dict(line.rsplit(" ", 1) for line in lines if line.startswith("reconcile_"))

        def of(metric: str, mode: str, rest: str = "") -> str:
            (value,) = [
                v for k, v in pushed().items() if k.startswith(f"{metric}{{") and f'mode="{mode}"' in k and rest in k
            ]
            return value

        for report in good_runs():
            sinks.publish(report, settings)
        success = of("reconcile_last_success_timestamp_seconds", "run")
        assert of("reconcile_rows", "run", 'op="put"') == "3"
        elsewhere = [s for s in pushed() if not ('job="reconcile"' in s and 'view="prices"' in s)]
        assert elsewhere == []
        for report in bad_runs():
            sinks.publish(report, settings)
        failed = RunReport("3", "run", now_ms(), [], now_ms())
        failed.fail(SafetyStop("no configuration"))
        sinks.publish(failed, settings)
        assert of("reconcile_last_success_timestamp_seconds", "run") == success
        assert of("reconcile_exit_code", "run", 'view="prices"') == "5"
        assert of("reconcile_exit_code", "run", 'view=""') == "5"
        assert of("reconcile_drift_keys", "verify", 'kind="stale"') == "2"
