"""functions/event.py: the event schema is strict, the time limit leaves a margin, failures keep their meaning."""

from __future__ import annotations

import inspect
import io
import json
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from functions import event as events
from reconcile.errors import ExitCode, UsageError
from reconcile.report.run_report import RunReport, ViewReport
from reconcile.runs.request import OPTIONS, Request
from reconcile.stop import GRACE_S, Stop
from tests.platforms import shipped
from tests.platforms.conftest import Deployment


@pytest.fixture(autouse=True)
def _fresh_settings() -> Iterator[None]:
    events.settings.cache_clear()
    yield
    events.settings.cache_clear()


def ended(code: int = 0) -> RunReport:
    """The report of a run of one view that ended so."""
    return RunReport("id", "run", 0, views=[ViewReport("orders", exit_code=ExitCode(code))])


@pytest.mark.parametrize("event", [{}, None, {"mode": "run"}, {"scheduled": "2026-01-01T00:00:00Z", "execution": "1"}])
def test_a_bare_tick_is_a_plain_run(event: object) -> None:
    """Nothing asked: run, all views, skip when leased."""
    assert events.to_request(event) == Request(mode="run")


@pytest.mark.parametrize("name", ["rule.json", "schedule.json"])
def test_eventbridge_without_input_is_a_bare_tick(name: str) -> None:
    """The event AWS sends when a rule, or a schedule, has no Input of its own."""
    tick = json.loads((shipped.FUNCTIONS / "aws-lambda" / "events" / name).read_text())
    assert tick["detail-type"] == "Scheduled Event"
    assert events.to_request(tick) == Request(mode="run")


def test_every_option_arrives() -> None:
    """Fields reach the Request under their own names; arrays become tuples."""
    assert events.to_request({"mode": "verify", "views": ["a", "b"], "fast": True, "subset": "next"}) == Request(
        mode="verify", views=("a", "b"), fast=True, subset="next"
    )
    assert events.to_request(
        {"mode": "snapshot", "as_of": "1760000000000", "deep": True, "if_leased": "wait"}
    ) == Request(mode="snapshot", as_of=1760000000000, deep=True, if_leased="wait")
    assert events.to_request({"mode": "verify", "subset": "3/24"}).subset == (3, 24)
    assert events.to_request({"mode": "delta", "follow_s": 1.5}) == Request(mode="delta", follow_s=1.5)


CONSENTS = [("run", "allow_deletes"), ("delta", "allow_deletes"), ("snapshot", "adopt"), ("snapshot", "reset_state")]


@pytest.mark.parametrize(("mode", "key"), CONSENTS)
def test_consent_needs_the_environment(mode: str, key: str) -> None:
    """Whoever may send an event must not be able to have data deleted, unless the function's owner says so."""
    assert {field for _, field in CONSENTS} == events.CONSENTS
    with pytest.raises(UsageError, match="not allowed here") as caught:
        events.to_request({"mode": mode, key: True}, events.CONSENTS - {key})
    assert f"RECONCILE_EVENT_ALLOWS={key}" in (caught.value.hint or "")
    allowed = events.allowed_by({"RECONCILE_EVENT_ALLOWS": f"{key}, "})
    assert getattr(events.to_request({"mode": mode, key: True}, allowed), key) is True
    assert events.to_request({"mode": mode, key: False}) == Request(mode=mode)  # type: ignore[arg-type]


def test_a_misspelled_consent_is_refused() -> None:
    """RECONCILE_EVENT_ALLOWS is checked at every tick, not when its name is first needed."""
    assert events.allowed_by({}) == frozenset()
    with pytest.raises(UsageError, match="unknown name 'allow_delete'"):
        events.allowed_by({"RECONCILE_EVENT_ALLOWS": "adopt,allow_delete"})


@pytest.mark.usefixtures("configured")
def test_an_invocation_asks_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused without, carried out with RECONCILE_EVENT_ALLOWS, which is no unknown variable to the configuration."""
    seen: list[Request] = []

    def execute(_settings: Any, request: Request, _stop: Stop, _run_id: str | None) -> RunReport:
        seen.append(request)
        return ended()

    monkeypatch.setattr(events, "execute", execute)
    assert events.run({"allow_deletes": True}, 60.0).code == 2
    monkeypatch.setenv("RECONCILE_EVENT_ALLOWS", "allow_deletes")
    assert events.run({"allow_deletes": True}, 60.0).code == 0
    assert seen == [Request(mode="run", allow_deletes=True)]


@pytest.mark.parametrize(
    ("event", "message", "hint"),
    [
        ({"mod": "verify"}, "unknown event key 'mod'", "did you mean 'mode'?"),
        ({"Mode": "verify"}, "unknown event key 'Mode'", "did you mean 'mode'?"),
        ({"for": 5}, "unknown event key 'for'", "did you mean 'follow_s'?"),
        ({"view": "a"}, "unknown event key 'view'", "did you mean 'views'?"),
        ({"show_values": True}, "unknown event key 'show_values'", "known: "),
        ({"mode": "verfy"}, "cannot be 'verfy'", "did you mean 'verify'?"),
        ({"if_leased": "skipp"}, "cannot be 'skipp'", "did you mean 'skip'?"),
        ({"mode": ["run"]}, "must be of type string, not array", None),
        ({"views": "orders"}, "must be of type array, not string", None),
        ({"views": [1]}, "must be an array of strings", None),
        ({"mode": "delta", "follow_s": True}, "must be of type number, not boolean", None),
        ({"mode": "delta", "follow_s": -1}, "0 or more", None),
        ({"mode": "delta", "follow_s": float("nan")}, "0 or more", None),
        ({"mode": "delta", "follow_s": float("inf")}, "0 or more", None),
        ({"dry_run": "yes"}, "must be of type boolean, not string", None),
        ({"dry_run": None}, "must be of type boolean, not null", None),
        ({"mode": "run", "subset": "next"}, "does not belong to mode 'run'", "verify"),
        ({"mode": "verify", "allow_deletes": True}, "does not belong to mode 'verify'", None),
        ({"mode": "verify", "deep": True}, "does not belong to mode 'verify'", "it belongs to: snapshot"),
        ({"mode": "run", "adopt": False}, "does not belong to mode 'run'", "it belongs to: snapshot"),
        ({"mode": "snapshot", "as_of": "noon"}, "event key 'as_of': 'noon' is not a time", "-5m"),
        ({"mode": "verify", "subset": "4/4"}, "event key 'subset': '4/4' is not a slice", "0 <= i < n"),
        ({"mode": "delta", "follow_s": 5, "until_current": True}, "exclude each other", None),
        ([], "not a JSON object", None),
        ("run", "not JSON", None),
        pytest.param("[" * 60_000, "not JSON", None, id="nested"),
        ({"views": ["a"], "mode": ["run"]}, "must be of type string, not array", None),
    ],
)
def test_what_it_cannot_mean_is_refused_with_a_suggestion(event: object, message: str, hint: str | None) -> None:
    """A typo must never silently run the default."""
    with pytest.raises(UsageError) as caught:
        events.to_request(events.parse_json(event) if isinstance(event, str) else event)
    assert message in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


def test_row_values_cannot_be_asked_for() -> None:
    """Everything else that the command line offers can."""
    assert set(OPTIONS) - set(events.FIELDS) == {"show_values", "max_report"}


@pytest.mark.parametrize("path", sorted(shipped.FUNCTIONS.glob("*/events/*.json")), ids=lambda path: path.name)
def test_the_example_events_are_accepted(path: Any) -> None:
    """Everything under events/ can be sent as it is."""
    event = json.loads(path.read_text())
    if "message" in event:
        import base64

        event = json.loads(base64.b64decode(event["message"]["data"]))
    assert isinstance(events.to_request(event), Request)


@pytest.mark.parametrize("platform_s", [0.0, 3.0, 10.0, 60.0, 300.0, 900.0])
def test_the_budget_leaves_time_for_what_comes_after_the_deadline(platform_s: float) -> None:
    """From 20 s on there are 2 * GRACE_S at least; a short limit is split in half; never negative."""
    ours_s = events.budget_s(platform_s, None)
    assert 0 <= ours_s <= platform_s
    if platform_s >= 4 * GRACE_S:
        assert 2 * GRACE_S <= platform_s - ours_s <= 30
    else:
        assert ours_s == platform_s / 2
    assert events.budget_s(platform_s, 1.0) == min(ours_s, 1.0)


@pytest.mark.parametrize(
    ("env", "limit_s"),
    [({}, None), ({"CLOUD_RUN_TIMEOUT_SECONDS": "300"}, 300.0), ({"FUNCTION_TIMEOUT_S": "90"}, 90.0)],
)
def test_where_only_the_environment_can_say_the_limit(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], limit_s: float | None
) -> None:
    """Our own variable, else the one Google sets."""
    for name in ("FUNCTION_TIMEOUT_S", "CLOUD_RUN_TIMEOUT_SECONDS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert events.environment_limit_s() == limit_s


@pytest.mark.parametrize("text", ["5m", "-1", "nan", "inf", "1e9", " "])
def test_a_limit_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """An outcome with exit code 2 that names the variable, not an exception for the platform to retry."""
    monkeypatch.setenv("FUNCTION_TIMEOUT_S", text)
    outcome = events.run({}, 60.0, certain=False)
    assert (outcome.code, outcome.retryable) == (2, False)
    assert "FUNCTION_TIMEOUT_S" in outcome.body["error"]["message"]


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A complete configuration that reaches nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MATERIALIZE_URL", "postgres://someone:hunter2@127.0.0.1:1/materialize")
    monkeypatch.setenv("REDIS_URL", "redis://:hunter3@127.0.0.1:1/0")
    monkeypatch.setenv("RECONCILE_VIEW__SQL", "SELECT key, value FROM v")


@pytest.mark.parametrize(
    ("report", "fine", "raises"),
    [
        (ended(0), True, False),
        (ended(4), True, False),
        (ended(7), True, False),
        (ended(3), False, False),
        (ended(2), False, False),
        (ended(5), False, False),
        (ended(6), False, True),
    ],
)
@pytest.mark.usefixtures("configured")
def test_only_what_a_retry_may_cure_raises(
    monkeypatch: pytest.MonkeyPatch, report: RunReport, fine: bool, raises: bool
) -> None:
    """A partial result is returned: the next tick goes on."""
    monkeypatch.setattr(events, "execute", lambda _settings, _request, _stop, _run_id: report)
    outcome = events.run({}, 60.0)
    assert (outcome.body, outcome.code, outcome.fine) == (report.to_dict(), report.exit_code, fine)
    if raises:
        with pytest.raises(events.RetryableError):
            outcome.raise_if_retryable()
    else:
        outcome.raise_if_retryable()


@pytest.mark.usefixtures("configured")
def test_settings_are_read_once_and_again_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotated secret is picked up by the invocation after the one it was refused in."""
    codes = iter([0, 0, 2, 0])
    seen: list[str] = []

    def execute(settings: Any, _request: Request, stop: Stop, _run_id: str | None) -> RunReport:
        seen.append(settings.redis.password.reveal())
        assert stop.remaining_s() is not None
        return ended(next(codes))

    monkeypatch.setattr(events, "execute", execute)
    events.run({}, 60.0)
    monkeypatch.setenv("REDIS_URL", "redis://:rotated@127.0.0.1:1/0")
    events.run({}, 60.0)
    events.run({}, 60.0)
    events.run({}, 60.0)
    assert ["hunter3" in password for password in seen] == [True, True, True, False]


@pytest.mark.usefixtures("configured")
def test_a_refused_event_or_configuration_is_an_outcome_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback, exit code 2, nothing retried, and neither password in what is said."""
    outcome = events.run({"mod": "run"}, 60.0)
    assert (outcome.code, outcome.retryable, outcome.body["status"]) == (2, False, "failed")
    monkeypatch.setenv("REDIS_URL", "http://:hunter3@127.0.0.1:1/0")
    outcome = events.run({}, 60.0)
    assert (outcome.code, outcome.retryable) == (2, False)
    assert "hunter" not in json.dumps(outcome.body)


@pytest.mark.parametrize("name", ["aws_lambda.py", "gcp.py", "azure.py"])
def test_adapters_stay_thin(name: str) -> None:
    """At most 40 lines of code: without blank lines, comments and docstrings."""
    source = (shipped.FUNCTIONS / name).read_text()
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
    lines = set()
    previous = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        docstring = token.type == tokenize.STRING and previous in (tokenize.NEWLINE, tokenize.INDENT)
        if token.type not in skipped and token.type != tokenize.ENDMARKER and not docstring:
            lines |= set(range(token.start[0], token.end[0] + 1))
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            previous = token.type
    assert len(lines) <= 40


def test_nothing_here_knows_a_platform() -> None:
    """event.py is shared: no platform's package is imported."""
    source = inspect.getsource(events)
    assert not [word for word in ("boto3", "flask", "azure", "functions_framework") if word in source]


def test_metrics_go_where_the_configuration_says(
    in_process: Callable[[], Deployment], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A function hands its numbers over like the command; an event cannot say where to."""
    path = tmp_path / "m.prom"
    monkeypatch.setenv("RECONCILE_METRICS__FILE", str(path))
    in_process().put({"a": "1"})
    assert events.run({}, 60.0).code == 0
    assert 'reconcile_rows{view="orders",mode="run",op="put"} 1' in path.read_text()
    refused = events.run({"metrics": {"ping": "http://127.0.0.1/"}}, 60.0)
    assert refused.code == 2
