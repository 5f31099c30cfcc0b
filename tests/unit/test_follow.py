"""The loop that follows views: what a pass does, and what it leaves alone. The views are sockets that count."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from reconcile.runs import follow
from reconcile.runs.follow import Loop

PATIENCE_S = 60.0


class Followed:
    """Takes a byte a turn; "e" is the end, "x" an error."""

    def __init__(self, moment: float | None = None) -> None:
        self.here, self.there = socket.socketpair()
        self.here.setblocking(False)
        self.until = SimpleNamespace(moment=moment)
        self.subscription = SimpleNamespace(has_more=False)
        self.turns: list[bool] = []

    def fileno(self) -> int:
        return self.here.fileno()

    def step(self, *, idle: bool) -> bool:
        self.turns.append(idle)
        try:
            byte = self.here.recv(1)
        except BlockingIOError:
            byte = b""
        if byte == b"x":
            raise RuntimeError
        return byte == b"e" or (self.until.moment is not None and time.monotonic() >= self.until.moment)


@pytest.fixture
def make() -> Iterator[Callable[..., Any]]:
    made: list[Followed] = []

    def one(*arguments: Any) -> Followed:
        made.append(Followed(*arguments))
        return made[-1]

    yield one
    for followed in made:
        followed.here.close()
        followed.there.close()


def settled(loop: Loop, *followed: Any) -> None:
    """Add views, and let the first pass over them be done."""
    for one in followed:
        loop.add(one)
    assert loop.step(0) == []
    for one in followed:
        one.turns.clear()


def test_a_pass_serves_those_to_whom_something_came_and_nobody_else(make: Callable[..., Any]) -> None:
    """A pass costs what came, however many views are followed."""
    loop, views = Loop(), [make() for _ in range(100)]
    settled(loop, *views)
    for _ in range(20):
        views[7].there.send(b"-")
        loop.step()
    assert views[7].turns.count(False) >= 20
    served = [one for one in views if False in one.turns]  # a look at the clock is another turn
    assert served == [views[7]]
    loop.close()


def test_all_are_looked_at_in_time_however_busy_one_of_them_is(make: Callable[..., Any]) -> None:
    """A busy view does not keep the clocks of the others from being checked."""
    loop, views = Loop(), [make() for _ in range(30)]
    settled(loop, *views)
    until = time.monotonic() + PATIENCE_S
    while not all(True in one.turns for one in views):
        assert time.monotonic() < until
        views[0].there.send(b"-")
        loop.step()
    loop.close()


def test_what_was_left_behind_is_taken_without_waiting(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that has been read says nothing of what the library still holds."""
    monkeypatch.setattr(follow, "LOOK_EVERY_S", PATIENCE_S)
    loop, view = Loop(), make()
    settled(loop, view)
    view.subscription.has_more = True
    view.there.send(b"-")
    loop.step()
    began = time.monotonic()
    loop.step(PATIENCE_S)
    assert time.monotonic() - began < PATIENCE_S / 2
    assert len(view.turns) == 2
    loop.close()


def test_a_view_leaves_at_its_end_at_its_moment_or_with_its_error(make: Callable[..., Any]) -> None:
    """The loop hands back a view with what ended it, and keeps the others."""
    loop = Loop()
    ending, failing, staying = make(), make(), make()
    timed = make(time.monotonic() + 0.05)
    for one in (ending, failing, staying, timed):
        loop.add(one)
    ending.there.send(b"e")
    failing.there.send(b"x")
    left: dict[Any, Exception | None] = {}
    until = time.monotonic() + PATIENCE_S
    while len(left) < 3 and time.monotonic() < until:
        left |= {one.follower: one.error for one in loop.step()}
    assert left.keys() == {ending, failing, timed}
    assert isinstance(left[failing], RuntimeError)
    assert left[ending] is left[timed] is None
    assert len(loop) == 1
    loop.close()


def test_idle_moments_go_round_and_take_a_twentieth(make: Callable[..., Any]) -> None:
    """Every view gets its idle moment in turn, and all together no more than their share."""
    used: list[Any] = []

    def idle(follower: Any) -> None:
        used.append(follower)
        time.sleep(0.002)

    loop, views = Loop(idle), [make() for _ in range(5)]
    settled(loop, *views)
    used.clear()
    began = time.monotonic()
    while len(used) < 10 and time.monotonic() < began + PATIENCE_S:
        loop.step()
    assert time.monotonic() - began >= 9 * 20 * 0.002
    assert set(used[:5]) == set(views)
    loop.close()
