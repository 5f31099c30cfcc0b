"""`verify --fast`: fingerprints against those of the checkpoint, names in Redis against the counts of the manifest.
No rows, no values."""

from __future__ import annotations

from reconcile.compare import records
from reconcile.compare.counted import count_names, existing_names
from reconcile.compare.described import companion_mark
from reconcile.core import digest
from reconcile.core.digest import UNKNOWN, Fingerprints
from reconcile.core.drift import Cause
from reconcile.core.records import Manifest
from reconcile.core.state import State
from reconcile.errors import UsageError
from reconcile.runs.context import ViewRun
from reconcile.source.reading import Reading


def compare(run: ViewRun, reading: Reading, exact: bool, subset: tuple[int, int]) -> None:
    """Fill the report's drift. exact: the source is read at the checkpoint's time. subset: (i, n)."""
    report, state = run.report, run.stored.state
    assert report.drift is not None
    if state is None or state.as_of is None:
        raise UsageError("not synchronised yet", hint="run: reconcile snapshot")
    chosen = range(subset[0], state.buckets, subset[1])
    manifest = records.manifest_of(state)
    if not records.load(run.target, manifest, range(state.buckets)):
        report.drift.buckets += 1
        report.drift.causes["manifest damaged"] = 1
        return
    now = fingerprints_now(run, reading, state)
    known = run.stored.fingerprints or digest.same_fingerprint(state.buckets, UNKNOWN)
    unknown = sum(known[b] == UNKNOWN for b in chosen)
    moved = 0 if now is None else sum(known[b] not in (UNKNOWN, now[b]) for b in chosen)
    if unknown or now is None:
        number = f"{unknown:,} buckets have no" if now is not None else "no bucket has a"
        report.warnings.append(f"{number} fingerprint to compare with: their rows were not checked")
    _count_names(run, manifest, chosen)
    if exact:
        report.drift.buckets += moved
        if moved:
            report.drift.causes[Cause.MISSED.value] = moved
    else:
        report.drift.lagging_buckets = moved


def fingerprints_now(run: ViewRun, reading: Reading, state: State) -> Fingerprints | None:
    """The source's, made as the stored ones were; None where that cannot be."""
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


def _count_names(run: ViewRun, manifest: Manifest, chosen: range) -> None:
    """Keys that are gone, or too many. What stands under the others is not looked at."""
    found, state = run.report.drift, run.state
    assert found is not None
    expected = sum(digest.count(manifest[b]) + digest.count(run.stored.surplus.get(b, 0)) for b in chosen)
    names = count_names(existing_names(run.target, run.stop), chosen, expected, state.salt)
    again = run.target.stored().state
    if again is None or again.commit != state.commit:
        run.report.warnings.append("keys were not counted: another run was writing")
        return
    for bucket in chosen:
        surplus = digest.count(run.stored.surplus.get(bucket, 0))
        difference = names[bucket] - digest.count(manifest[bucket]) - surplus
        if run.view.expires_at is not None:
            difference = max(0, difference)  # a name alone does not tell what has expired in time
        found.missing += max(0, -difference)
        found.extra += max(0, difference) + surplus
        if difference or surplus:
            found.buckets += 1
            found.heat.note(bucket, state.buckets, abs(difference) + surplus)
            cause = Cause.CHANGED_OUTSIDE if difference else Cause.SURPLUS
            found.causes[cause.value] = found.causes.get(cause.value, 0) + 1
