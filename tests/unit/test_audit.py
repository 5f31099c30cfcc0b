"""What an audit says beside the drift."""

from __future__ import annotations

import pytest

from reconcile.report.audit import (
    MAX_SLICES,
    Coverage,
    HeatMap,
    PastAudit,
    SliceCompared,
    past_audit,
)


@pytest.mark.parametrize("buckets", [1, 16, 1024, 131_072])
def test_a_cell_is_a_slice(buckets: int) -> None:
    """A cell holds the buckets that --subset of its number looks at, and there are never more cells than is bounded."""
    heat = HeatMap()
    for bucket in range(buckets):
        heat.note(bucket, buckets, 2 if bucket % 3 == 0 else 0)
    assert heat.slices == min(buckets, MAX_SLICES)
    for cell, keys in heat.drift.items():
        assert keys == sum(2 if b % 3 == 0 else 1 for b in range(cell, buckets, heat.slices))


def test_coverage_knows_what_waits() -> None:
    """Whoever was never compared waits longest."""
    coverage = Coverage(2, [SliceCompared(1, 500, "verify")])
    assert (coverage.never, coverage.oldest_ms) == (1, None)
    coverage.compared.append(SliceCompared(0, 400, "compare"))
    assert (coverage.never, coverage.oldest_ms) == (0, 400)


@pytest.mark.parametrize("stored", [None, 3, "x", [], {}, {"at_ms": "soon"}, {"verdict": "in sync"}])
def test_what_is_no_audit(stored: object) -> None:
    """Others can write to Redis too."""
    assert past_audit(stored) is None


def test_what_verify_remembers_is_a_past_audit() -> None:
    """The object that lies in Redis is read back whole; a field of another type is not believed."""
    stored = {"at_ms": 5, "verdict": "drift", "as_of": 4, "fast": True, "subset": "3/24", "drift": 9}
    assert past_audit(stored) == PastAudit(5, "drift", 4, True, "3/24", 9)
    assert past_audit(stored | {"drift": "many", "as_of": []}) == PastAudit(5, "drift", None, True, "3/24", 0)
