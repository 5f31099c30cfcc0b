"""One view's part of an invocation, from opening its connections to closing them, in stages that other views' may come
between. What goes wrong is this view's alone and ends in its report.

    advance() ─▶ a Follower for the loop, or None: done        advance(error of the follower) ─▶ …        close()
"""

from __future__ import annotations

import contextlib
import logging

from reconcile.config.settings import Settings, ViewSettings
from reconcile.errors import ExitCode, LeaseHeld, ReconcileError
from reconcile.report.run_report import ViewReport
from reconcile.runs import work
from reconcile.runs.comparing import Comparing
from reconcile.runs.context import ViewRun, as_meant, leased, open_view
from reconcile.runs.delta import Doubt, Follower
from reconcile.runs.request import Request
from reconcile.stop import Stop
from reconcile.target.renewal import LeaseKeeper

logger = logging.getLogger(__name__)

MAX_RESUMED = 100
"""How often one invocation takes a snapshot for a view that could not be followed on."""


class Task:
    """One view in one invocation."""

    def __init__(
        self, settings: Settings, view: ViewSettings, request: Request, stop: Stop, report: ViewReport, started: float
    ) -> None:
        """started: monotonic time at which `--for` began to count."""
        self.report = report
        self._settings = settings
        self._view = view
        self._request = request
        self._stop = stop
        self._started = started
        self._closing = contextlib.ExitStack()
        self._run: ViewRun | None = None
        self._comparing: Comparing | None = None
        self._resumed = 0

    def advance(self, keeper: LeaseKeeper, left: Exception | None = None) -> Follower | None:
        """Work until the view is to be followed, or done with. left: what ended its follower; None: its time did, or
        there was none yet. Never raises for this view's failure."""
        try:
            if self._run is None:
                self._open(keeper)
                return self._bring(None)
            self._resumed += 1
            if left is None or self._resumed > MAX_RESUMED:
                if left is not None:
                    raise left
                self._conclude()
                return None
            return self._bring(left)
        except LeaseHeld as held:
            if self._request.if_leased == "fail":
                self.report.fail(held)
            else:
                self.report.skipped, self.report.reason = True, held.message
        except ReconcileError as error:
            self.report.drift = None  # of an audit that was cut short
            self.report.fail(
                as_meant(self._run, error) if self._run is not None and self._comparing is not None else error
            )
            logger.debug("view %s failed", self._view.name, exc_info=True)
        except Exception as error:  # a bug: one line for the user, the traceback at debug level, other views go on
            self._note_bug(error)
        return None

    def idle(self) -> None:
        """A moment without changes while the view is followed. Raises Doubt."""
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

    def _open(self, keeper: LeaseKeeper) -> None:
        self._closing.enter_context(self.report.timed())
        run = self._closing.enter_context(
            open_view(self._settings, self._view, self._request, self._stop, self.report, self._started)
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
            return None
        follower = work.bring(run) if left is None else work.resume(run, left)
        if follower is not None and not follower.ended:
            return follower
        self._conclude()
        return None

    def _conclude(self) -> None:
        """The view's work is done, or its time is over: look at Redis, complete the report."""
        run, comparing = self._run, self._comparing
        assert run is not None
        assert comparing is not None
        try:
            if not run.stop.requested:
                comparing.after_work()
        except Doubt as doubt:
            work.mend(run, doubt)
        work.finish(run)

    def _note_bug(self, error: Exception) -> None:
        self.report.fail(
            ReconcileError(
                f"unexpected {type(error).__name__}", hint="please report this; --log-level debug shows where"
            )
        )
        self.report.exit_code = ExitCode.BUG
        logger.debug("view %s failed", self._view.name, exc_info=True)
