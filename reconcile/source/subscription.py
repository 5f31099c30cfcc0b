"""A live SUBSCRIBE, read as it comes, with waits the caller bounds."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Iterator

import psycopg
from psycopg import pq

from reconcile.core.stream import UpdateStream
from reconcile.errors import ReconcileError, Unavailable
from reconcile.source import query
from reconcile.source.errors import translated
from reconcile.source.query import BYTEA, Mapping
from reconcile.source.session import Session

PROGRESS_TIMEOUT_S = 60.0
"""Progress comes every second once the subscription runs; silence for this long is a broken source.
Before that the server may read the whole view (1–5 s per million rows), bounded by read_timeout. The first progress row
repeats AS OF and is sent before that (transcript `subscribe`; adapter/src/active_compute_sink.rs: initialize)."""


FEED_BYTES = 1 << 16
"""Lines of so many bytes are cut and netted together, if they are there."""


class Subscription:
    """Changes of the view after `as_of`. Made by `open_subscription`; `stream` holds what has arrived."""

    def __init__(self, session: Session, mapping: Mapping, buckets: int, as_of: int, up_to: int | None) -> None:
        self._session = session
        self._connection = session.connection
        self._up_to = up_to
        self.stream = UpdateStream(as_of, buckets, mapping.key.oid == BYTEA, mapping.value.oid == BYTEA)
        self.finished = False
        self._silent_since = time.monotonic()

    @property
    def started(self) -> bool:
        """Whether more came than the first progress row, which repeats AS OF."""
        return self.stream.updates > 0 or self.stream.frontier > self.stream.as_of + 1

    def read(self, timeout_s: float, max_bytes: int) -> bool:
        """Take in what arrives within timeout_s, until a range is closed, the stream ends or max_bytes are held.

        True when a range was closed (or the stream ended). Raises HistoryLost, Unavailable, Incomplete (the run ends).
        """
        deadline = time.monotonic() + timeout_s
        frontier = self.stream.frontier
        with translated(self._session.stop, self._session.view):
            while True:
                came = self._drain(max_bytes)
                closed = self.finished or self.stream.frontier > frontier
                if closed or self.stream.size_bytes > max_bytes:
                    return closed
                remaining = deadline - time.monotonic()
                if remaining > 0 and (came or self._wait(remaining)):
                    continue
                self._check_silence()
                return False

    def _drain(self, max_bytes: int) -> bool:
        """Feed lines that are already here, closed ranges or not: fewer, larger commits. False: there were none."""
        pgconn = self._connection.pgconn
        get_copy_data = pgconn.get_copy_data
        room = max(0, min(FEED_BYTES, max_bytes - self.stream.size_bytes))
        lines: list[memoryview] = []
        size_bytes, looked_at = 0, -1
        while size_bytes <= room:
            size, line = get_copy_data(1)
            if size > 0:
                lines.append(line)
                size_bytes += size
            elif size < 0 or looked_at == size_bytes:
                break
            else:
                looked_at = size_bytes
                pgconn.consume_input()  # what socket and TLS have; never waits
        if lines:
            self._silent_since = time.monotonic()
            self.stream.feed(lines)
        if size < 0:
            self._end()
        return bool(lines)

    def _wait(self, timeout_s: float) -> bool:
        """Whether something came. What TLS has decrypted already no socket tells of (seen with libpq 17.6 and 18.0,
        and records above 8 kB): the next look asks for it, a short wait later."""
        pgconn = self._connection.pgconn
        ready, _, _ = select.select([pgconn.socket], [], [], timeout_s)
        if ready:
            pgconn.consume_input()
        return bool(ready)

    def _end(self) -> None:
        """COPY is over: by its bound, or with an error that the result carries."""
        pgconn = self._connection.pgconn
        result = pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result, encoding="utf-8")
        while pgconn.get_result() is not None:
            pass
        self.finished = True
        if self._up_to is not None:
            self.stream.finish(self._up_to)
        else:
            raise Unavailable(
                "Materialize ended the subscription", hint="the next run goes on from here", view=self._session.view
            )

    def _check_silence(self) -> None:
        limit = self._session.read_timeout_s
        if self.started:
            limit = min(limit, PROGRESS_TIMEOUT_S)
        # The progress of a view WITH (REFRESH …) is the time of its next refresh: until then there is nothing to say.
        since_frontier_s = time.time() - self.stream.frontier / 1000
        if min(time.monotonic() - self._silent_since, since_frontier_s) > limit:
            raise Unavailable(
                f"Materialize said nothing for {limit:g} s, not even progress",
                hint="is the view's cluster running, has it replicas, and do its sources receive anything?",
                view=self._session.view,
            )


@contextlib.contextmanager
def open_subscription(
    session: Session,
    mapping: Mapping,
    buckets: int,
    as_of: int,
    up_to: int | None = None,
    part: tuple[int, int] | None = None,
) -> Iterator[Subscription]:
    """SUBSCRIBE to the changes after as_of (below up_to; of one part of the keys).

    Raises HistoryLost at once when as_of is gone.

    The read hold is in place when this returns: a read transaction that kept as_of readable may end.
    """
    statement = query.subscribe(mapping, as_of, up_to, part)
    session.statements += 1
    session.stop.check()
    pgconn = session.connection.pgconn
    with translated(session.stop, session.view):
        pgconn.send_query(statement.encode())
        subscription = Subscription(session, mapping, buckets, as_of, up_to)
        _await_copy(session)
    try:
        yield subscription
    finally:
        if not subscription.finished:
            _cancel(session)


def _await_copy(session: Session) -> None:
    """Wait until the server answers with COPY OUT or an error."""
    pgconn = session.connection.pgconn
    deadline = time.monotonic() + session.read_timeout_s
    while pgconn.flush() or pgconn.is_busy():
        session.stop.check()
        if time.monotonic() > deadline:
            raise Unavailable(
                f"Materialize did not start the subscription within {session.read_timeout_s:g} s",
                hint="materialize.read_timeout; is the view's cluster running?",
                view=session.view,
            )
        select.select([pgconn.socket], [], [], 0.1)
        pgconn.consume_input()
    result = pgconn.get_result()
    if result is None or result.status == pq.ExecStatus.FATAL_ERROR:
        if result is None:
            raise ReconcileError("Materialize did not answer the subscription")
        raise psycopg.errors.error_from_result(result, encoding="utf-8")


def _cancel(session: Session) -> None:
    """End a running subscription. The connection is closed: what it still sends is of no use."""
    with contextlib.suppress(psycopg.Error, OSError):
        session.connection.cancel_safe(timeout=2.0)
    session.close()
