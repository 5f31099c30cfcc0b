"""The port to Redis: all that runs, compares and audits ask of it. `single` and `cluster` implement it.

A target serves one view (or one shard of it) over its own connections, one thread at a time. Nothing is ever sent
twice, and a lost connection is not reopened: when no answer comes, Unavailable is raised and the run ends.

Reads and writes travel in order over the same connection, which WATCHes the state while a lease is held:

    WATCH state ─ token, commit ours? ─ reads … MULTI data, records, state EXEC ─ WATCH state ─ …

So a read sees every write before it, on the same server, and what was planned from reads is written only if nobody else
has committed since. A row's value is always its framed bytes; the layout packs and unpacks them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from msgspec import Struct, field

from reconcile.config.settings import LimitSettings
from reconcile.core.digest import Fingerprints
from reconcile.core.ownership import Range
from reconcile.core.records import NO_RECORDS, Records, Waiting
from reconcile.core.state import State
from reconcile.stop import Stop
from reconcile.target.nodes import Nodes
from reconcile.target.renewal import LeaseKeeper

LARGE_VALUE_BYTES = 1 << 20
"""From this size on, a value is checked against Redis' own limit before anything is written."""

Page = list[tuple[bytes, bytes | None]]
"""Keys with their framed values. None: the key has gone, or holds something the layout cannot read."""


class Write(Struct, frozen=True):
    """One change of Redis: data, records, and the state after it.

    A single server applies it in one transaction. A cluster, or data too large for one transaction, needs several
    steps; the caller marks the state `pending` before the first.
    """

    puts: Mapping[bytes, bytes] = field(default_factory=dict)
    """Redis key → framed value. reconcile's own keys are refused (DataError)."""
    deletes: Collection[bytes] = ()
    only_new: bool = False
    """Do not overwrite keys that exist; the outcome says whether one did."""
    manifest: Records = NO_RECORDS
    fingerprints: Records = NO_RECORDS
    surplus: Records = NO_RECORDS
    state: State | None = None
    """None: the state stays as it is. The target fills in token and commit."""


class Outcome(Struct, frozen=True):
    """The result of a write. collided: with only_new, a key existed. Some puts did not happen, or replaced a key that
    came after the target had looked."""

    collided: bool = False


class Stored(Struct):
    """What Redis holds beside the data, read as one consistent set and kept up to date by the run.

    has_manifest: whether a manifest for as many buckets as the state says is stored.
    fingerprints: one per bucket, UNKNOWN where a change touched it; None: none stored, or not as many as buckets.
    waiting: keys beyond the source's that stay for now.
    legacy_frontier: content of mz-redis-sync's timestamp key; None once reconcile has a state.
    """

    state: State | None
    has_manifest: bool = False
    fingerprints: Fingerprints | None = None
    waiting: Waiting = field(default_factory=Waiting)
    legacy_frontier: bytes | None = None

    @property
    def surplus(self) -> dict[int, int]:
        """Bucket → digest (added-up form) of keys that wait for consent."""
        return self.waiting.surplus


class Counters(Struct, frozen=True):
    """Redis' own statistics; None if it does not give one (managed services), or nodes differ.

    run_ids: of every process that serves the view, joined by spaces. policy: maxmemory_policy. uptime_s: of the process
    started last.
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


class Usage(Struct, frozen=True):
    """How much was sent to Redis so far."""

    round_trips: int
    commands: int
    bytes_sent: int


class Target(Protocol):
    """One view's keys and records in Redis."""

    view: str
    range: Range
    cluster: str
    """A description of the cluster for people; empty for a single server."""
    atomic: bool
    """Whether a Write is one step: a reader sees all of it or nothing."""
    divided_from: int | None
    """The number of shards the view was cut into before `acquire` changed it; None: it did not."""

    @property
    def batch_keys(self) -> int:
        """The most keys one Write may have, so that Redis answers other clients within 20 ms. Depends on the layout."""
        ...

    def piece_keys(self) -> int:
        """Return the most keys the next Write under `pending` should have. Nobody needs to see them at once, so other
        clients should hardly notice them: Redis is busy with so many for 0.05 ms, or for the time of a round trip if
        that is longer. While there are no other clients, they are many times as many."""
        ...

    def use_columns(self, columns: Sequence[str]) -> None:
        """Give the names of the query's value columns, in frame order. A hash layout needs them before rows are read or
        written."""
        ...

    # -- reading -------------------------------------------------------------------------------------------------

    def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the framed value of each key, in order. None: absent, or something the layout cannot read. Only for a
        few keys, as their values may be large."""
        ...

    def pages(self, keys: Sequence[bytes], *, unknown: bool = False) -> Iterator[Page]:
        """Yield the same in pages bounded in bytes. unknown: they are not the view's rows, so the size of the values
        read before says nothing about theirs."""
        ...

    def exist(self, keys: Sequence[bytes]) -> list[bool]:
        """Whether each key exists, whatever its type."""
        ...

    def remembered(self, keys: Sequence[bytes]) -> list[bool]:
        """Whether the view remembers each key as its own; always True where the range is decided by the key's name."""
        ...

    def names(self) -> Iterator[list[bytes]]:
        """Yield owned keys in pages. As with any SCAN, a key may come twice, and one that comes and goes may be missed.

        Raises Unavailable when the server was replaced, or slots moved, during the scan."""
        ...

    def rows(self, wanted: Callable[[bytes], bool] | None = None) -> Generator[Page, None, None]:
        """Yield owned keys (only those `wanted`) with their values, in pages bounded in bytes. The next page is fetched
        while the caller works on this one. Other calls may be made in between."""
        ...

    def state(self) -> State | None:
        """Return the state; None: nothing is stored of this view. Raises StateError."""
        ...

    def stored(self) -> Stored:
        """Return the state with what is stored beside it. Raises StateError."""
        ...

    def manifest(self, buckets: Sequence[int] | None) -> dict[int, bytes] | bytes:
        """Return the manifest's records of these buckets (b'' where there is none), or with None the whole manifest."""
        ...

    def counters(self) -> Counters:
        """Return statistics of all servers, in one round trip each."""
        ...

    def now_ms(self) -> int:
        """Return Redis' TIME."""
        ...

    def audit(self) -> dict[str, str]:
        """Return the note that the last audit left, as fields."""
        ...

    def note_audit(self, fields: Mapping[str, str]) -> None:
        """Store a note of an audit beside the state, which it does not change."""
        ...

    # -- the right to write --------------------------------------------------------------------------------------

    def throttle(self, limits: LimitSettings, stop: Stop) -> None:
        """Write no faster than the limits allow from now on."""
        ...

    def claim(self) -> None:
        """Claim the view's range of keys, before anything else is written. Raises SafetyStop if another view's claim
        is in the way, UsageError if the user may not write claims."""
        ...

    def has_claim(self) -> bool:
        """Whether the claim is still there. It only reads, so it may be asked between two writes."""
        ...

    def claim_warning(self) -> str | None:
        """Return why a claim would be refused, for callers that do not write. None: it would not be, or unknown."""
        ...

    def claims_of_others(self) -> dict[str, Range]:
        """Return view (with its namespace) → range of all other views; empty if the user may not read claims."""
        ...

    def kept_alive(self, keeper: LeaseKeeper, owner: bytes, lease_s: float) -> AbstractContextManager[None]:
        """Return a context in which the keeper renews the acquired lease."""
        ...

    def division(self) -> int:
        """Return the number of shards the view is cut into; 1: it is whole. Raises StateError."""
        ...

    def acquire(self, lease_s: float, *, owner: bytes, reset: bool, divide: bool = False) -> None:
        """Take the lease, raise the token and arm the fence. reset: forget what earlier runs stored.
        divide: if the view's division differs from this target's, change it.

        Raises LeaseHeld, Divided (without divide). After any other error the lease may be taken: call `release`."""
        ...

    def release(self, owner: bytes) -> None:
        """Give the lease back if this owner holds it."""
        ...

    def holder(self) -> tuple[str, int] | None:
        """Return the lease's (owner, milliseconds left); None when free. A lease without an expiry counts as free."""
        ...

    @property
    def token(self) -> int:
        """This run's fencing token, once acquired."""
        ...

    # -- writing -------------------------------------------------------------------------------------------------

    def send(self, write: Write) -> Outcome | None:
        """Send without waiting; returns the outcome of the write before, if that was still under way. If that collided,
        nothing is sent.

        Raises LeaseLost when another run has taken over; then nothing was written."""
        ...

    def settle(self) -> Outcome | None:
        """Wait for the write under way; None if there is none."""
        ...

    def commit(self, write: Write) -> Outcome:
        """Send the write and wait for its outcome."""
        ...

    def admit(self, puts: Mapping[bytes, bytes], deletes: Collection[bytes] = ()) -> None:
        """Raise DataError for a key or value that must not be written. Every write checks this; dry runs call it."""
        ...

    def fileno(self) -> int:
        """Return the socket to select on: readable when the write under way can be settled at once (single server)."""
        ...

    def ready(self) -> bool:
        """Whether the write under way can be settled without waiting. Ask before selecting: its replies may have been
        read together with others, and then the socket stays silent. In a cluster: whether the state's node has sent
        anything."""
        ...

    @property
    def usage(self) -> Usage:
        """How much was sent over this target's connections so far."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...

    def detach(self) -> Nodes:
        """Hand the connections over for another target to use; this one is unusable afterwards."""
        ...
