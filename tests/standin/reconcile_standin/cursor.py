"""Results that come a piece at a time: of SUBSCRIBE, and of cursors."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from reconcile_standin import asof
from reconcile_standin.encoding import sort_key
from reconcile_standin.problem import EVALUATION, SqlError
from reconcile_standin.reading import CHUNK, rows_at
from reconcile_standin.session import END_OF_TIME, Notice
from reconcile_standin.subscribe import Options, Subscription

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconcile_standin import syntax as s
    from reconcile_standin.batches import Rows
    from reconcile_standin.engine import Row
    from reconcile_standin.plan import Column, Plan
    from reconcile_standin.session import Session


def selected(session: Session, plan: Plan, as_of: s.AsOf | None) -> Iterator[Rows]:
    """The rows of a SELECT; the time is decided now, the rows come later."""
    t = session.read_time(plan, as_of)
    reads = plan.facts.inputs if not plan.relation.sql.endswith(" LIMIT 0") else []  # that one is a constant
    while reads and session.store.upper(reads) <= t:
        session.check()
        time.sleep(0.02)

    def stream() -> Iterator[Rows]:
        # Held from the first row on: a generator that is never started would never let go.
        hold = session.store.clock.hold(t)
        try:
            ordered = plan.relation.ordered or plan.relation.grouped is not None
            for i, rows in enumerate(rows_at(session.store, session.engine, plan, t)):
                session.check()
                # What Materialize answers has been consolidated, which sorts it; worth imitating while it is cheap.
                small = i == 0 and len(rows) < CHUNK and not ordered
                yield sorted(rows, key=sort_key) if small else rows
        except SqlError as problem:
            if not plan.facts.tables:  # it is found when the query is planned
                problem.message = problem.message.removeprefix(EVALUATION)
            raise
        finally:
            session.store.clock.release(hold)

    return stream()


def subscription(session: Session, plan: Plan, statement: s.Subscribe) -> Subscription:
    """Start a SUBSCRIBE: decide its times and hold them."""
    session.permit(plan.facts)
    plan.facts.check_maintainable()
    store = session.store
    up_to = None if statement.up_to is None else asof.evaluate(statement.up_to, session)
    if not plan.facts.inputs:
        as_of = END_OF_TIME
    elif statement.as_of is not None:
        as_of = session.explicit_time(plan.facts, statement.as_of)
    else:
        as_of = store.clock.read_ts
    if up_to is not None and up_to < as_of and plan.facts.inputs:
        raise SqlError(
            f'subscription lower ("as of") bound is beyond its upper ("up to") bound: {up_to} < {as_of}', "22000"
        )
    if up_to == as_of:
        session.notice(
            Notice(
                f"subscribe as of {as_of} (inclusive) up to the same bound {up_to} (exclusive) "
                "is guaranteed to be empty"
            )
        )
    options = Options(statement.snapshot, statement.progress, statement.upsert, as_of, up_to)
    return Subscription(session, plan, options)


def subscribed(session: Session, running: Subscription) -> Iterator[Rows]:
    """Everything a SUBSCRIBE has to say, waiting for more until it ends or is cancelled."""
    try:
        while True:
            for rows in running.advance():
                session.check()
                yield rows
            if running.finished:
                return
            session.check()
            running.wait(0.25)
    finally:
        running.close()


class Cursor:
    """What DECLARE declares. It starts at the first FETCH, where its errors come."""

    def __init__(self, session: Session, plan: Plan, statement: s.Select | s.Subscribe, columns: tuple[Column, ...]):
        self._session = session
        self._plan = plan
        self._statement = statement
        self.columns = columns
        self._running: Subscription | None = None
        self._pieces: Iterator[Rows] | None = None
        self._buffer: list[Row] = []
        self._done = False

    def fetch(self, count: int | None, timeout_s: float | None) -> list[Row]:
        """Rows: with a timeout as many as come until then, without one what is ready, but at least one."""
        if count == 0:
            return []
        wanted = END_OF_TIME if count is None else count
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while len(self._buffer) < wanted and not self._done:
            if self._more(wanted):
                continue
            if self._done or (until is None and self._buffer):
                break
            self._session.check()
            left = 0.25 if until is None else min(0.25, until - time.monotonic())
            if left <= 0:
                break
            assert self._running is not None
            self._running.wait(left)
        rows, self._buffer = self._buffer[:wanted], self._buffer[wanted:]
        return rows

    def _more(self, wanted: int) -> bool:
        """Take what is ready; False when that is nothing."""
        if self._pieces is None:
            self._pieces = self._next_pieces()
        before = len(self._buffer)
        for rows in self._pieces:
            self._buffer += rows
            if len(self._buffer) >= wanted:
                return True
        self._pieces = None
        self._done = self._running is None or self._running.finished
        return len(self._buffer) > before

    def _next_pieces(self) -> Iterator[Rows]:
        from reconcile_standin.syntax import Select

        if isinstance(self._statement, Select):
            return selected(self._session, self._plan, self._statement.as_of)
        if self._running is None:
            self._running = subscription(self._session, self._plan, self._statement)
        return self._running.advance()

    def close(self) -> None:
        """Stop."""
        if self._running is not None:
            self._running.close()
            self._running = None
        self._done = True
