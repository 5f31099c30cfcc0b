"""Parse EXPLAIN TIMESTAMP AS JSON (its shape: transcripts `retain_history`, `transaction_snapshot`).

since and upper are taken from the objects listed under "sources", not from "determination". Inside a transaction the
determination covers everything in the query's schemas (adapter/src/coord/sequencer/inner/peek.rs, `timedomain_for`):
another table with one second of history would hide the view's hour of history. Outside a transaction, both are equal in
every transcript.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

from msgspec import Struct, field

from reconcile.core.decide import Frontiers
from reconcile.core.times import MAX_TIMESTAMP
from reconcile.errors import ReconcileError

_SOURCE_NAME = re.compile(r"(?P<name>.*) \((?P<id>[a-z]+\d+), (?P<kind>storage|compute)\)", re.DOTALL)
"""As written by adapter/src/coord/sequencer/inner/explain_timestamp.rs, which quotes nothing in the name."""


class SourceObject(Struct, frozen=True):
    """An object that a query reads. kind 'compute': an index, which has its own history, usually one second."""

    name: str
    id: str
    kind: str


class SourceClock(Struct, frozen=True):
    """Materialize's time, whatever the clock of this host says."""

    told_ms: int
    told_at_s: float = field(default_factory=time.monotonic)
    """Monotonic time when it was told."""

    def now_s(self) -> float:
        """Return Materialize's time in seconds since the epoch."""
        return self.told_ms / 1000 + time.monotonic() - self.told_at_s


class Explained(Struct, frozen=True):
    """Frontiers of a query, the objects it reads, and the time by which they were told."""

    frontiers: Frontiers
    objects: tuple[SourceObject, ...]
    clock: SourceClock
    ahead_ms: int = 0
    """How far the time of a read is ahead of Materialize's present; the read waits until then."""

    @property
    def ids(self) -> list[str]:
        return sorted(source.id for source in self.objects)


def parse_explanation(text: str) -> Explained:
    """Parse the answer. Raises ReconcileError if its shape differs from the recorded one."""
    try:
        explained = json.loads(text)
        return _parse(explained)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReconcileError(
            "this version cannot read Materialize's EXPLAIN TIMESTAMP",
            hint="please report this with the version of Materialize",
        ) from error


def _parse(explained: dict[str, Any]) -> Explained:
    context = explained["determination"]["timestamp_context"]
    line = context["TimelineTimestamp"] if isinstance(context, dict) else {"chosen_ts": MAX_TIMESTAMP}
    chosen, present = line["chosen_ts"], line.get("oracle_ts")
    since, uppers = 0, []
    objects = []
    for source in explained["sources"]:
        match = _SOURCE_NAME.fullmatch(source["name"])
        objects.append(
            SourceObject(match["name"], match["id"], match["kind"])
            if match
            else SourceObject(source["name"], source["name"], "storage")
        )
        read, written = source["read_frontier"], source["write_frontier"]
        # A frontier without elements: nothing can be read any more, or nothing will be written any more.
        since = max(since, int(read[0]) if read else MAX_TIMESTAMP)
        uppers += [int(written[0])] if written else []
    frontiers = Frontiers(since=since, upper=min(uppers, default=None), now=int(chosen))
    ahead_ms = 0 if present is None else frontiers.now - int(present)
    return Explained(frontiers, tuple(objects), SourceClock(frontiers.now), ahead_ms)
