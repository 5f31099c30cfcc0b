"""What runs, compares and audits ask of Redis, in our own words. `single` and `cluster` are its two implementations.

A target serves one view (or one shard of it) over connections of its own, for one thread at a time. Nothing is ever
sent twice and no connection is made anew: what cannot be answered raises Unavailable and ends the run.

Reads and writes travel in order, over the same connection, which WATCHes the state while a lease is held:

    WATCH state ─ token, commit ours? ─ reads … MULTI data, records, state EXEC ─ WATCH state ─ …

So whatever is read after a write sees that write, on that server, and what was planned from reads is written only if
nobody else has committed since. A row's value is its framed bytes, whatever the layout: a layout packs and unpacks it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from reconcile.config.settings import LimitSettings
from reconcile.core.digest import Fingerprints
from reconcile.core.ownership import Range
from reconcile.core.records import NO_RECORDS, Records
from reconcile.core.state import State
from reconcile.stop import Stop
from reconcile.target.nodes import Nodes
from reconcile.target.renewal import LeaseKeeper

Page = list[tuple[bytes, bytes | None]]
"""Keys with their framed values; None: gone since, or something the layout cannot read."""


@dataclass(frozen=True, slots=True)
class Write:
    """One change of Redis: data, records, and the state after it.

    A single server carries all of it out in one transaction. A cluster, or data too large for one transaction, needs
    several steps; then the caller has marked the state `pending` before.
    """

    puts: Mapping[bytes, bytes] = field(default_factory=dict)
    """Redis key → framed value. Keys of reconcile's own are refused (DataError)."""
    deletes: Collection[bytes] = ()
    only_new: bool = False
    """Put nothing where a key exists already: the outcome tells whether one did."""
    manifest: Records = NO_RECORDS
    fingerprints: Records = NO_RECORDS
    surplus: Records = NO_RECORDS
    state: State | None = None
    """None: the state stays. token and commit are the target's to fill in."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a write. collided: with only_new, a key existed and some of the puts did not take place."""

    collided: bool = False


@dataclass(slots=True)
class Stored:
    """What Redis holds beside the data, read as one consistent set and kept up to date by the run.

    manifest_bytes: length of the stored manifest.
    fingerprints: UNKNOWN where nothing is known; None when there are none, or their number does not fit the state.
    surplus: bucket → digest (added-up form) of keys that wait for consent.
    legacy_frontier: what mz-redis-sync left in its timestamp key; None where reconcile wrote it.
    """

    state: State | None
    manifest_bytes: int = 0
    fingerprints: Fingerprints | None = None
    surplus: dict[int, int] = field(default_factory=dict)
    legacy_frontier: bytes | None = None


@dataclass(frozen=True, slots=True)
class Counters:
    """What Redis says of itself without a look at keys; None where it does not say (managed services).

    run_ids: of every process that serves the view, joined. policy: maxmemory_policy. uptime_s: of the process that
    was started last.
    """

    run_ids: str
    uptime_s: int | None
    evicted: int | None
    expired: int | None
    policy: str | None
    keys: int | None
    """DBSIZE, over all primaries."""
    with_expiry: int | None
    used_bytes: int | None
    max_bytes: int | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What was asked of Redis so far."""

    round_trips: int
    commands: int
    bytes_sent: int


class Target(Protocol):
    """One view's keys and records in Redis."""

    view: str
    range: Range
    cluster: str
    """What the cluster behind it is, for people; empty for a single server."""
    atomic: bool
    """Whether a Write is one step: a reader sees all of it or nothing."""

    @property
    def batch_keys(self) -> int:
        """Most keys of one Write, so that Redis answers others within 20 ms (by layout)."""
        ...

    def use_columns(self, columns: Sequence[str]) -> None:
        """Names of the query's value columns, in their order in a frame: a layout with fields needs them before rows
        are read or written."""
        ...

    # -- looking -------------------------------------------------------------------------------------------------

    def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Framed values; None: absent, or something the layout cannot read. Replies are bounded in bytes."""
        ...

    def exist(self, keys: Sequence[bytes]) -> list[bool]:
        """Whether something is stored under each key, of whatever kind."""
        ...

    def remembered(self, keys: Sequence[bytes]) -> list[bool]:
        """Whether each key is one the view remembers as its own; all True where ownership goes by name."""
        ...

    def names(self) -> Iterator[list[bytes]]:
        """Owned keys in pages; one may come twice (Redis' own guarantee), one that comes and goes may be missed.

        Raises Unavailable when the server was replaced, or slots moved, in between."""
        ...

    def rows(self, wanted: Callable[[bytes], bool] | None = None) -> Generator[Page, None, None]:
        """Owned (and wanted) keys with their values, in pages bounded in bytes; the next page is looked up while the
        caller works on this one. Other calls may be made in between."""
        ...

    def state(self) -> State | None:
        """Raises StateError."""
        ...

    def stored(self) -> Stored:
        """Raises StateError."""
        ...

    def manifest(self, buckets: Sequence[int] | None) -> dict[int, bytes] | bytes:
        """Records of some buckets (b'' where there is none), or (None) the whole manifest."""
        ...

    def counters(self) -> Counters:
        """One round trip per server."""
        ...

    def now_ms(self) -> int:
        """Redis' TIME."""
        ...

    def audit(self) -> dict[str, str]:
        """What was noted of the last audit."""
        ...

    def note_audit(self, fields: Mapping[str, str]) -> None:
        """Note an audit beside the state; it changes nothing of the state."""
        ...

    # -- the right to write --------------------------------------------------------------------------------------

    def pace(self, limits: LimitSettings, stop: Stop) -> None:
        """From now on write no faster than the limits allow."""
        ...

    def claim(self) -> None:
        """Claim the view's range of keys, before anything else is written. Raises SafetyStop where that contradicts
        another view's claim, UsageError without the right to."""
        ...

    def claim_warning(self) -> str | None:
        """What a caller that does not write should say of a claim that could not be made."""
        ...

    def claims_of_others(self) -> dict[str, Range]:
        """View (with its namespace) → range; empty without the right to read claims."""
        ...

    def kept_alive(self, keeper: LeaseKeeper, owner: bytes, lease_s: float) -> AbstractContextManager[None]:
        """While inside, the keeper renews the lease that was acquired."""
        ...

    def division(self) -> int:
        """Into how many shards the view is cut. Raises StateError."""
        ...

    def acquire(self, lease_s: float, *, owner: bytes, reset: bool, divide: bool = False) -> None:
        """Take the lease, raise the token and arm the fence. reset: forget what is stored of earlier runs.
        divide: cut the view into as many shards as this target's, where it is not.

        Raises LeaseHeld, Divided (without divide); after any other error the lease may have been taken: `release`."""
        ...

    def release(self, owner: bytes) -> None:
        """Give the lease back if this owner has it."""
        ...

    def holder(self) -> tuple[str, int] | None:
        """(owner, milliseconds left) of the lease; None when free. One without an end is nobody's."""
        ...

    @property
    def token(self) -> int:
        """This run's fencing token, once acquired."""
        ...

    # -- writing -------------------------------------------------------------------------------------------------

    def send(self, write: Write) -> Outcome | None:
        """Send without waiting for the outcome; returns that of the write before, if it was not settled yet.

        Raises LeaseLost when another run has taken over: nothing was written then."""
        ...

    def settle(self) -> Outcome | None:
        """Wait for the outcome of the write under way, if any."""
        ...

    def commit(self, write: Write) -> Outcome:
        """send and settle."""
        ...

    def admit(self, puts: Mapping[bytes, bytes], deletes: Collection[bytes] = ()) -> None:
        """Raise DataError for a key or value that must not be written. Every write passes this; a dry run may ask."""
        ...

    def fileno(self) -> int:
        """The socket that becomes readable when the write under way can be settled without a wait (single server)."""
        ...

    def ready(self) -> bool:
        """Whether the write under way can be settled without a wait: its replies may have come along with others,
        and the socket stays silent then. (A cluster: whether there is anything to read from the node of the state.)"""
        ...

    @property
    def usage(self) -> Usage:
        """What was asked of Redis so far, over all connections of this target."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...

    def detach(self) -> Nodes:
        """Let go of the connections, for another target to use; this one cannot any more."""
        ...
