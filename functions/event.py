"""What the adapters share: a platform's event → Request, the platform's time limit → Stop, one call of `execute`.

The event is JSON with the names of `Request`'s fields. It is strict: a misspelled key must not run the default.
"""

from __future__ import annotations

import difflib
import functools
import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from typing import Any, get_args

# Imported for the time it takes: platforms give a whole CPU to a cold start, and a slice of one to an invocation.
import reconcile.runs.verify
import reconcile.runs.work  # noqa: F401
from reconcile.config.load import load
from reconcile.config.settings import Settings
from reconcile.errors import ExitCode, ReconcileError, UsageError
from reconcile.report.run_report import RunReport
from reconcile.runs.entry import execute
from reconcile.runs.request import IfLeased, Mode, Request
from reconcile.stop import GRACE_S, Stop

_EVERY = frozenset(get_args(Mode))
_WRITERS = _EVERY - {"verify"}

# Field of Request → (its JSON type, the modes it belongs to). Left out on purpose: `show_values` and `max_report`,
# because what a function returns ends up in the platform's logs, where row values must not be.
FIELDS: dict[str, tuple[tuple[type, ...], frozenset[str]]] = {
    "mode": ((str,), _EVERY),
    "views": ((list,), _EVERY),
    "follow_s": ((int, float), frozenset({"run", "delta"})),
    "until_current": ((bool,), frozenset({"delta"})),
    "as_of": ((str,), frozenset({"snapshot"})),
    "deep": ((bool,), frozenset({"snapshot", "verify"})),
    "reset_state": ((bool,), frozenset({"snapshot"})),
    "fast": ((bool,), frozenset({"verify"})),
    "subset": ((str,), frozenset({"verify"})),
    "dry_run": ((bool,), _WRITERS),
    "allow_deletes": ((bool,), _WRITERS),
    "adopt": ((bool,), _WRITERS),
    "if_leased": ((str,), _WRITERS),
}
CHOICES: dict[str, tuple[str, ...]] = {"mode": get_args(Mode), "if_leased": get_args(IfLeased)}
# What schedulers can fill in about the tick itself (EventBridge: <aws.scheduler.scheduled-time>). Logged, nothing more.
TICK = ("scheduled", "execution")
# Words people try, because the command line says them.
_SYNONYMS = {"for": "follow_s", "seconds": "follow_s", "view": "views", "command": "mode", "action": "mode"}
EVENT_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an invocation came to: the report as JSON-ready values, its exit code, whether a retry may mend it."""

    body: dict[str, Any]
    code: int
    retryable: bool

    @property
    def fine(self) -> bool:
        """Nobody has to act: done, to be continued by the next tick, or another run has the lease."""
        return self.code in (ExitCode.OK, ExitCode.INCOMPLETE, ExitCode.LEASE_HELD)

    def raise_if_retryable(self) -> None:
        """Platforms retry what raises: only what a retry can mend may raise."""
        if self.retryable:
            raise RetryableError(f"reconcile: exit code {self.code}, a retry may mend it; the report is in the log")


class RetryableError(ReconcileError):
    """Raised towards the platform, whose retry is the next attempt."""


def parse_json(body: bytes | str) -> object:
    """The event in a request body or message; nothing at all is an empty event."""
    if len(body) > EVENT_MAX_BYTES:
        raise UsageError(f"the event has {len(body)} bytes, more than {EVENT_MAX_BYTES}")
    try:
        return json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError):
        raise UsageError("the event is not JSON", hint='send a JSON object such as {"mode": "run"}') from None


def to_request(event: object) -> Request:
    """The request an event makes; UsageError for anything it cannot mean."""
    if event is None:
        event = {}
    if not isinstance(event, dict):
        raise UsageError("the event is not a JSON object", hint='send an object such as {"mode": "run"}')
    if event.get("source") == "aws.events" and "detail-type" in event:
        event = {}  # an EventBridge rule without an Input: a bare tick
    for key in event:
        if key not in FIELDS and key not in TICK:
            raise _unknown(str(key))
    asked: dict[str, Any] = {"mode": "run"} | {key: value for key, value in event.items() if key in FIELDS}
    for key, value in asked.items():
        _check_type(key, value)
        _check_choice(key, value)
        if asked["mode"] not in FIELDS[key][1]:
            raise UsageError(
                f"event key {key!r} does not belong to mode {asked['mode']!r}", hint=f"modes: {sorted(FIELDS[key][1])}"
            )
    for one, other in (("deep", "fast"), ("follow_s", "until_current")):
        if asked.get(one) and asked.get(other):
            raise UsageError(f"event keys {one!r} and {other!r} exclude each other")
    return Request(**{**asked, "views": tuple(asked.get("views", ()))})


def budget_s(platform_s: float, max_runtime_s: float | None) -> float:
    """Seconds until the run should end by itself, when the platform kills it after platform_s.

    The margin holds what comes after the deadline: the batch under way, sockets severed after GRACE_S, the response.
    """
    margin_s = min(max(2 * GRACE_S, 0.1 * platform_s), 30.0, platform_s / 2)
    ours_s = max(0.0, platform_s - margin_s)
    return ours_s if max_runtime_s is None else min(ours_s, max_runtime_s)


def told_limit_s() -> float | None:
    """The platform's limit, where only the environment can say it: FUNCTION_TIMEOUT_S, or what Google sets."""
    text = os.environ.get("FUNCTION_TIMEOUT_S") or os.environ.get("CLOUD_RUN_TIMEOUT_SECONDS")
    return float(text) if text else None


@functools.cache
def settings() -> Settings:
    """The configuration, read once per process (and again after a failure: secrets are rotated)."""
    loaded = load(os.environ.get("RECONCILE_CONFIG"), os.environ, {})
    logging.getLogger("reconcile").setLevel(loaded.logging.level)
    return loaded


def log_line(line: dict[str, Any]) -> None:
    """One JSON line on stdout, which the platforms take as one structured log entry."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def run(event: object, platform_s: float, run_id: str | None = None) -> Outcome:
    """Carry out one event (values, or JSON text) within the platform's limit. Nothing stays open afterwards."""
    try:
        request = to_request(parse_json(event) if isinstance(event, bytes | str) else event)
        loaded = settings()
    except ReconcileError as error:
        report = RunReport(run_id or "", "refused", time.time_ns() // 1_000_000)
        report.fail(error)
    else:
        report = execute(loaded, request, Stop(budget_s(platform_s, loaded.limits.max_runtime_s)), run_id)
    if report.exit_code != ExitCode.OK:
        settings.cache_clear()
    return Outcome(report.to_dict(), int(report.exit_code), report.retryable and report.status != "partial")


def _unknown(key: str) -> UsageError:
    near = difflib.get_close_matches(key.lower(), [*FIELDS, *TICK], n=1)
    meant = _SYNONYMS.get(key.lower()) or (near[0] if near else None)
    known = "known: " + ", ".join([*FIELDS, *TICK])
    return UsageError(f"unknown event key {key[:100]!r}", hint=f"did you mean {meant!r}? {known}" if meant else known)


def _check_type(key: str, value: Any) -> None:
    types, _ = FIELDS[key]
    if type(value) not in types:  # exact: true is no number
        raise UsageError(f"event key {key!r} must be of type {_type_name(types[0])}, not {_type_name(type(value))}")
    if key == "views" and not all(isinstance(name, str) for name in value):
        raise UsageError("event key 'views' must be an array of strings")
    if key == "follow_s" and not 0 <= value < float("inf"):
        raise UsageError("event key 'follow_s' must be a number of seconds, 0 or more")


def _check_choice(key: str, value: Any) -> None:
    choices = CHOICES.get(key)
    if choices is not None and value not in choices:
        near = difflib.get_close_matches(value.lower(), choices, n=1)
        hint = (f"did you mean {near[0]!r}? " if near else "") + f"one of: {', '.join(choices)}"
        raise UsageError(f"event key {key!r} cannot be {value[:100]!r}", hint=hint)


def _type_name(kind: type) -> str:
    names = {str: "string", bool: "boolean", list: "array", dict: "object", int: "number", float: "number"}
    return names.get(kind, "null")
