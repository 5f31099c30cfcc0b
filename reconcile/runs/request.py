"""What one invocation is asked to do, whoever asks: the command line, a function adapter, a test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["run", "snapshot", "delta", "verify"]
IfLeased = Literal["skip", "wait", "fail"]


@dataclass(frozen=True, slots=True)
class Request:
    """One invocation. Options that do not belong to `mode` are ignored by it; the CLI refuses them."""

    mode: Mode
    views: tuple[str, ...] = ()
    """Names of the views to work on; empty: all of the configuration."""
    follow_s: float | None = None
    """run, delta: follow the source for this many seconds."""
    until_current: bool = False
    """delta: stop once caught up with the present."""
    as_of: str = "now"
    """snapshot: now | milliseconds | RFC 3339 | -5m."""
    deep: bool = False
    """snapshot: compare every row with Redis."""
    fast: bool = False
    """verify: fingerprints and manifest only, no rows."""
    subset: str | None = None
    """verify: 'i/n' or 'next'."""
    dry_run: bool = False
    allow_deletes: bool = False
    """Carry out deletes that the guard would withhold."""
    adopt: bool = False
    """Without prefix and `dedicated`: take over existing keys of the view that nobody remembers as ours."""
    reset_state: bool = False
    """snapshot: forget what is stored about earlier runs (corrupt, or written by a newer format)."""
    if_leased: IfLeased = "skip"
    show_values: bool = False
    """verify: row values in the report."""
    max_report: int = 20
    """verify: at most this many keys named."""
