"""One-shot: bring Redis to the view's content at one time T, touching only what differs.

load          nothing there yet: stream and write
fingerprints  the state is clean: which buckets changed at the source? read only those
full          no fingerprints known: stream all rows through the digests, compare with the manifest
deep          in doubt, or on demand: the same, compared with everything Redis really holds
resume        an earlier snapshot was cut short: fingerprints, and everything Redis really holds
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from reconcile.core import decide, digest, drift
from reconcile.core.companion import Companion
from reconcile.core.decide import Snapshot
from reconcile.core.digest import UNKNOWN, Fingerprints
from reconcile.core.state import Identity, Pending, State
from reconcile.errors import Incomplete, ReconcileError, ResultTooLarge, SafetyStop
from reconcile.runs import companion, load
from reconcile.runs.context import ViewRun
from reconcile.runs.load import Collision, Content
from reconcile.runs.repair import Repair
from reconcile.runs.resume import Resume
from reconcile.runs.totals import add_both, add_rows
from reconcile.source.reading import Reading
from reconcile.target import store
from reconcile.target.apply import Applier
from reconcile.target.connection import Command
from reconcile.target.fence import Fence


@dataclass(slots=True)
class Outcome:
    """What is to be committed: digests of all buckets, or of the changed ones only."""

    buckets: int
    manifest: list[int] | None
    """None: only `changed` differs from what is stored."""
    changed: dict[int, int]
    fingerprints: Fingerprints | None
    companion: str = ""
    withheld: SafetyStop | None = None
    """Deletes wait for a human: Redis holds the surplus keys too, and the digests say so."""


class SnapshotRun:
    """One snapshot of one view at `reading.as_of`. The lease is held (or this is a dry run)."""

    def __init__(self, run: ViewRun, reading: Reading, identity: Identity, why: Snapshot) -> None:
        self._run = run
        self._reading = reading
        self._identity = identity
        self._why = why
        self._pending = Pending("snapshot", reading.as_of)
        self._fence: Fence | None = None
        self._applier: Applier | None = None
        self._manifest: store.Manifest | None = None
        self.suspects: set[int] = set()
        """Buckets to look at though their fingerprints are unchanged."""

    def execute(self) -> None:
        """Do it all and commit as_of := T. Raises SafetyStop after the puts when deletes are withheld."""
        run, report = self._run, self._run.report
        report.action = "snapshot"
        report.reason = self._why.reason
        self._fence = run.new_fence()
        try:
            outcome = self._bring_about()
        except (Incomplete, ResultTooLarge):
            self._keep_progress()
            raise
        first = run.state is None or run.state.as_of is None
        with report.phase("commit"):
            self._commit(outcome)
        if outcome.withheld is not None:
            raise outcome.withheld
        if first and run.keyspace.ownership == "remembered":
            self._note_others()

    def _keep_puts(self) -> None:
        """Write what was put, under the pending mark; the checkpoint stays where it is."""
        if self._applier is not None:
            self._applier.flush()
        if self._fence is not None:
            self._fence.settle()

    def _keep_progress(self) -> None:
        """Time ran out, or the view has to be read in another way. Where Redis is between two times anyway, or never
        was complete, what is known to differ is written, so that runs too short for everything converge; a clean
        checkpoint is left alone."""
        base = self._run.base_state
        marked = self._applier is not None and self._applier.marked
        if marked or base.as_of is None or base.pending is not None:
            with contextlib.suppress(ReconcileError):
                self._keep_puts()

    def _bring_about(self) -> Outcome:
        run = self._run
        state = run.state
        deep = self._why.deep or run.request.deep
        deep = deep or decide.due_deep(state, store.now_ms(), run.view.deep_every_s)
        if state is None or not run.stored.has_manifest or not state.buckets:
            deep = True
        fresh = state is None or state.as_of is None
        if fresh and not run.request.deep and load.nothing_there(run):
            try:
                return self._load()
            except Collision:
                run.report.puts = 0
                run.report.warnings.append("a key of the view exists already: every row is compared instead")
        if state is not None and self._is_unfinished(state):
            return self._resume()
        self._run.report.deep = deep
        if not deep and state is not None:
            outcome = self._by_fingerprints(state)
            if outcome is not None:
                return outcome
        return self._full(deep=deep)

    # -- load ----------------------------------------------------------------------------------------------------

    def _load(self) -> Outcome:
        run = self._run
        run.report.deep = True
        using = companion.usable(run, self._reading)
        content = Content(hashed=using is None)
        with run.report.phase("load"):
            load.load(run, self._reading, self._fence, self._pending, content)
        self._applier = self._new_applier()
        return self._whole(content, using)

    def _whole(self, content: Content, using: Companion | None) -> Outcome:
        """The manifest of everything that streamed by."""
        run = self._run
        rows = content.rows
        buckets = self._choose_buckets(rows, using)
        fingerprints: Fingerprints | None
        if using is not None:
            fingerprints, _ = self._reading.fingerprints(buckets, companion=using.name)
        else:
            fingerprints = content.fingerprints(buckets)
        run.report.buckets = buckets
        return Outcome(
            buckets, digest.fold(content.digests, buckets), {}, fingerprints, using.identity if using else ""
        )

    def _choose_buckets(self, rows: int, using: Companion | None) -> int:
        run = self._run
        if using is not None:
            return using.buckets
        if run.view.buckets is not None:
            return run.view.buckets
        known = run.state.buckets if run.state is not None and run.stored.has_manifest else 0
        return known if known and not digest.outgrown(rows, known) else digest.choose_buckets(rows)

    # -- by fingerprints -----------------------------------------------------------------------------------------

    def _by_fingerprints(self, state: State) -> Outcome | None:
        """None: too little is known, or too much has changed, for this way to be the cheap one."""
        run, report = self._run, self._run.report
        known = run.stored.fingerprints
        if known is None or run.view.buckets not in (None, state.buckets):
            return None
        if known.count(UNKNOWN) * 2 > state.buckets:
            return None
        using = companion.usable(run, self._reading)
        if using is not None and using.buckets != state.buckets:
            return None
        with report.phase("fingerprints"):
            now, rows_in = self._reading.fingerprints(state.buckets, companion=using.name if using else None)
        if run.view.buckets is None and using is None and digest.outgrown(sum(rows_in), state.buckets):
            return None
        dirty = sorted({b for b, (x, y) in enumerate(zip(now, known, strict=True)) if x != y} | self.suspects)
        if len(dirty) * 2 > state.buckets:
            return None
        report.buckets = state.buckets
        self._manifest = store.Manifest(run.reader, run.keyspace, state)
        held = self._manifest.read(dirty)
        if held is None:
            report.warnings.append("the stored manifest is not the state's: every row is compared instead")
            return None
        self._applier = self._new_applier()
        repair = Repair(run, self._reading, state.buckets, held)
        stop = self._repair(repair, [dirty] if dirty else [], rows_in, self._manifest.keys)
        outcome = Outcome(state.buckets, None, repair.digests_of(dirty), now, using.identity if using else "")
        return outcome if stop is None else _withhold(outcome, outcome.changed, repair, stop)

    # -- after a snapshot that was cut short ---------------------------------------------------------------------

    def _is_unfinished(self, state: State) -> bool:
        """Whether an earlier snapshot to the same keys and values was cut short. Asked for a deep one, that is done."""
        cut_short = state.pending is not None and state.pending.kind == "snapshot"
        same = state.identity is None or state.identity.mapping == self._identity.mapping
        return cut_short and same and not self._run.request.deep

    def _resume(self) -> Outcome:
        run, report = self._run, self._run.report
        report.deep = True
        using = companion.usable(run, self._reading)
        work = Resume(run, self._reading, using, lambda rows: self._choose_buckets(rows, None))
        report.buckets = work.buckets
        applier = self._applier = self._new_applier()
        repair = Repair(run, self._reading, work.buckets, work.held)

        def put(part: list[int]) -> None:
            work.note(repair, part)
            if work.in_parts:
                work.save(applier, self._identity, self._pending)

        stop = self._repair(repair, work.parts(), work.rows_in, digest.count(sum(work.held)), put)
        outcome = Outcome(work.buckets, work.manifest, {}, work.now, using.identity if using else "")
        return outcome if stop is None else _withhold(outcome, work.manifest, repair, stop)

    # -- full and deep -------------------------------------------------------------------------------------------

    def _full(self, *, deep: bool) -> Outcome:
        run, report = self._run, self._run.report
        using = companion.usable(run, self._reading)
        content = Content(hashed=using is None)
        held = self._stored_manifest(run.state) if not deep and run.state is not None else None
        report.deep = held is None
        with report.phase("read"):
            chunks = self._reading.hashed_rows() if content.hashed else self._reading.rows()
            if held is None:
                held = add_both(run, chunks, content)
            else:
                add_rows(run, chunks, content)
        outcome = self._whole(content, using)
        # The manifest can only be compared at its own granularity, a scan at any.
        compared = outcome.buckets if len(held) == len(content.digests) else len(held)
        held = digest.fold(held, compared)
        wanted = digest.fold(content.digests, compared)
        dirty = digest.differing(wanted, held)
        self._applier = self._new_applier()
        repair = Repair(run, self._reading, compared, held)
        owned, rows_in = digest.count(sum(held)), drift.counts_of(wanted)
        stop = self._repair(
            repair, [dirty] if dirty else [], rows_in, owned, lambda part: repair.check(part, wanted)
        )
        if stop is None:
            return outcome
        # What Redis holds beyond the source is known at the granularity of the comparison only.
        fingerprints = outcome.fingerprints if outcome.buckets == compared else content.fingerprints(compared)
        outcome = Outcome(compared, wanted, {}, fingerprints, outcome.companion)
        return _withhold(outcome, wanted, repair, stop)

    def _stored_manifest(self, state: State) -> list[int] | None:
        manifest = store.Manifest(self._run.reader, self._run.keyspace, state)
        digests = manifest.read(range(state.buckets))
        return None if digests is None else [digests[bucket] for bucket in range(state.buckets)]

    # -- repair and commit ---------------------------------------------------------------------------------------

    def _repair(
        self,
        repair: Repair,
        parts: Iterable[list[int]],
        rows_in: Sequence[int],
        owned: int,
        put: Callable[[list[int]], None] = lambda part: None,
    ) -> SafetyStop | None:
        """Put what is missing or stale in these buckets, and delete what is too many, unless the guard objects.

        put: called after each part.
        """
        report, applier = self._run.report, self._applier
        assert applier is not None
        try:
            with report.phase("repair"):
                for part in parts:
                    report.buckets_read += len(part)
                    repair.put_rows(part, applier)
                    put(part)
                if stop := repair.guard(owned):
                    report.deletes_withheld = repair.surplus
                    return stop
                repair.delete_surplus(rows_in, applier)
        finally:
            report.puts += applier.puts
            report.deletes += applier.deletes
        if repair.adopted:
            report.warnings.append(f"{repair.adopted} keys that existed already are now kept by this view")
        return None

    def _new_applier(self) -> Applier:
        run = self._run
        return Applier(run.keyspace, self._fence, run.reader, run.settings.limits, run.base_state, self._pending)

    def _commit(self, outcome: Outcome) -> None:
        run, report = self._run, self._run.report
        commands: list[Command] = []
        if outcome.manifest is not None:
            total = sum(outcome.manifest)
            commands += store.write_manifest(run.keyspace, outcome.manifest)
        else:
            assert self._manifest is not None
            commands += self._manifest.change(outcome.changed)
            total = self._manifest.total
        commands += store.write_fingerprints(run.keyspace, outcome.fingerprints, run.stored.fingerprints)
        base = run.base_state
        now = store.now_ms()
        withheld = outcome.withheld is not None
        new = dataclasses.replace(
            base,
            as_of=base.as_of if withheld else self._reading.as_of,
            identity=self._identity,
            buckets=outcome.buckets,
            keys=digest.count(total),
            digest=store.total_text(total),
            pending=Pending("withheld", self._reading.as_of) if withheld else None,
            updated_at_ms=now,
            deep_at_ms=now if report.deep else base.deep_at_ms,
            companion=outcome.companion or base.companion,
        )
        commands += store.write_state(run.keyspace, new)
        assert self._applier is not None
        self._applier.finish(commands)
        report.as_of = new.as_of
        report.keys = new.keys
        report.commits += 1
        run.stored.state = new
        run.stored.fingerprints = outcome.fingerprints
        run.stored.manifest_bytes = outcome.buckets * digest.RECORD_BYTES

    def _note_others(self) -> None:
        """Keys in the database that nothing proves to be ours: what mz-redis-sync left behind may be among them."""
        run = self._run
        keyspace = run.keyspace
        own = [keyspace.state, keyspace.manifest, keyspace.fingerprints, keyspace.lease, keyspace.token, keyspace.audit]
        if keyspace.mz_timestamp_key is not None:
            own.append(keyspace.mz_timestamp_key)
        others = run.reader.call("DBSIZE") - run.reader.call("EXISTS", *own, *keyspace.remembered_sets)
        others -= (run.report.keys or 0) if not run.request.dry_run else 0
        if others > 0:
            run.report.warnings.append(
                f"{others} other keys are in this database and are left alone, rows of the view that an earlier tool "
                "left behind among them, if there are any; with redis.key_prefix or redis.dedicated they could be told "
                "apart, and the owned keys would not have to be remembered"
            )


def _withhold(outcome: Outcome, digests: list[int] | dict[int, int], repair: Repair, stop: SafetyStop) -> Outcome:
    """The outcome when keys stay that the source lacks: digests say so, and every run looks at their buckets again."""
    outcome.withheld = stop
    for bucket, more in repair.surplus_digests().items():
        digests[bucket] += more
        if outcome.fingerprints is not None:
            outcome.fingerprints[bucket] = UNKNOWN
    return outcome
