"""Google Cloud: `reconcile_http` for Cloud Scheduler, `reconcile_event` for Pub/Sub and Eventarc.

HTTP: 200 done, partial, or the lease is held; 503 try again; 422 anything a retry cannot mend (bad event too).
CloudEvent: what raises is delivered again, so only what a retry can mend raises; the rest is logged and taken.
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
    """One tick of Cloud Scheduler: the event is the JSON body, the response is the run's report."""
    query = {f"?{name}": value for name, value in request.args.items()}  # unknown keys: refused, not ignored
    outcome = _run(query or request.get_data())
    return outcome.body, 200 if outcome.fine else 503 if outcome.retryable else 422


@functions_framework.cloud_event
def reconcile_event(event: CloudEvent) -> None:
    """One delivery: the event is the Pub/Sub message's data, else the CloudEvent's own data."""
    data = event.get_data()
    message = data.get("message") if isinstance(data, dict) else None
    if isinstance(message, dict):
        try:
            data = base64.b64decode(message.get("data") or "", validate=True)
        except ValueError:
            data = "not base64"  # refused as not JSON: raising would have it delivered again and again
    _run(data, event["id"]).raise_if_retryable()


def _run(event: object, run_id: str | None = None) -> events.Outcome:
    outcome = events.run(event, events.environment_limit_s() or PLATFORM_S, run_id)
    events.log_line({"severity": "INFO" if outcome.fine else "ERROR", "reconcile": outcome.body})
    return outcome
