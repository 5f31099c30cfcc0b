"""Pacing of writes: a rate that holds, and a back-off that follows Redis' own latency."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reconcile.target.commands import MSET_PAIRS
from reconcile.target.company import Calls, Company
from reconcile.target.layouts.string import Strings
from reconcile.target.throttle import COUNT_EVERY_S, COUNT_LASTS_S, LONGEST_PAUSE_S, MOST_PIECES, Throttle


class World:
    """A clock that only waiting moves, and a Redis whose answers take as long as said, which serves others or not."""

    def __init__(self) -> None:
        self.now = 0.0
        self.latency_s = 0.001
        self.pings = 0
        self.others_per_s: float | None = 500.0
        self.executed = 0.0

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.executed += seconds * (self.others_per_s or 0)

    def ping(self) -> float:
        self.pings += 1
        self.wait(self.latency_s)
        return self.latency_s

    def ask(self) -> Callable[[], Calls | None]:
        asked = None if self.others_per_s is None else {"GET": int(self.executed)}
        return lambda: asked

    def throttle(self, rate: int | None, latency_max_s: float | None) -> Throttle:
        return Throttle(rate, latency_max_s, self.ping, Company(self.ask, frozenset), self.wait, self.clock)


def test_the_rate_holds_over_any_number_of_writes() -> None:
    """A hundred writes of 50 keys at 1,000 keys a second take five seconds, the last one's own time aside."""
    world = World()
    throttle = world.throttle(1_000, None)
    for _ in range(101):
        throttle.before(50)
    assert 4.9 < world.now < 5.1
    assert world.pings == 0


def test_a_redis_that_answers_as_ever_is_not_waited_for() -> None:
    """However far away it is: the round trip itself is no overload."""
    world = World()
    world.latency_s = 0.08
    throttle = world.throttle(None, 0.005)
    for _ in range(10):
        throttle.before(4_000)
    assert world.now < 10 * 0.08 + 0.01


def test_a_slow_redis_is_given_ever_longer_pauses_and_forgiven() -> None:
    """Pauses double up to a second while it is slow, and are gone soon after it recovers."""
    world = World()
    throttle = world.throttle(None, 0.005)
    throttle.before(4_000)
    world.latency_s = 0.05
    pauses = []
    for _ in range(12):
        before = world.now
        throttle.before(4_000)
        pauses.append(round(world.now - before - world.latency_s, 6))
    assert pauses == sorted(pauses)
    assert abs(pauses[-1] - LONGEST_PAUSE_S) < 0.001
    world.latency_s = 0.001
    before = world.now
    throttle.before(4_000)
    assert world.now - before < 0.002


def test_small_writes_are_not_measured() -> None:
    """A commit of a few keys costs no round trip more."""
    world = World()
    throttle = world.throttle(None, 0.005)
    throttle.before(10)
    assert world.pings == 0


def test_many_small_writes_without_a_rest_are_measured() -> None:
    """A load in small pieces hurts others as much as one in large transactions."""
    world = World()
    throttle = world.throttle(None, 0.005)
    for _ in range(160):
        throttle.before(250)
    assert world.pings == 10


def test_small_writes_with_a_rest_between_are_not_measured() -> None:
    """As when a view is followed."""
    world = World()
    throttle = world.throttle(None, 0.005)
    for _ in range(160):
        throttle.before(250)
        world.wait(1)
    assert world.pings == 0


@pytest.mark.parametrize(("latency_s", "pieces"), [(0.0001, 1), (0.0002, 2), (0.0031, 41), (0.08, MOST_PIECES)])
def test_the_further_away_the_larger_the_writes(latency_s: float, pieces: int) -> None:
    """Other clients wait for a round trip anyway."""
    world = World()
    world.latency_s = latency_s
    throttle = world.throttle(None, 0.005)
    assert throttle.pieces() == 1, "not known yet"
    throttle.before(4_000)
    assert throttle.pieces() == pieces


def write_for(world: World, throttle: Throttle, seconds: float) -> None:
    """Write 4,000 keys every 10 ms."""
    for _ in range(round(seconds * 100)):
        throttle.pieces()
        throttle.before(4_000)
        world.wait(0.01 - world.latency_s)


@pytest.mark.parametrize(
    ("others_per_s", "pieces"),
    [
        pytest.param(0, MOST_PIECES, id="alone"),
        pytest.param(1, MOST_PIECES, id="health checks"),
        pytest.param(10, 13, id="a client that asks now and then"),
        pytest.param(5_000, 13, id="many"),
        pytest.param(None, 13, id="INFO is refused"),
        pytest.param(-100, 13, id="a count that goes back"),
    ],
)
def test_only_others_are_spared(others_per_s: float | None, pieces: int) -> None:
    """Writes are large while Redis serves nobody else."""
    world = World()
    world.others_per_s = others_per_s
    throttle = world.throttle(None, 0.005)
    write_for(world, throttle, 3)
    assert throttle.pieces() == pieces


def alone() -> tuple[World, Throttle]:
    """A throttle that knows that Redis serves nobody else."""
    world = World()
    world.others_per_s = 0
    throttle = world.throttle(None, 0.005)
    write_for(world, throttle, 1)
    assert throttle.pieces() == MOST_PIECES
    return world, throttle


def test_others_that_come_and_go_are_noticed() -> None:
    """Who comes is noticed at once; who goes is gone a second later, however many they were."""
    world, throttle = alone()
    world.others_per_s = 100_000
    write_for(world, throttle, 2 * COUNT_EVERY_S)
    assert throttle.pieces() == 13
    world.others_per_s = 0
    write_for(world, throttle, COUNT_LASTS_S + 2 * COUNT_EVERY_S)
    assert throttle.pieces() == MOST_PIECES


def test_what_was_known_is_soon_out_of_date() -> None:
    """After a pause in which nobody looked, others may be there."""
    world, throttle = alone()
    world.others_per_s = 10
    world.wait(2 * COUNT_LASTS_S)
    assert throttle.pieces() == 13


def test_what_was_seen_when_the_run_began_counts() -> None:
    """The source takes its time before the first row: the first write can know already."""
    world = World()
    world.executed, world.others_per_s = 1e9, 0
    throttle = world.throttle(None, 0.005)
    throttle.begin()
    assert throttle.pieces() == 1, "not known yet"
    world.wait(COUNT_EVERY_S)
    assert throttle.pieces() == MOST_PIECES


def test_the_first_look_tells_nothing() -> None:
    """It has nothing to be compared with: it says neither that others are there nor that they are not."""
    world = World()
    world.executed, world.others_per_s = 1e9, 0
    throttle = world.throttle(None, 0.005)
    world.wait(COUNT_EVERY_S)
    assert throttle.pieces() == 1
    world.wait(COUNT_EVERY_S)
    assert throttle.pieces() == MOST_PIECES


def test_with_the_throttle_off_nobody_is_spared() -> None:
    """Then the writes are as large as is quickest."""
    assert World().throttle(None, None).pieces() == MOST_PIECES


def test_the_largest_write_of_strings_is_one_command() -> None:
    """So a load's write that meets a key has written nothing."""
    assert MOST_PIECES * Strings.piece_keys <= MSET_PAIRS
