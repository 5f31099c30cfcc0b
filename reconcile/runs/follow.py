"""Follow views in one thread with one selector, however many there are.

A view that ends, or cannot go on by itself (history lost, doubt, an error), leaves the loop with the reason.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass

from reconcile.runs.delta import Follower

LOOK_EVERY_S = 0.2
"""How long the loop may wait before it checks clocks and signals."""


@dataclass(frozen=True, slots=True)
class Left:
    """A view that is no longer followed. error: None if it has come to its end."""

    follower: Follower
    error: Exception | None


class Loop:
    """The followed views. idle: called for a view that had nothing to do in a pass."""

    def __init__(self, idle: Callable[[Follower], None] = lambda follower: None) -> None:
        self._selector = selectors.DefaultSelector()
        self._followers: dict[Follower, int] = {}
        """Follower → its socket's number, as the socket may be closed by the time it leaves."""
        self._idle = idle

    def __len__(self) -> int:
        return len(self._followers)

    def add(self, follower: Follower) -> None:
        """Follow a view."""
        number = follower.fileno()
        self._selector.register(number, selectors.EVENT_READ, follower)
        self._followers[follower] = number

    def remove(self, follower: Follower) -> None:
        """Stop following a view."""
        self._selector.unregister(self._followers.pop(follower))

    def turn(self, timeout_s: float = LOOK_EVERY_S) -> list[Left]:
        """Wait for data, serve the views it came for, and return those that left."""
        busy = [follower for follower in self._followers if follower.subscription.has_more]
        ready = {key.data for key, _ in self._selector.select(0 if busy else timeout_s)}
        left = []
        for follower in list(self._followers):
            came = follower in ready or follower in busy
            if (gone := self._serve(follower, came=came)) is not None:
                self.remove(follower)
                left.append(gone)
        return left

    def close(self) -> None:
        """Stop following all views."""
        self._selector.close()

    def _serve(self, follower: Follower, *, came: bool) -> Left | None:
        try:
            follower.turn()
            if follower.ended:
                return Left(follower, None)
            if not came:
                self._idle(follower)
        except Exception as error:  # of this view alone: the others go on
            return Left(follower, error)
        return None


def follow(follower: Follower) -> None:
    """Follow a single view to its end. Raises whatever ends it earlier."""
    loop = Loop()
    loop.add(follower)
    try:
        while not (left := loop.turn(_patience_s(follower))):
            pass
    finally:
        loop.close()
    if left[0].error is not None:
        raise left[0].error


def _patience_s(follower: Follower) -> float:
    moment = follower.until.moment
    return LOOK_EVERY_S if moment is None else min(LOOK_EVERY_S, max(0.0, moment - time.monotonic()))
