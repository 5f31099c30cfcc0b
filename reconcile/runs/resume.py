"""Finish a snapshot that was cut short, without starting over: by a deadline, a signal, a crash, a lost connection.

What is in Redis is read (a scan); what of it is right already is told by fingerprints, without reading rows again: a
bucket is done when the source's fingerprint is the one stored with its manifest record, and Redis holds what that
record says. The others are repaired. Where the run may be cut short again they are taken in parts, and after each part
its records and fingerprints are stored, still under the pending mark: the next run goes on after them, at its own time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from reconcile.core import digest
from reconcile.core.companion import Companion
from reconcile.core.digest import MAX_BUCKETS, UNKNOWN, Fingerprints
from reconcile.core.drift import groups_of
from reconcile.core.state import Identity, Pending
from reconcile.runs.context import ViewRun
from reconcile.runs.repair import Repair
from reconcile.runs.totals import add_up_redis
from reconcile.source.reading import Reading
from reconcile.target import store
from reconcile.target.apply import Applier

PARTS = 8
PART_ROWS = 10_000
"""At most so many parts, of at least so many rows: each makes the source look through the whole view once."""


class Resume:
    """What is known of each bucket at the reading's time, and what is left to do. The lease is held."""

    def __init__(
        self, run: ViewRun, reading: Reading, using: Companion | None, choose_buckets: Callable[[int], int]
    ) -> None:
        """choose_buckets: number of buckets for so many rows."""
        self._run = run
        state = run.state
        known = state.buckets if state is not None and run.stored.has_manifest else 0
        known = known if run.view.buckets in (None, known) else 0
        with run.report.phase("fingerprints"):
            asked = using.buckets if using is not None else known or MAX_BUCKETS
            self.now, rows_in = reading.fingerprints(asked, companion=using.name if using is not None else None)
        self.buckets = asked if using is not None or known else choose_buckets(sum(rows_in))
        self.now = digest.fold_fingerprints(self.now, self.buckets)
        self.rows_in = digest.fold(rows_in, self.buckets)
        with run.report.phase("scan"):
            self.held = digest.fold(add_up_redis(run), self.buckets)
        self.manifest, self._fingerprints = self._stored()

    def _stored(self) -> tuple[list[int], Fingerprints]:
        """Manifest and fingerprints as far as they were stored; nothing where they are for other buckets or rows."""
        run = self._run
        state, fingerprints = run.state, run.stored.fingerprints
        if state is not None and fingerprints is not None and state.buckets == self.buckets:
            digests = store.Manifest(run.reader, run.keyspace, state).read(range(self.buckets))
            if digests is not None:
                return [digests[bucket] for bucket in range(self.buckets)], fingerprints[:]
        return [0] * self.buckets, digest.same_fingerprint(self.buckets, UNKNOWN)

    @property
    def in_parts(self) -> bool:
        """Whether to expect that this run may be cut short too."""
        return self._run.stop.remaining_s() is not None

    def parts(self) -> Iterator[list[int]]:
        """Buckets that are not known to be right."""
        changed = set(digest.differing(self.manifest, self.held))
        changed.update(b for b, (x, y) in enumerate(zip(self.now, self._fingerprints, strict=True)) if x != y)
        dirty = sorted(changed)
        if self.in_parts:
            rows = sum(self.rows_in[bucket] for bucket in dirty)
            yield from groups_of(dirty, self.rows_in, max(PART_ROWS, rows // PARTS))
        elif dirty:
            yield dirty

    def note(self, repair: Repair, part: list[int]) -> None:
        """Remember what the repair of a part has made of it, surplus keys aside: the next scan would find them."""
        for bucket, exact in repair.digests_of(part).items():
            self.manifest[bucket] = exact
            self._fingerprints[bucket] = self.now[bucket]

    def save(self, applier: Applier, identity: Identity, pending: Pending) -> None:
        """Write what is collected, and store what is known by now, under the pending mark."""
        run = self._run
        applier.mark()
        total = sum(self.manifest)
        new = dataclasses.replace(
            run.base_state,
            identity=identity,
            buckets=self.buckets,
            keys=digest.count(total),
            digest=store.total_text(total),
            pending=pending,
            updated_at_ms=store.now_ms(),
        )
        applier.finish(
            [
                *store.write_manifest(run.keyspace, self.manifest),
                *store.write_fingerprints(run.keyspace, self._fingerprints, None),
                *store.write_state(run.keyspace, new),
            ]
        )
