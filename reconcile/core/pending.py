"""All transitions of `pending`, in one place: what a view's state says while Redis is between two times.

    None ──begin load, snapshot──▶ snapshot ──complete──▶ None     withheld ──begin snapshot──▶ snapshot
    None ──begin delta───────────▶ delta    ──complete──▶ None     any ──lose──▶ snapshot (in doubt)
                                   snapshot ──withhold──▶ withheld

A delta that was cut short is repeated, exactly, or replaced by a snapshot. A snapshot that was cut short goes on at its
own, later time. `clean` says that what is left over in a touched bucket can only be the view's own: a load began into
nothing, or a change began from a complete content of the same mapping. Once lost, it stays lost until a snapshot is
complete.
"""

from __future__ import annotations

from typing import Literal

from reconcile.core.state import Pending, PendingKind, State

Event = Literal["begin load", "begin snapshot", "begin delta", "begin anew", "complete", "withhold", "lose"]
"""begin anew: a snapshot of another mapping, or on top of keys that nobody knows; lose: Redis lost part of a write."""

_KINDS: dict[Event, PendingKind] = {
    "begin load": "snapshot",
    "begin snapshot": "snapshot",
    "begin delta": "delta",
    "begin anew": "snapshot",
    "withhold": "withheld",
    "lose": "snapshot",
}


def after(state: State | None, event: Event, until: int) -> Pending | None:
    """The mark after an event. until: the time that is being brought about, or was."""
    if event == "complete":
        return None
    return Pending(_KINDS[event], until, clean=event == "begin load" or _stays_clean(state, event))


def _stays_clean(state: State | None, event: Event) -> bool:
    if state is None or event not in ("begin snapshot", "begin delta"):
        return False
    if state.pending is None or state.pending.kind == "withheld":  # a withheld delete is explained by the manifest
        return state.as_of is not None
    return state.pending.clean


def began_clean(state: State | None) -> bool:
    """Whether an unfinished change began clean, so that leftovers in its buckets are the view's own."""
    return state is not None and state.pending is not None and state.pending.kind != "withheld" and state.pending.clean


def in_doubt(state: State | None) -> bool:
    """Whether Redis may hold keys that neither the manifest nor the source tells of: all names have to be looked at in
    the buckets that are not done."""
    return (
        state is not None and state.pending is not None and state.pending.kind == "snapshot" and not state.pending.clean
    )
