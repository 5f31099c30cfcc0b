"""AWS Lambda: `functions.aws_lambda.handler`.

A partial result is returned, as the next tick continues from its checkpoint. Only failures that a retry may cure are
raised. The report also goes to the log, in CloudWatch's embedded metric format, so metrics and alarms need no agent.
"""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

from functions import event as events

COUNTS = ("Succeeded", "Incomplete", "Drift", "Failed")


class Context(Protocol):
    """The part of Lambda's context object that we use."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int: ...


def handler(event: object, context: Context) -> dict[str, Any]:
    """Carry out one invocation and return the run's report."""
    outcome = events.run(event, context.get_remaining_time_in_millis() / 1000, context.aws_request_id)
    line = {**_metrics(outcome), "reconcile": outcome.body}
    events.log_line(line)
    outcome.raise_if_retryable()
    return outcome.body


def _metrics(outcome: events.Response) -> dict[str, Any]:
    happened = {0: "Succeeded", 3: "Drift", 4: "Incomplete"}.get(outcome.code, "Failed")
    counted = happened != "Succeeded" or outcome.succeeded
    values: dict[str, float] = {name: int(name == happened and counted) for name in COUNTS}
    lags_ms = [view["lag_ms"] for view in outcome.body["views"] if view["lag_ms"] is not None]
    if lags_ms:
        values["Lag"] = max(lags_ms) / 1000
    directive = {
        "Namespace": "reconcile",
        "Dimensions": [["FunctionName"]],
        "Metrics": [{"Name": name, "Unit": "Seconds" if name == "Lag" else "Count"} for name in values],
    }
    envelope = {"Timestamp": time.time_ns() // 10**6, "CloudWatchMetrics": [directive]}
    return {"_aws": envelope, "FunctionName": os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "reconcile"), **values}
