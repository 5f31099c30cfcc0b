"""Forgetting a view: what would go, somebody's yes, and then it goes."""

from __future__ import annotations

from collections.abc import Callable

from reconcile.config.settings import Settings
from reconcile.stop import Stop
from reconcile.target import dropping
from reconcile.target.dropping import Dropped

__all__ = ["Dropped", "forget", "look"]


def forget(settings: Settings, view: str, stop: Stop, *, keys: bool, confirm: Callable[[Dropped], None]) -> Dropped:
    """Drop a view's state and claim and, with `keys`, the keys in its range. confirm: called with what would go, and
    raises where that is not wanted. Raises UsageError for a view nobody knows, LeaseHeld, Incomplete."""
    confirm(look(settings, view, stop, keys=keys))
    return dropping.drop(settings.redis, view, stop, keys=keys, lease_s=settings.limits.lease_s)


def look(settings: Settings, view: str, stop: Stop, *, keys: bool) -> Dropped:
    """What `forget` would drop; nothing is written."""
    return dropping.look(settings.redis, view, stop, keys=keys)
