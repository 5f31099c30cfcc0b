"""snapshot, delta and run for one view: the order of things."""

from __future__ import annotations

import contextlib
import time

from reconcile.core import decide
from reconcile.core.decide import Delta, Snapshot
from reconcile.core.times import MAX_TIMESTAMP, frontier_after
from reconcile.errors import (
    EvaluationFailed,
    ExitCode,
    HistoryLost,
    ResultTooLarge,
    SafetyStop,
    Unavailable,
    UsageError,
)
from reconcile.runs.context import ViewRun
from reconcile.runs.delta import DeltaRun, Doubt, TooLarge, Until
from reconcile.runs.slices import Slices
from reconcile.source.query import Mapping
from reconcile.source.reading import Reading, explain, open_reading
from reconcile.source.session import Session
from reconcile.target import store

MAX_TURNS = 4
"""How often one run may find that it has to take a snapshot instead of going on by delta."""


class Work:
    """One view's part of an invocation of run, snapshot or delta."""

    def __init__(self, run: ViewRun, started: float) -> None:
        """started: monotonic time at which `--for` began to count."""
        self._run = run
        self._follow_until = None if run.request.follow_s is None else started + run.request.follow_s
        self._doubted: set[int] = set()

    def execute(self) -> None:
        """Do what the request's mode says. Raises ReconcileError; the report is filled as far as it went."""
        run = self._run
        with run.report.phase("connect"):
            run.peek()
            session = run.open_session()
            mapping = run.describe(session)
        with run.leased():
            run.report.as_of_before = run.report.as_of = run.state.as_of if run.state is not None else None
            while not self._in_mode(session, mapping):
                session, mapping = run.open_session(), run.describe(session)
        self._note_lag()

    def _in_mode(self, session: Session, mapping: Mapping) -> bool:
        """False when the view has to be read in smaller parts, from the beginning: at one time, or not at all."""
        run = self._run
        try:
            if run.request.mode == "snapshot":
                self._snapshot_only(session, mapping)
            elif run.request.mode == "delta":
                self._delta_only(session, mapping)
            else:
                self._run_all(session, mapping)
        except ResultTooLarge as refused:
            run.in_smaller_parts(refused)
            return False
        return True

    # -- modes ---------------------------------------------------------------------------------------------------

    def _snapshot_only(self, session: Session, mapping: Mapping) -> None:
        as_of = self._run.request.as_of
        self._check_patience(session, mapping, as_of)
        with open_reading(session, mapping, as_of) as reading:
            self._snapshot(reading, None)

    def _check_patience(self, session: Session, mapping: Mapping, as_of: int | None) -> None:
        """Refuse a time further ahead than a read may wait; with an earlier deadline, waiting is what was asked."""
        run = self._run
        patience_s = run.settings.materialize.read_timeout_s
        remaining_s = run.stop.remaining_s()
        ahead_s = 0.0 if as_of is None else (as_of - store.now_ms()) / 1000
        if ahead_s <= patience_s or (remaining_s is not None and remaining_s <= patience_s):
            return
        if explain(session, mapping).frontiers.upper is not None:
            raise UsageError(
                f"--as-of is {ahead_s:.0f} s in the future; a read waits for {patience_s:g} s at most",
                hint="check the unit (milliseconds) and the zone; to wait, raise materialize.read_timeout",
                view=run.view.name,
            )

    def _delta_only(self, session: Session, mapping: Mapping) -> None:
        run = self._run
        explained = explain(session, mapping)
        decision = decide.decide(run.state, run.identity(mapping, explained), explained.frontiers)
        if isinstance(decision, Snapshot):
            raise HistoryLost(
                f"view {run.view.name} cannot continue by delta: {decision.reason}",
                hint=f"run: reconcile run --view {run.view.name} (it takes a snapshot where that is needed)",
                view=run.view.name,
            )
        try:
            self._delta(session, mapping, decision.as_of, explained.frontiers.now)
        except Doubt as doubt:
            raise SafetyStop(
                f"{doubt.reason}; a delta alone cannot settle that",
                hint=f"run: reconcile snapshot --view {run.view.name}",
                view=run.view.name,
            ) from doubt

    def _run_all(self, session: Session, mapping: Mapping) -> None:
        """Delta where it is possible, else a snapshot; then follow. What a delta cannot settle a snapshot does."""
        forced: Snapshot | None = None
        for _ in range(MAX_TURNS):
            try:
                self._turn(session, mapping, forced)
                return
            except HistoryLost:
                why, self._doubted = "history lost", set()
            except TooLarge:
                why, self._doubted = "more changed at one time than memory_max holds", set()
            except Doubt as doubt:
                why, self._doubted = doubt.reason, doubt.buckets
            except EvaluationFailed:
                # History has to pass the error for as long as it is kept; the present need not have it any more.
                if self._run.report.action != "delta":
                    raise
                why, self._doubted = "a change since the checkpoint cannot be evaluated", set()
            forced = Snapshot(why, deep=self._run.base_state.pending is not None)
            session = self._run.open_session()
        raise Unavailable("the source changes faster than it can be followed", hint="see limits.memory_max")

    def _turn(self, session: Session, mapping: Mapping, forced: Snapshot | None) -> None:
        run = self._run
        with open_reading(session, mapping, None) as reading:
            identity = run.identity(mapping, reading.explained)
            decision = forced or decide.decide(run.state, identity, reading.explained.frontiers)
            if isinstance(decision, Delta) and self._snapshot_is_cheaper():
                decision = Snapshot("the companion view tells what changed", deep=False)
            if isinstance(decision, Snapshot):
                self._snapshot(reading, decision)
                self._follow_after(reading, mapping)
                return
        self._delta(session, mapping, decision.as_of, reading.explained.frontiers.now)

    def _snapshot_is_cheaper(self) -> bool:
        """Starting a SUBSCRIBE makes the server read the whole view; an indexed companion answers at once."""
        run = self._run
        in_doubt = run.state is not None and run.state.pending is not None
        return run.view.digest_view is not None and self._follow_until is None and not in_doubt

    # -- parts ---------------------------------------------------------------------------------------------------

    def _snapshot(self, reading: Reading, decided: Snapshot | None) -> None:
        run = self._run
        identity = run.identity(reading.mapping, reading.explained)
        if decided is None:
            decision = decide.decide(run.state, identity, reading.explained.frontiers)
            decided = (
                decision
                if isinstance(decision, Snapshot)
                else Snapshot("asked for", deep=run.base_state.pending is not None)
            )
        # Here, not at the top: by now Materialize is at work, and a delta does without it.
        from reconcile.runs.snapshot import SnapshotRun

        snapshot = SnapshotRun(run, reading, identity, decided)
        snapshot.suspects |= self._doubted
        snapshot.execute()

    def _delta(self, session: Session, mapping: Mapping, as_of: int, now: int) -> None:
        """Catch up, then follow for as long as asked."""
        run = self._run
        run.report.action = "delta"
        if run.state is not None and run.state.pending is not None:
            self._repeat_pending(mapping, run.state.pending.until)
        if as_of == MAX_TIMESTAMP:
            return
        until = Until(moment=self._follow_until) if self._follow_until is not None else Until(up_to=frontier_after(now))
        state = run.state
        if until.up_to is not None and state is not None and frontier_after(state.as_of or 0) >= until.up_to:
            run.report.action = "none"
            return
        delta = DeltaRun(run, mapping)
        with run.report.phase("delta"):
            followed = _followed(delta, session, until)
        if followed:
            self._note_end(delta, now)
        elif run.request.mode == "run":
            raise TooLarge  # a snapshot is cheaper, and needs no history
        else:
            self._past_too_large(mapping)

    def _past_too_large(self, mapping: Mapping) -> None:
        """Come to the present in slices, which may be later than what this run began with; then follow on."""
        run = self._run
        assert run.state is not None
        session = run.open_session()
        present = max(explain(session, mapping).frontiers.now, (run.state.as_of or 0) + 1)
        self._in_slices(mapping, present)
        if self._follow_until is not None and time.monotonic() < self._follow_until:
            self._delta(session, mapping, present, present)

    def _in_slices(self, mapping: Mapping, until: int, *, repeat: bool = False) -> None:
        with self._run.report.phase("slices"):
            Slices(self._run, mapping, until, repeat=repeat).execute()

    def _repeat_pending(self, mapping: Mapping, until: int) -> None:
        """An earlier run died while it applied (as_of, until]: do exactly that again."""
        bound = Until(up_to=frontier_after(until))
        delta = DeltaRun(self._run, mapping, repeat=True)
        if not _followed(delta, self._run.open_session(), bound):
            self._in_slices(mapping, until, repeat=True)
        self._run.stop.check()

    def _follow_after(self, reading: Reading, mapping: Mapping) -> None:
        """After a snapshot, without a gap: the reading still holds its time when the subscription begins."""
        run = self._run
        ended = self._follow_until is None or time.monotonic() >= self._follow_until
        if ended or run.request.dry_run or reading.as_of == MAX_TIMESTAMP:
            return
        if run.stop.requested:
            self._note_stop(behind=False)
            return
        until = Until(moment=self._follow_until)
        delta = DeltaRun(run, mapping)
        with contextlib.ExitStack() as stack:
            subscription = stack.enter_context(delta.subscription(run.open_session(), until))
            reading.end()
            with run.report.phase("delta"):
                delta.follow(subscription, until)
        self._note_end(delta, reading.as_of)

    def _note_end(self, delta: DeltaRun, now: int) -> None:
        """Stopped by a signal, or before the present was reached: incomplete, though all progress is committed."""
        behind = delta.frontier <= now
        self._note_stop(behind=behind)
        if behind and not self._run.stop.requested and self._follow_until is not None:
            self._run.report.exit_code = ExitCode.INCOMPLETE
            self._run.report.warnings.append("--for ended before the present was reached; progress is committed")

    def _note_stop(self, *, behind: bool) -> None:
        run = self._run
        if run.stop.requested and (behind or run.stop.reason != "deadline"):
            run.report.exit_code = ExitCode.INCOMPLETE
            run.report.warnings.append(f"stopped by {run.stop.reason}; progress is committed")

    def _note_lag(self) -> None:
        report = self._run.report
        if report.as_of is not None and report.as_of != MAX_TIMESTAMP:
            report.lag_ms = max(0, store.now_ms() - report.as_of)


def _followed(delta: DeltaRun, session: Session, until: Until) -> bool:
    """False when more changed at one time than memory holds, or than Materialize sends at once; what was received of
    it is let go of by then."""
    try:
        with delta.subscription(session, until) as subscription:
            delta.follow(subscription, until)
    except (TooLarge, ResultTooLarge):
        return False
    return True
