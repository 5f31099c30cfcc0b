"""`pending`: how a view's state says that Redis is between two times. All of its transitions are here.

    None ──begin load, snapshot──▶ snapshot ──complete──▶ None     withheld ──begin snapshot──▶ snapshot
    None ──begin delta───────────▶ delta    ──complete──▶ None     any ──lose──▶ snapshot (in doubt)
                                   snapshot ──withhold──▶ withheld

A delta that was cut short is repeated exactly, or replaced by a snapshot. A snapshot that was cut short is continued at
a later time. `clean` says that leftover keys in a touched bucket can only be the view's own: a load began with no such
keys in Redis, or a change began from complete content of the same mapping. Once lost, `clean` comes back only with a
complete snapshot.
"""

from __future__ import annotations

from typing import Literal

from reconcile.core.state import Pending, PendingKind, State

Event = Literal["begin load", "begin snapshot", "begin delta", "begin anew", "complete", "withhold", "lose"]
"""begin anew: a snapshot of another mapping, or over keys of unknown origin; lose: Redis lost part of a write, or
the fingerprints."""

_KINDS: dict[Event, PendingKind] = {
    "begin load": "snapshot",
    "begin snapshot": "snapshot",
    "begin delta": "delta",
    "begin anew": "snapshot",
    "withhold": "withheld",
    "lose": "snapshot",
}


def after(state: State | None, event: Event, until: int, deleted: int | None = None) -> Pending | None:
    """Return the mark after an event. until: the time that the change brings Redis to. deleted: keys that have gone
    since the checkpoint, if not as many as before."""
    if event == "complete":
        return None
    clean = event == "begin load" or _stays_clean(state, event)
    anew = event == "begin anew" or _stays_anew(state, event)
    return Pending(_KINDS[event], until, clean, anew, deleted_by(state) if deleted is None else deleted)


def _stays_clean(state: State | None, event: Event) -> bool:
    if state is None or event not in ("begin snapshot", "begin delta"):
        return False
    if state.pending is None or state.pending.kind == "withheld":  # a withheld delete is explained by the manifest
        return state.as_of is not None
    return state.pending.clean


def _stays_anew(state: State | None, event: Event) -> bool:
    """Whether keys that are equal have still to be put: until a snapshot has come to its end, consent aside."""
    return began_anew(state) and event not in ("begin load", "withhold")


def began_anew(state: State | None) -> bool:
    """Whether an unfinished change began anew, so that equal keys that it has not come to may have an expiry."""
    return state is not None and state.pending is not None and state.pending.anew


def began_clean(state: State | None) -> bool:
    """Whether an unfinished change began clean, so that leftovers in its buckets are the view's own. Withheld
    deletes are no such change: their mark is never clean."""
    return state is not None and state.pending is not None and state.pending.clean


def deleted_by(state: State | None) -> int:
    """Return how many keys an unfinished change has deleted."""
    return 0 if state is None or state.pending is None else state.pending.deleted


def in_doubt(state: State | None) -> bool:
    """Whether Redis may hold keys that neither manifest nor source knows, so that all names in unfinished buckets have
    to be checked."""
    return (
        state is not None and state.pending is not None and state.pending.kind == "snapshot" and not state.pending.clean
    )
