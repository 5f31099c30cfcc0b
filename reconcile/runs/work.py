"""The steps of run, snapshot and delta for one view.

    bring(run) ── to the present, by delta or snapshot ──▶ a Follower, if the view is to be followed ── finish(run)

If a follower ends early, its reason is passed back: `bring(run, forced=…)` takes the snapshot that resolves it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from reconcile.compare.described import proved
from reconcile.core import decide
from reconcile.core.decide import Delta, Snapshot
from reconcile.core.times import MAX_TIMESTAMP, Frontier, frontier_after, span
from reconcile.errors import (
    AccessError,
    DataError,
    EvaluationFailed,
    ExitCode,
    FellBehind,
    HistoryLost,
    ResultTooLarge,
    SafetyStop,
    Unavailable,
    UsageError,
)
from reconcile.runs import large
from reconcile.runs.context import ViewRun, undecided
from reconcile.runs.delta import Doubt, Follower, TooLarge, Until
from reconcile.runs.follow import follow
from reconcile.source.companion import CompanionDefinition
from reconcile.source.direct import object_read
from reconcile.source.frontiers import Explained, SourceClock
from reconcile.source.reading import Reading, Still, check_still, explain, open_reading, still
from reconcile.source.subscription import Subscription, begin_subscription, open_subscription

MAX_ATTEMPTS = 4
"""How often one run may switch from delta to snapshot."""


class Forced(Exception):  # noqa: N818 - no error: the caller takes a snapshot
    """A delta cannot continue. why: the snapshot that is needed; suspects: more buckets that it must examine."""

    def __init__(self, why: Snapshot, suspects: frozenset[int] = frozenset()) -> None:
        super().__init__(why.reason)
        self.why = why
        self.suspects = suspects


def bring(run: ViewRun, forced: Forced | None = None) -> Follower | None:
    """Bring one view to the present. Return a follower if it is to be followed from there on.

    The lease is held and the stored state known. Raises ReconcileError; the report is filled as far as work went.
    """
    if run.report.as_of_before is None:
        run.report.as_of_before = run.report.as_of = run.state.as_of
    if run.request.mode == "snapshot":
        return _in_parts(run, lambda: _snapshot_only(run))
    if run.request.mode == "delta":
        return _in_parts(run, lambda: _delta_only(run))
    return _in_parts(run, lambda: _run(run, forced))


def _in_parts(run: ViewRun, work: Callable[[], Follower | None]) -> Follower | None:
    """Do this work; each time Materialize refuses a result, the view is read in more of them."""
    while True:
        try:
            return work()
        except ResultTooLarge as refused:
            run.divide_results(refused)


def repair(run: ViewRun, doubt: Doubt) -> None:
    """Repair drift that a compare found, by a snapshot. Raises SafetyStop if only a delta is allowed."""
    if run.request.mode == "delta":
        raise settled_by_snapshot(run, doubt)
    action, reason, before = run.report.action, run.report.reason, run.report.puts + run.report.deletes
    run.release_session()
    forced = Forced(Snapshot(doubt.reason), doubt.buckets)
    _in_parts(run, lambda: _snapshot_at_present(run, forced))
    if run.report.puts + run.report.deletes > before:  # expired rows look lost to a compare
        run.report.warnings.append(f"drift: {doubt.reason}; repaired")
    if action == "snapshot":  # why the run took its own snapshot says more
        run.report.reason = reason


def resume(run: ViewRun, left: Exception) -> Follower | None:
    """Continue with a view that could no longer be followed. Raises `left` if nothing helps."""
    if run.request.mode != "delta":
        return bring(run, forced_by(run, left))
    with _delta_alone(run):
        if not isinstance(left, TooLarge | ResultTooLarge):
            raise left
        _past_too_large(run)
    return None if run.request.dry_run else bring(run)  # a later change would be judged by a Redis without this one


def finish(run: ViewRun) -> None:
    """Complete the report of a view whose work has ended."""
    if run.present is not None:
        _note_end(run, run.present)
    if run.report.exit_code in (ExitCode.OK, ExitCode.INCOMPLETE) and (waiting := undecided(run)) is not None:
        raise waiting


# -- modes ------------------------------------------------------------------------------------------------------------


def _snapshot_only(run: ViewRun) -> Follower | None:
    as_of = run.request.as_of
    _check_patience(run, as_of)
    companion = proved(run.session, run.described, run.state, run.report) if as_of is None else None
    with open_reading(run.session, run.described.mapping, as_of, run.described.plan) as reading:
        decision = _decide(run, reading)
        if isinstance(decision, Delta) or decision.reason == decide.HISTORY_LOST:  # that would not stop anybody else
            decision = Snapshot("asked for")
        return _snapshot(run, reading, Forced(decision), companion)


def _check_patience(run: ViewRun, as_of: int | None) -> None:
    """Refuse a time further ahead than a read may wait; with an earlier deadline, waiting is what was asked for."""
    patience_s = run.settings.materialize.read_timeout_s
    remaining_s = run.stop.remaining_s()
    ahead_s = 0.0 if as_of is None else as_of / 1000 - time.time()
    if ahead_s <= patience_s or (remaining_s is not None and remaining_s <= patience_s):
        return
    if not explain(run.session, run.described.mapping).frontiers.complete:
        raise UsageError(
            f"--as-of is {span(ahead_s * 1000)} in the future; a read waits {patience_s:g} s at most",
            hint="check the unit (milliseconds) and the zone; to wait, raise materialize.read_timeout",
        )


def _delta_only(run: ViewRun) -> Follower | None:
    explained = explain(run.session, run.described.mapping)
    decision = decide.decide(run.stored.state, run.described.identity(explained), explained.frontiers)
    if isinstance(decision, Snapshot):
        raise HistoryLost(
            f"view {run.view.name} cannot continue by delta: {decision.reason}",
            hint=f"run: reconcile run --view {run.view.name} (it takes a snapshot where that is needed)",
        )
    with _delta_alone(run):
        return _delta(run, decision.as_of, explained)


@contextlib.contextmanager
def _delta_alone(run: ViewRun) -> Iterator[None]:
    """Say what to do where only a snapshot would help, which this run may not take."""
    try:
        yield
    except Doubt as doubt:
        raise settled_by_snapshot(run, doubt) from doubt
    except TooLarge:
        raise UsageError(
            "the changes of a few keys alone do not fit into memory, so a delta cannot apply them",
            hint=f"raise limits.memory_max, or run: reconcile snapshot --view {run.view.name}",
        ) from None


def settled_by_snapshot(run: ViewRun, doubt: Doubt) -> SafetyStop:
    """Return the error for a delta that only a snapshot could settle."""
    run.report.deletes_withheld = doubt.withheld
    return doubt.refusal or SafetyStop(
        f"{doubt.reason}; a delta alone cannot resolve this",
        hint=f"run: reconcile snapshot --view {run.view.name}",
    )


def _run(run: ViewRun, forced: Forced | None) -> Follower | None:
    """Run a delta if possible, else a snapshot; then follow. A snapshot settles what a delta cannot."""
    for _ in range(MAX_ATTEMPTS):
        try:
            return _attempt(run, forced)
        except (HistoryLost, TooLarge, Doubt, EvaluationFailed, DataError) as error:
            forced = forced_by(run, error)
            run.release_session()
    raise Unavailable("the source changes faster than it can be followed", hint="see limits.memory_max")


def forced_by(run: ViewRun, error: Exception) -> Forced:
    """Return the snapshot to take if a delta cannot continue. Raises the error if none helps."""
    suspects: frozenset[int] = frozenset()
    if isinstance(error, HistoryLost):
        why = "history lost"
    elif isinstance(error, FellBehind) or isinstance(error.__cause__, FellBehind):
        why = "changes came faster than they could be read"
    elif isinstance(error, TooLarge | ResultTooLarge):
        why = "more changed at one time than memory_max holds"
    elif isinstance(error, Doubt):
        why, suspects = error.reason, error.buckets
    elif isinstance(error, EvaluationFailed) and run.report.action == "delta":
        # History has to pass the error for as long as it is kept; the present need not have it any more.
        why = "a change since the checkpoint cannot be evaluated"
    elif isinstance(error, DataError) and error.past:
        why = "a key had several rows at the checkpoint"
    else:
        raise error
    run.read_stored()  # what this run holds in memory may be ahead of what it committed
    return Forced(Snapshot(why), suspects)


def _attempt(run: ViewRun, forced: Forced | None) -> Follower | None:
    if forced is not None:
        return _snapshot_at_present(run, forced)
    companion = proved(run.session, run.described, run.state, run.report)
    with open_reading(run.session, run.described.mapping, None, run.described.plan) as reading:
        decision = _decide(run, reading)
        if isinstance(decision, Delta) and _snapshot_is_cheaper(run, companion):
            decision = Snapshot("the companion view shows what changed")
        elif isinstance(decision, Delta) and _waiting_keys_are_gone(run):
            decision = Snapshot("keys that waited for consent are gone")
        if isinstance(decision, Snapshot):
            return _snapshot(run, reading, Forced(decision), companion)
    return _delta(run, decision.as_of, reading.explained)


def _snapshot_at_present(run: ViewRun, forced: Forced) -> Follower | None:
    run.describe_again()
    companion = proved(run.session, run.described, run.state, run.report)
    with open_reading(run.session, run.described.mapping, None, run.described.plan) as reading:
        decision = _decide(run, reading)  # the source may be another by now than when the snapshot was asked for
        why = decision if isinstance(decision, Snapshot) else forced.why
        return _snapshot(run, reading, Forced(why, forced.suspects), companion)


def _snapshot(run: ViewRun, reading: Reading, forced: Forced, companion: CompanionDefinition | None) -> Follower | None:
    # Here, not at the top: by now Materialize is at work, and a delta does without it.
    from reconcile.runs import snapshot

    snapshot.take(run, reading, forced.why, companion, forced.suspects)
    return _follow_after(run, reading)


def _decide(run: ViewRun, reading: Reading) -> decide.Decision:
    return decide.decide(run.stored.state, run.described.identity(reading.explained), reading.explained.frontiers)


def _snapshot_is_cheaper(run: ViewRun, companion: CompanionDefinition | None) -> bool:
    """Whether a snapshot is cheaper than a delta: a SUBSCRIBE makes the server read the whole view, while an indexed
    companion view answers at once.
    """
    return companion is not None and run.follow_until is None and run.state.pending is None


def _waiting_keys_are_gone(run: ViewRun) -> bool:
    """Whether keys that wait for consent have been removed, which a delta would not notice."""
    names = run.state.surplus_names
    return bool(names) and not all(run.target.exist(names))


# -- deltas -----------------------------------------------------------------------------------------------------------


def _delta(run: ViewRun, as_of: int, explained: Explained) -> Follower | None:
    """Catch up with the present. Return a follower if there is more to follow."""
    run.report.action = "delta"
    pending = run.state.pending
    if pending is not None:
        _repeat_pending(run, pending.until, explained)
        if run.request.dry_run:  # a later change would be judged by a Redis without this one
            run.report.warnings.append("this is the change that was begun; what came after it is not shown")
            return None
    if as_of == MAX_TIMESTAMP:
        return None
    run.present = now = explained.frontiers.now
    moment = run.follow_until
    # A view whose turn comes only when --for is over is brought to the present all the same.
    following = moment is not None and time.monotonic() < moment and not explained.frontiers.complete
    past = frontier_after(now)
    until = Until(moment=moment, past=past) if following else Until(up_to=past)
    if until.up_to is not None and frontier_after(run.state.as_of or 0) >= until.up_to:
        run.report.action = "none"
        return None
    follower = Follower(run, _subscribe(run, until.up_to, still_reading(run, explained), explained), until)
    if until.moment is not None:
        return follower
    with run.report.phase("delta"):
        if not _caught_up(follower):
            _past_too_large(run)
    return None


def _subscribe(run: ViewRun, up_to: Frontier | None, still: Still, explained: Explained) -> Subscription:
    """SUBSCRIBE from the checkpoint; its read hold is in place on return.

    still: whether the query reads the objects of the checkpoint, asked once the subscription has begun: a view that was
    swapped since EXPLAIN would give the changes of another.
    """
    relation = object_read(run.described.mapping, run.described.plan, explained)
    try:
        subscription = _subscription(run, up_to, explained.clock, relation)
    except AccessError:
        if relation is None:
            raise
        # Whoever may read a plain view need not have the right to read what it shows.
        subscription = _subscription(run, up_to, explained.clock, None)
    check_still(still)
    return subscription


def _subscription(run: ViewRun, up_to: Frontier | None, clock: SourceClock, relation: str | None) -> Subscription:
    mapping, state = run.described.mapping, run.state
    begun = begin_subscription(
        run.open_session(),
        mapping,
        clock,
        state.buckets,
        state.as_of or 0,
        up_to,
        salt=state.salt,
        relation=relation,
    )
    return run.closing.enter_context(open_subscription(begun))


def still_reading(run: ViewRun, explained: Explained) -> Still:
    """Return a check, on another session than a subscription's, that the query is still the same."""
    return lambda: still(run.session, run.described.mapping, explained, run.described.plan)


def _caught_up(follower: Follower) -> bool:
    """Return False if more changed at one time than memory holds, or than Materialize sends at once."""
    try:
        follow(follower)
    except (TooLarge, ResultTooLarge) as error:
        if follower.run.request.mode == "run":
            raise TooLarge from error  # a snapshot is cheaper, and needs no history
        return False
    finally:
        follower.subscription.cancel()
    return True


def _past_too_large(run: ViewRun) -> None:
    """Reach the present in parts; it may be later than the one this run began with."""
    explained = explain(run.open_session(), run.described.mapping)
    check_still(lambda: run.described.identity(explained) == run.state.identity)
    present = max(explained.frontiers.now, (run.state.as_of or 0) + 1)
    with run.report.phase("parts"):
        large.apply_range(run, present, still_reading(run, explained), explained.clock, repeat=False)


def _repeat_pending(run: ViewRun, until: int, explained: Explained) -> None:
    """Repeat exactly the range (as_of, until] that an earlier run was applying when it died."""
    bound = Until(up_to=frontier_after(until))
    subscription = _subscribe(run, bound.up_to, still_reading(run, explained), explained)
    follower = Follower(run, subscription, bound, repeat=True)
    try:
        try:
            follow(follower)
        except (TooLarge, ResultTooLarge):
            follower.subscription.cancel()
            with run.report.phase("parts"):
                large.apply_range(run, until, still_reading(run, explained), explained.clock, repeat=True)
    except DataError as error:  # at the end of this range: the view may be right by now
        raise Doubt(f"a change that was begun cannot be repeated ({error.message})") from error
    run.stop.check()


def _follow_after(run: ViewRun, reading: Reading) -> Follower | None:
    """Follow a snapshot without a gap: the reading still holds its time when the subscription begins."""
    moment = run.follow_until
    if moment is None or time.monotonic() >= moment or run.request.dry_run or reading.explained.frontiers.complete:
        return None
    if run.stop.requested:
        _note_stop(run, behind=False)
        return None
    run.present = reading.as_of
    follower = Follower(run, _subscribe(run, None, reading.still, reading.explained), Until(moment=moment))
    reading.end()
    return follower


# -- the end ----------------------------------------------------------------------------------------------------------


def _note_end(run: ViewRun, now: int) -> None:
    """Report as incomplete if stopped by a signal, or before the present was reached; all progress is committed."""
    behind = frontier_after(run.state.as_of or 0) <= now
    _note_stop(run, behind=behind)
    if behind and not run.stop.requested and run.follow_until is not None:
        run.report.exit_code = ExitCode.INCOMPLETE
        run.report.warnings.append("--for ended before the run caught up; progress is committed")


def _note_stop(run: ViewRun, *, behind: bool) -> None:
    if run.stop.share_over:  # this view continues after the others' turns
        return
    if run.stop.requested and (behind or run.stop.reason != "deadline"):
        run.report.exit_code = ExitCode.INCOMPLETE
        run.report.warnings.append(f"stopped by {run.stop.reason}; progress is committed")
