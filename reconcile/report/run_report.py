"""The result of a run as values: the one source for text, JSON, HTML, metrics and the exit code.

docs/report.md documents `to_dict`, which is the `--json` output; fields are added, never renamed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from msgspec import Struct, field, to_builtins

from reconcile import __version__
from reconcile.core.times import MAX_TIMESTAMP, format_time
from reconcile.errors import ExitCode, ReconcileError, worst
from reconcile.report.audit import AuditReport, HeatMap
from reconcile.report.progress import SILENT, Progress

SCHEMA_VERSION = 1

Status = Literal["done", "partial", "skipped", "drift", "changes", "stopped", "failed"]
_STATUS_OF: dict[ExitCode, Status] = {
    ExitCode.OK: "done",
    ExitCode.DRIFT: "drift",
    ExitCode.INCOMPLETE: "partial",
    ExitCode.SAFETY_STOP: "stopped",
}
Action = Literal["none", "snapshot", "delta", "verify"]


class DriftReport(Struct):
    """The drift that `verify` found. At most max_report keys are named, as text."""

    missing: int = 0
    stale: int = 0
    extra: int = 0
    buckets: int = 0
    lagging_buckets: int = 0
    """Buckets that have changed at the source since the checkpoint: not drift."""
    unjudged_buckets: int = 0
    """Buckets that seemed to differ, of which nothing can be said: runs kept changing them, or the audit was cut short.
    """
    unjudged_keys: int = 0
    """The source's rows in them, as far as they are known."""
    causes: dict[str, int] = field(default_factory=dict)
    """Cause → number of buckets."""
    keys: list[dict[str, Any]] = field(default_factory=list)
    """{key, kind, cause[, source, redis]}; values only with --show-values."""
    heat: HeatMap = field(default_factory=HeatMap)

    @property
    def total(self) -> int:
        return self.missing + self.stale + self.extra

    def note(self, bucket: int, buckets: int, cause: str, *, missing: int, stale: int, extra: int) -> None:
        """Count a bucket that differs, of so many, and its keys by kind."""
        self.buckets += 1
        self.missing += missing
        self.stale += stale
        self.extra += extra
        self.causes[cause] = self.causes.get(cause, 0) + 1
        self.heat.note(bucket, buckets, missing + stale + extra)

    def to_dict(self) -> dict[str, Any]:
        return {**to_builtins(self), "heat": self.heat.to_dict()}


class ErrorReport(Struct):
    """An error for people and programs: kind is stable."""

    kind: str
    message: str
    hint: str | None


class ViewReport(Struct):
    """The result of a run for one view. Filled in as the run proceeds; complete on failure too."""

    view: str
    action: Action = "none"
    reason: str = ""
    """Why a snapshot was taken, or the view skipped."""
    deep: bool = False
    as_of_before: int | None = None
    as_of: int | None = None
    lag_ms: int | None = None
    """Wall clock minus as_of when the work on this view ended, however it did; None: unknown, constant, or verify."""
    rows_read: int = 0
    source_bytes: int = 0
    """Bytes received from Materialize, if the system counts them (Linux)."""
    source_statements: int = 0
    updates: int = 0
    """Updates received by the subscription."""
    commits: int = 0
    puts: int = 0
    deletes: int = 0
    deletes_withheld: int = 0
    keys: int | None = None
    """Keys the view holds in Redis at as_of."""
    buckets: int | None = None
    buckets_read: int = 0
    """Buckets whose rows were read."""
    redis_commands: int = 0
    redis_round_trips: int = 0
    drift: DriftReport | None = None
    audit: AuditReport | None = None
    """What verify recorded beyond drift."""
    warnings: list[str] = field(default_factory=list)
    duration_ms: int = 0
    """Time spent on this view."""
    phases_ms: dict[str, int] = field(default_factory=dict)
    phases_rows: dict[str, int] = field(default_factory=dict)
    """Rows that went through each phase that has rows."""
    exit_code: ExitCode = ExitCode.OK
    skipped: bool = False
    dry_run: bool = False
    error: ErrorReport | None = None
    progress: Progress = SILENT
    """Receives every phase, and rows."""
    _phases: list[str] = field(default_factory=list)
    """The phases under way, innermost last."""

    def fail(self, error: ReconcileError) -> None:
        """Record why work on this view ended early."""
        self.exit_code = error.exit_code
        self.error = ErrorReport(error.kind, error.message, error.hint)

    @property
    def status(self) -> Status:
        if self.skipped:
            return "skipped"
        if self.exit_code == ExitCode.DRIFT and self.drift is None:
            return "changes"
        return _STATUS_OF.get(self.exit_code, "failed")

    @property
    def succeeded(self) -> bool:
        """Whether the view is as it should be: exit code 0, and neither skipped nor a dry run."""
        return self.exit_code == ExitCode.OK and not self.skipped and not self.dry_run

    @property
    def audited(self) -> bool:
        """Whether verify came to a verdict on everything, or found drift; else what it counts is incomplete."""
        return self.drift is not None and self.exit_code in (ExitCode.OK, ExitCode.DRIFT)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time all the work on this view, and how far behind it is then; `progress` gets its beginning and end."""
        started = time.monotonic()
        self.progress.begin(self.view)
        try:
            yield
        finally:
            self.duration_ms += round((time.monotonic() - started) * 1000)
            if self.as_of not in (None, MAX_TIMESTAMP) and self.action != "verify":
                self.lag_ms = max(0, time.time_ns() // 1_000_000 - self.as_of)
            self.progress.end(self.view)

    @contextmanager
    def phase(self, name: str, total_rows: int | None = None) -> Iterator[None]:
        """Add the time spent inside the block to a named phase. total_rows: expected rows, if known."""
        started = time.monotonic()
        self._phases.append(name)
        self.progress.phase(self.view, name, total_rows)
        try:
            yield
        finally:
            self.phases_ms[name] = self.phases_ms.get(name, 0) + round((time.monotonic() - started) * 1000)
            self._phases.pop()
            if self._phases:
                self.progress.phase(self.view, self._phases[-1], None)

    def following(self) -> None:
        """Show that the view is up to date and followed: what came before is over, though its phase was the last."""
        self.progress.phase(self.view, "follow", None)

    def advance(self, rows: int) -> None:
        """Count rows that went through the current phase. Called per chunk, not per row."""
        if self._phases:
            name = self._phases[-1]
            self.phases_rows[name] = self.phases_rows.get(name, 0) + rows
        self.progress.advance(self.view, rows)

    def to_dict(self) -> dict[str, Any]:
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        del shown["progress"], shown["_phases"]
        return shown | {
            "status": self.status,
            "exit_code": int(self.exit_code),
            "as_of_text": None if self.as_of is None else format_time(self.as_of),
            "drift": self.drift.to_dict() if self.drift else None,
            "audit": to_builtins(self.audit) if self.audit else None,
            "error": to_builtins(self.error) if self.error else None,
        }


class RunReport(Struct):
    """The result of one invocation."""

    run_id: str
    mode: str
    started_ms: int
    views: list[ViewReport] = field(default_factory=list)
    finished_ms: int = 0
    error: ErrorReport | None = None
    """An error before any view: configuration, usage."""
    error_code: ExitCode = ExitCode.OK

    def fail(self, error: ReconcileError) -> None:
        self.error = ErrorReport(error.kind, error.message, error.hint)
        self.error_code = error.exit_code

    @property
    def exit_code(self) -> ExitCode:
        codes = [self.error_code, *(view.exit_code for view in self.views)]
        return worst(codes, verify=self.mode == "verify")

    @property
    def status(self) -> Status:
        codes = {view.exit_code for view in self.views} | {self.error_code}
        if codes == {ExitCode.OK}:
            return "skipped" if self.views and all(view.skipped for view in self.views) else "done"
        code = self.exit_code
        return next((view.status for view in self.views if view.exit_code == code), "failed")

    @property
    def succeeded(self) -> bool:
        """Whether the run did its work: exit code 0, not every view skipped, and no dry run."""
        return self.status == "done" and not any(view.dry_run for view in self.views)

    @property
    def views_by_code(self) -> dict[int, int]:
        """Exit code → number of views that ended with it."""
        return {int(code): n for code, n in sorted(Counter(view.exit_code for view in self.views).items())}

    @property
    def retryable(self) -> bool:
        """Whether repeating the run soon may succeed without any intervention."""
        return self.exit_code in (ExitCode.BUG, ExitCode.UNAVAILABLE)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "reconcile_version": __version__,
            "run_id": self.run_id,
            "mode": self.mode,
            "status": self.status,
            "exit_code": int(self.exit_code),
            "started_ms": self.started_ms,
            "finished_ms": self.finished_ms,
            "error": to_builtins(self.error) if self.error else None,
            "views_by_exit_code": {str(code): n for code, n in self.views_by_code.items()},
            "views": [view.to_dict() for view in self.views],
        }
