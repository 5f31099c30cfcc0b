"""The work on one view in one invocation, from opening to closing its connections, in stages: other views may be served
in between. A failure ends in this view's report and does not affect the others.

    advance() ─▶ a Follower for the loop; unfollowed(); advance() ─▶ …
             └▶ None: done, close(); or turned_away, cut_short: rest(), and advance() again later
"""

from __future__ import annotations

import contextlib
import logging
import time

from msgspec.structs import replace

from reconcile.config.settings import Settings, ViewSettings
from reconcile.core.shards import shards_of
from reconcile.errors import ConnectionLimit, ExitCode, LeaseHeld, ReconcileError, Unavailable
from reconcile.report.joined import join
from reconcile.report.run_report import ViewReport
from reconcile.runs import work
from reconcile.runs.comparing import Comparing
from reconcile.runs.connections import Connections
from reconcile.runs.context import ViewRun, leased, open_view, reported_as
from reconcile.runs.delta import Doubt, Follower
from reconcile.runs.request import Request
from reconcile.stop import Stop
from reconcile.target.lease import Divided
from reconcile.target.renewal import LeaseKeeper

logger = logging.getLogger(__name__)

TOO_FEW_CONNECTIONS = "Materialize takes no more connections: views take turns; raise its max_connections"
MAX_RESUMED = 100
"""How often one invocation takes a snapshot for a view that can no longer be followed."""


class Task:
    """One view in one invocation."""

    def __init__(
        self,
        settings: Settings,
        view: ViewSettings,
        request: Request,
        stop: Stop,
        report: ViewReport,
        started: float,
    ) -> None:
        """started: monotonic time at which `--for` began to count."""
        self.report = report
        self._settings = settings
        self._view = view
        self._request = request
        self._whole = stop
        self._stop = stop.part()
        self._started = started
        self._closing = contextlib.ExitStack()
        self._run: ViewRun | None = None
        self._comparing: Comparing | None = None
        self._resumed = 0
        self._left: Exception | None = None
        """What ended its follower, until settled."""
        self._done = False
        self.turned_away: ConnectionLimit | None = None
        """Materialize had no connection for it."""
        self.parts: list[Task] = []
        """Its shards, if it turned out to be cut into some: they do the work."""

    @property
    def view(self) -> ViewSettings:
        return self._view

    def advance(self, keeper: LeaseKeeper, connections: Connections) -> Follower | None:
        """Work until the view can be followed, or is done. Never raises for this view's failure."""
        try:
            follower = self._advance(keeper, connections)
        except LeaseHeld as held:
            if self._request.if_leased == "fail":
                self.report.fail(held)
            else:
                self.report.skipped, self.report.reason = True, held.message
        except ConnectionLimit as error:
            self.turned_away = error
        except Divided as found:
            self._divide(found.n)
        except ReconcileError as error:
            self.report.drift = None  # of an audit that was cut short
            if not self.cut_short:
                known = self._run is not None and self._comparing is not None
                self.report.fail(reported_as(self._run, error) if known and self._run is not None else error)
            logger.debug("view %s failed", self._view.name, exc_info=True)
        except Exception as error:  # a bug: one line for the user, the traceback at debug level, other views go on
            self._note_bug(error)
        else:
            self._left = None
            return follower
        return None

    def _advance(self, keeper: LeaseKeeper, connections: Connections) -> Follower | None:
        if self._run is None:
            self._open(keeper, connections)
            return self._bring(self._left)
        self._resumed += 1
        if self._left is not None and self._resumed > MAX_RESUMED:
            raise self._left
        if self._left is None:
            self._conclude()
            return None
        return self._bring(self._left)

    def unfollowed(self, error: Exception | None) -> None:
        """Note that its follower has left the loop, with this error or because its time is over."""
        self._left = error

    # -- the others' turn ----------------------------------------------------------------------------------------

    def may_take(self, seconds: float | None) -> None:
        """Stop after this long if not done by then, since other views wait; None: no view waits."""
        self._stop.share(seconds)

    def time_left_s(self) -> float | None:
        """Return seconds until following, or the run, ends; None: no end is set."""
        remaining_s = self._whole.remaining_s()
        follow_s = None if self._request.follow_s is None else self._started + self._request.follow_s - time.monotonic()
        left = [one for one in (remaining_s, follow_s) if one is not None and one > 0]
        return min(left, default=None)

    @property
    def cut_short(self) -> bool:
        """Whether it ended only because its share of the time was over."""
        return self._stop.share_over and self.report.error is None and not (self._done or self.report.skipped)

    def rest(self) -> None:
        """Close connections for others to use; the next `advance` starts again from what is committed."""
        if self.turned_away is not None and TOO_FEW_CONNECTIONS not in self.report.warnings:
            self.report.warnings.append(TOO_FEW_CONNECTIONS)
        self.close()
        self._closing = contextlib.ExitStack()
        self._run = self._comparing = None
        self.turned_away = None
        self._stop = self._whole.part()

    def give_up(self, error: ConnectionLimit) -> None:
        """Fail because Materialize has no connection for this view, and none of ours will become free."""
        self.report.fail(error)

    def idle(self) -> None:
        """Use a moment without changes while the view is followed. Raises Doubt."""
        if self._comparing is not None:
            self._comparing.while_idle()

    def close(self) -> None:
        """Give back whatever is held. Never raises for this view's failure."""
        try:
            self._closing.close()
        except ReconcileError as error:
            logger.debug("view %s: %s", self._view.name, error.message)
        except Exception as error:
            self._note_bug(error)

    def _open(self, keeper: LeaseKeeper, connections: Connections) -> None:
        self._closing.enter_context(self.report.timed())
        run = self._closing.enter_context(
            open_view(self._settings, self._view, self._request, self._stop, self.report, self._started, connections)
        )
        self._run = run
        if self._request.mode != "verify":
            self._closing.enter_context(leased(run, keeper))
            self._comparing = Comparing(run)

    def _bring(self, left: Exception | None) -> Follower | None:
        run = self._run
        assert run is not None
        if run.request.mode == "verify":
            from reconcile.runs.verify import verify

            verify(run)
            self._done = True
            return None
        assert self._comparing is not None
        self._comparing.give_up()
        follower = work.bring(run) if left is None else work.resume(run, left)
        if follower is not None and not follower.ended:
            self._stop.share(None)
            run.release_session()
            run.report.following()
            return follower
        self._conclude()
        return None

    def _conclude(self) -> None:
        """Finish the view: compare slices of Redis, complete the report."""
        run, comparing = self._run, self._comparing
        assert run is not None
        assert comparing is not None
        try:
            if not run.stop.requested:
                comparing.after_work()
        except Doubt as doubt:
            work.repair(run, doubt)
            comparing.pay()
        if self.cut_short:
            return
        self._done = True
        work.finish(run)

    def _divide(self, n: int) -> None:
        """Make a task for each of the view's n shards; they share its report."""
        if self._view.shard is not None:
            self.report.fail(Unavailable("the view's number of shards has just changed", hint="the next run continues"))
            return
        for shard in shards_of(n):
            view = replace(self._view, shard=shard)
            report = ViewReport(view.label, dry_run=self.report.dry_run, progress=self.report.progress)
            self.parts.append(Task(self._settings, view, self._request, self._whole, report, self._started))

    def gather(self) -> None:
        """Join the reports of the view's shards, if it has any."""
        if self.parts:
            verify, named = self._request.mode == "verify", self._request.max_report
            join(self.report, [part.report for part in self.parts], verify=verify, max_report=named)

    def _note_bug(self, error: Exception) -> None:
        self.report.fail(
            ReconcileError(
                f"unexpected {type(error).__name__}", hint="please report this; --log-level debug shows where"
            )
        )
        self.report.exit_code = ExitCode.BUG
        logger.debug("view %s failed", self._view.name, exc_info=True)
