"""Ending a run: deadline, request and severing take one path, and nothing is left running."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from reconcile import stop as stops
from reconcile.errors import ExitCode, Incomplete
from reconcile.stop import Stop

SOON_S = 60.0
"""How long to wait for what should happen at once: a loaded machine is slow, a failure is a failure."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grace and looks short enough for tests."""
    monkeypatch.setattr(stops, "GRACE_S", 0.15)
    monkeypatch.setattr(stops, "_LOOK_EVERY_S", 0.02)


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SOON_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "reconcile-stop"]


class Watched:
    """Notes when it was cancelled and severed."""

    def __init__(self) -> None:
        self.cancelled_at: list[float] = []
        self.severed_at: list[float] = []

    def cancel(self) -> None:
        self.cancelled_at.append(time.monotonic())

    def sever(self) -> None:
        self.severed_at.append(time.monotonic())


def test_without_deadline_nothing_ends() -> None:
    """A run without limits goes on until it is done."""
    stop = Stop()
    assert not stop.requested
    assert stop.remaining_s() is None
    stop.check()


def test_the_deadline_ends_the_run() -> None:
    """Then check() raises Incomplete, exit 4, and says why."""
    early = Stop(600)
    remaining = early.remaining_s()
    assert remaining is not None
    assert 0 < remaining <= 600
    early.check()
    stop = Stop(0.03)
    assert eventually(lambda: stop.requested)
    assert (stop.reason, stop.remaining_s()) == ("deadline", 0.0)
    with pytest.raises(Incomplete, match=r"\(deadline\); what was committed stays") as caught:
        stop.check()
    assert caught.value.exit_code == ExitCode.INCOMPLETE


def test_a_request_ends_the_run_and_its_first_reason_is_kept() -> None:
    """SIGTERM before the deadline; a second signal does not change the story."""
    stop = Stop(60)
    stop.request("SIGTERM")
    stop.request("SIGINT")
    assert stop.requested
    assert (stop.reason, stop.remaining_s()) == ("SIGTERM", 0.0)
    with pytest.raises(Incomplete, match="SIGTERM"):
        stop.check()


def test_a_deadline_that_has_passed_already() -> None:
    """A platform that gives no time at all: the run ends before it begins."""
    assert Stop(0).requested
    assert Stop(-5).remaining_s() == 0.0


def test_waiting_ends_with_the_run() -> None:
    """A wait is as long as asked, or until the deadline, or until another thread requests the end."""
    long_s = 4 * SOON_S
    started = time.monotonic()
    Stop().wait(0.03)
    assert time.monotonic() - started >= 0.03
    started = time.monotonic()
    Stop(0.03).wait(long_s)
    assert time.monotonic() - started < SOON_S
    stop = Stop()
    threading.Timer(0.03, stop.request, ["SIGTERM"]).start()
    started = time.monotonic()
    stop.wait(long_s)
    assert time.monotonic() - started < SOON_S
    stop.wait(long_s)
    assert time.monotonic() - started < SOON_S


def test_every_waiter_is_woken() -> None:
    """Several threads wait at once (reader, lease renewal): a request ends all their waits."""
    stop = Stop()
    waiting = [threading.Thread(target=stop.wait, args=(4 * SOON_S,)) for _ in range(5)]
    for thread in waiting:
        thread.start()
    stop.request("SIGTERM")
    for thread in waiting:
        thread.join(SOON_S)
    assert not any(thread.is_alive() for thread in waiting)


SIGNALS = """
import signal, time
from reconcile.stop import Stop
reached = 0
def end(number, frame):
    current.request("SIGTERM")
signal.signal(signal.SIGALRM, end)
until = time.monotonic() + 2.0
while time.monotonic() < until:
    current = Stop()
    signal.setitimer(signal.ITIMER_REAL, 0.00002)
    while not current.requested:
        current.wait(0.000001)
print("done")
"""


def test_a_signal_may_come_at_any_instruction_of_a_wait() -> None:
    """A handler that requests the end while the same thread is inside wait() must not lock up with it."""
    result = subprocess.run([sys.executable, "-c", SIGNALS], capture_output=True, text=True, timeout=30, check=False)
    assert (result.stdout, result.stderr) == ("done\n", "")


@pytest.mark.parametrize("by_deadline", [True, False])
def test_stopping_cancels_first_and_severs_after_the_grace(by_deadline: bool) -> None:
    """Deadline or request: cancel once and before the grace is over, sever once and GRACE_S later."""
    began = time.monotonic()
    stop, watched = Stop(0.05 if by_deadline else None), Watched()
    with stop.watch(cancel=watched.cancel, sever=watched.sever):
        if not by_deadline:
            stop.request("SIGTERM")
        assert eventually(lambda: len(watched.severed_at) == 1)
        assert eventually(lambda: len(watched.cancelled_at) == 1)
        time.sleep(0.1)
    assert (len(watched.cancelled_at), len(watched.severed_at)) == (1, 1)
    assert watched.severed_at[0] - began >= stops.GRACE_S + (0.05 if by_deadline else 0)


def test_what_ends_within_the_grace_is_not_severed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that was cancelled returns at once; its connection is still of use to give the lease back."""
    monkeypatch.setattr(stops, "GRACE_S", 4 * SOON_S)
    stop, watched, other = Stop(), Watched(), Watched()
    looks: list[None] = []
    with stop.watch(cancel=other.cancel, sever=other.sever, expires_at=lambda: looks.append(None)):
        with stop.watch(cancel=watched.cancel, sever=watched.sever):
            stop.request("SIGTERM")
            assert eventually(lambda: len(watched.cancelled_at) == 1)
        seen = len(looks)
        assert eventually(lambda: len(looks) > seen + 1)  # none is under way that began inside
        monkeypatch.setattr(stops, "GRACE_S", 0.0)  # it is over
        assert eventually(lambda: len(other.severed_at) == 1)
    assert watched.severed_at == []


def test_a_watch_without_cancel_is_only_severed() -> None:
    """Redis knows no cancel: its sockets are shut after the grace."""
    stop, watched = Stop(0), Watched()
    with stop.watch(cancel=None, sever=watched.sever):
        assert eventually(lambda: len(watched.severed_at) == 1)


def test_a_watch_begun_while_stopping_gets_the_same_treatment() -> None:
    """Work begun after the end was requested is cancelled and, if it hangs, severed."""
    stop, watched = Stop(), Watched()
    stop.request("SIGTERM")
    time.sleep(0.2)
    with stop.watch(cancel=watched.cancel, sever=watched.sever):
        assert eventually(lambda: bool(watched.cancelled_at and watched.severed_at))


def test_a_silent_peer_is_severed_though_the_run_goes_on() -> None:
    """expires_at is asked anew at each look: a peer that is heard again and again lives, a silent one does not."""
    stop, heard, silent = Stop(), Watched(), Watched()
    limit = time.monotonic() + 0.1
    with (
        stop.watch(cancel=heard.cancel, sever=heard.sever, expires_at=lambda: time.monotonic() + 0.1),
        stop.watch(cancel=silent.cancel, sever=silent.sever, expires_at=lambda: limit),
    ):
        assert eventually(lambda: len(silent.severed_at) == 1)
        assert silent.severed_at[0] >= limit
    assert (heard.severed_at, heard.cancelled_at, silent.cancelled_at) == ([], [], [])


def test_a_cancel_that_hangs_keeps_nobody_waiting() -> None:
    """A cancel request through a black hole: the other watches are still cancelled, and all are severed."""
    stop, released, other = Stop(), threading.Event(), Watched()
    severed = threading.Event()

    def hang() -> None:
        released.wait(SOON_S)

    with (
        stop.watch(cancel=hang, sever=severed.set),
        stop.watch(cancel=other.cancel, sever=other.sever),
    ):
        stop.request("SIGTERM")
        assert eventually(lambda: bool(other.cancelled_at))
        assert severed.wait(SOON_S)
    released.set()


def test_the_thread_ends_when_nothing_is_watched() -> None:
    """A library call leaves no thread behind; a later watch starts another."""
    stop, watched = Stop(), Watched()
    assert eventually(lambda: threads() == [])
    for _ in range(2):
        with stop.watch(cancel=watched.cancel, sever=watched.sever):
            with stop.watch(cancel=None, sever=watched.sever):
                assert threads() == ["reconcile-stop"]
            assert threads() == ["reconcile-stop"]
        assert eventually(lambda: threads() == [])


def test_the_thread_ends_after_a_stop_too() -> None:
    """Also when the run was ended by a request."""
    stop, watched = Stop(), Watched()
    with stop.watch(cancel=watched.cancel, sever=watched.sever):
        stop.request("SIGTERM")
    assert eventually(lambda: threads() == [])


def test_an_error_inside_ends_the_watch() -> None:
    """The watch is over when its block is left, however that happens."""
    stop, watched = Stop(), Watched()
    with pytest.raises(KeyError), stop.watch(cancel=watched.cancel, sever=watched.sever):
        raise KeyError
    stop.request("SIGTERM")
    time.sleep(0.25)
    assert (watched.cancelled_at, watched.severed_at) == ([], [])
