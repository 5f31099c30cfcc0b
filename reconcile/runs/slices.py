"""A closed range of changes too large for memory: taken part by part, all under one pending mark.

One subscription per part of the keys, each over the same range AS OF as_of UP TO until + 1. The range is the same in
every attempt, so what a cut-short attempt wrote is written again, equal. Deletes wait for a second pass: whether there
are too many is known only when all parts were seen.
"""

from __future__ import annotations

import dataclasses

from reconcile.core.changes import Changes
from reconcile.core.state import Pending
from reconcile.core.times import frontier_after
from reconcile.errors import ResultTooLarge, UsageError
from reconcile.runs.context import ViewRun
from reconcile.runs.delta import READ_AT_MOST_S, Doubt, TooLarge, add_to_manifest, check_deletes, check_inserts
from reconcile.source.query import Mapping
from reconcile.source.subscription import open_subscription
from reconcile.target import store
from reconcile.target.apply import Applier

FIRST_PARTS = 8
MAX_PARTS = 4096


class Slices:
    """The range (state.as_of, until] in parts. repeat: parts of it may be in Redis from an earlier attempt."""

    def __init__(self, run: ViewRun, mapping: Mapping, until: int, *, repeat: bool) -> None:
        assert run.state is not None
        self._run = run
        self._mapping = mapping
        self._until = until
        self._repeat = repeat
        self._state = run.state
        self._manifest = store.Manifest(run.reader, run.keyspace, run.state)
        self._applier = Applier(
            run.keyspace,
            run.new_fence(),
            run.reader,
            run.settings.limits,
            run.base_state,
            Pending("delta", until),
        )
        self._touched = bytearray(run.state.buckets)
        """1 for buckets whose rows have changed: most of them, and there may be 2^17."""

    def execute(self) -> None:
        """Apply the range and move the checkpoint to `until`. Raises Doubt, SafetyStop."""
        parts = FIRST_PARTS
        while True:
            try:
                with_deletes = self._puts(parts)
                break
            except (TooLarge, ResultTooLarge):
                # What was put of this attempt is put again, equal: from here on this is a repeat.
                self._repeat = self._repeat or self._applier.marked
                parts *= 4
                if parts > MAX_PARTS:
                    raise UsageError(
                        "the changes of a few keys alone do not fit into memory", hint="raise limits.memory_max"
                    ) from None
        for part in with_deletes:
            for key in self._changes((part, parts)).deletes:
                self._applier.delete(key)
        self._commit()

    def _puts(self, parts: int) -> list[int]:
        """Put everything, part by part; which parts have deletes."""
        run, buckets = self._run, self._state.buckets
        self._manifest = store.Manifest(run.reader, run.keyspace, self._state)
        if not self._manifest.load(range(buckets)):
            raise Doubt("the stored manifest is not the state's", set())
        owned = self._manifest.keys
        self._touched = bytearray(buckets)
        deletes = 0
        with_deletes = []
        for part in range(parts):
            changes = self._changes((part, parts))
            deletes += len(changes.deletes)
            check_deletes(run, deletes, owned)
            check_inserts(run, changes, repeat=self._repeat)
            if changes.deletes:
                with_deletes.append(part)
            # Parts may share a bucket: there can be more parts than buckets.
            add_to_manifest(self._manifest, changes.digests)
            for bucket in changes.touched:
                self._touched[bucket] = 1
            self._applier.put_all(changes.puts.items())
            del changes  # before the next part comes: each may be as large as memory_max
        return with_deletes

    def _changes(self, part: tuple[int, int]) -> Changes:
        """The part's net changes over the whole range. Raises TooLarge."""
        run = self._run
        limit = run.settings.limits.memory_max_bytes
        session = run.open_session()
        assert self._state.as_of is not None
        buckets, as_of, bound = self._state.buckets, self._state.as_of, frontier_after(self._until)
        with open_subscription(session, self._mapping, buckets, as_of, bound, part) as subscription:
            while not subscription.finished:
                subscription.read(READ_AT_MOST_S, limit)
                run.stop.check()
                if subscription.stream.size_bytes > limit and not subscription.finished:
                    raise TooLarge
        session.close()
        run.report.updates += subscription.stream.updates
        return subscription.stream.take()

    def _commit(self) -> None:
        run, report = self._run, self._run.report
        touched = [bucket for bucket, is_touched in enumerate(self._touched) if is_touched]
        commands = self._manifest.commands(touched)
        commands += run.stored.forget(run.keyspace, touched)
        new = dataclasses.replace(
            run.base_state,
            as_of=self._until,
            keys=self._manifest.keys,
            digest=self._manifest.stored_total,
            pending=None,
            updated_at_ms=store.now_ms(),
        )
        self._applier.finish([*commands, *store.write_state(run.keyspace, new)])
        run.stored.state = new
        report.puts += self._applier.puts
        report.deletes += self._applier.deletes
        report.commits += 1
        report.as_of = self._until
        report.keys = new.keys
