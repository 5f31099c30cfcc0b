"""Preflight: find whatever would make runs fail, or slower or less safe than need be, and how to fix it."""

from __future__ import annotations

import contextlib
import time

from msgspec.structs import replace

from reconcile.compare.described import describe
from reconcile.config.choice import chosen_views
from reconcile.config.settings import Settings, ViewSettings
from reconcile.core.division import summed
from reconcile.core.shards import WHOLE, shards_of
from reconcile.core.state import State
from reconcile.core.times import MAX_TIMESTAMP, span
from reconcile.inspect import doctor_history, doctor_keys, doctor_redis, doctor_source
from reconcile.inspect.doctor_claims import check_claims, check_shards
from reconcile.inspect.doctor_cost import check_cost
from reconcile.inspect.doctor_history import Schedule
from reconcile.inspect.doctor_memory import check_memory
from reconcile.inspect.findings import Findings
from reconcile.report.run_report import ViewReport
from reconcile.source.frontiers import Explained
from reconcile.source.query import Mapping
from reconcile.source.reading import explain
from reconcile.source.session import Session
from reconcile.stop import Stop
from reconcile.target.opening import names_of, open_target, range_of
from reconcile.target.port import Target
from reconcile.target.survey import Survey

CLOCK_TOLERANCE_MS = 5_000
"""Clocks further apart than this are reported, since lag and ages depend on them."""


def examine(settings: Settings, names: tuple[str, ...], schedule: Schedule, stop: Stop) -> Findings:
    """Examine both servers and the named views (none: all). Raises Incomplete, UsageError (no such view)."""
    views = chosen_views(settings, names)
    findings = Findings()
    with contextlib.ExitStack() as closing:
        session = doctor_source.open_source(settings, stop, findings)
        if session is not None:
            closing.callback(session.close)
        survey = doctor_redis.open_redis(settings.redis, stop, findings)
        if survey is not None:
            closing.callback(survey.close)
            _check_all_claims(survey, settings, views, schedule, findings)
        clocks = {} if survey is None else _redis_clock(survey, findings)
        for view in views:
            findings.view = view.name
            if session is not None and session.closed:  # a failed reading closes its session
                session = doctor_source.connect_again(settings, stop, closing, findings)
            _ViewExamination(settings, view, schedule, stop, findings, clocks, views[0].name).of(session, survey)
        findings.view = None
        _check_clocks(clocks, findings)
    return findings


def _check_all_claims(
    survey: Survey, settings: Settings, views: list[ViewSettings], schedule: Schedule, findings: Findings
) -> None:
    names = {view.name: names_of(settings.redis, view) for view in views}
    ranges = {view.name: range_of(settings.redis, view) for view in views}
    with findings.checking("claims"):
        check_claims(survey, names, ranges, findings, quick=schedule.quick)
    with findings.checking("shards"):
        check_shards(survey, names, findings)


class _ViewExamination:
    """One view, examined at both ends."""

    def __init__(
        self,
        settings: Settings,
        view: ViewSettings,
        schedule: Schedule,
        stop: Stop,
        findings: Findings,
        clocks: dict[str, int],
        first: str,
    ) -> None:
        """first: name of the first view examined."""
        self._settings = settings
        self._view = view
        self._schedule = schedule
        self._stop = stop
        self._findings = findings
        self._clocks = clocks
        self._first = first
        self._rows: int | None = None
        self._keyed = True
        self._explained: Explained | None = None

    def of(self, session: Session | None, survey: Survey | None) -> None:
        """Examine one view, source first: its findings help to name keys in Redis."""
        mapping = None
        if session is not None:
            mapping = doctor_source.open_mapping(session, self._view, self._findings)
            if mapping is not None:
                self._source(session, mapping)
        if survey is not None:
            both = (session, mapping) if session is not None and mapping is not None else None
            self._redis(survey, both)

    def _source(self, session: Session, mapping: Mapping) -> None:
        findings, resumable = self._findings, False
        if not self._schedule.quick:
            with findings.checking("keys"):
                self._rows, self._keyed = doctor_source.check_keys(session, mapping, findings)
        with findings.checking("history"):
            self._explained = explained = explain(session, mapping)
            if explained.frontiers.now != MAX_TIMESTAMP:
                self._clocks.setdefault("Materialize", _ahead_ms(explained.frontiers.now))
            resumable = doctor_history.check_history(session, explained, self._view, self._schedule.every_s, findings)
        with findings.checking("companion view"):
            if not self._keyed:
                return  # no run gets as far as fingerprints
            took_s = doctor_history.check_companion(
                session, mapping, self._view, self._rows, self._schedule, findings, resumable=resumable
            )
            with findings.checking("cost"):
                if self._rows and not self._schedule.quick:
                    check_cost(session, mapping, self._view, self._rows, took_s, self._schedule.every_s, findings)

    def _redis(self, survey: Survey, source: tuple[Session, Mapping] | None) -> None:
        findings, view, redis = self._findings, self._view, self._settings.redis
        with contextlib.ExitStack() as closing, findings.checking("redis"):
            target = open_target(redis, view, self._stop)
            closing.callback(target.close)
            with findings.checking("rights"):
                names = names_of(redis, view)
                doctor_keys.check_rights(survey, names, target, view, redis.username or "default", findings)
            if source is not None and source[0].closed:  # a failed reading closes its session
                source = None
            states = [self._shard(survey, source, part) for part in self._parts(target)]
            state = summed(states)
            with findings.checking("timestamp key"):
                first = view.name == self._first
                keys = {one.mz_timestamp_key.encode() for one in self._settings.views if one.mz_timestamp_key}
                doctor_keys.check_legacy(survey, target, state, findings, first=first, others=keys)
            if source is not None and self._rows is not None:
                with findings.checking("memory"):
                    check_memory(*source, target, view, self._rows, state, findings)

    def _parts(self, target: Target) -> list[ViewSettings]:
        """Return the view, or its shards."""
        with self._findings.checking("state"):
            if (n := target.division()) > 1:
                return [replace(self._view, shard=shard) for shard in shards_of(n)]
        return [self._view]

    def _shard(self, survey: Survey, source: tuple[Session, Mapping] | None, view: ViewSettings) -> State | None:
        """Check what each shard has of its own. Return its state."""
        findings, state = self._findings, None
        findings.view = view.label
        if source is not None:
            source = source[0], replace(source[1], shard=view.shard or WHOLE)
        with contextlib.ExitStack() as closing, findings.checking("redis"):
            target = open_target(self._settings.redis, view, self._stop)
            closing.callback(target.close)
            with findings.checking("state"):
                state = doctor_keys.check_state(target, view, findings)
                if state is not None and state.as_of is not None:
                    doctor_keys.check_compared(target, state, view, findings)
            if source is not None and state is not None and self._explained is not None:
                with findings.checking("identity"):
                    described = describe(source[0], view, target, ViewReport(view.name))
                    doctor_keys.check_identity(described.identity(self._explained), state, target, view, findings)
            if not self._schedule.quick:
                with findings.checking("key space"):
                    doctor_keys.check_keys(
                        survey, names_of(self._settings.redis, view), target, view, source, self._stop, findings
                    )
        findings.view = self._view.name
        return state


# -- clocks ------------------------------------------------------------------------------------------------------------


def _ahead_ms(theirs_ms: int) -> int:
    """Return how far a clock is ahead of this host's."""
    return theirs_ms - time.time_ns() // 1_000_000


def _redis_clock(survey: Survey, findings: Findings) -> dict[str, int]:
    with findings.looking("clocks"):
        return {"Redis": _ahead_ms(survey.now_ms())}
    return {}


def _check_clocks(ahead_ms: dict[str, int], findings: Findings) -> None:
    """Name the clock that is off: if two agree, it is the third."""
    if not ahead_ms:
        return
    clocks = {"this host": 0, **ahead_ms}
    if max(clocks.values()) - min(clocks.values()) <= CLOCK_TOLERANCE_MS:
        findings.ok("clocks", f"{', '.join(clocks)} agree within {CLOCK_TOLERANCE_MS // 1000} s")
        return
    middle = sorted(clocks.values())[len(clocks) // 2] if len(clocks) > 2 else 0
    for name, ahead in clocks.items():
        off = ahead - middle
        if abs(off) > CLOCK_TOLERANCE_MS:
            side = "ahead of" if off > 0 else "behind"
            rest = " and ".join(other for other in clocks if other != name)
            findings.warn(
                "clocks",
                f"{name} is {span(abs(off))} {side} {rest}: lag and ages are off by as much, data is not",
                "synchronise the clocks (NTP)",
            )
