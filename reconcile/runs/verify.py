"""Read-only audit. Drift is what differs at one and the same time; that Redis lags behind the source is not drift.

    exact      the source can still be read at the checkpoint's as_of: compare there
    present    its history is gone: compare with the present, and use fingerprints to tell which buckets have not
               moved since the checkpoint; in those a difference is drift. What Redis holds against the manifest tells
               of changes from outside in all of them.

Syncing may go on meanwhile. So a difference is only a suspicion: the bucket is read again, source and Redis, with the
checkpoint before and after; only when the checkpoint stood still in between is it confirmed or cleared.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from reconcile.core import digest, drift
from reconcile.core.changes import name_of
from reconcile.core.digest import UNKNOWN, Fingerprints
from reconcile.core.drift import Cause, Look, Verdict
from reconcile.core.state import Pending, State
from reconcile.errors import ExitCode, HistoryLost, Incomplete, ResultTooLarge, Unavailable, UsageError
from reconcile.report.run_report import DriftReport
from reconcile.runs import companion
from reconcile.runs.context import ViewRun
from reconcile.runs.load import Content
from reconcile.runs.look import BucketLook, Difference, look_at
from reconcile.runs.totals import add_both
from reconcile.source.query import Mapping
from reconcile.source.reading import Reading, explain, open_reading
from reconcile.source.session import Session
from reconcile.target import store
from reconcile.target.store import Stored

MAX_LOOKS = 20
LOOK_AGAIN_S = 0.25
ROLLING_SLICES = 24


@dataclass(slots=True)
class Audit:
    """One verify of one view."""

    run: ViewRun
    session: Session
    mapping: Mapping
    subset: tuple[int, int]
    """(i, n): buckets b with b mod n = i."""
    named: list[Difference] = field(default_factory=list)
    """The differences whose keys the report names, in its order."""

    def execute(self) -> None:
        """Fill the report. Raises ReconcileError; drift is not an error."""
        at_checkpoint = True
        while True:
            try:
                self._compare(at_checkpoint=at_checkpoint)
                return
            except HistoryLost:
                if not at_checkpoint:
                    raise
                # Its time could be read when this began; a source that keeps a second has let go of it since.
                at_checkpoint = False
            except ResultTooLarge as refused:
                self.mapping, self.session = self.run.in_smaller_parts(refused), self.run.open_session()
            self.named.clear()

    def _compare(self, *, at_checkpoint: bool) -> None:
        run, report = self.run, self.run.report
        run.stored = self._settled()
        state = run.state
        if state is not None:
            report.as_of, report.keys, report.buckets = state.as_of, state.keys, state.buckets
        report.drift = DriftReport()
        with self._reading(state if at_checkpoint else None) as (reading, exact):
            if run.request.fast:
                self._fast(reading, exact)
            else:
                self._deep(reading, exact)
        if report.drift.total or report.drift.buckets:
            report.exit_code = ExitCode.DRIFT

    # -- what to compare with ------------------------------------------------------------------------------------

    def _settled(self) -> Stored:
        """State and fingerprints, once no other run is in the middle of applying a larger change."""
        reader, keyspace = self.run.reader, self.run.keyspace
        for _ in range(MAX_LOOKS):
            stored = store.read_stored(reader, keyspace)
            pending = stored.state.pending if stored.state is not None else None
            if pending is None:
                return stored
            if pending.kind == "withheld" or not reader.call("EXISTS", keyspace.lease):
                # Whoever held the lease may have finished in between.
                if store.read_state(reader, keyspace) == stored.state:
                    self._note_unfinished(pending, stored)
                    return stored
                continue
            self.run.stop.wait(LOOK_AGAIN_S * 4)
            self.run.stop.check()
        raise Unavailable("another run has been applying a large change for too long", hint="verify again later")

    def _note_unfinished(self, pending: Pending, stored: Stored) -> None:
        """Raises Incomplete where nothing can be told: a key that differs may be one that was not written yet."""
        if pending.kind != "withheld" and stored.state is not None and stored.state.as_of is not None:
            raise Incomplete(
                f"{pending}; until then Redis is between two times, and what differs is no drift",
                hint=f"run: reconcile run --view {self.run.view.name}; then verify again",
                view=self.run.view.name,
            )
        if (warning := str(pending)) not in self.run.report.warnings:
            self.run.report.warnings.append(warning)

    @contextlib.contextmanager
    def _reading(self, state: State | None) -> Iterator[tuple[Reading, bool]]:
        """The view at the checkpoint's time if that can still be read and is Redis' time, else at the present."""
        withheld = state is not None and state.pending is not None and state.pending.kind == "withheld"
        if state is not None and state.as_of is not None and state.identity is not None and not withheld:
            explained = explain(self.session, self.mapping)
            same = state.identity == self.run.identity(self.mapping, explained)
            upper = explained.frontiers.upper
            if same and explained.frontiers.since <= state.as_of and (upper is None or state.as_of < upper):
                with open_reading(self.session, self.mapping, state.as_of) as reading:
                    yield reading, True
                return
        with open_reading(self.session, self.mapping, None) as reading:
            yield reading, False

    # -- fast ----------------------------------------------------------------------------------------------------

    def _fast(self, reading: Reading, exact: bool) -> None:
        """Fingerprints against those of the checkpoint; the manifest against the state. No rows, no Redis values."""
        run, report = self.run, self.run.report
        state = run.state
        assert report.drift is not None
        if state is None or state.as_of is None:
            raise UsageError("nothing was synchronised yet", hint="run: reconcile snapshot")
        using = companion.usable(run, reading)
        name = using.name if using is not None and using.buckets == state.buckets else None
        now, _ = reading.fingerprints(state.buckets, companion=name)
        known = run.stored.fingerprints or digest.same_fingerprint(state.buckets, UNKNOWN)
        chosen = self._chosen(state.buckets)
        moved = sum(known[b] not in (UNKNOWN, now[b]) for b in chosen)
        unknown = sum(known[b] == UNKNOWN for b in chosen)
        if unknown:
            report.warnings.append(f"{unknown} buckets have no fingerprint since the last delta; --deep looks at them")
        if store.Manifest(run.reader, run.keyspace, state).read(range(state.buckets)) is None:
            report.drift.buckets += 1
            report.drift.causes["manifest damaged"] = 1
        if exact:
            report.drift.buckets += moved
            if moved:
                report.drift.causes[Cause.MISSED.value] = moved
        else:
            report.drift.lagging_buckets = moved

    def _chosen(self, buckets: int) -> range:
        i, n = self.subset
        return range(i, buckets, n)

    # -- deep ----------------------------------------------------------------------------------------------------

    def _deep(self, reading: Reading, exact: bool) -> None:
        suspects, buckets = self._suspects(reading, exact)
        if suspects:
            self.run.report.buckets_read = len(suspects)
            with self.run.report.phase("confirm"):
                self._confirm(suspects, buckets, reading, exact)

    def _suspects(self, reading: Reading, exact: bool) -> tuple[list[int], int]:
        """Buckets that seem to differ, and how many there are in all."""
        run, report = self.run, self.run.report
        content, held_at_all = self._read(reading)
        state = run.state
        known = state is not None and state.as_of is not None and run.stored.has_manifest
        buckets = state.buckets if state is not None and known else digest.choose_buckets(content.rows)
        source = digest.fold(content.digests, buckets)
        held = digest.fold(held_at_all, buckets)
        report.keys = digest.count(sum(source[b] for b in self._chosen(buckets)))
        report.buckets = buckets
        suspects = [b for b in self._chosen(buckets) if digest.normal(source[b]) != digest.normal(held[b])]
        if known and suspects:
            # Rows are read without the source's hashes: only suspects need fingerprints, and there seldom are any.
            now = None if exact else reading.fingerprints(buckets)[0]
            suspects = self._against_manifest(suspects, source, held, now, exact)
        return suspects, buckets

    def _read(self, reading: Reading) -> tuple[Content, list[int]]:
        """All rows of the slice, and digests of what Redis holds of it, at the finest granularity."""
        run = self.run
        content = Content(hashed=False)
        i, n = self.subset
        with run.report.phase("read"):
            if n == 1 or run.state is None:
                return content, add_both(run, reading.rows(), content)
            known = run.state.buckets
            chunks = reading.rows_of(list(self._chosen(known)), known)
            return content, add_both(run, chunks, content, lambda key: digest.bucket_of(key, known) % n == i)

    def _against_manifest(
        self, suspects: list[int], source: list[int], held: list[int], now: Fingerprints | None, exact: bool
    ) -> list[int]:
        """Drop what merely lags: Redis is what the manifest says, and the source's bucket has moved since."""
        run, report = self.run, self.run.report
        assert run.state is not None
        assert report.drift is not None
        manifest = store.Manifest(run.reader, run.keyspace, run.state).read(suspects)
        if manifest is None:
            return suspects
        left = []
        for bucket in suspects:
            look = Look(
                digest.normal(source[bucket]),
                digest.normal(manifest[bucket]),
                digest.normal(held[bucket]),
                moved=not exact and self._moved(bucket, None if now is None else now[bucket]),
            )
            verdict, _ = drift.judge(look)
            if verdict is Verdict.LAG:
                report.drift.lagging_buckets += 1
            elif verdict is Verdict.DRIFT:
                left.append(bucket)
        return left

    def _moved(self, bucket: int, now: int | None) -> bool:
        """Whether the source's bucket may have changed since the checkpoint; now: its fingerprint, None: not known."""
        known = self.run.stored.fingerprints
        return known is None or now is None or known[bucket] != now

    # -- confirm or clear ----------------------------------------------------------------------------------------

    def _confirm(self, suspects: list[int], buckets: int, reading: Reading, exact: bool) -> None:
        """Look closely at the suspects until the checkpoint stands still for the length of a look."""
        run = self.run
        for _ in range(MAX_LOOKS):
            before = self._settled()
            with self._again(before.state, reading, exact) as current:
                looks = look_at(run, current, buckets, suspects, run.request.max_report)
            after = store.read_stored(run.reader, run.keyspace)
            if _same_moment(before.state, after.state):
                run.stored = after
                self._judge(looks, buckets, exact)
                self._add_values(reading, buckets)
                return
            run.stop.wait(LOOK_AGAIN_S)
            run.stop.check()
        raise Unavailable(
            "the checkpoint never stood still long enough to confirm what differs",
            hint="verify again, or audit a slice at a time with --subset",
        )

    @contextlib.contextmanager
    def _again(self, state: State | None, reading: Reading, exact: bool) -> Iterator[Reading]:
        if exact and state is not None and state.as_of != reading.as_of:
            with open_reading(self.session, self.mapping, state.as_of) as other:
                yield other
        else:
            yield reading

    def _judge(self, looks: dict[int, BucketLook], buckets: int, exact: bool) -> None:
        run, report = self.run, self.run.report
        assert report.drift is not None
        state = run.state
        stored = None
        if state is not None and state.as_of is not None and state.buckets == buckets:
            stored = store.Manifest(run.reader, run.keyspace, state).read(looks)
            report.as_of = state.as_of
        for bucket, seen in sorted(looks.items()):
            moved = not exact and self._moved(bucket, digest.fingerprint(seen.hashes))
            look = Look(
                digest.normal(seen.source),
                None if stored is None else digest.normal(stored[bucket]),
                digest.normal(seen.redis),
                moved=moved and stored is not None,
            )
            verdict, cause = drift.judge(look)
            if verdict is Verdict.LAG:
                report.drift.lagging_buckets += 1
            elif verdict is Verdict.DRIFT and cause is not None:
                self._note(seen, cause)

    def _note(self, seen: BucketLook, cause: Cause) -> None:
        found = self.run.report.drift
        assert found is not None
        found.buckets += 1
        found.missing += seen.missing
        found.stale += seen.stale
        found.extra += seen.extra
        found.causes[cause.value] = found.causes.get(cause.value, 0) + 1
        room = self.run.request.max_report - len(found.keys)
        for example in seen.examples[: max(0, room)]:
            self.named.append(example)
            found.keys.append({"key": name_of(example.key), "kind": example.kind, "cause": cause.value})

    def _add_values(self, reading: Reading, buckets: int) -> None:
        """--show-values: what the source says and what Redis holds, for the named keys only."""
        found = self.run.report.drift
        if not self.run.request.show_values or not self.named or found is None:
            return
        wanted = {difference.key: difference for difference in self.named}
        chosen = sorted({difference.bucket for difference in self.named})
        source = {
            key: value
            for chunk in reading.rows_of(chosen, buckets)
            for key, value, *_ in chunk
            if key in wanted and value is not None
        }
        held = self.run.reader.call("MGET", *(difference.key for difference in self.named))
        for entry, difference, value in zip(found.keys, self.named, held, strict=True):
            entry["source"] = _shown(source.get(difference.key))
            entry["redis"] = _shown(value)


def _shown(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")


def _same_moment(before: State | None, after: State | None) -> bool:
    """Whether nothing was committed in between."""
    if before is None or after is None:
        return before is after
    return (before.as_of, before.token, before.updated_at_ms, before.pending) == (
        after.as_of,
        after.token,
        after.updated_at_ms,
        after.pending,
    )


def verify(run: ViewRun) -> None:
    """Audit one view and remember that in Redis, beside the state. Raises ReconcileError."""
    run.report.action = "verify"
    session = run.open_session()
    mapping = run.describe(session)
    subset = _subset(run)
    audit = Audit(run, session, mapping, subset)
    audit.execute()
    _remember(run, subset)


def _subset(run: ViewRun) -> tuple[int, int]:
    """Which slice to audit. Raises UsageError."""
    asked = run.request.subset
    if asked is None:
        return 0, 1
    state = store.read_state(run.reader, run.keyspace)
    if state is None or not state.buckets:
        raise UsageError("there is no checkpoint to audit a slice of", hint="run: reconcile snapshot")
    if asked == "next":
        cursor = run.reader.call("HGET", run.keyspace.audit, "cursor")
        i = int(cursor) + 1 if cursor is not None and cursor.isdigit() else 0
        n = min(ROLLING_SLICES, state.buckets)
        return i % n, n
    i, n = asked
    if n > state.buckets:
        raise UsageError(f"--subset {i}/{n}: view {run.view.name} has {state.buckets} buckets, not {n}")
    return i, n


def _remember(run: ViewRun, subset: tuple[int, int]) -> None:
    found = run.report.drift
    verdict = "drift" if run.report.exit_code == ExitCode.DRIFT else "in sync"
    entry = {
        "at_ms": store.now_ms(),
        "verdict": verdict,
        "as_of": run.report.as_of,
        "fast": run.request.fast,
        "subset": f"{subset[0]}/{subset[1]}",
        "drift": found.total if found is not None else 0,
    }
    fields: list[str | int] = ["report", json.dumps(entry)]
    if run.request.subset == "next":
        fields += ["cursor", subset[0]]
    run.reader.call("HSET", run.keyspace.audit, *fields)
