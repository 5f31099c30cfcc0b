"""Past audits, stored beside the state: the last one and a bounded history.

Others can write to Redis too, so stored audits may contain anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from msgspec import to_builtins

from reconcile.compare.coverage import coverage
from reconcile.core.state import State
from reconcile.errors import ReconcileError
from reconcile.report.audit import MAX_HISTORY, PastAudit, past_audit
from reconcile.report.run_report import ViewReport
from reconcile.target.port import Target

LAST, HISTORY = "report", "history"
"""Fields of the view's `:audit`: one audit; a list of them, newest first."""


def remembered(fields: Mapping[str, str]) -> list[PastAudit]:
    """Return past audits, newest first, at most MAX_HISTORY."""
    stored = _read(fields.get(HISTORY))
    found = [past_audit(one) for one in stored] if isinstance(stored, list) else [past_audit(_read(fields.get(LAST)))]
    return [audit for audit in found if audit is not None][:MAX_HISTORY]


def noted(fields: Mapping[str, str], latest: PastAudit) -> dict[str, str]:
    """Return the fields with one more audit."""
    history = [latest, *remembered(fields)][:MAX_HISTORY]
    return {LAST: json.dumps(to_builtins(latest)), HISTORY: json.dumps([to_builtins(audit) for audit in history])}


def note(
    target: Target,
    report: ViewReport,
    latest: PastAudit,
    state: State,
    every_ms: int | None,
    more: Mapping[str, str],
) -> None:
    """Record an audit beside the state, with further fields, and report coverage and history.

    A verdict does not depend on whether it can be recorded: if not, there is a warning. every_ms: as for `coverage`.
    """
    fields: dict[str, str] = {}
    try:
        fields = target.audit()
        target.note_audit({**noted(fields, latest), **more})
    except ReconcileError as error:
        report.warnings.append(f"the audit could not be recorded in Redis: {error.message}")
    earlier = remembered(fields)
    if report.audit is not None:
        report.audit.coverage = coverage(state, [latest, *earlier], every_ms)
        report.audit.history = earlier


def _read(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
