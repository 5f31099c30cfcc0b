"""Preflight: everything that would make runs fail, or be slower or less safe than they could be, and how to mend it."""

from __future__ import annotations

import contextlib

from reconcile.config.settings import Settings
from reconcile.runs import doctor_source, doctor_target
from reconcile.runs.doctor_source import Schedule
from reconcile.runs.entry import chosen_views
from reconcile.runs.findings import Findings
from reconcile.stop import Stop


def examine(settings: Settings, names: tuple[str, ...], schedule: Schedule, stop: Stop) -> Findings:
    """Look at both servers and the named views (none: all). Raises Incomplete, UsageError (no such view)."""
    views = chosen_views(settings, names)
    findings = Findings()
    with contextlib.ExitStack() as closing:
        session = doctor_source.open_source(settings, stop, findings)
        if session is not None:
            closing.callback(session.close)
        wire = doctor_target.open_target(settings, stop, findings)
        if wire is not None:
            closing.callback(wire.close)
            closing.enter_context(wire.bounded())
        for view in views:
            findings.view = view.name
            if session is not None:
                doctor_source.check_view(session, view, schedule, findings)
            if wire is not None:
                doctor_target.check_view(wire, settings, view, findings, quick=schedule.quick)
    return findings
