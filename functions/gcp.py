"""Google Cloud: `reconcile_http` for Cloud Scheduler, `reconcile_event` for Pub/Sub and Eventarc.

HTTP: 200 done, partial, or the lease is held; 503 try again; 422 a retry would not help (bad events too).
CloudEvent: whatever raises is delivered again, so only failures that a retry may cure raise; the rest is logged.
"""

from __future__ import annotations

import base64
from typing import Any

import functions_framework
from cloudevents.http import CloudEvent
from flask import Request

from functions import event as events

PLATFORM_S = 60.0  # the default limit; a function cannot read its own


@functions_framework.http
def reconcile_http(request: Request) -> tuple[dict[str, Any], int]:
    """Carry out the event in the JSON body and return the run's report, with its HTTP status."""
    query = {f"?{name}": value for name, value in request.args.items()}  # refused as unknown keys, not ignored
    outcome = _run(query or request.get_data())
    return outcome.body, 200 if outcome.fine else 503 if outcome.retryable else 422


@functions_framework.cloud_event
def reconcile_event(event: CloudEvent) -> None:
    """Carry out one delivery. The event is the Pub/Sub message's data, else the CloudEvent's own data."""
    data = event.get_data()
    message = data.get("message") if isinstance(data, dict) else None
    if isinstance(message, dict):
        try:
            data = base64.b64decode(message.get("data") or "", validate=True)
        except ValueError:
            data = "not base64"  # refused as no JSON; if it raised here, it would be delivered again and again
    _run(data, event["id"]).raise_if_retryable()


def _run(event: object, run_id: str | None = None) -> events.Response:
    outcome = events.run(event, events.environment_limit_s() or PLATFORM_S, run_id)
    events.log_line({"severity": "INFO" if outcome.fine else "ERROR", "reconcile": outcome.body})
    return outcome
