"""One-shot: bring Redis to the view's content at one time T, and touch only what differs.

    load     Redis holds none of the view's keys: stream the rows and write them
    repair   find the buckets whose fingerprint is unknown or not the checkpoint's; read their rows, put what is missing
             or stale, judge the surplus, and delete or withhold it

First contact with existing keys and a snapshot that was cut short are repairs too, of more buckets; `--deep` is one of
those buckets whose digests of all rows differ. Buckets are repaired in parts if the run may be cut short, or if their
names do not fit into memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container

from msgspec.structs import replace

from reconcile.compare import records, surplus
from reconcile.compare.described import companion_mark, usable
from reconcile.compare.early_scan import EarlyScan, scan_early
from reconcile.compare.repair import Repaired, Terms, put_rows
from reconcile.compare.sides import Sides
from reconcile.compare.surplus import Rule, Surplus
from reconcile.core import checkpoint, decide, digest, pending, schedule
from reconcile.core.checkpoint import Content
from reconcile.core.digest import UNKNOWN, Fingerprints
from reconcile.core.records import (
    Manifest,
    Records,
    Waiting,
    empty_manifest,
    fingerprint_records,
    forget,
    surplus_in,
    waiting_records,
    whole_manifest,
)
from reconcile.core.state import Identity
from reconcile.errors import Incomplete, ReconcileError, ResultTooLarge, SafetyStop
from reconcile.runs import consent, load, scopes
from reconcile.runs.context import ViewRun
from reconcile.runs.scopes import Scope
from reconcile.runs.total import Total
from reconcile.source.companion import CompanionDefinition
from reconcile.source.reading import Reading, check_still
from reconcile.target.batch import Applier
from reconcile.target.port import Write


def take(
    run: ViewRun,
    reading: Reading,
    why: decide.Snapshot,
    companion: CompanionDefinition | None = None,
    suspects: frozenset[int] = frozenset(),
) -> None:
    """Take the snapshot and commit as_of := T. The lease is held (or this is a dry run).

    suspects: buckets to examine although their fingerprints are unchanged. Raises SafetyStop, after the puts, if keys
    are left that need consent.
    """
    run.report.action, run.report.reason = "snapshot", why.reason
    identity = run.described.identity(reading.explained)
    if refusal := decide.alternation(run.stored.state, identity, run.now_ms(), run.view.name):
        raise refusal
    task = _Snapshot(run, reading, why, identity, usable(companion, reading), suspects)
    if not (task.is_first and not run.request.deep and load.nothing_there(run) and task.loaded()):
        task.repair()


class _Snapshot:
    """One snapshot under way."""

    def __init__(
        self,
        run: ViewRun,
        reading: Reading,
        why: decide.Snapshot,
        identity: Identity,
        companion: CompanionDefinition | None,
        suspects: frozenset[int],
    ) -> None:
        self._run = run
        self._suspects = suspects.union(run.found)
        self._reading = reading
        self._why = why
        self._identity = identity
        self._companion = scopes.of_stored_buckets(run, companion)
        self._base = run.state
        self._now_ms = run.now_ms()
        self._manifest: Manifest | None = None
        self._outside = 0
        """Digest of the buckets that are not examined, without keys that are to go."""
        self._applier: Applier | None = None
        self._collided = False
        """Whether a load met an existing key, which something else is writing."""
        self._waiting = run.stored.waiting
        self._agreed = False
        """Whether the guard has judged the deletes in all buckets and lets them pass."""
        self._own: Container[int] = scopes.left_behind(run.stored) if self._continues_clean else frozenset()
        """Buckets in which all that is left over is the view's own."""
        lost = self._continues_clean and run.stored.fingerprints is None
        self._everywhere = lost or pending.in_doubt(self._base)
        """Whether any bucket may have keys that neither manifest nor source knows."""
        self._event: pending.Event = "begin snapshot"
        self._rule = Rule.NOTHING

    @property
    def is_first(self) -> bool:
        """Whether no snapshot was ever completed."""
        return self._run.stored.state is None or self._base.as_of is None

    @property
    def _takes_over(self) -> bool:
        """Whether existing keys may be others'. Then they are written anew, which takes away their expiry. A first
        contact that was cut short goes on with the keys that it had not come to; of a load all keys are its own."""
        return self.is_first and not self._continues_clean

    @property
    def _continues_clean(self) -> bool:
        """Whether it continues a change that began clean, under the same mapping."""
        state = self._run.stored.state
        same = state is not None and state.identity is not None and state.identity.mapping == self._identity.mapping
        return same and pending.began_clean(state) and not self._collided

    def _begins(self) -> pending.Event:
        """Return what a repair begins. Without records nothing will show where it has come to, and what was there."""
        if self._manifest is None:  # of a load there never was one
            return "begin snapshot" if self._continues_clean and not self._base.digest else "begin anew"
        return "lose" if self._run.stored.fingerprints is None else "begin snapshot"

    def _content(self, buckets: int, total: int, waiting: Waiting, names: tuple[bytes, ...]) -> Content:
        run = self._run
        mark = companion_mark(run.described) if self._companion is not None else self._base.companion
        left, salt = waiting.surplus, scopes.salt_of(run, self._companion)
        names = names or self._base.surplus_names
        return Content(buckets, total, self._identity, left, names if left else (), salt, mark)

    # -- load ----------------------------------------------------------------------------------------------------

    def loaded(self) -> bool:
        """Load, if nothing is there. Return False if a key of the view exists: every row has to be compared then."""
        run, report = self._run, self._run.report
        marked = checkpoint.marked(self._base, "begin load", self._reading.as_of, self._now_ms)
        try:
            with report.phase("load"):
                digests = load.load(run, self._reading, replace(marked, identity=self._identity))
        except load.Collision as met:
            self._collided, self._own = True, frozenset()
            # From here on, neither this run nor the next takes for its own whatever it finds there.
            anew = checkpoint.marked(self._base, self._begins(), self._reading.as_of, self._now_ms)
            run.target.commit(Write(state=replace(anew, identity=self._identity)))
            report.warnings.append(f"{met}: all are compared instead")
            return False
        total = sum(digests)
        buckets = scopes.choose_grain(run, self._companion, digest.count(total), known=0)
        # After the data: at the source a row's hash costs as much as half of the row.
        now, _ = scopes.fingerprints(run, self._reading, self._companion, buckets)
        report.deep, report.buckets = True, buckets
        manifest = whole_manifest(digest.fold(digests, buckets))
        self._commit(
            Write(manifest=manifest, fingerprints=fingerprint_records(now, None)), buckets, total, Waiting(), now
        )
        return True

    # -- repair --------------------------------------------------------------------------------------------------

    def repair(self) -> None:
        """Repair whatever differs, or may differ."""
        run, report = self._run, self._run.report
        scope = scopes.read_scope(run, self._reading, self._why, self._companion, self._suspects)
        report.buckets, report.buckets_read, report.deep = scope.grain, len(scope.dirty), scope.everything
        if scope.buckets != self._base.buckets:
            self._waiting = Waiting(surplus_in(self._waiting.surplus, self._base.buckets, scope.buckets))
        refusal = self._mend(scope)
        if scope.waiting:  # nothing is new there but what becomes of the keys that wait: that is judged by now
            why = decide.Snapshot(self._why.reason)
            again = _Snapshot(run, self._reading, why, self._identity, self._companion, frozenset())
            again._agreed = self._agreed
            try:
                refusal = again._mend(scope.second())
            except Incomplete:
                if refusal is None:
                    raise
        if refusal:
            raise refusal

    def _mend(self, scope: Scope) -> SafetyStop | None:
        """Repair the dirty buckets, and commit. Return what a human has to decide."""
        run, report = self._run, self._run.report
        self._load_manifest(scope)
        self._event = self._begins()
        self._rule = scopes.judged_by(run, self._why, self._manifest)  # a part that is saved is no manifest to judge by
        marked = checkpoint.marked(self._base, self._event, self._reading.as_of, self._now_ms)
        prints = forget(run.stored.fingerprints, scope.changed, run.shard)
        self._waiting = self._waiting.uncounted(set(scope.changed))
        mark = Write(state=marked, fingerprints=prints, surplus=waiting_records(self._waiting, run.stored.waiting))
        self._applier = Applier(run.target, run.settings.limits, mark, dry_run=run.request.dry_run)
        parts = scope.parts(run)
        fine = [0] * scope.grain if scope.grain > scope.buckets else None
        total = Total(fine=fine, deleted=pending.deleted_by(self._base))
        try:
            with report.phase("repair", scope.rows):
                for part in parts:
                    self._put_part(scope, total, part)
                    if len(parts) > 1:
                        self._save(scope, total)
                return self._finish(scope, total)
        except (Incomplete, ResultTooLarge):
            self._keep_puts()
            raise
        finally:
            written = self._applier.puts  # after a collision, the keys that the load had written are among them
            report.puts = max(report.puts, written) if self._collided else report.puts + written
            report.deletes += self._applier.deletes

    def _load_manifest(self, scope: Scope) -> None:
        """Read the manifest of the dirty buckets, if there is one that matches the state.

        Where every bucket is to be examined, digests of both sides then show which are right: one pass, whatever the
        size, while a repair holds the names of its rows, or takes several passes."""
        run = self._run
        if not records.is_there(run.stored) or not self._why.trusted:
            return
        manifest = records.manifest_of(self._base, run.shard)
        if records.load(run.target, manifest, scope.dirty):
            self._manifest = manifest
            # Not with a deadline: a part that was repaired counts, however the run ends, and a comparison does not.
            if scope.everything and scope.grain == scope.buckets and run.stop.remaining_s() is None:
                scope.dirty = sorted(
                    {*scopes.differing(run, self._reading, manifest, scope.rows), *self._waiting.buckets}
                )
            self._outside = manifest.total - sum(manifest[bucket] for bucket in scope.dirty)
            self._outside -= sum(self._waiting.outside(set(scope.dirty)).withheld.values())
            return
        run.report.warnings.append("the stored manifest does not match the state: every row is compared instead")
        scope.dirty, scope.waiting = list(range(scope.buckets)), []
        scope.changed = scope.dirty
        scope.everything = True

    def _put_part(self, scope: Scope, total: Total, chosen: list[int]) -> None:
        run, sides = self._run, self._run.sides(self._reading)
        assert self._applier is not None
        rows = scope.rows_of(chosen)
        legacy = run.stored.legacy_frontier is not None
        counted = scope.rows_in if scope.grain >= scope.buckets else None
        early = scan_early(sides, self._manifest, counted, chosen)
        again = not self._continues_clean and scopes.may_expire(run, self._why)
        terms = Terms(anew=self._takes_over, again=again, adopt=run.request.adopt or legacy)
        part = put_rows(
            sides, self._applier, scope.buckets, chosen, max(scope.grain, scope.buckets), rows, terms,
            meanwhile=early or contextlib.nullcontext(), taken=total.taken,
        )  # fmt: skip
        total.add(part, self._left_over(scope, sides, part, early))

    def _left_over(self, scope: Scope, sides: Sides, part: Repaired, early: EarlyScan | None) -> Surplus:
        """Return the surplus in these buckets."""
        rule, beyond = self._rule, {}
        within = set(part.chosen)
        own = {b for b in part.chosen if b in self._own and b not in self._waiting.surplus}
        if self._manifest is not None and rule in (Rule.MANIFEST, Rule.CONSENT):
            beyond = {b: self._manifest[b] - part.found[b] for b in part.chosen}
            if not scope.everything and not self._everywhere:
                always = self._waiting.surplus.keys() | self._suspects
                within = {b for b, more in beyond.items() if digest.normal(more)} | (always & within) | own
        return surplus.find(sides, part, within, beyond, rule, own, early)

    def _save(self, scope: Scope, total: Total) -> None:
        """Store the progress so far under the pending mark: the next run continues from it, at its own time."""
        run = self._run
        part, found = total.parts[-1]
        self._delete_early(scope, total, part, found)
        if not (found.explained or found.unexplained):
            total.parts.pop()
        part.names = part.nulls = type(part.names)(0, 0)  # freed before the next part
        assert self._applier is not None
        if scope.grain != scope.buckets or run.request.dry_run:
            self._applier.mark()  # though the part cannot be stored: see scopes.is_unfinished
            return
        waiting = total.waiting(self._waiting, scope.now)
        known = scope.known(run.stored.fingerprints, total.wanted, part.chosen, waiting.buckets)
        changed = {b: total.wanted[b] + found.explained.get(b, 0) for b in part.chosen}
        if self._manifest is None:
            self._manifest = empty_manifest(scope.buckets, run.shard)
        elif scope.is_second and waiting == run.stored.waiting and self._manifest.has(changed):
            return
        self._applier.mark()
        written = self._manifest.change(changed)
        # The next run must not take for its own what this one could not explain.
        content = self._content(scope.buckets, self._manifest.total, waiting, total.some_unexplained())
        new = checkpoint.partly(self._base, self._event, self._reading.as_of, content, self._now_ms, total.deleted)
        if run.found:
            ahead = [bucket for bucket in run.found if bucket not in total.wanted]
            new = replace(new, turn=schedule.partly_passed(new.turn, ahead, scope.buckets))
        check_still(self._reading.of_one_view)
        prints, left_over = digest.encode_fingerprints(known), waiting_records(waiting, run.stored.waiting)
        self._applier.finish(Write(manifest=written, fingerprints=Records(whole=prints), surplus=left_over, state=new))
        run.stored.fingerprints, run.stored.waiting = known, waiting

    def _delete_early(self, scope: Scope, total: Total, part: Repaired, found: Surplus) -> None:
        """Delete a part's explained keys at once, unless the guard could object, so that short runs make progress."""
        guarding, before = self._run.guard(self._identity), self._base.keys
        deletes, most = total.deleted + found.explained_count, max(before, self._base.counted)
        after = digest.count(self._outside) + scope.rows  # rows without a value among them
        suspicious = guarding.objects(before, before, after) or (guarding.replaced and not guarding.allowed)
        suspicious = suspicious or guarding.objects(deletes, before, most - deletes)
        if not found.explained or (not self._agreed if scope.is_second else suspicious):
            return
        assert self._applier is not None
        sides = self._run.sides(self._reading)
        surplus.delete(sides, part, found, self._applier, explained_too=True, unexplained_too=False)
        total.deleted = deletes
        found.nameless -= found.explained.keys()
        found.explained, found.explained_names = {}, []

    def _keep_puts(self) -> None:
        """Write the known differences when time has run out, unless the checkpoint is clean, so that short runs
        converge.
        """
        assert self._applier is not None
        if self._applier.marked or self.is_first or self._base.pending is not None:
            with contextlib.suppress(ReconcileError):
                self._applier.flush()
                self._run.target.settle()

    # -- deletes and commit --------------------------------------------------------------------------------------

    def _finish(self, scope: Scope, total: Total) -> SafetyStop | None:
        """Delete what may go, and commit. Return what a human has to decide."""
        run, report = self._run, self._run.report
        assert self._applier is not None
        report.deletes_withheld = 0
        explained, unexplained = total.explained(), total.unexplained()
        elsewhere = self._waiting.outside(total.wanted)
        own, others = list(elsewhere.withheld.values()), list(elsewhere.surplus.values())
        if self._rule is Rule.CONSENT:
            own, others = own + others, []
        after = digest.count(self._outside + sum(total.wanted.values()))
        deletes = digest.count(sum([*explained.values(), *own]))
        more = digest.count(sum([*unexplained.values(), *others]))
        asked = bool(others) or not self._waiting.surplus.keys().isdisjoint(unexplained)
        guarded = consent.guarded(run, self._identity, deletes, total.deleted, self._base.keys, after)
        unconsented, self._base = consent.unexplained(run, self._base, total, more, self._rule, asked=asked)
        sides = run.sides(self._reading)
        for part, found in total.parts:
            surplus.delete(
                sides, part, found, self._applier, explained_too=guarded is None, unexplained_too=unconsented is None
            )
        report.warnings += total.warnings(deleted=guarded is None)
        self._agreed = guarded is None
        kept = {} if self._agreed else explained
        left = Waiting(elsewhere.surplus | (unexplained if unconsented else {}), elsewhere.withheld | kept)
        self._commit_repair(scope, total, kept, left)
        return guarded or unconsented

    def _commit_repair(self, scope: Scope, total: Total, kept: dict[int, int], left: Waiting) -> None:
        """Commit the repair. kept: bucket → digest of own keys whose deletes are withheld; left: all that waits."""
        run, now = self._run, scope.now[:]
        buckets = scope.grain
        if left.buckets and scope.grain > scope.buckets:
            buckets, now = scope.buckets, digest.fold_fingerprints(now, scope.buckets)
        manifest, whole = total.manifest(self._manifest, scope.buckets, buckets, kept)
        left.surplus, left.withheld = (surplus_in(one, scope.buckets, buckets) for one in (left.surplus, left.withheld))
        left.seen = {bucket: now[bucket] for bucket in left.buckets}
        for bucket in left.buckets:
            now[bucket] = UNKNOWN
        write = Write(
            manifest=manifest,
            fingerprints=fingerprint_records(now, run.stored.fingerprints, scope.changed, run.shard),
            surplus=waiting_records(left, run.stored.waiting),
        )
        self._commit(write, buckets, whole, left, now, total)

    def _commit(
        self, write: Write, buckets: int, whole: int, left: Waiting, now: Fingerprints, total: Total | None = None
    ) -> None:
        run, report, as_of = self._run, self._run.report, self._reading.as_of
        check_still(self._reading.of_one_view)
        content = self._content(buckets, whole, left, total.some_unexplained() if total else ())
        if total is None or not left.withheld:
            new = checkpoint.reached(self._base, as_of, content, self._now_ms)
        else:
            event: pending.Event = self._event if self._agreed else "withhold"
            new = checkpoint.partly(self._base, event, as_of, content, self._now_ms, total.deleted)
        if report.deep:
            new = replace(new, turn=schedule.turned(new.turn, self._now_ms))
        elif run.found:
            new = replace(new, turn=schedule.passed(new.turn, self._now_ms))
        write = replace(write, state=new)
        with report.phase("commit"):
            if self._applier is not None:
                self._applier.finish(write)
            elif not run.request.dry_run:
                run.target.commit(write)
        report.as_of, report.keys = new.as_of, new.keys
        report.commits += 1
        run.stored.state, run.stored.fingerprints, run.stored.waiting = new, now, left
        run.stored.has_manifest, run.found = True, []
