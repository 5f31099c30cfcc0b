"""Row values in an audit's report, for the named keys, if asked for."""

from __future__ import annotations

from reconcile.compare.contents import Difference
from reconcile.runs.context import ViewRun
from reconcile.source.reading import Reading


def add_values(run: ViewRun, reading: Reading, buckets: int, named: list[Difference]) -> None:
    """Add the values of source and Redis to the named keys (--show-values)."""
    found = run.report.drift
    if not run.request.show_values or not named or found is None:
        return
    wanted = {difference.key for difference in named}
    chosen = sorted({difference.bucket for difference in named})
    source = {
        key: value
        for chunk in reading.rows_of(chosen, buckets)
        for key, value in chunk
        if key in wanted and value is not None
    }
    held = run.target.values([difference.key for difference in named])
    for entry, difference, value in zip(found.keys, named, held, strict=True):
        entry["source"] = _shown(source.get(difference.key))
        entry["redis"] = _shown(value)


def _shown(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")
