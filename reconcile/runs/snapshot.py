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
from reconcile.core import checkpoint, decide, digest, guard, pending, schedule
from reconcile.core.changes import name_of
from reconcile.core.checkpoint import Content
from reconcile.core.digest import UNKNOWN, Fingerprints
from reconcile.core.records import (
    Manifest,
    Records,
    empty_manifest,
    fingerprint_records,
    forget,
    surplus_in,
    surplus_records,
    whole_manifest,
)
from reconcile.core.state import Identity
from reconcile.errors import Incomplete, ReconcileError, ResultTooLarge, SafetyStop
from reconcile.runs import load, scopes
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
        """Digest of the buckets that are not examined."""
        self._applier: Applier | None = None
        self._collided = False
        """Whether a load met an existing key, which something else is writing."""
        self._asked = run.stored.surplus
        """Bucket → digest of keys that wait for consent."""
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

    def _content(self, buckets: int, total: int, left: dict[int, int], names: tuple[bytes, ...]) -> Content:
        run = self._run
        mark = companion_mark(run.described) if self._companion is not None else self._base.companion
        return Content(buckets, total, self._identity, left, names, scopes.salt_of(run, self._companion), mark)

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
        self._commit(Write(manifest=manifest, fingerprints=fingerprint_records(now, None)), buckets, total, {}, now)
        return True

    # -- repair --------------------------------------------------------------------------------------------------

    def repair(self) -> None:
        """Repair whatever differs, or may differ."""
        run, report = self._run, self._run.report
        scope = scopes.read_scope(run, self._reading, self._why, self._companion, self._suspects)
        report.buckets, report.buckets_read, report.deep = scope.grain, len(scope.dirty), scope.everything
        self._asked = surplus_in(self._asked, self._base.buckets, scope.buckets)
        self._load_manifest(scope)
        self._event = self._begins()
        self._rule = scopes.judged_by(run, self._why, self._manifest)  # a part that is saved is no manifest to judge by
        marked = checkpoint.marked(self._base, self._event, self._reading.as_of, self._now_ms)
        mark = Write(state=marked, fingerprints=forget(run.stored.fingerprints, scope.changed, run.shard))
        self._applier = Applier(run.target, run.settings.limits, mark, dry_run=run.request.dry_run)
        parts = scope.parts(run)
        total = Total(fine=[0] * scope.grain if scope.grain > scope.buckets else None, deleted=self._base.shrunk)
        try:
            with report.phase("repair", scope.rows):
                for part in parts:
                    self._put_part(scope, total, part)
                    if len(parts) > 1:
                        self._save(scope, total)
                self._finish(scope, total)
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
                scope.dirty = sorted({*scopes.differing(run, self._reading, manifest, scope.rows), *self._asked})
            self._outside = manifest.total - sum(manifest[bucket] for bucket in scope.dirty)
            return
        run.report.warnings.append("the stored manifest does not match the state: every row is compared instead")
        scope.dirty = scope.changed = list(range(scope.buckets))
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
        folded = digest.fold(part.wanted, scope.buckets)
        total.wanted |= {bucket: folded[bucket] for bucket in chosen}
        if total.fine is not None:
            total.fine = [x + y for x, y in zip(total.fine, part.wanted, strict=True)]
        total.add(part, self._left_over(scope, sides, part, early))

    def _left_over(self, scope: Scope, sides: Sides, part: Repaired, early: EarlyScan | None) -> Surplus:
        """Return the surplus in these buckets."""
        rule, beyond = self._rule, {}
        within = set(part.chosen)
        own = {b for b in part.chosen if b in self._own and b not in self._asked}
        if self._manifest is not None and rule in (Rule.MANIFEST, Rule.CONSENT):
            beyond = {b: self._manifest[b] - part.found[b] for b in part.chosen}
            if not scope.everything and not self._everywhere:
                always = self._asked.keys() | self._suspects
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
        self._applier.mark()  # also where the part cannot be stored: see scopes.is_unfinished
        if scope.grain != scope.buckets or run.request.dry_run:
            return
        left = found.explained.keys() | found.unexplained.keys()
        known = scope.known(run.stored.fingerprints, total.wanted, part.chosen, left)
        changed = {b: total.wanted[b] + found.explained.get(b, 0) for b in part.chosen}
        if self._manifest is None:
            self._manifest = empty_manifest(scope.buckets, run.shard)
        written = self._manifest.change(changed)
        # The next run must not take for its own what this one could not explain.
        waiting = {b: one for b, one in self._asked.items() if b not in total.wanted} | total.unexplained()
        names = total.some_unexplained() or self._base.surplus_names
        content = self._content(scope.buckets, self._manifest.total, waiting, names if waiting else ())
        new = checkpoint.partly(self._base, self._event, self._reading.as_of, content, self._now_ms)
        if run.found:
            ahead = [bucket for bucket in run.found if bucket not in total.wanted]
            new = replace(new, turn=schedule.partly_passed(new.turn, ahead, scope.buckets))
        check_still(self._reading.of_one_view)
        prints, left_over = digest.encode_fingerprints(known), surplus_records(waiting, run.stored.surplus)
        self._applier.finish(Write(manifest=written, fingerprints=Records(whole=prints), surplus=left_over, state=new))
        run.stored.fingerprints, run.stored.surplus = known, waiting

    def _delete_early(self, scope: Scope, total: Total, part: Repaired, found: Surplus) -> None:
        """Delete a part's explained keys at once, unless the guard could object, so that short runs make progress."""
        guarding, before = self._run.guard(self._identity), self._base.keys
        deletes, most = total.deleted + found.explained_count, max(before, self._base.counted)
        after = digest.count(self._outside) + scope.rows  # rows without a value among them
        suspicious = guarding.objects(before, before, after) or (guarding.replaced and not guarding.allowed)
        if not found.explained or suspicious or guarding.objects(deletes, before, most - deletes):
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

    def _finish(self, scope: Scope, total: Total) -> None:
        run, report = self._run, self._run.report
        assert self._applier is not None
        explained, unexplained = total.explained(), total.unexplained()
        after = digest.count(self._outside + sum(total.wanted.values()))
        guarded = self._guarded(digest.count(sum(explained.values())), total.deleted, after)
        unconsented = self._unexplained(total, digest.count(sum(unexplained.values())))
        sides = run.sides(self._reading)
        for part, found in total.parts:
            surplus.delete(
                sides, part, found, self._applier, explained_too=guarded is None, unexplained_too=unconsented is None
            )
        report.warnings += total.warnings(deleted=guarded is None)
        self._commit_repair(
            scope,
            total,
            explained if guarded is not None else {},
            unexplained if unconsented is not None else {},
            withheld=guarded is not None,
        )
        if refusal := guarded or unconsented:
            raise refusal

    def _guarded(self, deletes: int, deleted: int, after: int) -> SafetyStop | None:
        """Return the error for deletes that the guard withholds, if it does. deleted: earlier, since the checkpoint."""
        run, before = self._run, self._base.keys
        if not (deletes and run.guard(self._identity).objects(deletes + deleted, before, after)):
            return None
        run.report.deletes_withheld = deletes
        return guard.mass_delete(deletes, before, run.view.max_delete_fraction, run.view.name)

    def _unexplained(self, total: Total, unexplained: int) -> SafetyStop | None:
        """Return the error for unexplained keys that need consent; a handful does not."""
        run = self._run
        if not unexplained:
            return None
        known = self._rule is Rule.MANIFEST and not pending.began_anew(self._base) and total.is_named
        left = guard.handful_left(self._base.removed, self._now_ms) if known else 0
        asked = self._asked.keys() & total.unexplained().keys()  # keys that wait for consent are no handful
        if unexplained <= left and not asked:
            every = ", ".join([name_of(name) for _, found in total.parts for name in found.unexplained_names])
            run.report.warnings.append(f"drift: removed keys that nothing shows this view to have written: {every}")
            self._base = replace(self._base, removed=guard.note_removed(self._base.removed, unexplained, self._now_ms))
            return None
        run.report.deletes_withheld += unexplained
        return guard.consent_needed(unexplained, [name_of(name) for name in total.some_unexplained()], run.view.name)

    def _commit_repair(
        self, scope: Scope, total: Total, kept: dict[int, int], left: dict[int, int], *, withheld: bool
    ) -> None:
        """Commit the repair. kept: own keys whose deletes are withheld; left: unexplained ones. Bucket → digest."""
        run, now = self._run, scope.now
        buckets = scope.grain
        if (kept or left) and scope.grain > scope.buckets:
            buckets, now = scope.buckets, digest.fold_fingerprints(now, scope.buckets)
        manifest, whole = total.manifest(self._manifest, scope.buckets, buckets, kept)
        for bucket in (*kept, *left):
            now[bucket & (buckets - 1)] = UNKNOWN
        elsewhere = {b: one for b, one in self._asked.items() if b not in total.wanted}
        surplus_left = surplus_in(elsewhere | left, scope.buckets, buckets)
        write = Write(
            manifest=manifest,
            fingerprints=fingerprint_records(now, run.stored.fingerprints, scope.changed, run.shard),
            surplus=surplus_records(surplus_left, run.stored.surplus),
        )
        self._commit(write, buckets, whole, surplus_left, now, names=total.some_unexplained(), withheld=withheld)

    def _commit(
        self,
        write: Write,
        buckets: int,
        total: int,
        left: dict[int, int],
        now: Fingerprints,
        *,
        names: tuple[bytes, ...] = (),
        withheld: bool = False,
    ) -> None:
        run, report, as_of = self._run, self._run.report, self._reading.as_of
        check_still(self._reading.of_one_view)
        content = self._content(buckets, total, left, names if left else ())
        make = checkpoint.withheld if withheld else checkpoint.reached
        new = make(self._base, as_of, content, self._now_ms)
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
        run.stored.state, run.stored.fingerprints, run.stored.surplus = new, now, left
        run.stored.has_manifest, run.found = True, []
