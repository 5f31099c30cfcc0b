"""Show when each slice of a view was last compared with what Redis really holds, and by what. Reads Redis only."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from msgspec import to_builtins

from reconcile.compare.audits import remembered
from reconcile.compare.coverage import coverage
from reconcile.config.choice import chosen_views
from reconcile.config.settings import Settings
from reconcile.core.times import format_time, span
from reconcile.inspect.standings import standings
from reconcile.stop import Stop
from reconcile.target.opening import names_of
from reconcile.target.survey import open_survey
from reconcile.texts import plural


def read_coverage(settings: Settings, names: tuple[str, ...], stop: Stop) -> list[dict[str, Any]]:
    """Return one JSON-ready dict per view: view, now_ms, coverage (as in an audit's report; None before the first run).

    Raises AccessError, StateError, Unavailable, UsageError.
    """
    views = chosen_views(settings, names)
    survey = open_survey(settings.redis, stop)
    try:
        now_ms = survey.now_ms()
        found = standings(survey, [names_of(settings.redis, view) for view in views])
    finally:
        survey.close()
    covered_views = []
    for view, whole in zip(views, found, strict=True):
        standing = whole.standing
        if standing.error is not None:
            raise standing.error
        every_s = view.compare_every_s
        every_ms = None if every_s is None else round(every_s * 1000)
        state = standing.state
        covered = None if state is None else to_builtins(coverage(state, remembered(standing.audit), every_ms))
        covered_views.append({"view": view.name, "now_ms": now_ms, "coverage": covered})
    return covered_views


def render(found: list[dict[str, Any]]) -> str:
    """Return coverage as text; slices that were compared together share a line."""
    return "\n".join(line for one in found for line in _lines(one))


def _lines(one: dict[str, Any]) -> Iterator[str]:
    covered = one["coverage"]
    if covered is None:
        yield f"{one['view']}: not synchronised yet"
        return
    n = covered["slices"]
    all_by = covered["all_by_ms"]
    promise = (
        "the rolling compare is off, or has not begun"
        if all_by is None
        else f"all slices compared again by {format_time(all_by)}"
    )
    yield f"{one['view']}: {plural(n, 'slice')}; {promise}"
    known = {slice_["slice"]: (slice_["at_ms"], slice_["by"]) for slice_ in covered["compared"]}
    for last, group in groupby(range(n), known.get):
        slices = list(group)
        name = f"{slices[0]}/{n}" if len(slices) == 1 else f"{slices[0]}–{slices[-1]}/{n}"
        when = "never" if last is None else f"{span(max(0, one['now_ms'] - last[0]))} ago by {last[1]}"
        yield f"  slice {name:<12}{when}"
