"""Doctor's estimate of whether Redis has room for what the next run would write."""

from __future__ import annotations

from reconcile.config.settings import ViewSettings
from reconcile.core.cost import RECORDS_BYTES
from reconcile.core.state import State
from reconcile.inspect.findings import Findings
from reconcile.source import query
from reconcile.source.query import Mapping
from reconcile.source.session import Session
from reconcile.target.port import Target
from reconcile.texts import plural

KEY_OVERHEAD_BYTES = 72
"""Memory of a string of some hundred bytes beyond key and value (measured: Redis 7 and Valkey 9, MEMORY USAGE plus its
share of the table).
"""
HASH_FACTOR = 5
"""Cost of a hash relative to a string."""


def check_memory(
    session: Session,
    mapping: Mapping,
    target: Target,
    view: ViewSettings,
    rows: int,
    state: State | None,
    findings: Findings,
) -> None:
    """Check for room. rows: of the view now; only those not in Redis yet need any."""
    counters = target.counters()
    if not counters.max_bytes or counters.used_bytes is None:
        findings.ok("memory", "maxmemory is off or unknown: the host's memory is the limit")
        return
    more = max(0, rows - (state.keys if state is not None else 0))
    per_row = _bytes_per_row(session, mapping, view)
    needed, free = round(more * per_row), counters.max_bytes - counters.used_bytes
    estimate = f"{plural(more, 'row')} to load × {per_row:,.0f} bytes = {_size(needed)}"
    if needed <= free:
        findings.ok("memory", f"{estimate}, {_size(max(0, free))} free below maxmemory")
        return
    findings.warn(
        "memory",
        f"{estimate}, and only {_size(max(0, free))} are free below maxmemory ({_size(counters.max_bytes)}): "
        "Redis will refuse writes, or evict",
        f"CONFIG SET maxmemory {_rounded(counters.max_bytes + needed - free)}\n# in redis.conf too, or a larger server",
    )


def _bytes_per_row(session: Session, mapping: Mapping, view: ViewSettings) -> float:
    ((found,),) = session.fetch(query.mean_bytes(mapping))
    mean = float(found or 0)
    prefix = len(mapping.key.prefix.encode())
    plain = mean + prefix + KEY_OVERHEAD_BYTES
    return plain * (HASH_FACTOR if view.layout == "hash" else 1) + RECORDS_BYTES / 16


def _size(count: int) -> str:
    for unit, size in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,} bytes"


def _rounded(count: int) -> str:
    """Return the size plus a tenth, in whole megabytes, as CONFIG SET takes it."""
    return f"{-(-count * 11 // 10 >> 20) + 1}mb"
