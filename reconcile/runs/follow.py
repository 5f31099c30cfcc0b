"""Follow views in one thread with one selector, however many there are.

A view that ends, or cannot go on by itself (history lost, doubt, an error), leaves the loop with the reason.
"""

from __future__ import annotations

import math
import selectors
import time
from collections.abc import Callable

from msgspec import Struct

from reconcile.core import schedule
from reconcile.runs.delta import Follower

LOOK_EVERY_S = 0.2
"""How often each view's clock and signals are checked, whether anything arrives or not."""
LOOKS_S = 0.002
"""Time limit for such looks in a row, as changes may be waiting."""


class Left(Struct, frozen=True):
    """A view that is no longer followed. error: None if it has come to its end."""

    follower: Follower
    error: Exception | None


class Loop:
    """The followed views. The cost of a pass depends on what arrived, not on the number of views.

    idle: called for one view after another after its look, for at most a twentieth of the time.
    """

    def __init__(self, idle: Callable[[Follower], None] = lambda follower: None) -> None:
        self._selector = selectors.DefaultSelector()
        self._numbers: dict[Follower, int] = {}
        """Follower → its socket's number, as the socket may be closed by the time it leaves."""
        self._looks: dict[Follower, float] = {}
        """When each is due for a look, the first one first."""
        self._busy: dict[Follower, None] = {}
        """Those whose last poll left data behind."""
        self._idle = idle
        self._idling: dict[Follower, None] = {}
        """Those that wait for an idle moment; the one that has waited longest is first."""
        self._idle_at = 0.0

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, follower: Follower) -> None:
        """Follow a view."""
        number = follower.fileno()
        self._selector.register(number, selectors.EVENT_READ, follower)
        self._numbers[follower] = number
        self._busy[follower] = None  # more may have come with the answer to SUBSCRIBE than was read
        self._line_up(follower)

    def remove(self, follower: Follower) -> None:
        """Stop following a view."""
        self._selector.unregister(self._numbers.pop(follower))
        for kept in (self._looks, self._busy, self._idling):
            kept.pop(follower, None)

    def step(self, timeout_s: float = LOOK_EVERY_S) -> list[Left]:
        """Wait for data, serve the views that received some, and return those that left."""
        wait_s = 0.0 if self._busy else max(0.0, min(timeout_s, self._next_look() - time.monotonic()))
        came = dict.fromkeys([*self._busy, *(key.data for key, _ in self._selector.select(wait_s))])
        gone = [self._served(follower, lambda follower: follower.step(idle=False)) for follower in came]
        until = time.monotonic() + LOOKS_S
        while self._looks and self._next_look() <= time.monotonic() < until:
            gone.append(self._served(next(iter(self._looks)), self._look))
        while self._idling and self._idle_at <= time.monotonic():
            gone.append(self._served(next(iter(self._idling)), self._use_idle_moment))
        return [left for left in gone if left is not None]

    def close(self) -> None:
        """Stop following all views."""
        self._selector.close()

    def _next_look(self) -> float:
        return next(iter(self._looks.values()), math.inf)

    def _line_up(self, follower: Follower) -> None:
        moment = follower.until.moment
        look_at = time.monotonic() + LOOK_EVERY_S
        self._looks.pop(follower, None)
        self._looks[follower] = look_at if moment is None else min(look_at, moment)

    def _served(self, follower: Follower, serve: Callable[[Follower], bool]) -> Left | None:
        """Serve a view; serve returns whether it has come to its end."""
        error = None
        try:
            ended = serve(follower)
        except Exception as failure:  # of this view alone: the others go on
            error, ended = failure, True
        if ended:
            self.remove(follower)
            return Left(follower, error)
        if follower.subscription.has_more:
            self._busy[follower] = None
        else:
            self._busy.pop(follower, None)
        return None

    def _look(self, follower: Follower) -> bool:
        self._line_up(follower)
        self._idling[follower] = None
        return follower.step(idle=True)

    def _use_idle_moment(self, follower: Follower) -> bool:
        del self._idling[follower]
        began = time.monotonic()
        self._idle(follower)
        ended = time.monotonic()
        self._idle_at = ended + schedule.SHARE * (ended - began)
        return False


def follow(follower: Follower) -> None:
    """Follow a single view to its end. Raises whatever ends it earlier."""
    loop = Loop()
    loop.add(follower)
    try:
        while not (left := loop.step()):
            pass
    finally:
        loop.close()
    if left[0].error is not None:
        raise left[0].error
