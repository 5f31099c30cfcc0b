"""`verify --fast`: compare fingerprints with the checkpoint's, and the number of names in Redis with the manifest's.

It reads neither rows nor values, except of buckets that keep differing while other runs commit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from msgspec import Struct

from reconcile.compare.counted import count_names, existing_names
from reconcile.compare.described import companion_mark
from reconcile.core import digest
from reconcile.core.digest import UNKNOWN, Fingerprints
from reconcile.core.drift import Cause
from reconcile.core.records import Manifest
from reconcile.core.state import State
from reconcile.errors import Unavailable, UsageError
from reconcile.runs.context import ViewRun
from reconcile.runs.settled import settled_manifest
from reconcile.source.reading import Reading
from reconcile.texts import plural

MAX_COUNTS = 3
"""Counts of a bucket's names beside other runs' commits. What then differs still is worth reading rows for."""
LOOK_AGAIN_S = 0.25


def compare(run: ViewRun, reading: Reading, exact: bool, subset: tuple[int, int]) -> list[int]:
    """Fill in the report's drift. exact: the source is read at the checkpoint's time. subset: slice i of n.

    Returns buckets that only their rows can settle, as other runs kept committing. Raises UsageError before the first
    snapshot, Unavailable while another run changes the number of buckets.
    """
    report, state = run.report, run.stored.state
    assert report.drift is not None
    if state is None or state.as_of is None:
        raise UsageError("not synchronised yet", hint="run: reconcile snapshot")
    chosen = range(subset[0], state.buckets, subset[1])
    stored = run.stored
    recorded = _recorded(run, chosen)
    if recorded is None:
        _note_damage(run)
        return []
    report.keys = sum(digest.count(recorded.manifest[b]) for b in chosen)
    now = fingerprints_now(run, reading, state)
    known = stored.fingerprints or digest.same_fingerprint(state.buckets, UNKNOWN)
    unknown = sum(known[b] == UNKNOWN for b in chosen)
    moved = 0 if now is None else sum(known[b] not in (UNKNOWN, now[b]) for b in chosen)
    if unknown or now is None:
        have = "has" if unknown == 1 else "have"
        number = f"{plural(unknown, 'bucket')} {have} no" if now is not None else "no bucket has a"
        report.warnings.append(f"{number} fingerprint to compare with: their rows were not checked")
    suspects = _count_names(run, chosen, recorded)
    if exact:
        report.drift.buckets += moved
        if moved:
            report.drift.causes[Cause.MISSED.value] = moved
    else:
        report.drift.lagging_buckets = moved
    return suspects


def fingerprints_now(run: ViewRun, reading: Reading, state: State) -> Fingerprints | None:
    """Return the source's fingerprints, made as the stored ones were; None if none are stored."""
    described = run.described
    companion = described.companion
    by_companion = (
        companion is not None
        and companion.buckets == state.buckets
        and companion.salt == state.fingerprint_salt
        and state.companion == companion_mark(described)
        and reading.of_the_present
    )
    if not state.fingerprint_salt:
        return None
    name = companion.name if by_companion and companion is not None else None
    return reading.fingerprints(state.buckets, state.fingerprint_salt, name)[0]


class _Recorded(Struct, frozen=True):
    """What Redis should hold as of one commit: the keys that the manifest counts, and those that wait for consent."""

    commit: str
    manifest: Manifest
    surplus: dict[int, int]

    def waiting(self, bucket: int) -> int:
        """Return the number of keys in the bucket that wait for consent."""
        return digest.count(self.surplus.get(bucket, 0))

    def names(self, bucket: int) -> int:
        """Return the number of keys that the bucket should have."""
        return digest.count(self.manifest[bucket]) + self.waiting(bucket)


def _recorded(run: ViewRun, chosen: range) -> _Recorded | None:
    """Return what is recorded now; None if the manifest does not match the state. Raises Unavailable."""
    manifest = settled_manifest(run, chosen)
    if manifest is not None and manifest.buckets != len(chosen) * chosen.step:
        raise Unavailable("another run has just changed the view's number of buckets", hint="verify again later")
    return None if manifest is None else _Recorded(run.state.commit, manifest, run.stored.surplus)


def _count_names(run: ViewRun, chosen: range, before: _Recorded) -> list[int]:
    """Count names, and note the buckets that have too few or too many. Values are not read.

    Other runs may commit meanwhile: then a row may go and come back while its page is read, and leave no trace in the
    records. So a difference is noted only if nobody committed during the count. Returns the buckets of which that
    cannot be had.
    """
    suspects: Collection[int] = chosen
    for _ in range(MAX_COUNTS):
        names = _names(run, chosen, suspects, before)
        after = _recorded(run, chosen)
        if after is None:
            _note_damage(run)
            return []
        differing = {b for b in suspects if not _fits(run, names[b], before.names(b), after.names(b))}
        undisturbed = before.commit == after.commit
        for bucket in suspects:
            if bucket not in differing:
                _note(run, bucket, 0, after.waiting(bucket))
            elif undisturbed:
                _note(run, bucket, names[bucket] - after.names(bucket), after.waiting(bucket))
        if undisturbed or not differing:
            return []
        suspects, before = differing, after
        run.stop.wait(LOOK_AGAIN_S)
        run.stop.check()
    return sorted(suspects)


def _names(run: ViewRun, chosen: range, suspects: Collection[int], recorded: _Recorded) -> dict[int, int]:
    """Return suspected bucket → number of distinct names in Redis."""
    scan, buckets = existing_names(run.target, run.stop), run.state.buckets

    def of_suspects() -> Iterator[list[bytes]]:
        for page in scan():
            yield [name for name in page if digest.bucket_of(name, buckets) in suspects]

    expected = sum(recorded.names(bucket) for bucket in suspects)
    return count_names(scan if suspects is chosen else of_suspects, chosen, expected, run.state.salt)


def _fits(run: ViewRun, names: int, *should: int) -> bool:
    """Whether this is the right number of names. should: the numbers recorded before and after the count."""
    if run.view.expires_at is not None:
        return names <= max(should)  # some may have expired, and names do not show which
    return names in should


def _note(run: ViewRun, bucket: int, difference: int, waiting: int) -> None:
    found = run.report.drift
    assert found is not None
    if not difference and not waiting:
        return
    cause = Cause.CHANGED_OUTSIDE if difference else Cause.SURPLUS
    missing, extra = max(0, -difference), max(0, difference) + waiting
    found.note(bucket, run.state.buckets, cause.value, missing=missing, stale=0, extra=extra)


def _note_damage(run: ViewRun) -> None:
    found = run.report.drift
    assert found is not None
    found.buckets += 1
    found.causes["manifest damaged"] = 1
