"""Join the reports of a view's shards into one."""

from __future__ import annotations

from msgspec.structs import replace

from reconcile.errors import ExitCode, worst
from reconcile.report.audit import MAX_NAMES, AuditReport, Duplicates, SurplusReport
from reconcile.report.run_report import DriftReport, ErrorReport, ViewReport

_SUMS = (
    "rows_read", "source_bytes", "source_statements", "updates", "commits", "puts", "deletes", "deletes_withheld",
    "buckets_read", "redis_commands", "redis_round_trips",
)  # fmt: skip
_ACTIONS = ("verify", "snapshot", "delta", "none")


def join(whole: ViewReport, parts: list[ViewReport], *, verify: bool, max_report: int) -> None:
    """Fill in the report of a view from the reports of its shards.

    Times are those of the shard furthest behind. verify: exit codes rank as for verify. max_report: most keys to name.
    """
    codes = [part.exit_code for part in parts]
    whole.exit_code = worst(codes, verify=verify)
    for name in _SUMS:
        setattr(whole, name, getattr(whole, name) + sum(getattr(part, name) for part in parts))
    whole.action = next(action for action in _ACTIONS if action in [part.action for part in parts])
    whole.reason = next((part.reason for part in parts if part.reason and part.action == whole.action), "")
    whole.deep = all(part.deep for part in parts)
    whole.skipped = all(part.skipped for part in parts)
    whole.as_of_before = _least([part.as_of_before for part in parts])
    whole.as_of = _least([part.as_of for part in parts])
    lags = [part.lag_ms for part in parts if part.lag_ms is not None]
    whole.lag_ms = None if whole.as_of is None else max(lags, default=None)
    known = [part.keys for part in parts if part.keys is not None]
    whole.keys = sum(known) if known else None
    whole.buckets = max((part.buckets for part in parts if part.buckets is not None), default=None)
    for part in parts:
        if part.skipped and not whole.skipped:
            whole.warnings.append(f"{part.view}: skipped: {part.reason}")
        whole.warnings += [warning for warning in part.warnings if warning not in whole.warnings]
        whole.duration_ms += part.duration_ms
        for ours, theirs in ((whole.phases_ms, part.phases_ms), (whole.phases_rows, part.phases_rows)):
            for phase, amount in theirs.items():
                ours[phase] = ours.get(phase, 0) + amount
    whole.error = _error([part for part in parts if part.error is not None], whole)
    if verify and (whole.error is None or whole.exit_code == ExitCode.DRIFT):  # drift that was found is never hidden
        whole.drift = _drift([part.drift for part in parts if part.drift is not None], max_report)
        whole.audit = _audit([part.audit for part in parts if part.audit is not None])


def _least(times: list[int | None]) -> int | None:
    known = [time for time in times if time is not None]
    return min(known) if len(known) == len(times) else None


def _error(failed: list[ViewReport], whole: ViewReport) -> ErrorReport | None:
    """Return the worst error; the others become warnings."""
    if not failed:
        return None
    first = next((part for part in failed if part.exit_code == whole.exit_code), failed[0])
    for part in failed:
        if part is not first and part.error is not None:
            whole.warnings.append(f"{part.view}: {part.error.message}")
    assert first.error is not None
    return ErrorReport(first.error.kind, f"{first.view}: {first.error.message}", first.error.hint)


def _drift(parts: list[DriftReport], max_report: int) -> DriftReport:
    found = DriftReport()
    for part in parts:
        found.missing += part.missing
        found.stale += part.stale
        found.extra += part.extra
        found.buckets += part.buckets
        found.lagging_buckets += part.lagging_buckets
        found.unjudged_buckets += part.unjudged_buckets
        found.unjudged_keys += part.unjudged_keys
        for cause, number in part.causes.items():
            found.causes[cause] = found.causes.get(cause, 0) + number
        found.keys += part.keys[: max(0, max_report - len(found.keys))]
        found.heat.slices = max(found.heat.slices, part.heat.slices)
        for cell, keys in part.heat.drift.items():
            found.heat.drift[cell] = found.heat.drift.get(cell, 0) + keys
    return found


def _audit(parts: list[AuditReport]) -> AuditReport | None:
    """Return the audit of the shard compared longest ago, with what was found in all shards."""
    if not parts:
        return None
    surplus: dict[str | None, SurplusReport] = {}
    counted = [part.duplicates for part in parts if part.duplicates is not None]
    for part in parts:
        for one in part.surplus:
            noted = surplus.setdefault(one.claim, SurplusReport(one.claim, one.range))
            noted.keys += one.keys
            noted.names += one.names[: MAX_NAMES - len(noted.names)]
    names = [name for one in counted for name in one.names][:MAX_NAMES]
    return replace(
        min(parts, key=lambda audit: (audit.coverage and audit.coverage.oldest_ms) or 0),
        surplus=list(surplus.values()),
        duplicates=Duplicates(sum(one.keys for one in counted), names) if len(counted) == len(parts) else None,
    )
