"""Delta: SUBSCRIBE from the checkpoint, commit closed ranges, stop at a closed time.

Every commit is one transaction {data, digests of the touched buckets, as_of}. A closed range too large for one is
applied under `pending`; the run after a crash repeats exactly that range (UP TO its end), because a shorter or longer
one would not undo what the first attempt had written.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from itertools import chain

from msgspec import Struct
from msgspec.structs import replace

from reconcile.compare import records
from reconcile.core import checkpoint, digest
from reconcile.core.changes import Changes
from reconcile.core.checkpoint import Content
from reconcile.core.guard import mass_delete
from reconcile.core.records import Manifest, Records, forget
from reconcile.core.state import State
from reconcile.core.times import MAX_TIMESTAMP, Frontier, frontier_after
from reconcile.errors import SafetyStop
from reconcile.runs.context import ViewRun
from reconcile.source.subscription import Subscription
from reconcile.target.batch import Applier
from reconcile.target.port import Write

EXISTS_KEYS = 1000
PROGRESS_EVERY_S = 1.0
"""A range without changes moves the checkpoint no more often: every commit to any table may move all frontiers."""
PATIENCE_MS = 5000
"""How long, in Materialize's time, a followed key may have several rows: an upstream may insert before it deletes."""


class TooLarge(Exception):  # noqa: N818 - no error: the caller takes another way
    """More changed at one time than memory can hold. one_row: a single row is, so parts would not help."""

    def __init__(self, *, one_row: bool = False) -> None:
        super().__init__()
        self.one_row = one_row


class Doubt(Exception):  # noqa: N818 - no error: the caller takes another way
    """The changes do not fit what Redis holds: a snapshot has to settle it.

    refusal: the error to raise if no snapshot may be taken. withheld: number of deletes concerned.
    """

    def __init__(
        self, reason: str, buckets: Collection[int] = (), refusal: SafetyStop | None = None, withheld: int = 0
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.buckets = frozenset(buckets)
        self.refusal = refusal
        self.withheld = withheld


class Until(Struct, frozen=True):
    """When a delta ends: at the source's present (frontier), at a moment (monotonic seconds), or, with both unset,
    never. past: with a moment, what lies below this frontier was over when the run began.
    """

    up_to: Frontier | None = None
    moment: float | None = None
    past: Frontier = Frontier(0)


class Follower:
    """Applies one subscription to Redis. The lease is held (or this is a dry run).

    It never waits for the source, so that one thread can serve many.
    """

    def __init__(self, run: ViewRun, subscription: Subscription, until: Until, *, repeat: bool = False) -> None:
        """repeat: the range was applied in part before; its keys may already exist."""
        self.run = run
        self.subscription = subscription
        self.until = until
        self._repeat = repeat
        self._manifest = records.manifest_of(run.state, run.shard)
        self.frontier = frontier_after(run.state.as_of or 0)
        """Of what is committed."""
        self._committed_at = -PROGRESS_EVERY_S
        self._unsettled_at: Frontier | None = None
        """Of the first range that ended with several rows for a key, unless that is over."""

    def fileno(self) -> int:
        """Return the socket to select for reading."""
        return self.subscription.fileno()

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be committed."""
        moment = self.until.moment
        due = moment is not None and time.monotonic() >= moment
        return self.subscription.finished or due or self.run.stop.requested

    def step(self, *, idle: bool) -> bool:
        """Receive available changes and commit closed ranges. Return whether the view has come to its end.

        idle: nothing is known to have arrived, so a range that closed without changes may be committed. Raises Doubt,
        TooLarge, HistoryLost.
        """
        subscription, stream = self.subscription, self.subscription.stream
        limit = self.run.settings.limits.memory_max_bytes
        ends = self.ended  # before the last poll: what has closed by now is committed
        subscription.poll(limit)
        # A range that is repeated is committed whole: until then Redis may hold changes of any time in it. So is that
        # of a dry run: a second change would be judged by a Redis without the first.
        whole = self._repeat or (self.run.request.dry_run and not ends)
        closed = subscription.finished or (stream.frontier > self.frontier and not whole)
        due = stream.has_changes or subscription.finished or ends or (idle and self._is_due())
        if closed and due and self._has_settled(ends=ends):
            self.commit(stream.take(), stream.frontier)
            self.run.report.updates = stream.updates
        elif stream.size_bytes > limit:
            stream.drop()
            raise TooLarge
        return ends or subscription.finished

    def _has_settled(self, *, ends: bool) -> bool:
        """Whether a range is to be committed, or reported if a key has several rows in it: in the past that is no error
        if a later time has put it right, and in the present it may be about to."""
        stream = self.subscription.stream
        if stream.settled or self.subscription.finished:
            self._unsettled_at = None
            return True
        self._unsettled_at = self._unsettled_at or stream.frontier
        if stream.frontier < (self.until.up_to or self.until.past):
            return False
        return ends or stream.frontier >= self._unsettled_at + PATIENCE_MS

    def _is_due(self) -> bool:
        return time.monotonic() >= self._committed_at + PROGRESS_EVERY_S

    def commit(self, changes: Changes, frontier: Frontier) -> None:
        """Apply a closed range and move the checkpoint to frontier − 1."""
        as_of = min(frontier - 1, MAX_TIMESTAMP)
        check_vanishing(self.run, changes)
        check_inserts(self.run, changes, repeat=self._repeat)
        before = self._manifest.keys
        add_to_manifest(self.run, self._manifest, changes.digests)
        check_deletes(self.run, len(changes.deletes), before, self._manifest.keys)
        forgotten = forget(self.run.stored.fingerprints, changes.touched, self.run.shard)
        applier = applier_for(self.run, as_of, forgotten)
        for key in changes.deletes:
            applier.delete(key)
        applier.put_all(changes.puts.items())
        write = Write(manifest=self._manifest.records(changes.digests), fingerprints=forgotten)
        commit_range(self.run, applier, self._manifest.total, write, changes.touched, as_of)
        self._manifest.trim()
        self.frontier, self._committed_at = frontier, time.monotonic()


def applier_for(run: ViewRun, as_of: int, forgotten: Records) -> Applier:
    """Return an applier for the changes of (checkpoint, as_of]; it sets `pending` if they exceed one transaction."""
    marked = checkpoint.marked(run.state, "begin delta", as_of, run.state.updated_at_ms)
    mark = Write(state=marked, fingerprints=forgotten)
    return Applier(run.target, run.settings.limits, mark, dry_run=run.request.dry_run)


def note_forgotten(run: ViewRun, touched: Collection[int]) -> None:
    """Note that the fingerprints of these buckets are unknown by now in Redis too. In place: there may be 2^17."""
    known = run.stored.fingerprints
    if known is not None:
        for bucket in touched:
            known[bucket] = digest.UNKNOWN


def commit_range(
    run: ViewRun, applier: Applier, total: int, write: Write, touched: Collection[int], as_of: int
) -> None:
    """Write what the applier holds, together with records and checkpoint. total: digest of the whole manifest."""
    report, base = run.report, run.state
    assert base.identity is not None
    content = Content(
        base.buckets,
        total,
        base.identity,
        run.stored.surplus,
        base.surplus_names,
        base.fingerprint_salt,
        base.companion,
    )
    new: State = checkpoint.reached(base, as_of, content, run.now_ms())
    applier.finish(replace(write, state=new))
    note_forgotten(run, touched)
    run.stored.state = new
    run.touched.update(touched)
    report.puts += applier.puts
    report.deletes += applier.deletes
    report.commits += 1
    report.as_of, report.keys = as_of, new.keys


def add_to_manifest(run: ViewRun, manifest: Manifest, digests: Mapping[int, int]) -> None:
    """Add the changes to the buckets' digests. Raises Doubt if they do not fit what is stored."""
    if not records.load(run.target, manifest, digests):
        raise Doubt("the stored manifest does not match the state")
    if not manifest.add(digests):
        raise Doubt("the changes do not fit the stored manifest", digests)


def check_deletes(run: ViewRun, deletes: int, before: int, after: int) -> None:
    """Raise Doubt if so many deletes need consent, before any of the range is applied: a snapshot applies the puts."""
    if not run.guard().objects(deletes, before, after):
        return
    limit = run.view.max_delete_fraction
    refusal = mass_delete(deletes, before, limit, run.view.name)
    raise Doubt("too many deletes at once", refusal=refusal, withheld=deletes)


def check_vanishing(run: ViewRun, changes: Changes) -> None:
    """Raise Doubt if a key that is to go holds another row than the one that went. Only where rows expire: one that had
    expired was no longer in the way of a second row for its key (check_inserts)."""
    expired = run.expired
    if expired is None:
        changes.marks = {}  # their memory may be needed now
        return
    going = [*changes.deletes, *(key for key, row in changes.puts.items() if key in changes.marks and expired(row))]
    suspects: set[int] = set()
    for key, held in chain.from_iterable(run.target.pages(going, unknown=True)):
        if held is not None and held != changes.puts.get(key) and hash(held) != changes.marks[key]:
            suspects.add(digest.bucket_of(key, run.state.buckets))
    if suspects:
        raise Doubt("a key holds another row than the one that is to go", suspects)


def check_inserts(run: ViewRun, changes: Changes, *, repeat: bool) -> None:
    """Raise Doubt if a key that is new at the source exists in Redis: the view has it twice, or it is foreign.

    repeat: an earlier attempt at the same range may have written it, with the same value.
    """
    suspects: set[int] = set()
    buckets = run.state.buckets
    for start in range(0, len(changes.inserts), EXISTS_KEYS):
        page = changes.inserts[start : start + EXISTS_KEYS]
        if repeat:
            held = chain.from_iterable(run.target.pages(page, unknown=True))
            unexpected = [key for key, value in held if value not in (None, changes.puts[key])]
        else:
            unexpected = [key for key, exists in zip(page, run.target.exist(page), strict=True) if exists]
        suspects |= {digest.bucket_of(key, buckets) for key in unexpected}
    if suspects:
        raise Doubt("a key is new in the view but exists in Redis already", suspects)
