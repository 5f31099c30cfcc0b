"""What both kinds of target have in common: everything except writing, and taking the right to write."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence

from reconcile.config.settings import LimitSettings
from reconcile.core.changes import name_of
from reconcile.core.digest import RECORD_BYTES
from reconcile.core.ownership import Range
from reconcile.core.state import State
from reconcile.errors import DataError, ReconcileError
from reconcile.stop import Stop
from reconcile.target import company, counters, division, lease, stored
from reconcile.target.claims import Claims
from reconcile.target.company import Calls, Company
from reconcile.target.fence import Fence
from reconcile.target.layouts import Layout
from reconcile.target.lease import Right
from reconcile.target.names import Names
from reconcile.target.nodes import Nodes, guarded
from reconcile.target.port import LARGE_VALUE_BYTES, Counters, Outcome, Page, Stored, Usage, Write
from reconcile.target.reader import Reader
from reconcile.target.renewal import LeaseKeeper
from reconcile.target.throttle import MOST_PIECES, Throttle
from reconcile.target.translation import checked
from reconcile.target.wire import Wire

RELEASE_S = 2.0
"""How long a run that ends tries to give its lease back."""
DEFAULT_BULK_MAX_BYTES = 512 * 1024 * 1024


class Base(ABC):
    """A target over some nodes; one of them, the home, has the state."""

    atomic: bool
    divided_from: int | None = None

    def __init__(
        self, nodes: Nodes, names: Names, owned: Range, layout: Layout, again: Callable[[float], Wire]
    ) -> None:
        """again: opens a new connection to the state's node within the given seconds, to give a lease back over it."""
        self.view = names.view
        self.range = owned
        self.cluster = str(nodes)
        self._nodes = nodes
        self._names = names
        self._again = again
        self._reader = Reader(nodes, names, owned, layout)
        self._fence: Fence | None = None
        self._state: State | None = None
        self._bulk_max_bytes: int | None = None
        self._closing = contextlib.ExitStack()
        self._throttle: Throttle | None = None
        self._collided = False
        """Whether the last write was not sent, as a key of it exists."""
        self._before = _used(nodes)
        """What views that had these connections before had sent."""

    def throttle(self, limits: LimitSettings, stop: Stop) -> None:
        """See port."""
        others = Company(self._look, lambda: self._written_by)
        self._throttle = Throttle(limits.writes_per_second, limits.latency_max_s, self._ping, others, stop.wait)

    def _ping(self) -> float:
        began = time.monotonic()
        self._home.call("PING")
        return time.monotonic() - began

    def _look(self) -> Callable[[], Calls | None]:
        wires = [self._nodes.wire(node) for node in range(self._nodes.count)]
        own = [dict(wire.kinds) for wire in wires]
        tickets = [wire.send([("INFO", "commandstats")]) for wire in wires]
        return lambda: company.calls([ticket.replies()[0] for ticket in tickets], own)

    @property
    def _written_by(self) -> frozenset[str]:
        """The commands with which runs write this layout."""
        return self._layout.verbs | {"EXISTS"} if self._layout.adds else self._layout.verbs

    @property
    def _layout(self) -> Layout:
        return self._reader.layout

    @property
    def batch_keys(self) -> int:
        """See port."""
        return self._layout.batch_keys

    def piece_keys(self) -> int:
        """See port."""
        pieces = MOST_PIECES if self._throttle is None else self._throttle.pieces()
        return min(self._layout.piece_keys * pieces * max(1, len(self._nodes.opened())), self.batch_keys)

    def use_columns(self, columns: Sequence[str]) -> None:
        """See port."""
        self._reader.layout = self._layout.with_columns(columns)

    @property
    def _home(self) -> Wire:
        """The connection to the state's node."""
        return self._nodes.wire(self._nodes.owner_of(self._names.state))

    # -- reading -------------------------------------------------------------------------------------------------

    def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See port."""
        return self._reader.values(keys)

    def pages(self, keys: Sequence[bytes], *, unknown: bool = False) -> Iterator[Page]:
        """See port."""
        return self._reader.pages([keys], unknown=unknown)

    def exist(self, keys: Sequence[bytes]) -> list[bool]:
        """See port."""
        return self._reader.exist(keys)

    def remembered(self, keys: Sequence[bytes]) -> list[bool]:
        """See port."""
        return self._reader.remembered(keys)

    def names(self) -> Iterator[list[bytes]]:
        """See port."""
        return self._reader.names()

    def rows(self, wanted: Callable[[bytes], bool] | None = None) -> Generator[Page, None, None]:
        """See port."""
        return self._reader.rows(wanted)

    def state(self) -> State | None:
        """See port."""
        (reply,) = self._home.send([("HGETALL", self._names.state)]).replies()
        return self._read(stored.decoded(reply, self.view))

    def stored(self) -> Stored:
        """See port."""
        reading = stored.reading(self._names)
        # Under the fence's WATCH, any change in between makes the next write fail; an EXEC here would end that WATCH.
        ticket = self._home.send(reading if self._fence is not None else stored.at_once(reading))
        legacy = None
        if key := self.range.timestamp_key:
            (reply,) = self._nodes.wire(self._nodes.owner_of(key)).send([("GET", key)]).readable()
            legacy = reply if isinstance(reply, bytes) else None
        replies = ticket.replies() if self._fence is not None else checked(ticket.replies())[-1]
        found = stored.parse(replies, self._names, legacy)
        self._read(found.state)
        return found

    def _read(self, known: State | None) -> State | None:
        self._state = known
        if self._fence is not None:
            self._fence.state = known
        return known

    def manifest(self, buckets: Sequence[int] | None) -> dict[int, bytes] | bytes:
        """See port."""
        name, size, shard = self._names.manifest, RECORD_BYTES, self._names.shard
        if buckets is None:
            (whole,) = self._home.send([("GET", name)]).readable()
            return stored.manifest(whole, shard)
        starts = [b // shard.n * size for b in buckets]
        replies = self._home.send([("GETRANGE", name, start, start + size - 1) for start in starts]).readable()
        return {b: reply if isinstance(reply, bytes) else b"" for b, reply in zip(buckets, replies, strict=True)}

    def counters(self) -> Counters:
        """See port."""
        wires = [self._nodes.wire(node) for node in range(self._nodes.count)]
        tickets = [wire.send([("INFO",), ("DBSIZE",)]) for wire in wires]
        return counters.joined([counters.parse(*ticket.replies()) for ticket in tickets])

    def now_ms(self) -> int:
        """See port."""
        seconds, microseconds = self._home.call("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    def audit(self) -> dict[str, str]:
        """See port."""
        reply = self._home.call("HGETALL", self._names.audit)
        texts = [part.decode("utf-8", "replace") for part in reply]
        return dict(zip(texts[::2], texts[1::2], strict=True))

    def note_audit(self, fields: Mapping[str, str]) -> None:
        """See port."""
        self._home.call("HSET", self._names.audit, *(part for pair in fields.items() for part in pair))

    # -- the right to write --------------------------------------------------------------------------------------

    def claim(self) -> None:
        """See port."""
        Claims(self._nodes).claim(self._names, self.range)

    def has_claim(self) -> bool:
        """See port."""
        return Claims(self._nodes).has(self._names, self.range)

    def claim_warning(self) -> str | None:
        """See port."""
        return Claims(self._nodes).warning(self._names, self.range)

    def claims_of_others(self) -> dict[str, Range]:
        """See port."""
        return Claims(self._nodes).of_others(self._names)

    @contextlib.contextmanager
    def kept_alive(self, keeper: LeaseKeeper, owner: bytes, lease_s: float) -> Iterator[None]:
        """See port."""
        renewed = keeper.add(self._names, owner, self.token, lease_s)
        try:
            yield
        finally:
            keeper.remove(renewed)

    def division(self) -> int:
        """See port."""
        (reply,) = self._home.send([("GET", self._names.shards)]).replies()
        return lease.division_of(reply, self.view)

    def acquire(self, lease_s: float, *, owner: bytes, reset: bool, divide: bool = False) -> None:
        """See port."""

        def take(names: Names) -> Right:
            return self._take(names, lease.acquire(self._home, names, lease_s, owner=owner, reset=reset))

        if self._throttle is not None:
            self._throttle.begin()
        right, self.divided_from = division.acquire(self._nodes, self._names, self.range, take, owner, divide=divide)
        self._fence = Fence(self._home, self._names, right, self._state)

    @abstractmethod
    def _take(self, names: Names, right: Right) -> Right:
        """Shut out every earlier run on nodes where the token alone does not."""

    def release(self, owner: bytes) -> None:
        """See port. Over a new connection where the run's own is broken."""
        until = time.monotonic() + RELEASE_S
        self._fence = None
        if not self._home.broken:
            self._home.answer_within(RELEASE_S)
            try:
                lease.release(self._home, self._names, owner)
                return
            except ReconcileError:
                if not self._home.broken:
                    raise
        if (left_s := until - time.monotonic()) > 0:
            wire = self._again(left_s)
            try:
                lease.release(wire, self._names, owner)
            finally:
                wire.close()

    def holder(self) -> tuple[str, int] | None:
        """See port."""
        return lease.holder(self._home, self._names)

    @property
    def token(self) -> int:
        """See port."""
        return self._armed.token

    @property
    def _armed(self) -> Fence:
        assert self._fence is not None, "acquire first"
        return self._fence

    # -- writing -------------------------------------------------------------------------------------------------

    def send(self, write: Write) -> Outcome | None:
        """See port."""
        self.admit(write.puts, write.deletes)
        carry_out = self._prepared(write)
        before = self.settle()
        if before is not None and before.collided:
            return before
        self._armed.check()
        if self._throttle is not None:
            self._throttle.before(len(write.puts) + len(write.deletes))
        if write.only_new and self._layout.adds and any(self.exist(list(write.puts))):
            self._collided = True
        else:
            carry_out()
        return before

    def settle(self) -> Outcome | None:
        """See port."""
        if self._collided:
            self._collided = False
            return Outcome(collided=True)
        return self._settled()

    @abstractmethod
    def _prepared(self, write: Write) -> Callable[[], None]:
        """Do what can be done while Redis is still at work on the write before. Return what sends this one, to be
        called when none is under way."""

    @abstractmethod
    def _settled(self) -> Outcome | None:
        """Wait for the write that was sent last, and return its outcome; None if there is none."""

    @abstractmethod
    def ready(self) -> bool:
        """See port."""

    def commit(self, write: Write) -> Outcome:
        """See port."""
        self.settle()  # else it would not be sent after a write that met a key
        self.send(write)
        return self.settle() or Outcome()

    def admit(self, puts: Mapping[bytes, bytes], deletes: Collection[bytes] = ()) -> None:
        """See port."""
        if not self.range.prefix_suffices:  # else no key of the view can begin like reconcile's own
            refuses = self.range.refuses
            for key in (*puts, *deletes):
                if refuses(key):
                    raise _refused(key, self.view)
        for key, value in puts.items():
            if len(value) >= LARGE_VALUE_BYTES or len(key) >= LARGE_VALUE_BYTES:
                self._check_size(key, value)

    def forget(self, *, keys: bool) -> None:
        """Delete everything kept beside the view's keys and, with `keys`, its timestamp key; nothing can be written
        afterwards. The token counter stays: tokens are never reused."""
        timestamp = [self.range.timestamp_key] if keys and self.range.timestamp_key else []
        together, alone = (timestamp, []) if self.atomic else ([], timestamp)
        # Names are forgotten whatever the range is now: a view that got a prefix later has them still.
        own = (*self._names.forgotten, self._names.fences, *self._names.remembered_sets)
        self._armed.end([("DEL", *own, *together)])
        for key in (*alone, *self._on_nodes()):
            self._nodes.wire(self._nodes.owner_of(key)).call("UNLINK", key)

    def _on_nodes(self) -> list[bytes]:
        """Return the keys beside the view's that are not in the state's slot."""
        return []

    def _check_size(self, key: bytes, value: bytes) -> None:
        """Raise DataError for a key or value over the limit at which Redis drops the connection without a word."""
        if self._bulk_max_bytes is None:
            (reply,) = self._home.send([("CONFIG", "GET", "proto-max-bulk-len")]).replies()
            known = isinstance(reply, list) and len(reply) == 2 and reply[1].isdigit()
            self._bulk_max_bytes = int(reply[1]) if known else DEFAULT_BULK_MAX_BYTES
        for what, size in ((f"the value of {name_of(key)}", len(value)), (f"the key {name_of(key)}", len(key))):
            if size > self._bulk_max_bytes:
                raise DataError(
                    f"{what} has {size} bytes; this Redis allows {self._bulk_max_bytes} at most",
                    hint="shorten it in the query, or raise proto-max-bulk-len",
                )

    # -- the connections -----------------------------------------------------------------------------------------

    @property
    def usage(self) -> Usage:
        """See port."""
        used = zip(_used(self._nodes), self._before, strict=True)
        return Usage(*(now - before for now, before in used))

    def fileno(self) -> int:
        """See port."""
        return self._home.fileno()

    def bound(self, stop: Stop) -> None:
        """From now on, end blocked waits soon after the run should have ended, and keep idle connections open."""
        self._closing.enter_context(guarded(self._nodes, stop))

    def close(self) -> None:
        """See port."""
        self.detach()
        for wire in self._nodes.opened():
            wire.close()

    def detach(self) -> Nodes:
        """See port."""
        self._closing.close()
        return self._nodes


def _used(nodes: Nodes) -> tuple[int, int, int]:
    """Return round trips, commands and bytes sent."""
    wires = nodes.opened()
    return (
        sum(wire.round_trips for wire in wires),
        sum(sum(wire.kinds.values()) for wire in wires),
        sum(wire.bytes_sent for wire in wires),
    )


def _refused(key: bytes, view: str) -> DataError:
    return DataError(
        f"the key {name_of(key)} is reserved for reconcile's own state; the view must not write it",
        hint="set another redis.key_prefix for the view, or leave the row out in the query",
    )
