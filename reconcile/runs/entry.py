"""The one call that the command line and every function adapter make: all chosen views at once.

workers            open, catch up, take snapshots; each works on one view at a time
this thread        follows every view that has caught up, until --for ends
the lease keeper   renews all leases
"""

from __future__ import annotations

import functools
import os
import time
import uuid
from typing import TYPE_CHECKING

from msgspec.structs import replace

from reconcile import collector
from reconcile.config.choice import chosen_views, restricted
from reconcile.config.settings import Settings
from reconcile.core.shards import shard_of_platform
from reconcile.errors import ReconcileError
from reconcile.report.progress import SILENT, Progress
from reconcile.report.run_report import RunReport, ViewReport
from reconcile.runs.request import Request
from reconcile.stop import Stop

if TYPE_CHECKING:
    from reconcile.runs.task import Task

_RUN_ID_VARIABLES = ("RECONCILE_RUN_ID", "INVOCATION_ID", "CLOUD_RUN_EXECUTION")


def execute(
    settings: Settings, request: Request, stop: Stop, run_id: str | None = None, progress: Progress = SILENT
) -> RunReport:
    """Work on the requested views. Never raises for an expected failure, which is in the report instead."""
    started = time.monotonic()
    collector.calm()
    _leave_out_imports()
    report = RunReport(run_id or _run_id(), request.mode, time.time_ns() // 1_000_000)
    try:
        views = chosen_views(settings, request.views)
        if request.mode != "verify" and (shard := request.shard or shard_of_platform(os.environ)) is not None:
            views, request = restricted(settings, views, shard), replace(request, shard=shard)
    except ReconcileError as error:
        report.fail(error)
        views = []
    report.views = [ViewReport(view.label, dry_run=request.dry_run, progress=progress) for view in views]
    if views:
        # Here, not at the top: --help and errors of the configuration must not pay for the drivers.
        from reconcile.runs.task import Task
        from reconcile.runs.views import work_on

        tasks: list[Task] = [
            Task(settings, view, request, stop, one, started) for view, one in zip(views, report.views, strict=True)
        ]
        work_on(tasks, settings, stop)
    report.finished_ms = time.time_ns() // 1_000_000
    return report


@functools.cache
def _leave_out_imports() -> None:
    """Keep what has been imported out of the collector's passes.

    Once: in a process that runs again, what a run left behind would be kept for good.
    """
    collector.leave_out()


def _run_id() -> str:
    for name in _RUN_ID_VARIABLES:
        if os.environ.get(name):
            return os.environ[name]
    return uuid.uuid4().hex
