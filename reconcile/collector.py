"""Python's cyclic collector, which here looks in vain: what a start imports stays, and rows are not cyclic."""

from __future__ import annotations

import gc

COLLECT_AFTER = 50_000
"""New container objects between two passes; Python's default is 700."""


def calm() -> None:
    """Run the collector less often: by default it takes a tenth of a load's CPU, and some of a start's (measured)."""
    gc.set_threshold(COLLECT_AFTER, 20, 50)


def leave_out() -> None:
    """Keep all that there is now out of later passes. The interpreter ends with some of its own: 10 ms and more."""
    gc.freeze()
