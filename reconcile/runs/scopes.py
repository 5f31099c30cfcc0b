"""Which buckets a snapshot has to examine, at which granularity, and in how many parts."""

from __future__ import annotations

from collections.abc import Container, Iterator

from msgspec import Struct
from msgspec.structs import replace

from reconcile.compare import records
from reconcile.compare.sides import Rows, add_both
from reconcile.compare.surplus import Rule
from reconcile.core import decide, digest, pending
from reconcile.core.digest import MAX_BUCKETS, UNKNOWN, Fingerprints
from reconcile.core.drift import groups_of
from reconcile.core.nametable import BYTES_PER_NAME
from reconcile.core.records import Manifest, cleared
from reconcile.runs.context import ViewRun
from reconcile.source.companion import CompanionDefinition
from reconcile.source.reading import Reading
from reconcile.target.port import Stored

PARTS = 8
PART_ROWS = 10_000
"""Least rows per part; and there are few parts, as each makes the source read the whole view once."""
FIRST_LOOK_BUCKETS = 1 << 14
"""Granularity of the first fingerprints of a view of unknown size."""


class Scope(Struct):
    """The buckets to examine. Fingerprints and counts are of the source at T.

    buckets: number of buckets of the stored manifest, by which surplus is judged; grain: number to commit.
    """

    buckets: int
    grain: int
    dirty: list[int]
    changed: list[int]
    """Stored ones that have changed at the source since the checkpoint, or of which that is not known. What a run
    that is cut short may have left beside the view's rows lies in these."""
    now: Fingerprints
    """Fingerprints, per bucket of the grain."""
    rows_in: list[int]
    """Rows per bucket of `buckets`, NULL values included."""
    everything: bool
    waiting: list[int] = []
    """Those in which nothing has changed since it was counted what waits there, if time may not suffice for them and
    the dirty ones. A second look comes to them, see `second`."""
    is_second: bool = False

    def second(self) -> Scope:
        """Return the scope of a look at those that wait."""
        return replace(self, dirty=self.waiting, changed=[], everything=False, waiting=[], is_second=True)

    @property
    def rows(self) -> int:
        """Number of rows in the dirty buckets."""
        return self.rows_of(self.dirty)

    def rows_of(self, chosen: list[int]) -> int:
        """Return the number of rows in some buckets."""
        return sum(self.rows_in[bucket] for bucket in chosen)

    def known(
        self, stored: Fingerprints | None, done: Container[int], part: list[int], left: Container[int]
    ) -> Fingerprints:
        """Return the fingerprints to store after a part. done: buckets of it and of the parts before; left: those in
        which keys wait."""
        if stored is None or len(stored) != self.buckets:
            known = digest.same_fingerprint(self.buckets, UNKNOWN)
        else:
            known = cleared(stored, [b for b in self.changed if b < self.buckets and b not in done])
        for bucket in part:
            known[bucket] = UNKNOWN if bucket in left else self.now[bucket]
        return known

    def parts(self, run: ViewRun) -> list[list[int]]:
        """Split the dirty buckets into parts, as few as memory for names, and a deadline, allow."""
        largest = self.rows_at_once(run)
        parts = list(groups_of(self.dirty, self.rows_in, largest))
        # What waits for a human is looked at by every run. Each begins with another part, so that all have their turn.
        first = run.state.token % max(1, len(parts)) if self.is_second else 0
        return parts[first:] + parts[:first]

    def rows_at_once(self, run: ViewRun) -> int:
        """Return the most rows of one part."""
        most = max(PART_ROWS, run.settings.limits.memory_max_bytes // 2 // BYTES_PER_NAME)
        return most if run.stop.remaining_s() is None else min(most, max(PART_ROWS, self.rows // PARTS))


def read_scope(
    run: ViewRun,
    reading: Reading,
    why: decide.Snapshot,
    companion: CompanionDefinition | None,
    suspects: frozenset[int],
) -> Scope:
    """Read the fingerprints and compare them with the checkpoint's. suspects: buckets to examine in any case."""
    state, stored = run.state, run.stored.fingerprints
    known = state.buckets if records.is_there(run.stored) else 0
    asked = companion.buckets if companion is not None else known or FIRST_LOOK_BUCKETS
    now, rows_in = fingerprints(run, reading, companion, asked)
    grain = choose_grain(run, companion, sum(rows_in), known)
    if grain > asked:
        now, rows_in = fingerprints(run, reading, companion, grain)
    buckets = known or grain
    comparable = 0 < known <= grain and state.fingerprint_salt == salt_of(run, companion)
    everything = why.everything or run.request.deep or not known
    dirty = list(range(buckets))
    changed = list(range(buckets if stored is None else len(stored)))  # without the manifest, of another number perhaps
    waiting: set[int] = set()
    if stored is not None and comparable and not why.everything:
        coarse = now if grain == known else digest.fold_fingerprints(now, known)
        half = state.pending is not None and state.pending.kind == "delta"  # keys may have come there with it
        seen = {} if half else run.stored.waiting.seen
        differing = [b for b, (x, y) in enumerate(zip(coarse, stored, strict=True)) if x != y]
        changed = [b for b in differing if seen.get(b) != coarse[b]]
        if grain == known and not everything:
            waiting = run.stored.waiting.buckets.difference(changed, suspects)
            dirty = sorted({*changed, *suspects, *waiting})
    counts = digest.fold(rows_in, min(buckets, len(rows_in)))
    if len(counts) < buckets:  # larger buckets are to be committed: parts are cut by what the rows average
        counts = [sum(counts) // buckets + 1] * buckets
    scope = Scope(buckets, grain, dirty, changed, digest.fold_fingerprints(now, grain), counts, everything)
    in_parts = run.stop.remaining_s() is not None and scope.rows > scope.rows_at_once(run)
    if in_parts and not run.request.dry_run:  # which would find none of the first look's records at the second
        scope.dirty, scope.waiting = [b for b in dirty if b not in waiting], sorted(waiting)
    return scope


def differing(run: ViewRun, reading: Reading, manifest: Manifest, rows: int) -> list[int]:
    """Return the buckets in which source, Redis and the manifest do not agree, by the digests of all rows.

    Those with a NULL row are among them: digests do not show whether its key has another row as well."""
    nulls: set[int] = set()
    buckets = manifest.buckets

    def noted() -> Iterator[Rows]:
        for chunk in reading.rows():
            nulls.update([digest.bucket_of(key, buckets) for key, value in chunk if value is None])
            yield chunk

    with run.report.phase("compare", rows):
        source, held = add_both(run.sides(reading), noted(), buckets)
    normal = digest.normal
    both = enumerate(zip(source, held, strict=True))
    return [b for b, (x, y) in both if b in nulls or not normal(x) == normal(y) == normal(manifest[b])]


def salt_of(run: ViewRun, companion: CompanionDefinition | None) -> str:
    """Return the salt of the source's fingerprints."""
    return companion.salt if companion is not None else run.state.source_salt


def fingerprints(
    run: ViewRun, reading: Reading, companion: CompanionDefinition | None, buckets: int
) -> tuple[Fingerprints, list[int]]:
    """Return (fingerprint, rows) per bucket at the source."""
    with run.report.phase("fingerprints"):
        name = companion.name if companion is not None else None
        return reading.fingerprints(buckets, salt_of(run, companion), name)


def choose_grain(run: ViewRun, companion: CompanionDefinition | None, rows: int, known: int) -> int:
    """Return the number of buckets to commit for so many rows. known: that of the stored manifest, 0 without one."""
    if known and is_unfinished(run):
        return known
    if companion is not None:
        return companion.buckets
    if run.view.buckets is not None:
        return run.view.buckets
    rows *= run.shard.n  # all shards have their share of the same buckets
    return known if known and not digest.outgrown(rows, known) else digest.choose_buckets(rows)


def is_unfinished(run: ViewRun) -> bool:
    """Whether a snapshot was cut short. It is finished with the number of buckets that is stored: parts of one with
    another number cannot be stored, so it may always be cut short."""
    mark = run.state.pending
    return mark is not None and mark.kind == "snapshot"


def of_stored_buckets(run: ViewRun, companion: CompanionDefinition | None) -> CompanionDefinition | None:
    """Return None for a companion view with another number of buckets, while a snapshot is not finished."""
    other = companion is not None and companion.buckets != run.state.buckets
    return None if other and is_unfinished(run) and records.is_there(run.stored) else companion


def may_expire(run: ViewRun, why: decide.Snapshot) -> bool:
    """Whether keys that are equal may have an expiry, from another mapping or whoever wrote them before."""
    return not why.trusted or pending.began_anew(run.state)


def judged_by(run: ViewRun, why: decide.Snapshot, manifest: Manifest | None) -> Rule:
    """Return how surplus is judged."""
    if run.request.allow_deletes or run.settings.redis.dedicated:
        return Rule.CONSENT
    if run.target.range.ownership == "remembered":
        return Rule.OWN
    return Rule.MANIFEST if why.trusted and manifest is not None else Rule.NOTHING


def left_behind(stored: Stored) -> Container[int]:
    """Return the buckets that an unfinished change may have touched: those whose fingerprints are unknown; none, if
    these, or the manifest that went with them, are gone. Before the first content there are neither."""
    if stored.fingerprints is None:
        return frozenset() if stored.state is not None and stored.state.digest else range(MAX_BUCKETS)
    if not records.is_there(stored):
        return frozenset()
    return frozenset(b for b, one in enumerate(stored.fingerprints) if one == UNKNOWN)
