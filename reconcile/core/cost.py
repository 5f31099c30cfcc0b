"""A model of what a run costs: CPU seconds of Materialize, of the run and of Redis, and bytes sent. Pure.

docs/scale.md explains the model and its coefficients, and how well they predict measurements. The source's coefficients
were measured on one slow machine; `scaled` converts them to another, by one figure measured there.
"""

from __future__ import annotations

import math
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from reconcile.core.records import REWRITE_FRACTION

Way = Literal["fingerprints", "companion", "delta", "follow"]
"""How a run learns what changed: one GROUP BY, the companion view, a SUBSCRIBE per run, or one long SUBSCRIBE."""


class SourceCosts(Struct, frozen=True):
    """CPU seconds that Materialize takes, each per row, group or update."""

    row_read: float = 9.3e-6
    """Send a row."""
    row_filtered: float = 1.0e-6
    """Check a row against a byte mask."""
    row_hashed: float = 3.9e-6
    """Add a row to its group."""
    group: float = 50e-6
    """Make a group of a GROUP BY."""
    companion_row: float = 3.7e-6
    """Read a bucket from the companion view."""
    row_subscribed: float = 1.7e-6
    """Start a SUBSCRIBE, per row of the view, whatever it sends later."""
    update: float = 5e-6
    """Send an update of a SUBSCRIBE."""

    def scaled(self, factor: float) -> SourceCosts:
        """Return the costs of a server that takes `factor` times as long."""
        return replace(self, **{name: getattr(self, name) * factor for name in self.__struct_fields__})


# CPU seconds of the run.
START_S = 0.15
"""A whole process that finds nothing to do."""
BUCKET_S = 1.0e-6
"""Read and compare a fingerprint."""
ROW_LOADED_S = 1.25e-6
ROW_COMPARED_S = 1.9e-6
"""Read a row of a dirty bucket, look it up in Redis and compare it."""
CHANGE_S = 3.2e-6
"""Change a key by delta: two updates and a put."""
RECORD_S = 5e-6
"""Read and write the records of one bucket."""
NAME_S = 0.18e-6
"""Take a name from a scan."""

# CPU seconds of Redis.
REDIS_PUT_S = 1.5e-6
REDIS_GET_S = 1.0e-6
REDIS_NAME_S = 0.5e-6

ROW_BYTES = 15
"""Sent with each row from the source, beside its key and value."""
GROUP_BYTES = 45
"""Sent for each bucket's fingerprint from the source."""
RECORDS_BYTES = 24
"""A bucket's records of manifest and fingerprint, as stored in Redis."""


class Demand(Struct, frozen=True):
    """The work of a run. row_bytes: mean size of key and value. updated, deleted: keys since the last run. shards: how
    many runs share the view."""

    rows: int
    buckets: int
    row_bytes: float = 120.0
    updated: float = 0.0
    deleted: float = 0.0
    shards: int = 1


class Cost(Struct, frozen=True):
    """The cost of one run of one shard: CPU seconds, bytes from the source, bytes to and from Redis."""

    source_s: float
    client_s: float
    redis_s: float
    source_bytes: float
    redis_bytes: float

    @property
    def total_s(self) -> float:
        """CPU seconds of all three: how long the run takes if nothing overlaps."""
        return self.source_s + self.client_s + self.redis_s

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))


def cost(way: Way, demand: Demand, source: SourceCosts, *, runs_per_start: float = 1.0) -> Cost:
    """Return the cost of bringing Redis from one checkpoint to the next.

    runs_per_start: for `follow`, how many checkpoints one subscription serves.
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
        # To find a shard's rows, the source looks at all of them.
        others = 0.0 if demand.shards == 1 else source.row_filtered * demand.rows
        at_source = source.row_hashed * own_rows + source.group * buckets + others
    learnt = Cost(at_source, START_S + BUCKET_S * buckets, 0.0, GROUP_BYTES * buckets, 8 * buckets)
    return learnt + _repaired(changes, demand, source) if changes else learnt


def load_cost(demand: Demand, source: SourceCosts) -> Cost:
    """Return the cost of the first load, with fingerprints by GROUP BY."""
    rows = demand.rows / demand.shards
    sent = Cost(
        source.row_read * rows,
        ROW_LOADED_S * rows,
        REDIS_PUT_S * rows,
        (demand.row_bytes + ROW_BYTES) * rows,
        (demand.row_bytes + ROW_BYTES) * rows,
    )
    return sent + cost("fingerprints", demand, source)


def factor(demand: Demand, fingerprints_s: float) -> float:
    """Return the factor for `scaled`. fingerprints_s: seconds that all fingerprints took on the source at hand."""
    known = SourceCosts()
    return fingerprints_s / max(1e-9, known.row_hashed * demand.rows + known.group * demand.buckets)


def _changed(changes: float, demand: Demand, source: SourceCosts) -> Cost:
    """Return the cost of changes whose keys are known: two updates each."""
    size = demand.row_bytes + ROW_BYTES
    at_source = 2 * source.update * changes
    return Cost(at_source, CHANGE_S * changes, REDIS_PUT_S * changes, 2 * size * changes, size * changes)


def _repaired(changes: float, demand: Demand, source: SourceCosts) -> Cost:
    """Return the cost of changes of which only the buckets are known: all rows in them are read, from both sides."""
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
        size * (rows + changes) + 2 * RECORDS_BYTES * dirty + demand.row_bytes / 4 * names,
    )
