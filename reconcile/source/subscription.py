"""A live SUBSCRIBE. Only `read` and `open_subscription` wait, so that one thread can follow many views.

begin_subscription ──started()──▶ poll(), whenever fileno() is readable or `has_more` ──▶ finished
"""

from __future__ import annotations

import contextlib
import enum
import select
import time
from collections.abc import Iterator

import psycopg
from psycopg import pq

from reconcile.core.stream import UpdateStream
from reconcile.core.times import Frontier
from reconcile.errors import ReconcileError, Unavailable
from reconcile.source import query
from reconcile.source.errors import once_described, translated
from reconcile.source.frontiers import SourceClock
from reconcile.source.query import Mapping
from reconcile.source.session import Session

PROGRESS_TIMEOUT_S = 60.0
"""Progress comes every second once the subscription runs; silence for this long means a broken source.

Before that the server may read the whole view (1–5 s per million rows), bounded by read_timeout. The first progress row
repeats AS OF and is sent before that (transcript `subscribe`; adapter/src/active_compute_sink.rs: initialize).
"""
FEED_BYTES = 1 << 16
"""Available lines up to this many bytes are parsed and netted together."""
POLL_BYTES = 1 << 20
"""Limit per poll, so that one busy view does not keep the others waiting."""
EMPTY_LOOKS = 1
EMPTY_LOOKS_TLS = 3
"""The socket does not show data that TLS has already decrypted (seen with libpq 17.6 and 18.0): a record of 16 kB may
take this many reads, each of which makes room for 8 kB (libpq/fe-misc.c: pqReadData).
"""
_LOOK_EVERY_S = 0.1


class _Phase(enum.Enum):
    STARTING = enum.auto()
    COPYING = enum.auto()
    ENDING = enum.auto()
    FINISHED = enum.auto()
    FAILED = enum.auto()


class Subscription:
    """Changes of the view after `as_of`; `stream` holds those received."""

    def __init__(
        self,
        session: Session,
        mapping: Mapping,
        clock: SourceClock,
        buckets: int,
        as_of: int,
        up_to: Frontier | None,
        salt: int = 0,
    ) -> None:
        self._clock = clock
        self._session = session
        self._pgconn = session.connection.pgconn
        self._up_to = up_to
        self._phase = _Phase.STARTING
        self._silent_since = time.monotonic()
        self.stream = UpdateStream(as_of, buckets, mapping.form, salt)
        self.has_more = False
        """Whether the last poll left data behind: poll again without waiting for the socket."""

    def fileno(self) -> int:
        """Return the socket to select for reading. Raises Unavailable if the connection is lost."""
        with translated(self._session.stop):
            return int(self._pgconn.socket)

    @property
    def finished(self) -> bool:
        """Whether the stream has reached its bound."""
        return self._phase is _Phase.FINISHED

    @property
    def hydrated(self) -> bool:
        """Whether the server has read the view: more has come than the first progress row, which repeats AS OF."""
        return self.stream.updates > 0 or self.stream.frontier > self.stream.as_of + 1

    def started(self) -> bool:
        """Whether the server has begun the stream; from then on it holds as_of. Never waits.

        Raises HistoryLost, Unavailable, UsageError.
        """
        if self._phase is not _Phase.STARTING:
            return True
        with once_described(), translated(self._session.stop):
            return self._begun()

    def await_start(self) -> None:
        """Wait until the server has begun the stream. Raises as `started` does, and Incomplete."""
        while not self.started():
            self._session.stop.check()
            self.wait(_LOOK_EVERY_S)

    def poll(self, max_bytes: int) -> bool:
        """Receive available data until a range is closed, the stream ends or max_bytes are held. Never waits.

        Returns True if a range was closed (or the stream ended). Raises HistoryLost, Unavailable, Incomplete (the run
        ends).
        """
        frontier = self.stream.frontier
        with once_described(), translated(self._session.stop):
            if self._phase is _Phase.STARTING and not self._begun():
                return False
            taken, self.has_more = 0, True
            while self.has_more and taken < POLL_BYTES and self.stream.size_bytes <= max_bytes:
                taken += self._take_in(max_bytes)
                if self.finished or self.stream.frontier > frontier:
                    return True
            if not taken:
                self._check_silence()
        return False

    def read(self, timeout_s: float, max_bytes: int) -> bool:
        """`poll` until a range is closed, max_bytes are held, or timeout_s have passed."""
        deadline = time.monotonic() + timeout_s
        while not self.poll(max_bytes):
            remaining = deadline - time.monotonic()
            if remaining <= 0 or self.stream.size_bytes > max_bytes:
                return False
            if not self.has_more:
                self.wait(remaining)
        return True

    def wait(self, timeout_s: float) -> None:
        """Wait until something may have come. Not by select(), which fails from the 1,024th descriptor on."""
        waiting = select.poll()
        waiting.register(self, select.POLLIN)
        waiting.poll(timeout_s * 1000)

    def cancel(self) -> None:
        """End the subscription before its bound. The connection is closed, as what it still sends is useless."""
        if self._phase not in (_Phase.FINISHED, _Phase.FAILED):
            with contextlib.suppress(psycopg.Error, OSError):
                self._session.connection.cancel_safe(timeout=2.0)
            self._session.close()

    def _begun(self) -> bool:
        """Whether the answer to the statement has come: COPY OUT, or an error to raise."""
        pgconn = self._pgconn
        pgconn.flush()
        pgconn.consume_input()
        if pgconn.is_busy():
            if time.monotonic() - self._silent_since > self._session.read_timeout_s:
                raise Unavailable(
                    f"Materialize did not start the subscription within {self._session.read_timeout_s:g} s",
                    hint="materialize.read_timeout; is the view's cluster running?",
                )
            return False
        result = pgconn.get_result()
        if result is None:
            raise ReconcileError("Materialize did not answer the subscription")
        self._raise_error(result)
        self._phase = _Phase.COPYING
        self._silent_since = time.monotonic()
        return True

    def _take_in(self, max_bytes: int) -> int:
        """Feed all available lines, closed ranges or not, for fewer, larger commits. Return the number of bytes."""
        if self._phase is _Phase.ENDING:
            self._pgconn.consume_input()
            self._end()
            return 0
        pgconn = self._pgconn
        get_copy_data = pgconn.get_copy_data
        room = max(0, min(FEED_BYTES, max_bytes - self.stream.size_bytes))
        lines: list[memoryview] = []
        size_bytes = empty_looks = size = 0
        looks = EMPTY_LOOKS_TLS if pgconn.ssl_in_use else EMPTY_LOOKS
        while size_bytes <= room:
            size, line = get_copy_data(1)
            if size > 0:
                lines.append(line)
                size_bytes += size
                empty_looks = 0
            elif size < 0 or empty_looks == looks:
                break
            else:
                empty_looks += 1
                pgconn.consume_input()  # what socket and TLS have; never waits
        self.has_more = size_bytes > room
        if lines:
            self._silent_since = time.monotonic()
            self.stream.feed(lines)
        if size < 0:
            self._phase = _Phase.ENDING
            self._end()
        return size_bytes

    def _end(self) -> None:
        """Finish after COPY has ended: at its bound, or with an error in the result, which may still be on its way."""
        self.has_more = False
        pgconn = self._pgconn
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is not None:
                self._raise_error(result)
                continue
            if self._up_to is None:
                raise Unavailable("Materialize ended the subscription", hint="the next run continues from here")
            self._phase = _Phase.FINISHED
            self.stream.finish(self._up_to)
            return

    def _raise_error(self, result: pq.abc.PGresult) -> None:
        if result.status == pq.ExecStatus.FATAL_ERROR:
            self._phase = _Phase.FAILED
            raise psycopg.errors.error_from_result(result, encoding="utf-8")

    def _check_silence(self) -> None:
        limit = self._session.read_timeout_s
        if self.hydrated:
            limit = min(limit, PROGRESS_TIMEOUT_S)
        # A view WITH (REFRESH …) makes progress up to its next refresh; until then there is nothing to send.
        since_frontier_s = self._clock.now_s() - self.stream.frontier / 1000
        if min(time.monotonic() - self._silent_since, since_frontier_s) > limit:
            raise Unavailable(
                f"Materialize said nothing for {limit:g} s, not even progress",
                hint="is the view's cluster running, does it have replicas, and do its sources receive anything?",
            )


def begin_subscription(
    session: Session,
    mapping: Mapping,
    clock: SourceClock,
    buckets: int,
    as_of: int,
    up_to: Frontier | None = None,
    part: tuple[int, int] | None = None,
    salt: int = 0,
    relation: str | None = None,
) -> Subscription:
    """Send SUBSCRIBE to the changes after as_of (below up_to; of one part of the keys), without waiting for the answer.

    salt: of the digests. relation: see `query.subscribe`. Once the subscription has `started`, a read transaction that
    kept as_of readable may end. The caller must `cancel` it.
    """
    session.statements += 1
    session.stop.check()
    with translated(session.stop):
        session.connection.pgconn.send_query(query.subscribe(mapping, as_of, up_to, part, relation).encode())
    return Subscription(session, mapping, clock, buckets, as_of, up_to, salt)


@contextlib.contextmanager
def open_subscription(begun: Subscription) -> Iterator[Subscription]:
    """Yield a subscription once it has started; it ends with the block. Raises HistoryLost if as_of is not readable."""
    try:
        begun.await_start()
        yield begun
    finally:
        begun.cancel()
