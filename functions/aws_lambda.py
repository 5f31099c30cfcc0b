"""AWS Lambda: `functions.aws_lambda.handler`.

A partial result is returned: the next tick goes on from its checkpoint. Only what a retry can mend is raised. The
report also goes to the log, in CloudWatch's embedded metric format: metrics and alarms without an agent or a library.
"""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

from functions import event as events

METRICS = ("Succeeded", "Incomplete", "Drift", "Failed")


class Context(Protocol):
    """What we use of Lambda's context object."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int: ...


def handler(event: object, context: Context) -> dict[str, Any]:
    """Carry out one invocation; the response is the run's report."""
    outcome = events.run(event, context.get_remaining_time_in_millis() / 1000)
    line = {**_metrics(outcome.code), "request_id": context.aws_request_id, "reconcile": outcome.body}
    events.log_line(line)
    outcome.raise_if_retryable()
    return outcome.body


def _metrics(code: int) -> dict[str, Any]:
    happened = {0: "Succeeded", 3: "Drift", 4: "Incomplete"}.get(code, "Failed")
    directive = {
        "Namespace": "reconcile",
        "Dimensions": [["FunctionName"]],
        "Metrics": [{"Name": name, "Unit": "Count"} for name in METRICS],
    }
    values = {name: int(name == happened) for name in METRICS}
    name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "reconcile")
    return {
        "_aws": {"Timestamp": time.time_ns() // 10**6, "CloudWatchMetrics": [directive]},
        "FunctionName": name,
        **values,
    }
