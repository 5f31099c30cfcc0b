"""Azure Functions: the v2 model's own binding and converter, driving the function the host would call."""

from __future__ import annotations

import functools
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from azure.functions import meta, timer
from cronsim import CronSim

from functions import azure, build
from functions import event as events
from tests.platforms import shipped
from tests.platforms.conftest import Deployment
from tests.support.meanwhile import eventually

TIMER = {
    "Schedule": {"AdjustForDST": True},
    "ScheduleStatus": {
        "Last": "2026-01-01T00:00:00.000+00:00",
        "LastUpdated": "2026-01-01T00:00:00.000+00:00",
        "Next": "2026-01-01T00:01:00.000+00:00",
    },
    "IsPastDue": False,
}


def request(*, past_due: bool = False) -> Any:
    """The timer as the worker hands it over: decoded by the package's own converter."""
    datum = meta.Datum(json.dumps({**TIMER, "IsPastDue": past_due}), "json")
    return timer.TimerRequestConverter.decode(datum, trigger_metadata=None)


@functools.cache  # the package refuses a second look
def functions() -> dict[str, Any]:
    """The functions the host would index, by name."""
    return {function.get_function_name(): function for function in azure.app.get_functions()}


def test_bindings_are_what_the_host_reads() -> None:
    """Two timers with six-field schedules, never run by a mere restart."""
    for name, default in {"reconcile_run": "0 * * * * *", "reconcile_verify": "0 17 3 * * *"}.items():
        (binding,) = functions()[name].get_dict_repr()["bindings"]
        assert binding["type"] == "timerTrigger"
        assert binding["schedule"] == default
        assert binding["runOnStartup"] is False
        seconds, rest = binding["schedule"].split(" ", 1)
        assert 0 <= int(seconds) < 60
        CronSim(rest, datetime(2026, 1, 1, tzinfo=UTC))


def test_the_limit_is_that_of_host_json() -> None:
    """The trigger does not tell how long it may take; the file beside it does."""
    host = json.loads((shipped.FUNCTIONS / "azure-functions" / "host.json").read_text())
    hours, minutes, seconds = map(int, host["functionTimeout"].split(":"))
    assert hours * 3600 + minutes * 60 + seconds == azure.PLATFORM_S
    assert azure.PLATFORM_S <= 600, "the Consumption plan's most"
    assert host["version"] == "2.0"


def test_a_tick_brings_redis_up_to_date(in_process: Callable[[], Deployment], caplog: pytest.LogCaptureFixture) -> None:
    """The user function with a decoded timer; late or not makes no difference but is logged."""
    deployment = in_process()
    caplog.set_level(logging.INFO)
    run = functions()["reconcile_run"].get_user_function()
    deployment.put({f"k{n}": f"v{n}" for n in range(100)})
    run(request())
    assert deployment.stored() == deployment.view()
    deployment.put({"k0": "changed"})
    run(request(past_due=True))
    assert deployment.stored() == deployment.view()
    logged = [json.loads(record.message) for record in caplog.records if record.name == "functions.azure"]
    assert [entry["past_due"] for entry in logged] == [False, True]
    assert [entry["reconcile"]["exit_code"] for entry in logged] == [0, 0]


def test_the_audit_reports_drift_as_an_error_in_the_log(
    in_process: Callable[[], Deployment], caplog: pytest.LogCaptureFixture
) -> None:
    """Exit code 3 is not raised (a retry would find the same): it is logged at ERROR, for the alert rule."""
    deployment = in_process()
    caplog.set_level(logging.INFO)
    deployment.put({"a": "1"})
    functions()["reconcile_run"].get_user_function()(request())
    deployment.tamper("a")
    functions()["reconcile_verify"].get_user_function()(request())
    record = [record for record in caplog.records if record.name == "functions.azure"][-1]
    assert record.levelno == logging.ERROR
    assert json.loads(record.message)["reconcile"]["exit_code"] == 3
    assert "tampered" not in caplog.text


def test_an_unreachable_source_fails_the_invocation(
    in_process: Callable[[], Deployment], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Raised, so that the host counts a failure; no password in the log or the exception."""
    in_process()
    monkeypatch.setenv("MATERIALIZE_URL", "postgres://someone:hunter2@127.0.0.1:1/materialize?sslmode=disable")
    with pytest.raises(events.RetryableError) as caught:
        functions()["reconcile_run"].get_user_function()(request())
    assert "hunter2" not in caplog.text + str(caught.value)


def test_two_ticks_at_once(in_process: Callable[[], Deployment], caplog: pytest.LogCaptureFixture) -> None:
    """The blob lease of the host may fail: two calls in two threads, neither fails, Redis equals the view."""
    deployment = in_process()
    caplog.set_level(logging.INFO)
    deployment.put({f"k{n}": f"v{n}" for n in range(500)})
    run = functions()["reconcile_run"].get_user_function()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, [request(), request()]))
    logged = [json.loads(record.message) for record in caplog.records if record.name == "functions.azure"]
    assert [entry["reconcile"]["exit_code"] for entry in logged] == [0, 0]
    assert deployment.stored() == deployment.view()


def test_a_second_tick_during_the_first(
    in_process: Callable[[], Deployment], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While one call follows, the other finds the lease taken and returns at once."""
    deployment = in_process()
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("EVENT_RUN", '{"follow_s": 8}')
    deployment.put({"a": "1"})
    run = functions()["reconcile_run"].get_user_function()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(run, request())
        eventually(lambda: deployment.stored() == deployment.view())
        run(request())
        following.result(30)
    logged = [json.loads(record.message) for record in caplog.records if record.name == "functions.azure"]
    assert [entry["reconcile"]["status"] for entry in logged] == ["skipped", "done"]


def test_the_built_directory_is_what_the_host_indexes(tmp_path: Path, deployment: Deployment) -> None:
    """function_app.py of the built directory in a process of its own: `app` with both functions."""
    assert build.main(["azure-functions", "--out", str(tmp_path)]) == 0
    tree = tmp_path / "azure-functions"
    script = (
        "import function_app, json; print(*sorted(f.get_function_name() for f in function_app.app.get_functions()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tree,
        env={**deployment.env, "SCHEDULE_RUN": "30 */2 * * * *"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert result.stdout.split() == ["reconcile_run", "reconcile_verify"]
    assert {"host.json", "requirements.txt", "function_app.py"} <= {path.name for path in tree.iterdir()}
