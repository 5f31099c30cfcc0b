"""AWS Lambda end to end: the unzipped artifact under AWS's own runtime, cold, warm, killed, twice at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.platforms import lambda_runtime, open_sockets, shipped
from tests.platforms.conftest import Deployment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="awslambdaric is for Linux")

WITHIN_S = 40.0
LEASE = "3s"  # shorter than the default, so that tests wait less for the dead


@pytest.fixture
def new_sandbox(
    lambda_task: Path, deployment: Deployment, tmp_path: Path
) -> Iterator[Callable[..., lambda_runtime.Sandbox]]:
    """Makes execution environments; all are gone at the end."""
    with ExitStack() as stack:
        count = 0

        def make(**env: str) -> lambda_runtime.Sandbox:
            nonlocal count
            count += 1
            log = tmp_path / f"sandbox-{count}.log"
            return stack.enter_context(lambda_runtime.sandbox(lambda_task, {**deployment.env, **env}, log))

        yield make


def eventually(check: Callable[[], bool], what: str) -> None:
    """Wait until the check holds."""
    deadline = time.monotonic() + WITHIN_S
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_the_artifact_imports_its_own_copies(lambda_task: Path, deployment: Deployment) -> None:
    """The tests below test the zip, not the checkout or the virtual environment."""
    script = "import functions.event, psycopg, redis, reconcile; print(reconcile.__file__, psycopg.__file__, sep='\\n')"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=lambda_task, env=deployment.env, capture_output=True, text=True, check=True
    )
    assert all(line.startswith(str(lambda_task)) for line in result.stdout.split())


def test_cold_then_warm(new_sandbox: Any, deployment: Deployment) -> None:
    """Two invocations of one sandbox: Redis equals the view after each, nothing is open in between."""
    sandbox = new_sandbox()
    deployment.put({f"k{n}": f"v{n}" for n in range(100)})
    cold = sandbox.invoke({"mode": "run", "scheduled": "2026-01-01T00:00:00Z"})
    assert cold.error is None, cold.error
    assert (cold.response["status"], cold.response["exit_code"]) == ("done", 0)
    assert deployment.stored() == deployment.view()
    assert len(deployment.stored()) == 100
    assert open_sockets.to(sandbox.pid, deployment.env["MATERIALIZE_URL"], deployment.env["REDIS_URL"]) == []

    deployment.put({"k1": "changed", "new": "row"})
    deployment.delete(["k2"])
    warm = sandbox.invoke({})
    assert (warm.error, warm.response["exit_code"]) == (None, 0)
    assert deployment.stored() == deployment.view()
    assert f"{deployment.prefix}k2".encode() not in deployment.stored()
    assert open_sockets.to(sandbox.pid, deployment.env["MATERIALIZE_URL"], deployment.env["REDIS_URL"]) == []
    assert sandbox.alive
    assert sandbox.init_errors == []
    assert [line["Succeeded"] for line in sandbox.metrics()] == [1, 1]
    print(f"cold {cold.took_s:.2f} s, warm {warm.took_s:.2f} s")


def test_verify_finds_drift_and_returns_it(new_sandbox: Any, deployment: Deployment) -> None:
    """Drift is a result, not an exception: exit code 3, the Drift metric, nothing retried."""
    sandbox = new_sandbox()
    deployment.put({"a": "1", "b": "2"})
    sandbox.invoke({})
    clean = sandbox.invoke({"mode": "verify"})
    assert clean.response["exit_code"] == 0
    deployment.tamper("a")
    drifted = sandbox.invoke({"mode": "verify"})
    assert (drifted.error, drifted.response["exit_code"]) == (None, 3)
    assert "tampered" not in sandbox.log, "row values never reach the log"
    assert [line["Drift"] for line in sandbox.metrics()] == [0, 0, 1]


def test_a_dry_run_is_no_success(new_sandbox: Any, deployment: Deployment) -> None:
    """The alarm that says that nobody brings Redis up to date is not kept silent by runs that write nothing."""
    sandbox = new_sandbox()
    deployment.put({"a": "1"})
    dry = sandbox.invoke({"dry_run": True})
    assert (dry.error, dry.response["exit_code"], dry.response["views"][0]["puts"]) == (None, 0, 1)
    assert deployment.stored() == {}
    assert [(line["Succeeded"], line["Failed"]) for line in sandbox.metrics()] == [(0, 0)]


def test_metrics_are_in_embedded_metric_format(new_sandbox: Any, deployment: Deployment) -> None:
    """One line per invocation; every metric it declares is a number in the same line."""
    sandbox = new_sandbox()
    invocation = sandbox.invoke({})
    (line,) = sandbox.metrics()
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert abs(line["_aws"]["Timestamp"] / 1000 - time.time()) < 60
    assert {metric["Name"] for metric in directive["Metrics"]} == {"Succeeded", "Incomplete", "Drift", "Failed", "Lag"}
    assert all(isinstance(line[metric["Name"]], int | float) for metric in directive["Metrics"])
    assert all(isinstance(line[name], str) for names in directive["Dimensions"] for name in names)
    assert line["reconcile"] == invocation.response
    assert invocation.response["run_id"] == invocation.id


def test_a_typo_runs_nothing(new_sandbox: Any, deployment: Deployment) -> None:
    """Refused with a suggestion; Redis is untouched."""
    deployment.put({"a": "1"})
    invocation = new_sandbox().invoke({"mod": "verify"})
    assert invocation.error is None
    assert invocation.response["exit_code"] == 2
    assert "did you mean 'mode'?" in invocation.response["error"]["hint"]
    assert deployment.stored() == {}


@pytest.mark.parametrize("name", ["rule.json", "schedule.json"])
def test_a_tick_without_input_runs(new_sandbox: Any, deployment: Deployment, name: str) -> None:
    """What EventBridge sends where nobody wrote an Input brings Redis up to date."""
    deployment.put({"a": "1"})
    invocation = new_sandbox().invoke(json.loads((shipped.FUNCTIONS / "aws-lambda" / "events" / name).read_text()))
    assert (invocation.error, invocation.response["status"]) == (None, "done")
    assert deployment.stored() == deployment.view()


def test_deletes_without_limit_need_the_function_s_environment(new_sandbox: Any, deployment: Deployment) -> None:
    """An event alone gets exit code 2 and changes nothing; with RECONCILE_EVENT_ALLOWS it is carried out."""
    deployment.put({f"k{n}": "v" for n in range(100)})
    sandbox = new_sandbox()
    sandbox.invoke({})
    deployment.delete([f"k{n}" for n in range(90)])
    refused = sandbox.invoke({"allow_deletes": True})
    assert (refused.error, refused.response["exit_code"]) == (None, 2)
    assert len(deployment.stored()) == 100
    allowing = new_sandbox(RECONCILE_EVENT_ALLOWS="allow_deletes")
    assert allowing.invoke({}).response["exit_code"] == 5
    assert allowing.invoke({"allow_deletes": True}).response["exit_code"] == 0
    assert deployment.stored() == deployment.view()


def test_an_unreachable_source_raises_for_the_retry_and_names_no_secret(new_sandbox: Any) -> None:
    """Exit code 6 is what a retry may cure; the password is in neither the error nor the log."""
    url = "postgres://someone:hunter2@127.0.0.1:1/materialize?sslmode=disable"
    sandbox = new_sandbox(MATERIALIZE_URL=url)
    invocation = sandbox.invoke({})
    assert invocation.error is not None
    assert invocation.error["errorType"] == "RetryableError"
    assert "exit code 6" in invocation.error["errorMessage"]
    assert "hunter2" not in json.dumps(invocation.error) + sandbox.log
    assert [line["Failed"] for line in sandbox.metrics()] == [1]
    assert sandbox.alive


FAKE_BOTO3 = """
import json, os
class _Client:
    def get_secret_value(self, SecretId):
        assert SecretId == "arn:aws:secretsmanager:eu-central-1:123456789012:secret:reconcile-AbCdEf", SecretId
        with open(os.environ["FAKE_SECRET"]) as file:
            return {"SecretString": file.read()}
def client(service, region_name):
    assert (service, region_name) == ("secretsmanager", "eu-central-1")
    return _Client()
"""


def test_addresses_from_secrets_manager_and_their_rotation(
    new_sandbox: Any, deployment: Deployment, tmp_path: Path
) -> None:
    """The template's way: two members of one secret. A changed one is read after the failure it caused."""
    (tmp_path / "boto3.py").write_text(FAKE_BOTO3)
    secret = tmp_path / "secret.json"
    good = {"materialize_url": deployment.env["MATERIALIZE_URL"], "redis_url": deployment.env["REDIS_URL"]}
    secret.write_text(json.dumps(good))
    arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:reconcile-AbCdEf"
    sandbox = new_sandbox(
        PYTHONPATH=str(tmp_path),
        FAKE_SECRET=str(secret),
        MATERIALIZE_URL="",
        REDIS_URL="",
        MATERIALIZE_URL_ARN=f"{arn}:materialize_url",
        REDIS_URL_ARN=f"{arn}:redis_url",
    )
    deployment.put({"a": "1"})
    secret.write_text(json.dumps({**good, "redis_url": "redis://:hunter2@127.0.0.1:1/0"}))
    assert sandbox.invoke({}).error is not None
    secret.write_text(json.dumps(good))
    assert sandbox.invoke({}).response["status"] == "done"
    assert deployment.stored() == deployment.view()
    assert "hunter2" not in sandbox.log


def test_following_ends_before_lambda_would_kill(new_sandbox: Any, deployment: Deployment) -> None:
    """Asked to follow for ten minutes with a limit of 20 s: it returns at a committed time, well inside the limit."""
    sandbox = new_sandbox()
    deployment.put({"a": "1"})
    invocation = sandbox.start({"mode": "run", "follow_s": 600}, limit_s=20.0)
    eventually(lambda: deployment.stored() == deployment.view(), "the first content did not arrive")
    deployment.put({"b": "2"})
    eventually(lambda: len(deployment.stored()) == 2, "the change was not followed")
    sandbox.finish(invocation, kill_after_s=20.0)
    assert invocation.error is None
    assert invocation.response is not None, "killed at the limit"
    assert invocation.response["exit_code"] in (0, 4)
    assert deployment.stored() == deployment.view()
    assert open_sockets.to(sandbox.pid, deployment.env["MATERIALIZE_URL"], deployment.env["REDIS_URL"]) == []


def test_killed_at_the_deadline_the_next_sandbox_goes_on(new_sandbox: Any, deployment: Deployment) -> None:
    """SIGKILL in the middle of following: the next cold start waits for the dead run's lease and converges."""
    deployment.put({f"k{n}": f"v{n}" for n in range(50)})
    killed, successor = new_sandbox(), new_sandbox()
    successor.ready()
    invocation = killed.start({"mode": "run", "follow_s": 600}, limit_s=900.0)
    eventually(lambda: deployment.stored() == deployment.view(), "the first content did not arrive")
    killed.finish(invocation, kill_after_s=0.2)
    assert not killed.alive
    assert (invocation.response, invocation.error) == (None, None)

    skipped = successor.invoke({})
    assert (skipped.error, skipped.response["status"]) == (None, "skipped"), "a lease held is no failure"
    assert {name: n for name, n in successor.metrics()[-1].items() if name in ("Succeeded", "Failed")} == {
        "Succeeded": 0, "Failed": 0,
    }  # fmt: skip
    assert deployment.redis.client().pexpire("reconcile:{orders}:lease", 1000)  # as if it were late by now
    deployment.put({"k0": "changed", "late": "row"})
    deployment.delete(["k1"])
    waited = successor.invoke({"mode": "run", "if_leased": "wait"})
    assert (waited.error, waited.response["status"]) == (None, "done")
    assert deployment.stored() == deployment.view()


def test_frozen_and_woken_it_writes_nothing_any_more(new_sandbox: Any, deployment: Deployment) -> None:
    """A sandbox stopped in mid-run, as Lambda freezes them; meanwhile another takes over; then the first one wakes."""
    deployment.put({"a": "1"})
    frozen = new_sandbox(RECONCILE_LIMITS__LEASE=LEASE)
    invocation = frozen.start({"mode": "run", "follow_s": 600}, limit_s=900.0)
    eventually(lambda: deployment.stored() == deployment.view(), "the first content did not arrive")
    os.kill(frozen.pid, signal.SIGSTOP)
    deployment.put({"a": "2", "b": "2"})
    successor = new_sandbox(RECONCILE_LIMITS__LEASE=LEASE)
    taken_over = successor.invoke({"if_leased": "wait"})
    assert (taken_over.error, taken_over.response["status"]) == (None, "done")
    assert deployment.stored() == deployment.view()
    deployment.tamper("a")  # whatever the frozen run still wants to write would show
    before = deployment.stored()
    os.kill(frozen.pid, signal.SIGCONT)
    frozen.finish(invocation, kill_after_s=WITHIN_S)
    assert frozen.alive, "it did not notice"
    assert invocation.error is not None
    assert invocation.error["errorType"] == "RetryableError"
    assert deployment.stored() == before


def test_two_invocations_at_once(new_sandbox: Any, deployment: Deployment) -> None:
    """Lambda may start a tick twice: neither fails, and Redis equals the view."""
    deployment.put({f"k{n}": f"v{n}" for n in range(500)})
    sandboxes = [new_sandbox(), new_sandbox()]
    invocations = [sandbox.start({}) for sandbox in sandboxes]
    for sandbox, invocation in zip(sandboxes, invocations, strict=True):
        sandbox.finish(invocation, kill_after_s=60)
        assert invocation.error is None
        assert invocation.response["exit_code"] == 0
    assert deployment.stored() == deployment.view()


def test_a_second_invocation_during_the_first(new_sandbox: Any, deployment: Deployment) -> None:
    """While one follows, the other finds the lease taken, returns at once and says so; the first is not disturbed."""
    deployment.put({"a": "1"})
    first, second = new_sandbox(), new_sandbox()
    second.ready()
    following = first.start({"follow_s": 600}, limit_s=20.0)
    eventually(lambda: deployment.stored() == deployment.view(), "the first content did not arrive")
    turned_away = second.invoke({})
    assert (turned_away.error, turned_away.response["status"]) == (None, "skipped")
    deployment.put({"b": "2"})
    eventually(lambda: deployment.stored() == deployment.view(), "the change was not followed")
    first.finish(following, kill_after_s=20.0)
    assert following.error is None
    assert following.response["exit_code"] in (0, 4)
    assert deployment.stored() == deployment.view()
