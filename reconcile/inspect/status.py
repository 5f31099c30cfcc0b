"""Report what Redis knows of each view: checkpoint, age, lease, compare, claim, last audit. Reads Redis only.

Ages are by Redis' clock, so they do not depend on the host that asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reconcile.compare.audits import remembered
from reconcile.compare.coverage import coverage
from reconcile.config.choice import chosen_views
from reconcile.config.settings import Settings, ViewSettings
from reconcile.core import schedule
from reconcile.core.shards import Shard
from reconcile.core.state import Pending, State
from reconcile.core.times import MAX_TIMESTAMP, format_duration, format_time, span
from reconcile.errors import ExitCode
from reconcile.inspect.claims import ClaimTable
from reconcile.inspect.standings import Whole, standings
from reconcile.report.audit import PastAudit
from reconcile.stop import Stop
from reconcile.target.names import Names
from reconcile.target.opening import names_of, range_of
from reconcile.target.survey import Standing, Survey, open_survey
from reconcile.texts import plural, printable

ViewStatus = dict[str, Any]
"""docs/report.md has the fields."""


def read_status(settings: Settings, names: tuple[str, ...], max_age_s: float | None, stop: Stop) -> list[ViewStatus]:
    """Return one JSON-ready dict per view, from four round trips for all of them.

    max_age_s: an older checkpoint is a `problem`. Raises AccessError, Unavailable, UsageError; a state that cannot be
    read is its view's `error`.
    """
    views = chosen_views(settings, names)
    survey = open_survey(settings.redis, stop)
    try:
        return statuses_of(survey, settings, views, max_age_s)
    finally:
        survey.close()


def statuses_of(
    survey: Survey, settings: Settings, views: list[ViewSettings], max_age_s: float | None
) -> list[ViewStatus]:
    """Return the same from an open survey."""
    named = [names_of(settings.redis, view) for view in views]
    now_ms = survey.now_ms()
    stored = survey.claims()
    claims = None if stored is None else ClaimTable.parse(stored)
    return [
        _status(settings, view, names, whole, claims, now_ms, max_age_s)
        for view, names, whole in zip(views, named, standings(survey, named), strict=True)
    ]


def exit_code(statuses: list[ViewStatus]) -> ExitCode:
    """Return 5 if a state cannot be read, 3 if a checkpoint is too old."""
    if any(status["error"] for status in statuses):
        return ExitCode.SAFETY_STOP
    return ExitCode.DRIFT if any(status["problem"] for status in statuses) else ExitCode.OK


def _status(
    settings: Settings,
    view: ViewSettings,
    names: Names,
    whole: Whole,
    claims: ClaimTable | None,
    now_ms: int,
    max_age_s: float | None,
) -> ViewStatus:
    standing = whole.standing
    state = standing.state
    as_of = state.as_of if state is not None else None
    timed = as_of is not None and as_of != MAX_TIMESTAMP
    audits = remembered(standing.audit)
    every_ms = None if view.compare_every_s is None else round(view.compare_every_s * 1000)
    found: ViewStatus = {
        "view": view.name,
        "as_of": as_of,
        "as_of_text": None if as_of is None else format_time(as_of),
        "lag_ms": max(0, now_ms - as_of) if timed and as_of is not None else None,
        "updated_at_ms": state.updated_at_ms if state is not None else None,
        "keys": state.keys if state is not None else None,
        "surplus": state.surplus if state is not None else None,
        "buckets": state.buckets if state is not None else None,
        "pending": None if state is None or state.pending is None else state.pending.kind,
        "lease": _lease(standing),
        "compare": None if state is None else _compare(state, audits, now_ms, every_ms),
        "claim": _claim(settings, view, names, state, claims),
        "audit": {"at_ms": audits[0].at_ms, "verdict": audits[0].verdict} if audits else None,
        "shards": [_shard(shard, one, now_ms) for shard, one in whole.shards],
    }
    error = standing.error
    failure = None if error is None else {"kind": error.kind, "message": error.message, "hint": error.hint}
    return found | {"problem": _problem(found, standing, now_ms, max_age_s), "error": failure}


def _shard(shard: Shard, standing: Standing, now_ms: int) -> dict[str, Any]:
    """Return one shard of a view that is cut into several."""
    state = standing.state
    as_of = None if state is None else state.as_of
    return {
        "shard": str(shard),
        "as_of": as_of,
        "lag_ms": None if as_of in (None, MAX_TIMESTAMP) else max(0, now_ms - (as_of or 0)),
        "keys": None if state is None else state.keys,
        "pending": None if state is None or state.pending is None else state.pending.kind,
        "lease": _lease(standing),
    }


def _lease(standing: Standing) -> dict[str, Any] | None:
    return None if standing.holder is None else dict(zip(("owner", "left_ms"), standing.holder, strict=True))


def _compare(state: State, audits: list[PastAudit], now_ms: int, every_ms: int | None) -> dict[str, Any]:
    """Return the rolling compare: its turn, and when the slice with the oldest compare was compared."""
    turn = state.turn
    covered = coverage(state, audits, every_ms)
    return {
        "slices": turn.n,
        "next": turn.i,
        "oldest_ms": covered.oldest_ms,
        "turn_done_ms": turn.done_ms or None,
        "all_by_ms": covered.all_by_ms,
        "overdue": schedule.overdue(turn, now_ms, every_ms),
    }


def _claim(
    settings: Settings, view: ViewSettings, names: Names, state: State | None, claims: ClaimTable | None
) -> dict[str, Any]:
    """Return the view's range, as claimed, else as configured; and what is wrong with it."""
    configured = range_of(settings.redis, view)
    claimed = None if claims is None else claims.ranges.get(names.tag)
    problem = None
    if claims is not None:
        others = claims.contested(names.tag)
        if claimed is not None and claimed != configured and claimed.ownership != "remembered":
            problem = f"claimed {claimed}, configured {configured}"
        elif others:
            problem = f"overlaps the claim of {', '.join(others)}"
        elif claimed is None and state is not None:
            problem = "missing from the claims: the next run restores it"
    return {
        "range": str(claimed or configured),
        "claimed": None if claims is None else claimed is not None,
        "problem": problem,
    }


def _problem(found: ViewStatus, standing: Standing, now_ms: int, max_age_s: float | None) -> str | None:
    """Return why the view is not healthy, in one line."""
    if standing.error is not None:
        return standing.error.message
    if max_age_s is None:
        return None
    if found["as_of"] is None:
        return f"never synchronised; the limit is {format_duration(max_age_s)}"
    since_ms = found["lag_ms"] if found["lag_ms"] is not None else max(0, now_ms - found["updated_at_ms"])
    if since_ms <= max_age_s * 1000:
        return None
    reason = {
        None: "",
        "withheld": ": deletes are withheld",
        "snapshot": ": a snapshot is incomplete",
        "delta": ": a delta is incomplete",
    }[found["pending"]]
    return f"the checkpoint is {span(since_ms)} old, the limit is {format_duration(max_age_s)}{reason}"


# -- text --------------------------------------------------------------------------------------------------------------


def render(statuses: list[ViewStatus]) -> str:
    """Return a few lines per view."""
    return "\n".join(line for status in statuses for line in _lines(status))


def _lines(status: ViewStatus) -> Iterator[str]:
    if status["error"]:
        yield f"{status['view']}: {status['error']['message']}"
        yield f"  hint: {status['error']['hint']}"
        return
    if status["as_of"] is None:
        yield f"{status['view']}: not synchronised yet"
    else:
        lag = "constant" if status["lag_ms"] is None else f"{span(status['lag_ms'])} behind the clock"
        keys = plural(status["keys"], "key")
        yield f"{status['view']}: {keys} as of {status['as_of']} ({status['as_of_text']}), {lag}"
        yield f"  last written {format_time(status['updated_at_ms'])}, {plural(status['buckets'], 'bucket')}"
    if status["shards"]:
        yield f"  {_shards_text(status['shards'])}"
    if status["problem"]:
        yield f"  problem: {status['problem']}"
    consent = f": reconcile snapshot --allow-deletes --view {status['view']}"
    if status["surplus"]:
        yield f"  {plural(status['surplus'], 'key')} that the source lacks wait for consent{consent}"
    if status["pending"]:
        yield f"  {Pending(status['pending'], 0)}{consent if status['pending'] == 'withheld' else ''}"
    if status["lease"]:
        owner, left = printable(status["lease"]["owner"]), span(status["lease"]["left_ms"])
        yield f"  being written by {owner} ({left} lease left)"
    if status["compare"] and (status["compare"]["turn_done_ms"] or status["compare"]["next"]):
        yield f"  {_compare_text(status['compare'])}"
    if status["claim"]["claimed"] or status["claim"]["problem"]:
        problem = status["claim"]["problem"]
        yield f"  owns {status['claim']['range']}" + (f"; {problem}" if problem else "")
    if status["audit"]:
        yield f"  last verify {format_time(status['audit']['at_ms'])}: {printable(status['audit']['verdict'])}"


def _shards_text(shards: list[dict[str, Any]]) -> str:
    """Return how far the shards are apart; the view's time is that of the one furthest behind."""
    never = [one["shard"] for one in shards if one["as_of"] is None]
    if never:
        return f"{len(shards)} shards, of which never synchronised: {', '.join(never)}"
    times = [one["as_of"] for one in shards]
    return f"{len(shards)} shards, {span(max(times) - min(times))} apart"


def _compare_text(compare: dict[str, Any]) -> str:
    done, late = compare["turn_done_ms"], ", overdue" if compare["overdue"] else ""
    whole = f"fully compared {format_time(done)}" if done else "never fully compared"
    under_way = f", slice {compare['next']}/{compare['slices']} is next" if compare["slices"] > 1 else ""
    return whole + under_way + late
