"""Read-only audit. Drift is a difference at the same time on both sides; a Redis that lags behind has no drift.

    exact      the source can still be read at the checkpoint's as_of: compare at that time
    present    its history is gone: compare with the present. Fingerprints show which buckets have not changed since
               the checkpoint; in those a difference is drift. In all buckets, the manifest shows whether something
               else has changed Redis.

Syncing may go on meanwhile, so a difference is only a suspicion: the bucket is read again, from source and Redis, until
its manifest record did not change in between. Buckets that keep changing are reported as not judged, and the audit as
incomplete.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeAlias

from msgspec import Struct, field

from reconcile.compare import audits, contents, records
from reconcile.compare.contents import BucketContents, Difference, Keys
from reconcile.compare.sides import add_both
from reconcile.core import digest, drift, guard
from reconcile.core.changes import name_of
from reconcile.core.digest import MAX_BUCKETS, UNKNOWN, Fingerprints
from reconcile.core.drift import Cause, Triple, Verdict
from reconcile.core.state import State
from reconcile.errors import (
    ExitCode,
    HistoryLost,
    Incomplete,
    ReconcileError,
    ResultTooLarge,
    Unavailable,
    UsageError,
)
from reconcile.report.audit import AuditReport, PastAudit
from reconcile.report.run_report import DriftReport
from reconcile.runs import audit_fast
from reconcile.runs.audit_fast import LOOK_AGAIN_S, fingerprints_now
from reconcile.runs.context import ViewRun, check_division, warn_of_claims
from reconcile.runs.evidence import Evidence
from reconcile.runs.settled import settled, settled_manifest
from reconcile.runs.values import add_values
from reconcile.source.reading import Reading, explain, open_reading, replaced
from reconcile.texts import plural

MAX_LOOKS = 20
_VERDICTS = {ExitCode.DRIFT: "drift", ExitCode.SAFETY_STOP: "deletes withheld", ExitCode.INCOMPLETE: "incomplete"}
Kept: TypeAlias = "tuple[str, int] | None"
"""Mapping and number of buckets of a view with a checkpoint."""
ROLLING_SLICES = 16
"""A power of two, so that slices of an audit are slices of the rolling compare."""


def verify(run: ViewRun) -> None:
    """Audit one view and record the audit beside the state. Raises ReconcileError; drift is not an error."""
    run.report.action = "verify"
    run.now_ms()  # while Redis answers: the verdict must not depend on it
    check_division(run)
    warn_of_claims(run)
    audit = _Audit(run, _subset(run), Evidence(run))
    audit.execute()
    audit.ask_for_consent()
    audit.remember()


def _subset(run: ViewRun) -> tuple[int, int]:
    """Return the slice to audit. Raises UsageError."""
    subset = run.request.subset
    if subset is None:
        return 0, 1
    state = run.target.state()
    if state is None or not state.buckets:
        raise UsageError("--subset needs a checkpoint, and there is none", hint="run: reconcile snapshot")
    if subset == "next":
        n = min(ROLLING_SLICES, state.buckets)
        cursor = run.target.audit().get("cursor", "")
        return (int(cursor) + 1 if cursor.isdigit() else 0) % n, n
    if subset[1] > state.buckets:
        raise UsageError(f"--subset: the view has {state.buckets} buckets", hint="i/n with n no larger than that")
    return subset


class _Audit(Struct):
    """One verify of one view."""

    run: ViewRun
    subset: tuple[int, int]
    """(i, n): buckets b with b mod n = i."""
    evidence: Evidence
    named: list[Difference] = field(default_factory=list)
    """The differences whose keys the report names, in order."""
    kept: Kept = None
    """As the comparison began."""

    def execute(self) -> None:
        """Audit, and fill the report."""
        at_checkpoint = True
        while True:
            try:
                self._compare(at_checkpoint=at_checkpoint)
                return
            except HistoryLost:
                if not at_checkpoint:
                    raise
                # It was readable when this began; a source with a second of history may have compacted it since.
                at_checkpoint = False
                self.run.release_session()
            except ResultTooLarge as refused:
                self.run.divide_results(refused)
            self.named.clear()
            self.evidence = Evidence(self.run)

    def _compare(self, *, at_checkpoint: bool) -> None:
        run, report = self.run, self.run.report
        run.stored = settled(run)
        state = run.stored.state
        self.kept = _kept(state)
        if state is not None:
            report.as_of, report.keys, report.buckets = state.as_of, state.keys, state.buckets
        report.drift = DriftReport()
        with self._reading(state if at_checkpoint else None) as (reading, exact):
            self._check_mapping(reading, state)
            try:
                if run.request.fast:
                    suspects, buckets = audit_fast.compare(run, reading, exact, self.subset), run.state.buckets
                else:
                    suspects, buckets = self._suspects(reading, exact)
                self._confirm(suspects, buckets, reading, exact)
            except (Incomplete, Unavailable) as error:
                if not self._has_drift:  # drift that was found counts, whatever ended the search
                    raise
                report.warnings.append(f"not everything was compared: {error.message}")
            if self._has_drift and self._replaced(reading):
                report.drift = None
                raise replaced()
        if self._has_drift:
            report.exit_code = ExitCode.DRIFT
        elif report.drift.unjudged_buckets:
            report.exit_code = ExitCode.INCOMPLETE

    @property
    def _has_drift(self) -> bool:
        found = self.run.report.drift
        return found is not None and bool(found.total or found.buckets)

    def _check_mapping(self, reading: Reading, state: State | None) -> None:
        if state is None or state.identity is None:
            return
        if state.identity.mapping != self.run.described.identity(reading.explained).mapping:
            raise UsageError(
                "the checkpoint belongs to another mapping of columns to keys and values: nothing can be compared",
                hint=f"run: reconcile run --view {self.run.view.name}",
            )

    # -- what to compare with ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _reading(self, state: State | None) -> Iterator[tuple[Reading, bool]]:
        """Open the view at the checkpoint's time if that is readable and Redis' content is of that time, else at the
        present.
        """
        run = self.run
        withheld = state is not None and state.pending is not None and state.pending.kind == "withheld"
        if state is not None and state.as_of is not None and state.identity is not None and not withheld:
            explained = explain(run.session, run.described.mapping)
            same = state.identity == run.described.identity(explained)
            if same and explained.frontiers.readable(state.as_of):
                with open_reading(run.session, run.described.mapping, state.as_of, run.described.plan) as reading:
                    if run.described.identity(reading.explained) != state.identity:
                        raise replaced()
                    yield reading, True
                return
        with open_reading(run.session, run.described.mapping, None, run.described.plan) as reading:
            yield reading, False

    def _replaced(self, reading: Reading) -> bool:
        """Whether what was read may be of two views. If nobody can tell any more, drift that was found counts."""
        try:
            return not reading.still()
        except ReconcileError:
            return False

    def _chosen(self, buckets: int) -> range:
        return range(self.subset[0], buckets, self.subset[1])

    # -- deep ----------------------------------------------------------------------------------------------------

    def _suspects(self, reading: Reading, exact: bool) -> tuple[list[int], int]:
        """Return buckets that seem to differ, and how many there are in all."""
        run, report = self.run, self.run.report
        state = run.stored.state
        known = state is not None and state.as_of is not None and records.is_there(run.stored)
        # Not in more buckets than needed: each row touches one at random, and few of them fit the processor's cache.
        fine = state.buckets if state is not None and known else MAX_BUCKETS
        with report.phase("read"):
            source_fine, held_fine = self._read(reading, fine)
        buckets = fine if known else digest.choose_buckets(digest.count(sum(source_fine)))
        source, held = digest.fold(source_fine, buckets), digest.fold(held_fine, buckets)
        report.keys = digest.count(sum(source[b] for b in self._chosen(buckets)))
        report.buckets = buckets
        suspects = [b for b in self._chosen(buckets) if digest.normal(source[b]) != digest.normal(held[b])]
        if known and suspects:
            # Rows are read without the source's hashes: only suspects need fingerprints, and there seldom are any.
            now = None if exact else fingerprints_now(run, reading, run.state)
            left = self._against_manifest(suspects, source, held, now, exact)
            lagging = sorted(set(suspects) - set(left))
            rows = digest.count(sum(source[b] for b in lagging))
            self.evidence.look_for_duplicates(reading, lagging, buckets, rows)
            return left, buckets
        if not suspects:
            self.evidence.add_duplicates(Keys())
        return suspects, buckets

    def _read(self, reading: Reading, buckets: int) -> tuple[list[int], list[int]]:
        """Return the digests of source and Redis."""
        run, (i, n) = self.run, self.subset
        sides = run.sides(reading)
        if n == 1 or run.stored.state is None:
            return add_both(sides, reading.rows(), buckets)
        known = run.stored.state.buckets
        chunks = reading.rows_of(list(self._chosen(known)), known)
        return add_both(sides, chunks, buckets, lambda key: digest.bucket_of(key, known) % n == i)

    def _against_manifest(
        self, suspects: list[int], source: list[int], held: list[int], now: Fingerprints | None, exact: bool
    ) -> list[int]:
        """Drop buckets that merely lag: Redis matches the manifest, and the source's bucket has changed since."""
        run, report = self.run, self.run.report
        assert report.drift is not None
        manifest = records.manifest_of(run.state)
        if not records.load(run.target, manifest, suspects):
            return suspects
        left = []
        for bucket in suspects:
            moved = not exact and self._moved(bucket, now)
            verdict, _ = drift.judge(_triple(source[bucket], manifest[bucket], held[bucket], moved=moved))
            if verdict is Verdict.LAG:
                report.drift.lagging_buckets += 1
            elif verdict is Verdict.DRIFT:
                left.append(bucket)
        return left

    def _moved(self, bucket: int, now: Fingerprints | None) -> bool:
        """Whether the source's bucket may have changed since the checkpoint. now: its fingerprints, None: unknown."""
        known = self.run.stored.fingerprints
        return known is None or now is None or known[bucket] == UNKNOWN or known[bucket] != now[bucket]

    # -- confirm or clear ----------------------------------------------------------------------------------------

    def _confirm(self, suspects: list[int], buckets: int, reading: Reading, exact: bool) -> None:
        """Compare the suspects exactly, until the manifest's record of each is unchanged over a comparison."""
        if not suspects:
            return
        self.run.report.buckets_read = len(suspects)
        with self.run.report.phase("confirm"):
            self._look_until_settled(suspects, buckets, reading, exact)

    def _look_until_settled(self, suspects: list[int], buckets: int, reading: Reading, exact: bool) -> None:
        run, left, counts = self.run, suspects, self.run.report.drift
        assert counts is not None
        counts.unjudged_buckets = len(left)
        for _ in range(MAX_LOOKS):
            before = self._recorded(left)
            with self._again(run.stored.state, reading, exact) as current:
                claimed_by = self.evidence.claimed_by()
                found, unsettled = contents.compare(
                    run.sides(current), buckets, before, run.state.commit, run.request.max_report, claimed_by
                )
                now = None if exact or run.stored.state is None else fingerprints_now(run, current, run.stored.state)
            after = self._recorded(left)
            still = [b for b in left if b not in unsettled and before.get(b) == after.get(b)]
            self._judge({b: found[b] for b in still}, buckets, after, now, exact)
            add_values(run, reading, buckets, self.named)
            left = [b for b in left if b not in set(still)]
            counts.unjudged_buckets = len(left)
            counts.unjudged_keys = sum(digest.count(found[bucket].source) for bucket in left)
            if not left:
                return
            run.stop.wait(LOOK_AGAIN_S)
            run.stop.check()
        keys = plural(counts.unjudged_keys, "key")
        run.report.warnings.append(
            f"{plural(len(left), 'bucket')} ({keys}) seemed to differ but kept changing; verify again"
        )

    def _recorded(self, chosen: list[int]) -> dict[int, int | None]:
        """Return the manifest's current records of these buckets; None without a manifest. Settles run.stored.

        Raises Unavailable if they are not of what was compared."""
        manifest = settled_manifest(self.run, chosen)
        if _kept(self.run.stored.state) != self.kept:
            raise Unavailable(
                "another run has just taken the first snapshot, or one with another mapping or number of buckets",
                hint="verify again later",
            )
        return {bucket: None if manifest is None else manifest[bucket] for bucket in chosen}

    @contextlib.contextmanager
    def _again(self, state: State | None, reading: Reading, exact: bool) -> Iterator[Reading]:
        if exact and state is not None and state.as_of != reading.as_of:
            with open_reading(self.run.session, self.run.described.mapping, state.as_of) as other:
                yield other
        else:
            yield reading

    def _judge(
        self,
        looked_at: dict[int, BucketContents],
        buckets: int,
        recorded: dict[int, int | None],
        now: Fingerprints | None,
        exact: bool,
    ) -> None:
        run, report = self.run, self.run.report
        assert report.drift is not None
        state = run.stored.state
        comparable = state is not None and state.buckets == buckets
        if state is not None and state.as_of is not None:
            report.as_of = state.as_of
        for bucket, seen in sorted(looked_at.items()):
            record = recorded.get(bucket) if comparable else None
            moved = not exact and record is not None and self._moved(bucket, now)
            gone = drift.gone(seen.keys, record, expires=run.expired is not None)
            verdict, cause = drift.judge(_triple(seen.source, record, seen.redis, moved=moved, gone=gone))
            if verdict is Verdict.LAG:
                report.drift.lagging_buckets += 1
            elif verdict is Verdict.DRIFT and cause is not None:
                waits = run.stored.surplus.get(bucket, 0)
                waiting = waits and digest.normal(seen.redis - waits) == digest.normal(record or 0)
                cause = Cause.SURPLUS if waiting else cause
                self._note(bucket, buckets, seen, cause)
            self.evidence.add(seen, cause)

    def _note(self, bucket: int, buckets: int, seen: BucketContents, cause: Cause) -> None:
        found = self.run.report.drift
        assert found is not None
        found.note(bucket, buckets, cause.value, missing=seen.missing, stale=seen.stale, extra=seen.extra)
        room = self.run.request.max_report - len(found.keys)
        for example in seen.examples[: max(0, room)]:
            self.named.append(example)
            found.keys.append({"key": name_of(example.key), "kind": example.kind, "cause": cause.value})

    # -- afterwards ----------------------------------------------------------------------------------------------

    def ask_for_consent(self) -> None:
        """Fail if something lags while deletes are withheld: it waits for a human, so it is not in sync."""
        run, found = self.run, self.run.report.drift
        pending = run.state.pending
        lags = run.request.fast or (found is not None and found.lagging_buckets > 0)
        drifts = run.report.exit_code == ExitCode.DRIFT
        if pending is not None and pending.kind == "withheld" and lags and not drifts:
            run.report.fail(guard.still_withheld(run.view.name))

    def remember(self) -> None:
        """Record the verdict beside the state. If that is impossible, the verdict stands."""
        run, found = self.run, self.run.report.drift
        i, n = self.subset
        latest = PastAudit(
            at_ms=run.now_ms(),
            verdict=_VERDICTS.get(run.report.exit_code, "in sync"),
            as_of=run.report.as_of,
            fast=run.request.fast,
            subset=f"{i}/{n}",
            drift=found.total if found is not None else 0,
        )
        run.report.audit = AuditReport(
            fast=latest.fast,
            subset=latest.subset,
            counters=self.evidence.counters(),
            surplus=sorted(self.evidence.surplus.values(), key=lambda one: -one.keys),
            duplicates=self.evidence.duplicates,
        )
        cursor = {"cursor": str(i)} if run.request.subset == "next" else {}
        every_s = run.view.compare_every_s
        every_ms = None if every_s is None else round(every_s * 1000)
        audits.note(run.target, run.report, latest, run.state, every_ms, cursor)


def _kept(state: State | None) -> Kept:
    """Return how the view is kept; None before the first checkpoint."""
    if state is None or state.as_of is None or state.identity is None:
        return None
    return state.identity.mapping, state.buckets


def _triple(source: int, manifest: int | None, redis: int, *, moved: bool, gone: bool = False) -> Triple:
    record = None if manifest is None else digest.normal(manifest)
    return Triple(digest.normal(source), record, digest.normal(redis), moved=moved, gone=gone)
