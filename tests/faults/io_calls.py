"""Runs in this process whose every I/O call is numbered, and can be made the last one, or a failure.

How often a run polls its source differs from run to run, and with it the number of every later call. What a run writes
does not: its writes have numbers of their own.

dies_before   the process is gone before the call: nothing of it took effect, and no later I/O happens either
dies_after    the process is gone after the call took effect; the answer was never read
torn          as before, but only the first half of the commands reached the server
times_out     the call took effect, but the run is told that no answer came; it lives on
freezes       the call waits until `thaw` is set
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import pytest
from msgspec.structs import replace

from reconcile.compare import contents, early_scan, repair
from reconcile.errors import HistoryLost, Unavailable
from reconcile.runs import delta as deltas
from reconcile.runs import large, work
from reconcile.source import reading as readings
from reconcile.source import session as sessions
from reconcile.source import subscription as subscriptions
from reconcile.source.frontiers import Explained, parse_explanation
from reconcile.source.reading import Reading
from reconcile.source.session import Session
from reconcile.source.subscription import Subscription
from reconcile.stop import Stop
from reconcile.target import commands as written
from reconcile.target import opening, pace, reader, throttle
from reconcile.target.layouts.string import Strings
from reconcile.target.packing import Some, kinds_of
from reconcile.target.wire import Ticket, Wire

How = Literal["dies_before", "dies_after", "torn", "times_out", "freezes"]

PATIENCE_S = 60.0
WRITE = "redis.write"
READS = frozenset(
    ["EXISTS", "GET", "GETRANGE", "HGET", "HGETALL", "HMGET", "INFO", "MGET", "PTTL", "SCAN", "SMISMEMBER", "SSCAN",
     "STRLEN", "DBSIZE", "TIME", "CONFIG", "CLUSTER", "WATCH", "UNWATCH", "MULTI", "EXEC"]
)  # fmt: skip


class Died(BaseException):
    """The process is gone. Not an Exception: nothing may handle it."""


@dataclass
class Io:
    """Numbered I/O of one thread. `look` is called before every call after which Redis may have changed; what it
    asserts is kept in `failure`."""

    look: Callable[[], None]
    at: int = 0
    """The call (from 1) to which `how` happens; 0: none."""
    how: How = "dies_before"
    among: str = ""
    """`at` counts only calls of this kind; empty: all."""
    calls: list[str] = field(default_factory=list)
    leased_at: int = 0
    """The call that asked for the lease."""
    fired_at: int = 0
    """The call, of all, to which it happened; 0: to none yet."""
    dead: bool = False
    failure: BaseException | None = None
    _written: bool = True
    thread: int = field(default_factory=threading.get_ident)
    frozen: threading.Event = field(default_factory=threading.Event)
    thaw: threading.Event = field(default_factory=threading.Event)

    @property
    def fired(self) -> bool:
        """Whether there was such a call."""
        return self.fired_at > 0

    def gate(self, kind: str) -> How | None:
        """Count a call. Returns what is to happen to it when that is not over yet."""
        if threading.get_ident() != self.thread:
            return None
        if self.dead:
            raise Died
        self._look(kind)
        self.calls.append(kind)
        number = self.calls.count(self.among) if self.among else len(self.calls)
        if self.fired or number != self.at:
            return None
        self.fired_at = len(self.calls)
        if self.how == "dies_before":
            self.die()
        if self.how == "freezes":
            self.frozen.set()
            assert self.thaw.wait(PATIENCE_S)
            return None
        return self.how

    def _look(self, kind: str) -> None:
        # While a transaction is under way every call is a chance to see it half done.
        if not self._written and kind != WRITE:
            return
        self._written = kind == WRITE or (self._written and kind != "redis.receive")
        try:
            self.look()
        except BaseException as error:
            self.failure = error
            self.die()

    def die(self) -> NoReturn:
        """From here on nothing this thread does reaches anybody."""
        self.dead = True
        raise Died

    # -- the calls -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def installed(self) -> Iterator[Io]:
        """Stand between the runs of this thread and their servers."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Wire, "send", self._sending(Wire.send, Wire.read_until))
            patch.setattr(Wire, "read_until", self._receiving(Wire.read_until))
            patch.setattr(Session, "fetch", self._asking("source.fetch", Session.fetch))
            patch.setattr(Session, "columns", self._asking("source.columns", Session.columns))
            patch.setattr(Session, "stream", self._streaming(Session.stream))
            patch.setattr(Subscription, "poll", self._polling(Subscription.poll))
            patch.setattr(Subscription, "await_start", self._subscribing(Subscription.await_start))
            patch.setattr(Subscription, "cancel", self._cancelling(Subscription.cancel))
            patch.setattr(opening, "open_nodes", self._connecting("redis.connect", opening.open_nodes, _close_nodes))
            patch.setattr(sessions, "connect", self._connecting("source.connect", sessions.connect, Session.close))
            # An early scan is another thread's: how many of its calls come before the rows differs from run to run.
            patch.setattr(early_scan, "HELD_NAMES", 0)
            try:
                yield self
            finally:
                if self.dead:
                    gc.collect()  # what the dead run had open dies too, here; later it would talk to the server

    def _sending(self, send: Any, read_until: Any) -> Any:
        def sending(wire: Wire, commands: Sequence[Some], **options: Any) -> Ticket:
            first = commands[0] if commands else ()
            if not self.leased_at and isinstance(first, tuple) and first[0] == "SET" and "NX" in first:
                self.leased_at = len(self.calls) + 1
            reads = READS.issuperset(kinds_of(commands))
            how = self.gate("redis.read" if reads else WRITE)
            if how == "times_out":
                _hang_up(wire)
            if how is not None:
                some = commands if how == "dies_after" else commands[: len(commands) // 2]
                if some:
                    read_until(wire, send(wire, some, **options))
                self.die()
            ticket: Ticket = send(wire, commands, **options)
            return ticket

        return sending

    def _receiving(self, read_until: Any) -> Any:
        def receiving(wire: Wire, ticket: Ticket) -> None:
            how = self.gate("redis.receive")
            read_until(wire, ticket)
            self._written = self._written or bool(wire._under_way)
            if how == "times_out":
                _hang_up(wire)
            if how is not None:
                self.die()

        return receiving

    def _asking(self, kind: str, ask: Any) -> Any:
        def asking(session: Session, statement: str, **options: Any) -> Any:
            how = self.gate(kind)
            answer = ask(session, statement, **options)
            self._end(how, session)
            return answer

        return asking

    def _streaming(self, stream: Any) -> Any:
        def streaming(session: Session, statement: str, *, numbers: bool = False) -> Iterator[Any]:
            self._end(self.gate("source.stream"), session)
            for chunk in stream(session, statement, numbers=numbers):
                yield chunk
                self._end(self.gate("source.chunk"), session)

        return streaming

    def _polling(self, poll: Any) -> Any:
        def polling(subscription: Subscription, max_bytes: int) -> bool:
            self._end(self.gate("source.read"), subscription._session)
            closed: bool = poll(subscription, max_bytes)
            return closed

        return polling

    def _subscribing(self, await_start: Any) -> Any:
        def subscribing(subscription: Subscription) -> None:
            how = self.gate("source.subscribe")
            await_start(subscription)
            self._end(how, subscription._session)

        return subscribing

    def _cancelling(self, cancel: Any) -> Any:
        def cancelling(subscription: Subscription) -> None:
            if self.dead and threading.get_ident() == self.thread:
                subscription._session.close()
            else:
                cancel(subscription)

        return cancelling

    def _connecting(self, kind: str, connect: Any, close: Callable[[Any], None]) -> Any:
        def connecting(*arguments: Any) -> Any:
            how = self.gate(kind)
            connected = connect(*arguments)
            if how is not None:
                close(connected)
                self._end(how, None)
            return connected

        return connecting

    def _end(self, how: How | None, session: Session | None) -> None:
        if how is None:
            return
        if how != "times_out":
            self.die()
        if session is not None:
            session.close()
        raise Unavailable("Materialize is not available: made to time out")


def _close_nodes(nodes: Any) -> None:
    for wire in nodes.opened():
        wire.close()


def _hang_up(wire: Wire) -> NoReturn:
    wire.broken = True
    wire.close()
    raise Unavailable("Redis is not available: made to time out")


def steady_pieces(patch: pytest.MonkeyPatch, keys: int) -> None:
    """Writes of so many keys, however long a run takes: after a while alone with Redis they would grow."""
    patch.setattr(Strings, "piece_keys", keys)
    patch.setattr(throttle, "MOST_PIECES", 1)


@contextlib.contextmanager
def small_pages() -> Iterator[None]:
    """Every page, chunk and group so small that a view of tens of rows has several of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "CHUNK_ROWS", 15)
        patch.setattr(sessions, "ROWS_AT_ONCE", 5)
        steady_pieces(patch, 10)
        patch.setattr(written, "MSET_PAIRS", 5)
        patch.setattr(repair, "COMPARE_ROWS", 15)
        patch.setattr(contents, "LOOK_UP_KEYS", 15)
        patch.setattr(deltas, "EXISTS_KEYS", 3)
        patch.setattr(pace, "PAGE_KEYS", 20)
        patch.setattr(reader, "PAGE_KEYS", 20)
        patch.setattr(reader, "NAMES_COUNT", 20)
        yield


@contextlib.contextmanager
def one_time_a_read() -> Iterator[None]:
    """The source reports progress before every time that has updates, and each arrives on its own.

    A real server may do so; the stand-in gives a closed past in one piece.
    """

    ahead: dict[Subscription, bytes] = {}

    really_take_in = Subscription._take_in

    def take_in(subscription: Subscription, max_bytes: int) -> int:
        if subscription._phase is subscriptions._Phase.ENDING:
            return really_take_in(subscription, max_bytes)
        stream = subscription.stream
        taken = 0
        subscription._pgconn.consume_input()
        while stream.size_bytes <= max_bytes:
            line = ahead.pop(subscription, b"")
            if not line:
                size, data = subscription._pgconn.get_copy_data(1)
                if size <= 0:
                    subscription.has_more = False
                    if size < 0:
                        subscription._phase = subscriptions._Phase.ENDING
                        subscription._end()
                    break
                line = bytes(data)
            taken += len(line)
            time_text, progressed, _ = line.split(b"\t", 2)
            if progressed != b"t" and int(time_text) > stream.frontier:
                ahead[subscription] = line
                assert stream.feed([time_text + b"\tt" + b"\t\\N" * (line.count(b"\t") - 1) + b"\n"])
                break
            if stream.feed([line]):
                break
        return taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Subscription, "_take_in", take_in)
        yield


@contextlib.contextmanager
def forgetful() -> Iterator[None]:
    """The source says that it knows only the present, as it does two seconds later without RETAIN HISTORY."""

    def parsed(text: str) -> Explained:
        explained = parse_explanation(text)
        frontiers = explained.frontiers
        return replace(explained, frontiers=replace(frontiers, since=max(frontiers.since, frontiers.now)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readings, "parse_explanation", parsed)
        yield


@contextlib.contextmanager
def out_of_time(stop: Stop, reads: int) -> Iterator[list[Reading]]:
    """The run's time is over when the source is asked for rows of buckets once more than so often. Yields what was
    asked."""
    asked: list[Reading] = []
    really = Reading.rows_of

    def rows_of(reading: Reading, *arguments: Any) -> Any:
        asked.append(reading)
        if len(asked) > reads:
            stop.request("deadline")
        return really(reading, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reading, "rows_of", rows_of)
        yield asked


@contextlib.contextmanager
def vanishing() -> Iterator[None]:
    """History that EXPLAIN TIMESTAMP still promised is gone when the subscription begins."""

    def gone(*arguments: Any, **options: Any) -> NoReturn:
        raise HistoryLost("Materialize no longer has the requested time: made to")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "begin_subscription", gone)
        patch.setattr(large, "begin_subscription", gone)
        yield
