"""Azure Functions, Python v2 model: one timer runs, another verifies. `functions.azure.app`.

The host keeps a timer from overlapping itself by a lease on a blob; our lease in Redis covers everything else.
"""

from __future__ import annotations

import json
import logging
import os

import azure.functions as func

from functions import event as events

PLATFORM_S = 300.0  # functionTimeout of the host.json beside function_app.py; a function cannot read it
app = func.FunctionApp()
_logger = logging.getLogger(__name__)


@app.timer_trigger(arg_name="timer", schedule=os.environ.get("SCHEDULE_RUN", "0 * * * * *"), run_on_startup=False)
def reconcile_run(timer: func.TimerRequest) -> None:
    """Bring Redis up to date."""
    _run(os.environ.get("EVENT_RUN", ""), timer)


@app.timer_trigger(arg_name="timer", schedule=os.environ.get("SCHEDULE_VERIFY", "0 17 3 * * *"), run_on_startup=False)
def reconcile_verify(timer: func.TimerRequest) -> None:
    """Compare the view with Redis; change nothing."""
    _run(os.environ.get("EVENT_VERIFY", '{"mode": "verify"}'), timer)


def _run(event: str, timer: func.TimerRequest) -> None:
    outcome = events.run(event, events.environment_limit_s() or PLATFORM_S)
    level = logging.INFO if outcome.fine else logging.ERROR
    _logger.log(level, "%s", json.dumps({"past_due": timer.past_due, "reconcile": outcome.body}))
    outcome.raise_if_retryable()
