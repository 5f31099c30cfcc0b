"""A report in CloudWatch's embedded metric format: log lines that CloudWatch turns into metrics."""

from __future__ import annotations

import time
from typing import Any

from reconcile.report.run_report import RunReport, ViewReport

NAMESPACE = "reconcile"
UNITS = {
    "Succeeded": "Count",
    "ExitCode": "None",
    "Duration": "Milliseconds",
    "Lag": "Milliseconds",
    "RowsRead": "Count",
    "Puts": "Count",
    "Deletes": "Count",
    "DeletesWithheld": "Count",
    "Keys": "Count",
    "DriftKeys": "Count",
}
"""Metric → CloudWatch's unit; dimensions are View and Mode."""


def lines(report: RunReport) -> list[dict[str, Any]]:
    """Return one JSON-ready object per view. A failure before any view has View "-": no dimension may be empty."""
    at_ms = report.finished_ms or time.time_ns() // 1_000_000
    if not report.views:
        return [_line(at_ms, "-", report.mode, {"Succeeded": 0, "ExitCode": int(report.exit_code)})]
    return [_line(at_ms, view.view, report.mode, _values(view)) for view in report.views]


def _values(view: ViewReport) -> dict[str, float]:
    values: dict[str, float | None] = {
        "Succeeded": int(view.succeeded),
        "ExitCode": int(view.exit_code),
        "Duration": view.duration_ms,
        "Lag": view.lag_ms,
        "RowsRead": view.rows_read,
        "Puts": view.puts,
        "Deletes": view.deletes,
        "DeletesWithheld": view.deletes_withheld,
        "Keys": view.keys,
        "DriftKeys": view.drift.total if view.drift is not None and view.audited else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _line(at_ms: int, view: str, mode: str, values: dict[str, float]) -> dict[str, Any]:
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [["View", "Mode"]],
        "Metrics": [{"Name": name, "Unit": UNITS[name]} for name in values],
    }
    return {"_aws": {"Timestamp": at_ms, "CloudWatchMetrics": [directive]}, "View": view, "Mode": mode, **values}
