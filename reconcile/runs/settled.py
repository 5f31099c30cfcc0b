"""Wait until what Redis holds can be judged."""

from __future__ import annotations

from collections.abc import Collection

from reconcile.compare import records
from reconcile.core.records import Manifest
from reconcile.core.state import Pending
from reconcile.errors import Incomplete, Unavailable
from reconcile.runs.context import ViewRun
from reconcile.target.port import Stored

MAX_LOOKS = 20
LOOK_AGAIN_S = 1.0


def settled(run: ViewRun) -> Stored:
    """Return state and records once no other run is applying a larger change.

    Raises Incomplete if a change was cut short, since a key that differs may not have been written yet; Unavailable if
    the other run takes too long.
    """
    target = run.target
    for _ in range(MAX_LOOKS):
        stored = target.stored()
        pending = stored.state.pending if stored.state is not None else None
        if pending is None:
            return stored
        if pending.kind == "withheld" or target.holder() is None:
            # The run that held the lease may have finished in between.
            if target.state() == stored.state:
                _note_unfinished(run, pending)
                return stored
            continue
        run.stop.wait(LOOK_AGAIN_S)
        run.stop.check()
    raise Unavailable("another run has been applying a large change for too long", hint="verify again later")


def settled_manifest(run: ViewRun, wanted: Collection[int]) -> Manifest | None:
    """Settle run.stored and read the wanted buckets of its manifest; None if no manifest matches the state.

    Raises as `settled`, and Unavailable if commits keep coming between the two reads.
    """
    for _ in range(MAX_LOOKS):
        run.stored = stored = settled(run)
        state = stored.state
        if state is None or state.as_of is None or not records.is_there(stored):
            return None
        manifest = records.manifest_of(state)
        if records.load(run.target, manifest, wanted):
            return manifest
        again = run.target.state()
        if again is not None and again.commit == state.commit:
            return None
        run.stop.check()
    raise Unavailable("other runs commit too often to read the manifest in between", hint="verify again later")


def _note_unfinished(run: ViewRun, pending: Pending) -> None:
    if pending.kind != "withheld":
        raise Incomplete(
            f"{pending}; until then Redis is between two times, and what differs is no drift",
            hint=f"run: reconcile run --view {run.view.name}; then verify again",
        )
    if (warning := str(pending)) not in run.report.warnings:
        run.report.warnings.append(warning)
