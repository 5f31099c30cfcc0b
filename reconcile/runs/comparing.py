"""When a run compares slices of Redis: after its own work, and between two polls while it follows.

`compare_every` promises that all of Redis is compared within that time. Redis' own counters can make it come sooner.
"""

from __future__ import annotations

import time

from msgspec.structs import replace

from reconcile.compare import records, rolling
from reconcile.compare.rolling import Slice
from reconcile.core import schedule
from reconcile.core.shards import Shard
from reconcile.core.state import State, Turn
from reconcile.errors import SafetyStop
from reconcile.runs.context import ViewRun
from reconcile.runs.delta import Doubt
from reconcile.target.port import Write

PAGES_MS = 2
"""How long one idle moment of a follower is used."""


class Comparing:
    """The rolling compare of one view in one run. The lease is held."""

    def __init__(self, run: ViewRun) -> None:
        self._run = run
        self._slice: Slice | None = None
        self._cost_ms = 0.0
        self._changed = False
        self._noted_ms = 0
        """Run time already in the ledger."""
        self._hinted = False

    def after_work(self) -> None:
        """Compare as many slices as are due and affordable. Raises Doubt if Redis differs from the manifest."""
        if not self._is_possible():
            return
        self._look_at_counters()
        while self._slice is not None or self._is_due():
            if self._slice is None:
                self._begin()
            while self._step():
                if self._run.stop.requested:  # the run's own work is done: this is no failure
                    self.give_up(too_long=True)
                    break
            if self._run.stop.requested:
                break
        self._note_overdue()
        self.pay()

    def while_idle(self) -> None:
        """Read a page or two. Raises Doubt."""
        if self._slice is None and not (self._is_possible() and self._is_due()):
            return
        if self._slice is None:
            self._begin()
        until = time.monotonic() + PAGES_MS / 1000
        while self._step() and time.monotonic() < until:
            pass

    def give_up(self, *, too_long: bool = False) -> None:
        """Drop an unfinished slice, as a snapshot is about to change buckets, or (too_long) the run has to end."""
        if self._slice is None:
            return
        self._slice.close()
        self._slice, self._hinted = None, False
        self._set(schedule.unfinished(self._run.state.turn, round(self._cost_ms), too_long=too_long))

    @property
    def _shard(self) -> Shard:
        return self._run.shard

    @property
    def _buckets(self) -> int:
        """How many have keys of this shard."""
        return self._run.state.buckets // self._shard.n

    # -- when ----------------------------------------------------------------------------------------------------

    def _is_possible(self) -> bool:
        run, state = self._run, self._run.stored.state
        clean = state is not None and state.as_of is not None and state.pending is None
        return clean and not run.request.dry_run and records.is_there(run.stored)

    def _is_due(self) -> bool:
        run = self._run
        every_s = run.view.compare_every_s
        every_ms = None if every_s is None else round(every_s * 1000)
        left_s = run.stop.remaining_s()
        left_ms = None if left_s is None else round(left_s * 1000)
        turn = run.state.turn
        wanted = self._hinted or schedule.due(turn, run.now_ms(), every_ms)
        return wanted and schedule.affordable(turn, self._ran_ms(), left_ms, hinted=self._hinted)

    def _ran_ms(self) -> int:
        return round((time.monotonic() - self._run.started) * 1000) - self._noted_ms

    def _look_at_counters(self) -> None:
        """Turn signs of a loss into a hint, which buys one slice every few minutes at most; only drift found there
        starts more.
        """
        run, turn = self._run, self._run.state.turn
        counters = run.target.counters()
        expiring = run.view.expires_at is not None
        hinted = schedule.hinted(turn, counters.run_ids, counters.evicted, counters.policy, expiring=expiring)
        now_ms = run.now_ms()
        if hinted and schedule.hint_counts(turn, now_ms):
            self._hinted = True
            run.report.warnings.append("Redis was restarted or has evicted keys: one slice is compared now")
            # Begun, and so stored as due: where this run cannot afford the slice, the next one can.
            state = run.state
            turn = schedule.begun(replace(turn, hint_ms=now_ms), now_ms, state.keys, self._buckets)
        if hinted or counters.run_ids != turn.run_id or (counters.evicted or 0) != turn.evicted:
            evicted, expired = counters.evicted or 0, counters.expired or 0
            self._set(replace(turn, run_id=counters.run_ids, evicted=evicted, expired=expired, looked_ms=now_ms))

    def _note_overdue(self) -> None:
        run = self._run
        every_s = run.view.compare_every_s
        every_ms = None if every_s is None else round(every_s * 1000)
        if schedule.overdue(run.state.turn, run.now_ms(), every_ms):
            run.report.warnings.append(
                "compare overdue: not all of Redis was compared within compare_every; give runs more time"
            )

    # -- a slice -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        state = self._run.state
        turn = schedule.begun(state.turn, self._run.now_ms(), state.keys, self._buckets)
        self._set(turn)
        self._run.touched.clear()
        self._slice = rolling.open_slice(self._run.target, state, *self._shard.slice(turn.i, turn.n))
        self._cost_ms = 0.0

    def _step(self) -> bool:
        """Read a page, and judge the slice at its end. Return False if the slice is complete."""
        assert self._slice is not None
        began = time.monotonic()
        try:
            more = self._slice.step()
            found = None if more else self._judge(self._slice)
        finally:
            self._cost_ms += (time.monotonic() - began) * 1000
        if more:
            return True
        self._slice, self._hinted = None, False
        run, cost_ms = self._run, round(self._cost_ms)
        if not found:
            self._set(schedule.advanced(run.state.turn, run.now_ms(), cost_ms))
            self.pay()
            return False
        # If the run dies before the repair, the slice counts as not compared and comes again.
        self._set(schedule.charged(run.state.turn, cost_ms))
        self.pay()
        run.found, reason = found, _differ(found)
        hint = f"run: reconcile snapshot --view {run.view.name} --deep"
        raise Doubt(reason, found, SafetyStop(f"{reason}; a delta alone cannot resolve this", hint=hint))

    def _judge(self, slice_: Slice) -> list[int]:
        run = self._run
        found = slice_.differing(records.manifest_of(run.state), run.stored.surplus, run.touched)
        if found is None:
            raise Doubt("the stored manifest does not match the state")
        if found and run.request.mode == "delta" and run.expired is not None:
            # Rows that have expired look lost too: a snapshot would find out, and this may be no drift.
            run.report.warnings.append(f"{_differ(found)}, or rows have expired there: reconcile verify tells which")
            return []
        return found

    # -- the ledger ----------------------------------------------------------------------------------------------

    def _set(self, turn: Turn) -> None:
        state: State = replace(self._run.state, turn=turn)
        self._run.stored.state = state
        self._changed = True

    def pay(self) -> None:
        """Store the ledger and the turn's position if they have changed."""
        run, turn = self._run, self._run.state.turn
        in_debt = turn.spent_ms * schedule.SHARE > turn.ran_ms
        if not self._changed and not in_debt:
            return
        ran_ms = self._ran_ms()
        self._noted_ms += ran_ms
        self._set(schedule.ran(turn, ran_ms))
        self._changed = False
        run.target.commit(Write(state=run.state))


def _differ(found: list[int]) -> str:
    noun = "bucket differs" if len(found) == 1 else "buckets differ"
    return f"{len(found)} {noun} in Redis from what runs wrote"
