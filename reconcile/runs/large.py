"""Apply a closed range of changes too large for memory, part by part, under one pending mark.

One subscription per part of the keys, each over the same range AS OF as_of UP TO until + 1. The range is the same in
every attempt, so what an interrupted attempt wrote is written again, equal. Deletes wait for a second pass, since
whether there are too many is known only after all parts.
"""

from __future__ import annotations

from collections.abc import Collection

from reconcile.compare import records
from reconcile.core.changes import Changes
from reconcile.core.records import NO_RECORDS, forget
from reconcile.core.times import frontier_after
from reconcile.errors import ResultTooLarge
from reconcile.runs.context import ViewRun
from reconcile.runs.delta import (
    Doubt,
    TooLarge,
    add_to_manifest,
    applier_for,
    check_deletes,
    check_inserts,
    check_vanishing,
    commit_range,
    note_forgotten,
)
from reconcile.source.frontiers import SourceClock
from reconcile.source.reading import Still, check_still
from reconcile.source.subscription import begin_subscription, open_subscription
from reconcile.target.port import Write

FIRST_PARTS = 8
MAX_PARTS = 4096
READ_AT_MOST_S = 0.2
"""How long a read may wait before clock and signals are checked."""


def apply_range(run: ViewRun, until: int, still: Still, clock: SourceClock, *, repeat: bool) -> None:
    """Apply the changes of (checkpoint, until] and move the checkpoint there.

    still: asked for each part. repeat: parts of it may be in Redis from an earlier attempt. Raises Doubt, or TooLarge
    if the changes of a few keys alone do not fit into memory.
    """
    parts = FIRST_PARTS
    while True:
        task = _Range(run, until, still, clock, repeat=repeat)
        try:
            task.put(parts)
            task.delete(parts)  # a part that fitted may not fit again: how much arrives together differs
            break
        except (TooLarge, ResultTooLarge) as error:
            # What this attempt has done will be done again, equal: from here on this is a repeat.
            repeat = repeat or task.applier.marked
            parts *= 4
            if parts > MAX_PARTS or (isinstance(error, TooLarge) and error.one_row):
                raise TooLarge from None
    touched = [bucket for bucket, is_touched in enumerate(task.touched) if is_touched]
    commit_range(run, task.applier, task.manifest.total, Write(manifest=task.manifest.records(touched)), touched, until)


class _Range:
    """One attempt."""

    def __init__(self, run: ViewRun, until: int, still: Still, clock: SourceClock, *, repeat: bool) -> None:
        self._clock = clock
        self._run = run
        self._still = still
        self._until = until
        self._repeat = repeat
        self._with_deletes: list[int] = []
        self.manifest = records.manifest_of(run.state, run.shard)
        self.applier = applier_for(run, until, NO_RECORDS)
        self.touched = bytearray(run.state.buckets)
        """1 for buckets whose rows have changed: most of them, and there may be 2^17."""

    def put(self, parts: int) -> None:
        """Put everything, part by part. Raises Doubt, TooLarge."""
        run = self._run
        if not records.load(run.target, self.manifest, range(run.state.buckets)):
            raise Doubt("the stored manifest does not match the state")
        before, deletes = self.manifest.keys, 0
        for part in run.shard.residues(parts):
            changes = self._changes((part, parts))
            check_vanishing(run, changes)
            check_inserts(run, changes, repeat=self._repeat)
            # Parts may share a bucket: there can be more parts than buckets.
            add_to_manifest(run, self.manifest, changes.digests)
            deletes += len(changes.deletes)
            check_deletes(run, deletes, before, self.manifest.keys)
            if changes.deletes:
                self._with_deletes.append(part)
            for bucket in changes.touched:
                self.touched[bucket] = 1
            self.applier.mark()  # not before the guard was asked: what it refuses has begun nothing
            self._forget(changes.touched)
            self.applier.put_all(changes.puts.items())
            del changes  # before the next part arrives: each may be as large as memory_max

    def _forget(self, touched: Collection[int]) -> None:
        """Make the fingerprints of these buckets unknown before anything is written there. Others stay known: what lies
        in their buckets is no leftover of this change, should it be cut short."""
        run = self._run
        if (forgotten := forget(run.stored.fingerprints, touched, run.shard)) and not run.request.dry_run:
            run.target.send(Write(fingerprints=forgotten))
        note_forgotten(run, touched)

    def delete(self, parts: int) -> None:
        """Delete retracted keys, once the guard has allowed them."""
        for part in self._with_deletes:
            for key in self._changes((part, parts)).deletes:
                self.applier.delete(key)

    def _changes(self, part: tuple[int, int]) -> Changes:
        """Return a part's net changes over the whole range. Raises TooLarge."""
        run, state = self._run, self._run.state
        limit = run.settings.limits.memory_max_bytes
        assert state.as_of is not None
        session, bound = run.open_session(), frontier_after(self._until)
        begun = begin_subscription(
            session, run.described.mapping, self._clock, state.buckets, state.as_of, bound, part, salt=state.salt
        )
        with open_subscription(begun) as subscription:
            check_still(self._still)
            while not subscription.finished:
                subscription.read(READ_AT_MOST_S, limit)
                run.stop.check()
                if subscription.stream.size_bytes > limit and not subscription.finished:
                    one_row = subscription.stream.largest_bytes > limit
                    subscription.stream.drop()
                    raise TooLarge(one_row=one_row)
        session.close()
        run.report.updates += subscription.stream.updates
        return subscription.stream.take()
