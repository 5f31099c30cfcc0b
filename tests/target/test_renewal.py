"""Leases stay alive while their runs work, and end with them."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from reconcile.errors import LeaseHeld, Unavailable
from reconcile.stop import Stop
from reconcile.target import opening, renewal
from reconcile.target.names import Names
from reconcile.target.nodes import Nodes
from reconcile.target.renewal import LeaseKeeper
from tests.support.meanwhile import eventually
from tests.target.place import Place

LEASE_S = 0.3


def keeper_of(place: Place) -> LeaseKeeper:
    return LeaseKeeper(lambda: opening.open_nodes(place.settings, Stop()))


def test_many_leases_by_one_thread(place: Place) -> None:
    """Each outlives its own length; what was kept no longer and given back stays given back."""
    with contextlib.ExitStack() as inside:
        keeper = inside.enter_context(keeper_of(place))
        targets = [inside.enter_context(place.target(name=f"view {n}")) for n in range(20)]
        with contextlib.ExitStack() as working:
            for target in targets:
                target.acquire(LEASE_S, owner=b"me", reset=False)
                working.enter_context(target.kept_alive(keeper, b"me", LEASE_S))
            assert sum(thread.name == "reconcile-lease" for thread in threading.enumerate()) == 1
            time.sleep(4 * LEASE_S)
            eventually(lambda: all(target.holder() for target in targets))  # one may expire, and is taken again
        for target in targets:
            target.release(b"me")
        time.sleep(2 * LEASE_S)
        assert place.keys(b"*:lease") == set()


def test_a_lease_that_expired_is_taken_again_one_that_was_taken_is_not(place: Place) -> None:
    """While the token is still ours; another's lease is left alone."""
    with (
        place.armed(LEASE_S) as target,
        keeper_of(place) as keeper,
        target.kept_alive(keeper, b"me", LEASE_S),
    ):
        place.do("DEL", place.own("lease"))
        eventually(lambda: place.do("GET", place.own("lease")) == b"me")
        place.do("SET", place.own("lease"), "other", "PX", 60_000)
        time.sleep(2 * LEASE_S)
        assert place.do("GET", place.own("lease")) == b"other"


def test_the_lease_of_a_run_that_was_overtaken_is_not_taken_again(place: Place) -> None:
    """Though it is free: its token is not the state's any more."""
    with (
        place.armed(LEASE_S) as target,
        keeper_of(place) as keeper,
        target.kept_alive(keeper, b"me", LEASE_S),
    ):
        overtake(place)
        time.sleep(2 * LEASE_S)
        assert place.do("EXISTS", place.own("lease")) == 0


def overtake(place: Place) -> None:
    """Another run takes the lease, and gives it back. The keeper may have been quicker: then it tries again."""
    with place.target() as other:
        while True:
            place.do("DEL", place.own("lease"))
            with contextlib.suppress(LeaseHeld):
                other.acquire(30, owner=b"other", reset=False)
                other.release(b"other")
                return


def test_a_connection_that_is_cut_is_no_failure(place: Place) -> None:
    """The fence keeps runs apart, not the lease; the next round connects again."""
    with place.armed(LEASE_S) as target, keeper_of(place) as keeper:
        owner = place.do("GET", place.own("lease"))
        with target.kept_alive(keeper, owner, LEASE_S):
            time.sleep(LEASE_S)
            keeper._sever()
            time.sleep(3 * LEASE_S)
            eventually(lambda: target.holder() is not None)


def test_nobody_waits_for_a_keeper_that_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    """That may take as long as the timeout, touches no lease, and each of a hundred views would wait for it."""
    connecting, over, removed = threading.Event(), threading.Event(), threading.Event()

    def connect() -> Nodes:
        connecting.set()
        over.wait()
        raise Unavailable("silent")

    monkeypatch.setattr(renewal, "HANDOVER_S", 3600.0)
    keeper = LeaseKeeper(connect)
    renewed = keeper.add(Names("v"), b"me", 1, LEASE_S)
    assert connecting.wait(60)

    def remove() -> None:
        keeper.remove(renewed)
        removed.set()

    threading.Thread(target=remove, daemon=True).start()
    assert removed.wait(20)
    over.set()
    keeper.close()
