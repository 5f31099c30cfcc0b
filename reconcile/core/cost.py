"""What a run costs, at the source, here and in Redis: a function of coefficients that were measured. Pure.

Coefficients, the model and how well it told the measurements: docs/scale.md. Seconds are CPU seconds of whoever works.
Those of the source are of one slow machine: `scaled` makes them those of the user's own, by one figure that was
measured there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal

from reconcile.core.records import REWRITE_FRACTION

Way = Literal["fingerprints", "companion", "delta", "follow"]
"""How a run learns what changed: by one GROUP BY, the companion view, a SUBSCRIBE of its own, or one that goes on."""


@dataclass(frozen=True, slots=True)
class SourceCosts:
    """Seconds of Materialize's work."""

    row_read: float = 9.3e-6
    """A row that is sent."""
    row_filtered: float = 1.0e-6
    """A row that a byte mask looks at."""
    row_hashed: float = 3.9e-6
    """A row that is added to its group."""
    group: float = 50e-6
    """A group of GROUP BY."""
    companion_row: float = 3.7e-6
    """A bucket read from the companion view."""
    row_subscribed: float = 1.7e-6
    """A row of the view when a SUBSCRIBE starts, whatever it then sends."""
    update: float = 5e-6
    """An update that a SUBSCRIBE sends."""

    def scaled(self, factor: float) -> SourceCosts:
        """The same of a server that takes so many times as long."""
        return replace(self, **{one.name: getattr(self, one.name) * factor for one in fields(self)})


START_S = 0.33
"""Of a process that finds nothing to do, to its end."""
BUCKET_S = 2.2e-6
"""A fingerprint: taken in and compared."""
ROW_LOADED_S = 2.5e-6
ROW_COMPARED_S = 5.0e-6
"""A row of a dirty bucket: read, looked up in Redis, compared."""
CHANGE_S = 7.0e-6
"""A key that a delta changes, both its updates and its put included."""
RECORD_S = 50e-6
"""Manifest and fingerprint of one bucket, read and written by themselves."""
NAME_S = 0.42e-6
"""A name that a scan brings."""

REDIS_PUT_S = 1.5e-6
REDIS_GET_S = 1.0e-6
REDIS_NAME_S = 0.5e-6

ROW_BYTES = 15
"""What travels with a row beside its key and value, from the source."""
GROUP_BYTES = 45
"""A bucket's fingerprint on its way from the source."""
RECORD_BYTES = 24
"""Manifest and fingerprint of a bucket, in Redis."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run meets. updated, deleted: keys since the last one. row_bytes: key and value. shards: runs at a time."""

    rows: int
    buckets: int
    row_bytes: float = 120.0
    updated: float = 0.0
    deleted: float = 0.0
    shards: int = 1


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run of one shard. Seconds of CPU; bytes from the source, and to and from Redis."""

    source_s: float
    client_s: float
    redis_s: float
    source_bytes: float
    redis_bytes: float

    @property
    def alone_s(self) -> float:
        """Where nothing overlaps."""
        return self.source_s + self.client_s + self.redis_s

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


def cost(way: Way, demand: Demand, source: SourceCosts, *, runs_per_start: float = 1.0) -> Cost:
    """Of a run that brings Redis from one checkpoint to the next.

    runs_per_start: for `follow`, how many times as long as from run to run one subscription goes on.
    """
    changes = (demand.updated + demand.deleted) / demand.shards
    buckets = demand.buckets / demand.shards
    if way in ("delta", "follow"):
        starts = 1.0 if way == "delta" else 1.0 / runs_per_start
        begun = Cost(source.row_subscribed * demand.rows * starts, START_S * starts, 0.0, 0.0, 0.0)
        return begun + _changed(changes, demand, source)
    own_rows = demand.rows / demand.shards
    if way == "companion":
        at_source = source.companion_row * buckets
    else:
        # A shard's rows are told from the others' by looking at all of them.
        others = 0.0 if demand.shards == 1 else source.row_filtered * demand.rows
        at_source = source.row_hashed * own_rows + source.group * buckets + others
    learnt = Cost(at_source, START_S + BUCKET_S * buckets, 0.0, GROUP_BYTES * buckets, 8 * buckets)
    return learnt + _mended(changes, demand, source) if changes else learnt


def load_cost(demand: Demand, source: SourceCosts) -> Cost:
    """Of the first load, fingerprints by GROUP BY included."""
    rows = demand.rows / demand.shards
    sent = Cost(
        source.row_read * rows,
        ROW_LOADED_S * rows,
        REDIS_PUT_S * rows,
        (demand.row_bytes + ROW_BYTES) * rows,
        (demand.row_bytes + ROW_BYTES) * rows,
    )
    return sent + cost("fingerprints", demand, source)


def cheapest(demand: Demand, source: SourceCosts, *, runs_per_start: float) -> Way:
    """The way of least work, all who work taken together."""
    ways: tuple[Way, ...] = ("companion", "fingerprints", "delta", "follow")
    return min(ways, key=lambda way: cost(way, demand, source, runs_per_start=runs_per_start).alone_s)


def factor(demand: Demand, fingerprints_s: float) -> float:
    """How many times as long as the measured machine a source takes, by what all fingerprints took it."""
    known = SourceCosts()
    return fingerprints_s / max(1e-9, known.row_hashed * demand.rows + known.group * demand.buckets)


def _changed(changes: float, demand: Demand, source: SourceCosts) -> Cost:
    """Changes that come by name: two updates each."""
    size = demand.row_bytes + ROW_BYTES
    at_source = 2 * source.update * changes
    return Cost(at_source, CHANGE_S * changes, REDIS_PUT_S * changes, 2 * size * changes, size * changes)


def _mended(changes: float, demand: Demand, source: SourceCosts) -> Cost:
    """Changes of which only the buckets are known: all rows of those are read, at both ends."""
    buckets = demand.buckets / demand.shards
    dirty = buckets * -math.expm1(-changes / buckets)
    rows = dirty * demand.rows / demand.buckets
    size = demand.row_bytes + ROW_BYTES
    # Every shard scans all names.
    names = demand.rows if demand.deleted else 0
    return Cost(
        source.row_filtered * demand.rows + source.row_read * rows,
        ROW_COMPARED_S * rows + RECORD_S * min(dirty, buckets / REWRITE_FRACTION) + NAME_S * names,
        REDIS_GET_S * rows + REDIS_PUT_S * changes + REDIS_NAME_S * names,
        size * rows,
        size * (rows + changes) + 2 * RECORD_BYTES * dirty + demand.row_bytes / 4 * names,
    )
