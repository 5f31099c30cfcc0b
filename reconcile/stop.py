"""One way to end a run, taken by a deadline, a signal and a platform's time limit alike.

    running ──(deadline passes, or request())──▶ stopping ──GRACE_S──▶ severed

Stopping: loops see `requested` and stop at a committed time; statements under way at the source are cancelled.
Severed: sockets still blocked on a dead network are shut, so that nothing outlives the deadline by much.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from msgspec import Struct

from reconcile.errors import Incomplete

GRACE_S = 5.0
_LOOK_EVERY_S = 0.25

_T = TypeVar("_T")


class _Watch(Struct, eq=False):
    stop: Stop
    cancel: Callable[[], None] | None
    sever: Callable[[], None]
    expires_at: Callable[[], float | None] | None
    stay: Callable[[], None] | None
    cancelled: bool = False
    severed: bool = False


class _Attempt(Generic[_T]):
    """A call running in another thread."""

    def __init__(self, call: Callable[[], _T], discard: Callable[[_T], None]) -> None:
        self._call = call
        self._discard = discard
        self._lock = threading.Lock()
        self._abandoned = False
        self._results: list[_T] = []
        self._error: BaseException | None = None
        self.done = threading.Event()

    def make(self) -> None:
        """Make the call. Runs in the other thread."""
        try:
            result = self._call()
        except BaseException as error:  # raised by the thread that waits
            self._error = error
            self.done.set()
            return
        with self._lock:
            if not self._abandoned:
                self._results.append(result)
                self.done.set()
                return
        with contextlib.suppress(Exception):  # nobody waits for the error any more
            self._discard(result)

    def abandon(self) -> bool:
        """Stop waiting for the result. Return False if it has already arrived."""
        with self._lock:
            self._abandoned = not self.done.is_set()
            return self._abandoned

    def result(self) -> _T:
        """Return what the call returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._results[0]


class Stop:
    """Decides when a run ends. Safe to use from any thread and from signal handlers.

    deadline_s: seconds from now until the run ends by itself; None: never.
    """

    def __init__(self, deadline_s: float | None = None) -> None:
        self._deadline = None if deadline_s is None else time.monotonic() + deadline_s
        self._share: float | None = None
        """Monotonic time at which this piece of work yields to others."""
        self._parts: list[Stop] = []
        self._root: Stop = self
        """The Stop whose thread calls the watches."""
        self._reason: str | None = None
        self._requested_at: float | None = None
        # Held until the end is requested. Not an Event: a signal handler may interrupt the thread inside
        # set(), which holds a lock, and would then wait for that lock for ever.
        self._latch = threading.Lock()
        self._latch.acquire()
        self._watches: list[_Watch] = []
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def request(self, reason: str) -> None:
        """End the run soon. The first reason given is kept."""
        if self._reason is None:
            self._reason = reason
            self._requested_at = time.monotonic()
        with contextlib.suppress(RuntimeError):
            self._latch.release()
        for part in tuple(self._parts):
            part.request(reason)

    def part(self) -> Stop:
        """Return a Stop for one piece of the work, which ends with this one or earlier (see `share`)."""
        part = Stop()
        part._deadline, part._root = self._deadline, self._root
        self._parts.append(part)
        if self._reason is not None:  # the signal may have come just before
            part.request(self._reason)
        return part

    def share(self, seconds: float | None) -> None:
        """Yield to waiting views after this many seconds; None: no view is waiting. A share that is over stays over."""
        if self._share is None or time.monotonic() < self._share:
            self._share = None if seconds is None else time.monotonic() + seconds

    @property
    def share_over(self) -> bool:
        """Whether this ends only to yield to waiting views."""
        now = time.monotonic()
        over = self._share is not None and now >= self._share
        return over and self._reason is None and (self._deadline is None or now < self._deadline)

    @property
    def _ends_at(self) -> float | None:
        return min((at for at in (self._deadline, self._share) if at is not None), default=None)

    @property
    def requested(self) -> bool:
        """Whether the run should end now."""
        ends_at = self._ends_at
        return self._reason is not None or (ends_at is not None and time.monotonic() >= ends_at)

    @property
    def reason(self) -> str:
        """The reason given to request(), else 'deadline' or 'share'."""
        return self._reason or ("share" if self.share_over else "deadline")

    def remaining_s(self) -> float | None:
        """Return seconds until the deadline (0 when stopping); None without one."""
        if self._reason is not None:
            return 0.0
        ends_at = self._ends_at
        return None if ends_at is None else max(0.0, ends_at - time.monotonic())

    def check(self) -> None:
        """Raise Incomplete once the run should end."""
        if self.requested:
            raise Incomplete(f"stopped before the work was done ({self.reason}); what was committed stays")

    def wait(self, seconds: float) -> None:
        """Sleep for at most this long, less if the run should end."""
        remaining = self.remaining_s()
        self._pause(seconds if remaining is None else min(seconds, remaining))

    def _pause(self, seconds: float) -> None:
        if self._latch.acquire(timeout=max(0.0, seconds)):
            with contextlib.suppress(RuntimeError):
                self._latch.release()  # for the next one who waits

    def abandonable(self, call: Callable[[], _T], discard: Callable[[_T], None], limit_s: float | None = None) -> _T:
        """Return the result of a call that cannot be interrupted (name lookup, connect), made in another thread.

        Raises Incomplete if the run should end first, TimeoutError after limit_s. A result that arrives later is passed
        to `discard` in that thread.
        """
        attempt = _Attempt(call, discard)
        threading.Thread(target=attempt.make, name="reconcile-attempt", daemon=True).start()
        until = math.inf if limit_s is None else time.monotonic() + limit_s
        while not attempt.done.wait(max(0.0, min(_LOOK_EVERY_S, until - time.monotonic()))):
            if (self.requested or time.monotonic() >= until) and attempt.abandon():
                self.check()
                raise TimeoutError
        return attempt.result()

    @contextlib.contextmanager
    def watch(
        self,
        *,
        cancel: Callable[[], None] | None,
        sever: Callable[[], None],
        expires_at: Callable[[], float | None] | None = None,
        stay: Callable[[], None] | None = None,
    ) -> Iterator[None]:
        """Inside the block, call `cancel` when the run should end and `sever` GRACE_S later.

        expires_at: monotonic time after which `sever` is called in any case (the peer has been silent for too long).
        stay: called at every look until then, so that the peer does not hang up on somebody who waits for another.
        The callbacks run in another thread and must not raise; `stay` must not wait either.
        """
        entry = _Watch(self, cancel, sever, expires_at, stay)
        root = self._root
        with root._lock:
            root._watches.append(entry)
            if root._thread is None:
                root._thread = threading.Thread(target=root._look, name="reconcile-stop", daemon=True)
                root._thread.start()
        try:
            yield
        finally:
            with root._lock:
                root._watches.remove(entry)

    def _look(self) -> None:
        while True:
            with self._lock:
                if not self._watches:
                    self._thread = None
                    return
                watches = list(self._watches)
            now = time.monotonic()
            for entry in watches:
                self._act(entry, now, entry.stop._stopping_since(now))
            if self._stopping_since(now) is not None:
                time.sleep(_LOOK_EVERY_S)
                continue
            ends = {one._ends_at for one in (self, *(entry.stop for entry in watches))}
            soon = [at - now for at in ends if at is not None and at > now]
            self._pause(min([_LOOK_EVERY_S, *soon]))

    def _stopping_since(self, now: float) -> float | None:
        times = [t for t in (self._requested_at, self._ends_at) if t is not None and t <= now]
        return min(times, default=None)

    @staticmethod
    def _act(entry: _Watch, now: float, stopping_since: float | None) -> None:
        expires_at = entry.expires_at() if entry.expires_at is not None else None
        overdue = expires_at is not None and now >= expires_at
        if stopping_since is not None and entry.cancel is not None and not entry.cancelled:
            entry.cancelled = True
            # In a thread of its own: a cancel request through a black hole must not keep others waiting.
            threading.Thread(target=entry.cancel, name="reconcile-cancel", daemon=True).start()
        if not entry.severed and (overdue or (stopping_since is not None and now >= stopping_since + GRACE_S)):
            entry.severed = True
            entry.sever()
        if entry.stay is not None and stopping_since is None:
            entry.stay()
