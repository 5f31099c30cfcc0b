"""Forgetting a view: its state, its claim and, if wanted, its keys. Also for views that no configuration names."""

from __future__ import annotations

import dataclasses

from reconcile.config.settings import RedisSettings
from reconcile.core.ownership import Range
from reconcile.core.state import Pending, State
from reconcile.errors import StateError, UsageError
from reconcile.stop import Stop
from reconcile.target import lease, opening
from reconcile.target.claims import Claims
from reconcile.target.layouts.string import Strings
from reconcile.target.names import Names
from reconcile.target.port import Target, Write
from reconcile.target.renewal import LeaseKeeper

MAX_NAMED = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Dropped:
    """What was forgotten. keys: how many were deleted; None: they were left where they are."""

    range: Range
    keys: int | None

    @property
    def told(self) -> str:
        """A phrase for people, to follow 'forget'."""
        keys = "its keys stay" if self.keys is None else f"deletes its {self.keys} keys"
        return f"its state and its claim to {self.range}; {keys}"


def look(settings: RedisSettings, view: str, stop: Stop, *, keys: bool) -> Dropped:
    """What `drop` would forget; nothing is written. Raises UsageError for a view nobody knows, Incomplete."""
    names = Names(view, settings.namespace)
    nodes = opening.open_nodes(settings, stop)
    try:
        owned = _range_of(Claims(nodes), names)
    finally:
        for wire in nodes.opened():
            wire.close()
    if not keys:
        return Dropped(owned, None)
    target = opening.make_target(settings, names, owned, Strings(), stop)
    try:
        found = 0
        for page in target.names():
            stop.check()
            found += len(page)
    finally:
        target.close()
    return Dropped(owned, found)


def drop(settings: RedisSettings, view: str, stop: Stop, *, keys: bool, lease_s: float) -> Dropped:
    """Take the lease, so that no run writes any more; delete keys, then the state, the claim last.

    Cut short, it leaves the claim, and can be said again. Raises UsageError for a view nobody knows, LeaseHeld,
    Incomplete.
    """
    names = Names(view, settings.namespace)
    nodes = opening.open_nodes(settings, stop)
    try:
        claims = Claims(nodes)
        owned = _range_of(claims, names)
        deleted = _forget(settings, names, owned, stop, keys=keys, lease_s=lease_s)
        claims.release(names)
    finally:
        for wire in nodes.opened():
            wire.close()
    return Dropped(owned, deleted if keys else None)


def _range_of(claims: Claims, names: Names) -> Range:
    known = claims.read()
    if names.tag not in known:
        told = f"known are: {', '.join(sorted(known)[:MAX_NAMED])}" if known else "none is known in this database"
        raise UsageError(f"no view called {names.view} has a claim or a state here; {told}", hint="reconcile status")
    return known[names.tag]


def _forget(settings: RedisSettings, names: Names, owned: Range, stop: Stop, *, keys: bool, lease_s: float) -> int:
    target = opening.make_target(settings, names, owned, Strings(), stop)
    owner = lease.new_owner()
    try:
        try:
            target.acquire(lease_s, owner=owner, reset=False, divide=True)  # whole again: one state is left to forget
        except StateError:
            target.acquire(lease_s, owner=owner, reset=True, divide=True)
        with (
            LeaseKeeper(lambda: opening.open_nodes(settings, Stop())) as keeper,
            target.kept_alive(keeper, owner, lease_s),
        ):
            deleted = _delete(target, stop) if keys else 0
            target.forget(keys=keys)
    finally:
        target.release(owner)
        target.close()
    return deleted


def _delete(target: Target, stop: Stop) -> int:
    """Delete the view's keys; how many."""
    # Whoever reads, and a run after a crash, must not take what is left for the view.
    target.commit(Write(state=State(pending=Pending("snapshot", 0), claim=target.range.encode())))
    deleted = 0
    for page in target.names():
        stop.check()
        target.send(Write(deletes=page))
        deleted += len(page)
    target.settle()
    return deleted
