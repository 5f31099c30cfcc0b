"""The companion view: fingerprints that Materialize maintains. Trusted only after it was checked against the query.

At first use, and whenever it was replaced or the mapping changed, every fingerprint it has is compared with the same
computed on demand, at one time. What was checked is remembered in the state by the ids of the objects.
"""

from __future__ import annotations

from reconcile.core.companion import Companion
from reconcile.core.digest import MAX_BUCKETS, MIN_BUCKETS
from reconcile.errors import UsageError
from reconcile.runs.context import ViewRun
from reconcile.source.reading import Reading


def usable(run: ViewRun, reading: Reading) -> Companion | None:
    """The configured companion view, checked; None without one, or (with a warning) when it does not match."""
    name = run.view.digest_view
    if name is None or not reading.of_the_present:
        return None  # the companion's index keeps a second of history, whatever the view keeps
    if name in run.companions:
        return run.companions[name]
    run.companions[name] = found = _check(run, reading, name)
    if found is None:
        run.report.warnings.append(
            f"companion view {name} does not match the query: fingerprints are computed instead; "
            "create it again with the statements of: reconcile init --digest-view"
        )
    return found


def _check(run: ViewRun, reading: Reading, name: str) -> Companion | None:
    objects = f"{run.companion_ids} {run.identity(reading.mapping, reading.explained).source}"
    stored = run.state.companion if run.state is not None else ""
    checked, _, buckets_text = stored.rpartition(" ")
    if checked == objects and buckets_text.isdigit():
        return Companion(name, int(buckets_text), stored)
    for buckets in _candidates(run, reading, name):
        theirs = reading.fingerprints(buckets, companion=name)
        if theirs == reading.fingerprints(buckets):
            return Companion(name, buckets, f"{objects} {buckets}")
    return None


def _candidates(run: ViewRun, reading: Reading, name: str) -> list[int]:
    """Numbers of buckets the view may have been made for."""
    if run.view.buckets is not None:
        return [run.view.buckets]
    largest = reading.largest_bucket(name)
    smallest = max(MIN_BUCKETS, 1 << largest.bit_length())
    if smallest > MAX_BUCKETS:
        raise UsageError(
            f"companion view {name} has more than {MAX_BUCKETS} buckets", hint="reconcile init --digest-view"
        )
    return [smallest]
