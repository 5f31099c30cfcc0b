"""Redis against the views, by plain SQL and none of the product's code."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.faults.chaos.views import Content, View
from tests.faults.chaos.worlds import World
from tests.support.redis_state import Entry

OWN = b"reconcile:{"
SHOWN = 10


@dataclass(frozen=True)
class Difference:
    """What a view's range has, seen from Redis."""

    missing: frozenset[bytes]
    stale: frozenset[bytes]
    extra: frozenset[bytes]

    def __bool__(self) -> bool:
        return bool(self.missing or self.stale or self.extra)

    @property
    def counts(self) -> tuple[int, int, int]:
        return len(self.missing), len(self.stale), len(self.extra)

    def __str__(self) -> str:
        parts = {"missing": self.missing, "stale": self.stale, "extra": self.extra}
        return "; ".join(f"{len(keys)} {name}: {sorted(keys)[:SHOWN]}" for name, keys in parts.items() if keys)


def compare(world: World) -> dict[str, Difference]:
    """Each view by its name."""
    held = world.look()
    return {view.name: _differences(world, view, held, view.wanted(world.execute)) for view in world.views}


def check_cut(world: World) -> None:
    """What a reader may rely on, whatever runs do meanwhile: on one server, while nothing is pending, a view's keys are
    exactly its content at the checkpoint. Where that can be known: nobody else has written, and the source still knows.
    """
    if world.place.is_cluster or world.sharded or world.tampered or world.bereft or world.remade:
        return
    for view in world.views:
        held = world.look()
        state = _state(view, held)
        if view.expires or not state.get("as_of") or state["pending"] or state.get("surplus", "0") != "0":
            continue
        with contextlib.suppress(psycopg.Error):  # history is lost
            wanted = view.wanted(world.execute, int(state["as_of"]))
            wrong = _differences(world, view, held, wanted)
            assert not wrong, f"{view.name} is not what it was at {state['as_of']}: {wrong}"


def _state(view: View, held: dict[bytes, Entry]) -> dict[str, str]:
    tag = f"{view.namespace}.{view.name}" if view.namespace else view.name
    pairs, _ = held.get(f"reconcile:{{{tag}}}:state".encode(), ([], -1))
    texts = [part.decode() for part in pairs]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def check_timestamp_keys(world: World) -> None:
    """They hold the frontier: the checkpoint and one."""
    held = world.look()
    for view in world.views:
        if view.timestamp_key is not None:
            frontier = str(int(_state(view, held)["as_of"]) + 1).encode()
            assert held.get(view.timestamp_key.encode()) == (frontier, -1), view.name


def _differences(world: World, view: View, held: dict[bytes, Entry], wanted: Content) -> Difference:
    there = {key: held[key] for key in held if _covers(world, view, key)}
    stale = {key for key in wanted.keys() & there.keys() if not _equal(view, there[key], wanted[key])}
    return Difference(
        frozenset(wanted.keys() - there.keys()), frozenset(stale), frozenset(there.keys() - wanted.keys())
    )


def _equal(view: View, held: Entry, wanted: tuple[Any, int | None]) -> bool:
    """An expiry that others have set on rows that do not expire is no drift (doctor finds it) until it takes effect."""
    (value, expires_ms), (row, until_ms) = held, wanted
    return view.read(value) == row and (not view.expires or expires_ms == (-1 if until_ms is None else until_ms))


def _covers(world: World, view: View, key: bytes) -> bool:
    """Whether a key that is there is this view's, by the documented rules."""
    if key.startswith(OWN) or key in world.outside or key in _timestamp_keys(world):
        return False
    if view.prefix or view.ownership == "dedicated":
        return key.startswith(view.prefix.encode())
    others = [other.prefix.encode() for other in world.views if other is not view]
    return key not in world.foreign and not key.startswith(tuple(others))


def _timestamp_keys(world: World) -> set[bytes]:
    return {view.timestamp_key.encode() for view in world.views if view.timestamp_key is not None}


def check_outside(world: World) -> None:
    """The keys of others, which no view covers, are as they were."""
    held = world.look()
    kept = world.outside | {key: value for key, value in world.foreign.items() if not _is_covered(world, key)}
    wrong = {key for key, value in kept.items() if held.get(key) != (value, -1)}
    assert not wrong, f"keys of others were touched: {sorted(wrong)}"


def _is_covered(world: World, key: bytes) -> bool:
    prefixes = [view.prefix for view in world.views if view.ownership != "remembered"]
    return any(key.startswith(prefix.encode()) for prefix in prefixes)
