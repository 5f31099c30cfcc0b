"""cron/systemd: accepted without a word by systemd's own checker, hardened, and with limits that fit."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.platforms import shipped

SERVICES = shipped.units("*.service")
TIMERS = shipped.units("*.timer")
WORKERS = ["reconcile@.service", "reconcile-verify@.service"]
EXPOSURE_MAX = 2.0  # of 10; "OK" in systemd's words begins below 5


@pytest.fixture(scope="module")
def analyze() -> str:
    """The path of systemd-analyze."""
    return shipped.tool("systemd-analyze", debian="systemd")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as installed, with a program where /opt/reconcile/bin has one."""
    for path in (shipped.CRON / "systemd").glob("*@*"):
        text = re.sub(r"/opt/reconcile/bin/[a-z-]+", str(shutil.which("true")), path.read_text())
        (tmp_path / path.name).write_text(text)
    return tmp_path


def run(*command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """systemd-analyze, without colours and without the machine's own idea of a terminal."""
    env = {**os.environ, "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "", "SYSTEMD_LOG_LEVEL": "warning"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("name", [*SERVICES, *TIMERS])
def test_systemd_accepts_the_unit_without_a_word(analyze: str, installed: Path, name: str) -> None:
    """Unknown keys only warn and exit 0, so the check is an empty stderr too."""
    result = run(analyze, "verify", "--man=no", f"./{name.replace('@', '@orders')}", cwd=installed)
    assert (result.returncode, result.stderr.strip(), result.stdout.strip()) == (0, "", "")


def test_the_check_above_sees_a_misspelled_key(analyze: str, installed: Path) -> None:
    """The check is worth something: a typo makes stderr speak."""
    unit = installed / "reconcile@.service"
    unit.write_text(unit.read_text().replace("NoNewPrivileges=", "NoNewPriviledges="))
    result = run(analyze, "verify", "--man=no", "./reconcile@orders.service", cwd=installed)
    assert "NoNewPriviledges" in result.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_the_service_is_hardened(analyze: str, installed: Path, name: str) -> None:
    """systemd's own exposure score stays under the limit."""
    threshold = str(int(EXPOSURE_MAX * 10))
    result = run(
        analyze, "security", "--offline=true", "--json=short", f"--threshold={threshold}", f"./{name}", cwd=installed
    )
    assert result.stderr.strip() == ""
    assert result.returncode == 0, result.stdout
    assert json.loads(result.stdout)


@pytest.mark.parametrize(("name", "minimum_s"), [("reconcile@.timer", 60), ("reconcile-verify@.timer", 86_400)])
def test_the_calendar_means_what_the_comment_says(analyze: str, name: str, minimum_s: int) -> None:
    """systemd reads OnCalendar= as every minute, and once a night."""
    (calendar,) = shipped.unit(name)["Timer"]["OnCalendar"]
    result = run(analyze, "calendar", "--iterations=3", "--base-time=2026-01-01 00:00:00 UTC", f"{calendar} UTC")
    assert (result.returncode, result.stderr.strip()) == (0, "")
    times = re.findall(r"(?:Next elapse|Iter\. #\d|Iteration #\d): \w+ \S+ (\d+):(\d+):(\d+)", result.stdout)
    assert len(times) == 3
    at_s = [int(h) * 3600 + int(m) * 60 + int(s) for h, m, s in times]
    assert (at_s[1] - at_s[0]) % 86_400 == minimum_s % 86_400


@pytest.mark.parametrize("name", WORKERS)
def test_limits_fit_inside_each_other(name: str) -> None:
    """--max-runtime and its grace < TimeoutStartSec: systemd ends only what does not end by itself."""
    service = shipped.unit(name)["Service"]
    (command,) = service["ExecStart"]
    (start,) = service["TimeoutStartSec"]
    (stop,) = service["TimeoutStopSec"]
    assert service["Type"] == ["oneshot"]
    assert shipped.max_runtime_s(command.split()) + shipped.RUN_GRACE_S < shipped.seconds(start)
    assert shipped.seconds(stop) > shipped.RUN_GRACE_S
    assert shipped.seconds(start) < 86_400


def test_a_random_delay_does_not_reach_the_next_tick() -> None:
    """The spread is part of a period."""
    for name, period_s in (("reconcile@.timer", 60), ("reconcile-verify@.timer", 86_400)):
        timer = shipped.unit(name)["Timer"]
        assert shipped.seconds(timer["RandomizedDelaySec"][0]) < period_s
        assert timer["FixedRandomDelay"] == ["yes"]


@pytest.mark.parametrize("name", WORKERS)
def test_secrets_are_credentials_and_failures_are_told(name: str) -> None:
    """Every file the process reads comes as a credential; a failure starts the alert, progress saved does not."""
    sections = shipped.unit(name)
    service = sections["Service"]
    loaded = {value.split(":")[0] for value in service["LoadCredential"]}
    used = set(re.findall(r"%d/([\w.]+)", " ".join(service["ExecStart"] + service["Environment"])))
    assert loaded == used == {"config.yaml", "materialize_url", "redis_url"}
    assert sections["Unit"]["OnFailure"] == ["reconcile-alert@%n.service"]
    assert service.get("SuccessExitStatus", []) == (["4"] if name == "reconcile@.service" else [])
    assert service["DynamicUser"] == ["yes"]


def test_run_and_verify_are_confined_alike() -> None:
    """The two services differ in what they run and how long, in nothing else."""
    run_service, verify_service = (shipped.unit(name)["Service"] for name in WORKERS)
    differing = {"ExecStart", "SuccessExitStatus", "TimeoutStartSec"}
    for service in (run_service, verify_service):
        for key in differing:
            service.pop(key, None)
    assert run_service == verify_service


@pytest.mark.parametrize(("webhook", "posts"), [("none", 0), ("https://hooks.example.com/s3cret", 1)])
def test_the_alert_speaks_to_the_journal_and_the_webhook(tmp_path: Path, webhook: str, posts: int) -> None:
    """The webhook's URL reaches curl on standard input, never as an argument."""
    (tmp_path / "webhook_url").write_text(webhook + "\n")
    for name, body in {
        "systemctl": "echo Result=exit-code; echo ExecMainStatus=5",
        "curl": f'printf "%s\\n" "$*" > {tmp_path}/argv; cat > {tmp_path}/stdin',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    script = str(shipped.CRON / "systemd" / "reconcile-alert")
    result = subprocess.run(
        [script, "reconcile@orders.service"], env=env, capture_output=True, text=True, timeout=300, check=True
    )
    assert "reconcile@orders.service" in result.stderr
    assert "ExecMainStatus=5" in result.stderr
    assert (tmp_path / "argv").exists() == bool(posts)
    if posts:
        argv = (tmp_path / "argv").read_text()
        assert "s3cret" not in argv
        assert (tmp_path / "stdin").read_text() == f'url = "{webhook}"\n'
        body = re.search(r"--data (\{.*\}) --output", argv)
        assert body is not None
        assert "reconcile@orders.service" in json.loads(body[1])["text"]
