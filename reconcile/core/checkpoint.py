"""Derive a view's next state from its previous one. Checkpoints are made nowhere else."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from reconcile.core import digest, guard, pending
from reconcile.core.decide import succession
from reconcile.core.records import total_text
from reconcile.core.state import Identity, State


class Content(Struct, frozen=True):
    """Content of Redis at the next commit.

    total: added-up digest over the manifest. surplus: bucket → digest of keys that wait for consent. surplus_names:
    some of their names.
    """

    buckets: int
    total: int
    identity: Identity
    surplus: Mapping[int, int]
    surplus_names: tuple[bytes, ...]
    fingerprint_salt: str
    companion: str


def marked(base: State, event: pending.Event, until: int, now_ms: int) -> State:
    """Return the state for a larger change in progress; the content is the same."""
    return replace(base, pending=pending.after(base, event, until), updated_at_ms=now_ms)


def reached(base: State, as_of: int, content: Content, now_ms: int) -> State:
    """Return the state for Redis holding the view's content at as_of."""
    return _with(base, content, now_ms, as_of=as_of, event="complete", until=as_of)


def partly(base: State, event: pending.Event, until: int, content: Content, now_ms: int, deleted: int) -> State:
    """Return the state for a snapshot of which some buckets are done, and the next run does the others, or all but for
    withheld deletes. The checkpoint stays, with its source and number of keys. By these the guard judges until another
    is reached: that the source was replaced is true of every run until then. The mapping is that of the manifest.

    deleted: keys that have gone since the checkpoint.
    """
    new = _with(base, content, now_ms, as_of=base.as_of, event=event, until=until, deleted=deleted)
    if base.as_of is None or base.identity is None or new.identity is None:
        return new
    identity = Identity(base.identity.source, new.identity.mapping)
    return replace(new, identity=identity, earlier=base.earlier, keys=base.keys)


def _with(
    base: State,
    content: Content,
    now_ms: int,
    *,
    as_of: int | None,
    event: pending.Event,
    until: int,
    deleted: int | None = None,
) -> State:
    keys = digest.count(content.total)
    return replace(
        base,
        as_of=as_of,
        identity=content.identity,
        earlier=succession(base, content.identity, now_ms),
        buckets=content.buckets,
        keys=keys,
        digest=total_text(content.total),
        surplus=digest.count(sum(content.surplus.values())),
        surplus_names=content.surplus_names,
        pending=pending.after(base, event, until, deleted),
        fingerprint_salt=content.fingerprint_salt,
        companion=content.companion,
        peak=guard.seen(base.peak, keys, now_ms),
        updated_at_ms=now_ms,
    )
