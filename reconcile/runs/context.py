"""What work on one view needs: connections, the described query, the stored state. Opened late, always closed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from msgspec import Struct, field
from msgspec.structs import replace

from reconcile.compare.described import Described, describe
from reconcile.compare.sides import Sides
from reconcile.config.settings import Settings, ViewSettings
from reconcile.core.changes import name_of
from reconcile.core.framing import EXPIRY_TOLERANCE_MS, split_expiry
from reconcile.core.guard import Guard, consent_needed, largest, still_withheld
from reconcile.core.shards import Shard
from reconcile.core.state import Identity, Peak, State
from reconcile.errors import HistoryLost, Incomplete, LeaseHeld, ReconcileError, ResultTooLarge, SafetyStop, Unavailable
from reconcile.report.run_report import ViewReport
from reconcile.runs.connections import Connections
from reconcile.runs.request import Request
from reconcile.source.reading import Reading, replaced
from reconcile.source.session import Session
from reconcile.stop import Stop
from reconcile.target.division import blank_state
from reconcile.target.lease import Divided, OldShardHeld, lost, new_owner
from reconcile.target.opening import open_target
from reconcile.target.port import Stored, Target
from reconcile.target.renewal import LeaseKeeper

LEASE_LOOK_EVERY_S = 0.5
DIVISION_WAIT_S = 3.0
DIVISION_LOOK_EVERY_S = 0.05
"""How long a run waits for another that is changing the division, which takes a few round trips."""
LEASE_WAIT_MAX_S = 3600.0
"""`--if-leased wait` gives up after this."""
PARTS_STEP = 8
MAX_RESULTS = 512
"""The view is read in 8, 64 or 512 results if Materialize refuses one. Each is a pass over the view."""


class ViewRun(Struct):
    """One view in one invocation. Made by `open_view`, and closed with it.

    stored: as of the lease, and kept up to date by every commit of this run.
    """

    settings: Settings
    view: ViewSettings
    request: Request
    stop: Stop
    report: ViewReport
    started: float
    """Monotonic time from which `--for` counts."""
    target: Target
    connections: Connections
    described: Described
    stored: Stored
    blank: State
    """The initial state if nothing is stored: only salts."""
    closing: contextlib.ExitStack
    _session: Session | None = None
    present: int | None = None
    """The source's present when a delta began: if it is not reached, the run is incomplete."""
    _clock: tuple[int, float] | None = None
    """Redis' time when it was read, and the monotonic time then."""
    touched: set[int] = field(default_factory=set)
    """Buckets changed by this run's deltas since the current slice of the rolling compare began."""
    found: list[int] = field(default_factory=list)
    """Buckets, ascending, in which that slice differs from the manifest, until a snapshot has looked at all of them."""

    def describe_again(self) -> None:
        """Describe the query anew, as the view may be another than when the run began.

        Raises Unavailable if its rows are stored in another way, which takes another run.
        """
        silent = ViewReport(self.view.name)  # what there is to warn of has been said
        described = describe(self.session, self.view, self.target, silent)
        if described.mapping.signature != self.described.mapping.signature:
            raise replaced()
        mapping = replace(described.mapping, parts=self.described.mapping.parts)
        self.described = replace(described, mapping=mapping)

    @property
    def session(self) -> Session:
        """The session for one statement after the other; opened on demand, as a failed one is not reused."""
        if self._session is None:
            self._session = self.connections.session(self.stop)
        return self._session

    def release_session(self) -> None:
        """Give the session back for other views, unless it failed; another is opened on demand."""
        session, self._session = self._session, None
        if session is not None:
            _give_back(session, self.connections, self.report)

    def open_session(self) -> Session:
        """Open another session, which is given back with this run."""
        session = self.connections.session(self.stop)
        self.closing.callback(_give_back, session, self.connections, self.report)
        return session

    @property
    def shard(self) -> Shard:
        """The part of the view that this run is for."""
        return self.described.mapping.shard

    @property
    def follow_until(self) -> float | None:
        """Monotonic time at which following ends; None: do not follow."""
        return None if self.request.follow_s is None else self.started + self.request.follow_s

    @property
    def state(self) -> State:
        """The stored state, or the initial one."""
        return self.stored.state or self.blank

    def now_ms(self) -> int:
        """Return Redis' time, read once and advanced by the monotonic clock."""
        if self._clock is None:
            self._clock = self.target.now_ms(), time.monotonic()
        told_ms, at_s = self._clock
        return told_ms + round((time.monotonic() - at_s) * 1000)

    def guard(self, identity: Identity | None = None) -> Guard:
        """Return the guard for deletes of this run."""
        known = self.state.identity
        replaced = identity is not None and known is not None and known.source != identity.source
        return Guard(
            largest(self.state.peak), self.view.max_delete_fraction, replaced, allowed=self.request.allow_deletes
        )

    def sides(self, reading: Reading) -> Sides:
        """Return the source at one time and the target."""
        return Sides(reading, self.target, self.stop, self.report, self.state.salt, self.expired)

    @property
    def expired(self) -> Callable[[bytes], bool] | None:
        """Tells whether a framed row has expired; None: rows do not expire."""
        return None if self.view.expires_at is None else self._is_expired

    def _is_expired(self, framed: bytes) -> bool:
        at_ms, _ = split_expiry(framed)
        return at_ms is not None and at_ms <= self.now_ms() + EXPIRY_TOLERANCE_MS

    def divide_results(self, refused: ResultTooLarge) -> None:
        """Read the view in smaller results from now on. Raises `refused` if that is not possible.

        Part of what was read may be in Redis already, under the pending mark: the stored state is read again.
        """
        results = self.described.mapping.parts * PARTS_STEP
        if results > MAX_RESULTS:
            raise refused
        mapping = replace(self.described.mapping, parts=results)
        self.described = replace(self.described, mapping=mapping)
        self.release_session()
        self.read_stored()
        self.report.warnings.append(f"{refused.message}: the view is read in {results} parts")

    def read_stored(self) -> None:
        """Read the stored state again."""
        reset = self.request.reset_state and self.request.dry_run
        self.stored = Stored(None) if reset else self.target.stored()
        if self.stored.state is not None:
            # A view that remembered its keys may have claimed a prefix since; others go by what the state says.
            self.stored.state = replace(self.stored.state, claim=self.target.range.encode())
        if self.request.allow_deletes and self.stored.state is not None:
            # Consent to fewer keys makes them the new measure; otherwise the guard would stop later runs.
            self.stored.state = replace(self.stored.state, peak=Peak())


def _give_back(session: Session, connections: Connections, report: ViewReport) -> None:
    report.rows_read += session.rows_read
    report.source_statements += session.statements
    report.source_bytes += session.bytes_received
    connections.keep(session)


@contextlib.contextmanager
def open_view(
    settings: Settings,
    view: ViewSettings,
    request: Request,
    stop: Stop,
    report: ViewReport,
    started: float,
    connections: Connections,
) -> Iterator[ViewRun]:
    """Connect to both servers and describe the query; nothing is written. Raises ReconcileError."""
    with contextlib.ExitStack() as closing:
        with report.phase("connect"):
            target = open_target(settings.redis, view, stop, nodes=connections.nodes(stop))
            closing.callback(_close_target, target, connections, report, stop)
            target.throttle(settings.limits, stop)
            if not request.reset_state:
                state = target.state()  # a newer format or a corrupt state stops here
                report.as_of = None if state is None else state.as_of
            session = connections.session(stop)
            try:
                described = describe(session, view, target, report)
            finally:
                _give_back(session, connections, report)
            if settings.materialize.exposes_password:
                report.warnings.append(
                    "the password may cross the network unencrypted: set materialize.sslmode to require or better"
                )
        blank = blank_state(target.range)
        run = ViewRun(
            settings, view, request, stop, report, started, target, connections, described, Stored(None), blank, closing
        )
        closing.callback(run.release_session)
        yield run


def _close_target(target: Target, connections: Connections, report: ViewReport, stop: Stop) -> None:
    usage = target.usage
    report.redis_commands += usage.commands
    report.redis_round_trips += usage.round_trips
    connections.keep_nodes(target.detach(), stop)


def undecided(run: ViewRun) -> SafetyStop | None:
    """Return the error while deletes wait for a human, as far as this run knows; worse news than an incomplete run."""
    state, name = run.state, run.view.name
    if state.pending is not None and state.pending.kind == "withheld":
        return still_withheld(name)
    if not state.surplus:
        return None
    run.report.deletes_withheld = max(run.report.deletes_withheld, state.surplus)
    return consent_needed(state.surplus, [name_of(key) for key in state.surplus_names], name)


def reported_as(run: ViewRun, error: ReconcileError) -> ReconcileError:
    """Return the error to report: LeaseLost for an overtaken run, to which others' writes look like a safety stop; what
    waits for a human for a run that was cut short.
    """
    if isinstance(error, Incomplete) and (waiting := undecided(run)) is not None:
        run.report.warnings.append(error.message)
        return waiting
    if run.request.dry_run or not isinstance(error, SafetyStop | HistoryLost):
        return error
    try:
        state = run.target.state()
        overtaken = state is not None and state.token != run.target.token
    except ReconcileError:
        return error
    return lost(run.view.name) if overtaken else error


# -- the right to write -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def leased(run: ViewRun, keeper: LeaseKeeper) -> Iterator[None]:
    """Claim the view's keys, acquire its lease (not in a dry run) and read the stored state. Raises LeaseHeld."""
    if run.request.dry_run:
        check_division(run)
        warn_of_claims(run)
        run.read_stored()
        yield
        return
    run.target.claim()
    owner = new_owner()
    try:
        _acquire(run, owner)
        with run.target.kept_alive(keeper, owner, run.settings.limits.lease_s):
            run.read_stored()
            _check_claim(run)
            yield
    finally:
        run.connections.give_back(lambda: run.target.release(owner))


def _check_claim(run: ViewRun) -> None:
    """Raise Unavailable if the view was dropped after this run had claimed its keys: another may have claimed them
    since. A state with content is older than that, and holds the claim."""
    if run.state.identity is None and not run.target.has_claim():
        raise Unavailable(
            f"view {run.view.name} was dropped as this run began", hint="the next run claims its keys again"
        )


def check_division(run: ViewRun) -> None:
    """Raise Divided if the view is cut into shards and none was asked for: each has a state of its own."""
    if run.view.shard is None and (n := run.target.division()) != 1:
        raise Divided(n)


def warn_of_claims(run: ViewRun) -> None:
    """Warn of a claim that could not be made, in runs that do not write."""
    if warning := run.target.claim_warning():
        run.report.warnings.append(warning)


def _acquire(run: ViewRun, owner: bytes) -> None:
    began = time.monotonic()
    while True:
        try:
            run.target.acquire(
                run.settings.limits.lease_s,
                owner=owner,
                reset=run.request.reset_state,
                divide=run.request.shard is not None,
            )
            break
        except LeaseHeld as held:
            patience_s = LEASE_WAIT_MAX_S if run.request.if_leased == "wait" else 0.0
            if isinstance(held, OldShardHeld):  # all shards of a new number begin at once, and one of them cuts
                patience_s = max(patience_s, DIVISION_WAIT_S)
            if time.monotonic() >= began + patience_s:
                raise
            run.stop.wait(DIVISION_LOOK_EVERY_S if isinstance(held, OldShardHeld) else LEASE_LOOK_EVERY_S)
            if run.stop.requested:
                raise Incomplete(f"stopped ({run.stop.reason}) while waiting: {held.message}", hint=held.hint) from held
    if (before := run.target.divided_from) is not None and run.view.shard is not None:
        run.report.warnings.append(
            f"shards changed from {before} to {run.view.shard.n}; if this is reported again and again, two schedules "
            "name different numbers"
        )
