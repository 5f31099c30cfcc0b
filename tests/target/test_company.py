"""Writes are large while Redis serves nobody who would notice. A run that loads is nobody, a reader is somebody."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from msgspec.structs import replace

from reconcile.core.framing import with_expiry
from reconcile.core.state import Pending, State
from reconcile.stop import Stop
from reconcile.target import lease
from reconcile.target.port import Target, Write
from reconcile.target.throttle import MOST_PIECES
from tests.support.framed import framed
from tests.support.meanwhile import beside
from tests.target.place import LIMITS, VIEW, Place

VALUES = {"string": b"v", "expiring": with_expiry(b"v", 9_000_000_000_000), "hash": framed([b"v"])}
LONGEST_S = 30.0


@contextlib.contextmanager
def run_of(place: Place, name: str, layout: str) -> Iterator[Target]:
    """A run's target for one of several views, about to load."""
    changed = {"layout": "hash"} if layout == "hash" else {"expires_at": "t"} if layout == "expiring" else {}
    view = replace(VIEW, name=name, key_prefix=f"{name}:", **changed)
    with Place(place.kind, place.settings, place.server, place.nodes, view).target() as target:
        target.use_columns(["a"])
        target.throttle(LIMITS, Stop())
        target.acquire(30, owner=lease.new_owner(), reset=False)
        yield target


def load(target: Target, name: str, layout: str, over: Callable[[], bool]) -> None:
    """Write new rows without a pause."""
    deadline = time.monotonic() + LONGEST_S
    numbers = itertools.count()
    mark: State | None = State(pending=Pending("snapshot", 1))
    while not over() and time.monotonic() < deadline:
        keys = [b"%b:%d" % (name.encode(), next(numbers)) for _ in range(min(200, target.piece_keys()))]
        target.send(Write(puts=dict.fromkeys(keys, VALUES[layout]), only_new=True, state=mark))
        mark = None
    target.settle()


def largest(target: Target) -> int:
    """What a write may have while nobody else is there: more than this makes no sense."""
    with_all = target._layout.piece_keys * MOST_PIECES * max(1, len(target._nodes.opened()))  # type: ignore[attr-defined]
    return min(with_all, target.batch_keys)


@pytest.mark.parametrize("layout", VALUES)
def test_another_load_is_not_spared(layout: str, place: Place) -> None:
    """Shards of one view, and views that load at the same time."""
    with run_of(place, "one", layout) as one, run_of(place, "two", layout) as two:
        reached = {"one": False, "two": False}

        def both(name: str, target: Target) -> bool:
            reached[name] = reached[name] or target.piece_keys() == largest(target)
            return all(reached.values())

        with beside(lambda over: load(two, "two", layout, lambda: over.is_set() or both("two", two))):
            load(one, "one", layout, lambda: both("one", one))
        assert reached == {"one": True, "two": True}


@pytest.mark.parametrize(
    "command", [("GET", "k"), ("HMGET", "k", "f"), ("HGETALL", "k"), ("LRANGE", "k", 0, -1)], ids=str
)
def test_a_reader_is_spared(command: Sequence[str | int], place: Place) -> None:
    """Whatever it reads, and on whichever node of a cluster. It reads every 5 ms."""

    reading = threading.Event()

    def read(over: threading.Event) -> None:
        client = place.client(b"k")
        while not over.wait(0.005):
            client.execute_command(*command)
            reading.set()

    with beside(read), run_of(place, "one", "string") as one:
        assert reading.wait(LONGEST_S)
        until = time.monotonic() + 1.5
        # Longer where the reader, or we, got no time for a second.
        load(one, "one", "string", lambda: time.monotonic() > until and one.piece_keys() < largest(one))
        assert one.piece_keys() < largest(one)
