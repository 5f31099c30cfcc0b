"""Forgetting a view: its state, its claim and, if asked, its keys. The view need not be in any configuration."""

from __future__ import annotations

from msgspec import Struct

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
from reconcile.texts import plural

MAX_NAMED = 20


class Dropped(Struct, frozen=True):
    """What was, or would be, forgotten. keys: how many were deleted; None: keys stay."""

    range: Range
    keys: int | None

    def __str__(self) -> str:
        """For people, to follow the word 'forget'."""
        if self.keys is None:
            return f"its state and its claim to {self.range}; its keys stay"
        return f"its state, its claim to {self.range} and {plural(self.keys, 'key')}"


def preview(settings: RedisSettings, view: str, stop: Stop, *, keys: bool) -> Dropped:
    """Return what `drop` would forget; writes nothing. Raises UsageError for an unknown view, Incomplete."""
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
    """Take the lease, so that no run writes any more; then delete the keys, the state and, last, the claim.

    If it is cut short the claim is still there, and it can be repeated. Raises UsageError for an unknown view,
    LeaseHeld, Incomplete.
    """
    names = Names(view, settings.namespace)
    nodes = opening.open_nodes(settings, stop)
    try:
        claims = Claims(nodes)
        owned = _range_of(claims, names)
        deleted = _forget(settings, names, claims, owned, stop, keys=keys, lease_s=lease_s)
    finally:
        for wire in nodes.opened():
            wire.close()
    return Dropped(owned, deleted if keys else None)


def _range_of(claims: Claims, names: Names) -> Range:
    known = claims.read()
    if names.tag not in known:
        others = f"those that have: {', '.join(sorted(known)[:MAX_NAMED])}" if known else "nor has any other view"
        raise UsageError(f"view {names.tag} has no claim and no state in this database; {others}")
    return known[names.tag]


def _forget(
    settings: RedisSettings, names: Names, claims: Claims, owned: Range, stop: Stop, *, keys: bool, lease_s: float
) -> int:
    target = opening.make_target(settings, names, owned, Strings(), stop)
    owner = lease.new_owner()
    try:
        try:
            target.acquire(lease_s, owner=owner, reset=False, divide=True)  # no shards, so one state to forget
        except StateError:
            target.acquire(lease_s, owner=owner, reset=True, divide=True)
        with (
            LeaseKeeper(lambda: opening.open_nodes(settings, Stop())) as keeper,
            target.kept_alive(keeper, owner, lease_s),
        ):
            deleted = _delete(target, stop) if keys else 0
            target.forget(keys=keys)
            claims.release(names, owner)  # under the lease: a run that takes it next finds out (Target.has_claim)
    finally:
        target.release(owner)
        target.close()
    return deleted


def _delete(target: Target, stop: Stop) -> int:
    """Delete the view's keys; returns how many."""
    # Neither readers, nor a run after a crash, may take what is left for the whole view.
    target.commit(Write(state=State(pending=Pending("snapshot", 0), claim=target.range.encode())))
    deleted = 0
    for page in target.names():
        stop.check()
        target.send(Write(deletes=page))
        deleted += len(page)
    target.settle()
    return deleted
