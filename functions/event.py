"""What the adapters share: a platform's event → Request, the platform's time limit → Stop, one call of `execute`.

An event is JSON with the names of `Request`'s fields. Unknown keys are refused, so that no typo runs the default.
"""

from __future__ import annotations

import difflib
import functools
import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import Any, get_args

# Imported here because platforms give a whole CPU to a cold start, and a fraction of one to an invocation.
from msgspec import Struct

import reconcile.runs.verify
import reconcile.runs.work  # noqa: F401
from reconcile.config.load import load
from reconcile.config.settings import MetricsSettings, Settings
from reconcile.errors import ExitCode, ReconcileError, UsageError
from reconcile.report.run_report import RunReport
from reconcile.runs.entry import execute
from reconcile.runs.request import OPTIONS, Mode, Request, parse
from reconcile.stop import GRACE_S, Stop
from reconcile.texts import environment

FIELDS = ("mode", *(field for field, option in OPTIONS.items() if option.events))
"""The keys of an event: names of `Request`'s fields. Not show_values, as what a function returns ends up in logs."""
CONSENTS = frozenset(field for field, option in OPTIONS.items() if option.consents)
"""Event keys that need the environment's permission: not everybody who may send events may have data deleted."""
ALLOWS = "RECONCILE_EVENT_ALLOWS"
# For a rule or schedule without Input, EventBridge sends an event of its own.
_BARE_TICKS = ("aws.events", "aws.scheduler")
TICK = ("scheduled", "execution")
"""Keys that schedulers fill in about the tick (EventBridge: <aws.scheduler.scheduled-time>). Ignored."""
# Words people try because they know them from the command line.
_SYNONYMS = {"for": "follow_s", "seconds": "follow_s", "view": "views", "command": "mode", "action": "mode"}
EVENT_MAX_BYTES = 64 * 1024


class Response(Struct, frozen=True):
    """How an invocation ended: the report as JSON-ready values, its exit code, whether a retry may help, and whether it
    did its work: neither skipped nor a dry run."""

    body: dict[str, Any]
    code: int
    retryable: bool
    succeeded: bool

    @property
    def fine(self) -> bool:
        """Whether nobody has to act: done, continued by the next tick, or another run holds the lease."""
        return self.code in (ExitCode.OK, ExitCode.INCOMPLETE, ExitCode.LEASE_HELD)

    def raise_if_retryable(self) -> None:
        """Raise RetryableError if a retry may help; platforms retry whatever raises."""
        if self.retryable:
            raise RetryableError(f"reconcile: exit code {self.code}, a retry may help; the report is in the log")


class RetryableError(ReconcileError):
    """Tells the platform to retry."""


def parse_json(body: bytes | str) -> object:
    """Return the event in a request body or message; an empty one is an empty event. Raises UsageError."""
    if len(body) > EVENT_MAX_BYTES:
        raise UsageError(f"the event has {len(body)} bytes, more than {EVENT_MAX_BYTES}")
    try:
        return json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError):
        raise UsageError("the event is not JSON", hint='send a JSON object such as {"mode": "run"}') from None


def to_request(event: object, allowed: frozenset[str] = frozenset()) -> Request:
    """Return the request in an event. allowed: the CONSENTS it may use. Raises UsageError."""
    if event is None:
        event = {}
    if not isinstance(event, dict):
        raise UsageError("the event is not a JSON object", hint='send an object such as {"mode": "run"}')
    if event.get("source") in _BARE_TICKS and "detail-type" in event:
        event = {}
    for key in event:
        if key not in FIELDS and key not in TICK:
            raise _unknown(str(key))
    asked = {key: value for key, value in event.items() if key in FIELDS}
    mode = asked.pop("mode", "run")
    _check_kind("mode", mode, str)
    _check_choice("mode", mode, get_args(Mode))
    for key, value in asked.items():
        _check_kind(key, value, OPTIONS[key].kind)
        _check_choice(key, value, OPTIONS[key].choices)
    request = parse(mode, asked, time.time_ns() // 1_000_000, lambda field: f"event key {field!r}")
    for key in sorted(CONSENTS - allowed):
        if asked.get(key):
            raise UsageError(
                f"event key {key!r} is not allowed here", hint=f"to allow it, set in the environment: {ALLOWS}={key}"
            )
    return request


def allowed_by(environ: Mapping[str, str]) -> frozenset[str]:
    """Return the CONSENTS that events may use, from RECONCILE_EVENT_ALLOWS=allow_deletes,adopt. Raises UsageError."""
    names = frozenset(name for name in re.split(r"[,\s]+", environ.get(ALLOWS, "")) if name)
    if unknown := sorted(names - CONSENTS):
        raise UsageError(f"{ALLOWS}: unknown name {unknown[0]!r}", hint=f"known: {', '.join(sorted(CONSENTS))}")
    return names


def budget_s(platform_s: float, max_runtime_s: float | None) -> float:
    """Return the seconds until the run should stop by itself if the platform kills it after platform_s.

    The margin leaves time for what follows the deadline: the batch under way, severing sockets after GRACE_S, the
    response.
    """
    margin_s = min(max(2 * GRACE_S, 0.1 * platform_s), 30.0, platform_s / 2)
    ours_s = max(0.0, platform_s - margin_s)
    return ours_s if max_runtime_s is None else min(ours_s, max_runtime_s)


def environment_limit_s() -> float | None:
    """Return the limit in seconds from FUNCTION_TIMEOUT_S or the variable Google sets, else None. Raises UsageError."""
    for name in ("FUNCTION_TIMEOUT_S", "CLOUD_RUN_TIMEOUT_SECONDS"):
        if text := os.environ.get(name):
            if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", text):
                raise UsageError(f"{name}: {text[:100]!r} is not a number of seconds")
            return float(text)
    return None


@functools.cache
def settings() -> Settings:
    """Return the configuration, read once per process, and again after a failure, as secrets are rotated."""
    loaded = load(os.environ.get("RECONCILE_CONFIG"), environment(), {})
    logging.getLogger("reconcile").setLevel(loaded.logging.level)
    return loaded


def log_line(line: dict[str, Any]) -> None:
    """Print one JSON line on stdout, which platforms take as one structured log entry."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def run(event: object, platform_s: float, run_id: str | None = None, *, certain: bool = True) -> Response:
    """Carry out one event (values, or JSON text) within the platform's limit. Nothing stays open afterwards.

    certain: platform_s comes from the platform itself; otherwise the environment may override it.
    """
    try:
        given = parse_json(event) if isinstance(event, bytes | str) else event
        request = to_request(given, allowed_by(os.environ))
        limit_s = platform_s if certain else environment_limit_s() or platform_s
        loaded = settings()
    except ReconcileError as error:
        report = RunReport(run_id or "", "refused", time.time_ns() // 1_000_000)
        report.fail(error)
    else:
        report = execute(loaded, request, Stop(budget_s(limit_s, loaded.limits.max_runtime_s)), run_id)
        _publish(report, loaded)
    if report.exit_code != ExitCode.OK:
        settings.cache_clear()
    retryable = report.retryable and report.status != "partial"
    return Response(report.to_dict(), int(report.exit_code), retryable, report.succeeded)


def _publish(report: RunReport, loaded: Settings) -> None:
    """Metrics go where the configuration says, never where an event does."""
    if loaded.metrics != MetricsSettings():
        from reconcile.report.sinks import publish  # imports ssl

        publish(report, loaded.metrics)


def _unknown(key: str) -> UsageError:
    near = difflib.get_close_matches(key.lower(), [*FIELDS, *TICK], n=1)
    meant = _SYNONYMS.get(key.lower()) or (near[0] if near else None)
    known = "known: " + ", ".join([*FIELDS, *TICK])
    return UsageError(f"unknown event key {key[:100]!r}", hint=f"did you mean {meant!r}? {known}" if meant else known)


def _check_kind(key: str, value: Any, kind: type) -> None:
    kinds = (int, float) if kind is float else (kind,)
    if type(value) not in kinds:  # exact: true is no number
        raise UsageError(f"event key {key!r} must be of type {_type_name(kind)}, not {_type_name(type(value))}")
    if kind is list and not all(isinstance(name, str) for name in value):
        raise UsageError(f"event key {key!r} must be an array of strings")


def _check_choice(key: str, value: Any, choices: tuple[str, ...]) -> None:
    if choices and value not in choices:
        near = difflib.get_close_matches(value.lower(), choices, n=1)
        hint = (f"did you mean {near[0]!r}? " if near else "") + f"one of: {', '.join(choices)}"
        raise UsageError(f"event key {key!r} cannot be {value[:100]!r}", hint=hint)


def _type_name(kind: type) -> str:
    names = {str: "string", bool: "boolean", list: "array", dict: "object", int: "number", float: "number"}
    return names.get(kind, "null")
