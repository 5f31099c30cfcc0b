"""Forget a view: show what would be deleted, ask for confirmation, delete."""

from __future__ import annotations

from collections.abc import Callable

from reconcile.config.settings import Settings
from reconcile.stop import Stop
from reconcile.target import dropping
from reconcile.target.dropping import Dropped

__all__ = ["Dropped", "forget", "preview"]


def forget(settings: Settings, view: str, stop: Stop, *, keys: bool, confirm: Callable[[Dropped], None]) -> Dropped:
    """Drop a view's state and claim and, with `keys`, the keys in its range.

    confirm: called with what would be deleted; raises to prevent it. Raises UsageError for an unknown view, LeaseHeld,
    Incomplete.
    """
    confirm(preview(settings, view, stop, keys=keys))
    return dropping.drop(settings.redis, view, stop, keys=keys, lease_s=settings.limits.lease_s)


def preview(settings: Settings, view: str, stop: Stop, *, keys: bool) -> Dropped:
    """Return what `forget` would drop; writes nothing."""
    return dropping.preview(settings.redis, view, stop, keys=keys)
