"""Several views in one process: workers bring them to the present, then one thread follows all of them.

    waiting ──▶ with a worker ──▶ followed ──▶ with a worker ──▶ done
       ▲              │ its share of the time is over, or        │
       └──────────────┴ Materialize takes no more connections ◀──┘ (another view's turn)

The view with the oldest state goes first. While others wait, no view gets more than its share of the time.
"""

from __future__ import annotations

import os
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from reconcile.config.settings import Settings
from reconcile.errors import ReconcileError
from reconcile.runs.connections import Connections
from reconcile.runs.delta import Follower
from reconcile.runs.follow import LOOK_EVERY_S, Loop
from reconcile.runs.task import Task
from reconcile.stop import Stop
from reconcile.target.opening import last_written, open_nodes
from reconcile.target.renewal import LeaseKeeper

BUSY_LOOK_S = 0.02
"""How long the loop waits for changes while workers may hand over a view."""
LEAST_SHARE_S = 1.0
FOLLOWED_S = 2.0
"""How long a view is followed before another one gets its connection, if there are too few connections."""


def work_on(tasks: list[Task], settings: Settings, stop: Stop) -> None:
    """Work on all views until each is done or its time is over. The outcome is in their reports."""
    jobs = min(len(tasks), settings.limits.jobs or os.cpu_count() or 1)
    with (
        Connections(settings) as connections,
        LeaseKeeper(lambda: open_nodes(settings.redis, Stop())) as keeper,
        _Workers(jobs, inline=len(tasks) == 1) as workers,
    ):
        scheduled = _Scheduled(workers, jobs, keeper, connections)
        try:
            for task in _oldest_first(tasks, settings, connections, stop):
                scheduled.submit(task)
            scheduled.run()
        finally:
            scheduled.close()
            for task in tasks:
                task.gather()


def _oldest_first(tasks: list[Task], settings: Settings, connections: Connections, stop: Stop) -> list[Task]:
    if len(tasks) == 1:
        return tasks
    try:
        nodes = connections.nodes(stop)
    except ReconcileError:  # each view says so itself
        return tasks
    try:
        times = last_written(nodes, settings.redis, [task.view for task in tasks])
    except ReconcileError:
        return tasks
    finally:
        connections.keep_nodes(nodes, stop)
    return [task for _, task in sorted(zip(times, tasks, strict=True), key=lambda pair: pair[0])]


class _Workers:
    """Threads that advance tasks; a single view is advanced in the calling thread, which costs nothing."""

    def __init__(self, jobs: int, *, inline: bool) -> None:
        self._pool = None if inline else ThreadPoolExecutor(jobs, thread_name_prefix="reconcile-view")

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def advance(self, task: Task, keeper: LeaseKeeper, connections: Connections) -> Future[Follower | None]:
        """Advance a task, now or soon."""
        if self._pool is not None:
            return self._pool.submit(task.advance, keeper, connections)
        done: Future[Follower | None] = Future()
        done.set_result(task.advance(keeper, connections))
        return done


class _Scheduled:
    """Which tasks wait, which are with a worker, and which are followed."""

    def __init__(self, workers: _Workers, jobs: int, keeper: LeaseKeeper, connections: Connections) -> None:
        self._workers = workers
        self._jobs = jobs
        self._keeper = keeper
        self._connections = connections
        self._waiting: deque[Task] = deque()
        self._advancing: dict[Future[Follower | None], Task] = {}
        self._followed: dict[Follower, tuple[Task, float]] = {}
        """Each with the time since when it is followed, longest first."""
        self._turned_away: deque[Task] = deque()
        """Tasks for which Materialize had no connection."""
        self._look_for_room_at = 0.0
        self._loop = Loop(lambda follower: self._followed[follower][0].idle())

    def submit(self, task: Task) -> None:
        """Queue a task for a worker."""
        self._waiting.append(task)

    def run(self) -> None:
        """Work until no task is waiting, advancing or followed."""
        while self._waiting or self._turned_away or self._advancing or self._followed:
            self._make_room()
            self._hand_out()
            if self._advancing:
                timeout_s = 0.0 if self._followed else LOOK_EVERY_S
                done, _ = wait(self._advancing, timeout_s, FIRST_COMPLETED)
                for future in done:
                    self._settle(self._advancing.pop(future), future.result())
            if self._followed:
                busy = bool(self._advancing or self._waiting)
                for left in self._loop.step(BUSY_LOOK_S if busy else LOOK_EVERY_S):
                    left.follower.subscription.cancel()
                    task, _ = self._followed.pop(left.follower)
                    task.unfollowed(left.error)
                    self.submit(task)

    def _hand_out(self) -> None:
        while self._waiting and len(self._advancing) < self._jobs:
            task = self._waiting.popleft()
            task.may_take(self._share_s(task))
            self._advancing[self._workers.advance(task, self._keeper, self._connections)] = task
        if not self._waiting:
            for task in self._advancing.values():
                task.may_take(None)

    def _share_s(self, task: Task) -> float | None:
        """Return how long a view may take while others wait; None: as long as it needs."""
        left_s = task.time_left_s()
        if left_s is None or not self._waiting:
            return None
        return max(LEAST_SHARE_S, left_s * self._jobs / (len(self._waiting) + 1))

    def _settle(self, task: Task, follower: Follower | None) -> None:
        if follower is not None:
            try:
                self._loop.add(follower)
            except ReconcileError as lost:
                task.unfollowed(lost)
                self.submit(task)
            else:
                self._followed[follower] = task, time.monotonic()
        elif (refused := task.turned_away) is not None:
            task.rest()
            if self._advancing or self._followed or self._turned_away or self._waiting:
                self._turned_away.append(task)
            else:  # somebody else has the connections: waiting for ours is no use
                task.give_up(refused)
        elif task.cut_short:
            task.rest()
            self.submit(task)
        else:
            task.close()
            for part in task.parts:
                self.submit(part)

    def _make_room(self) -> None:
        """Let views take turns if there are more of them than connections."""
        if not self._turned_away or (self._waiting and self._advancing):
            return
        now = time.monotonic()
        idle = not (self._waiting or self._advancing or self._followed)
        if now < self._look_for_room_at and not idle:
            return
        self._look_for_room_at = now + FOLLOWED_S / max(1, len(self._followed))
        follower, (task, since) = next(iter(self._followed.items()), (None, (None, 0.0)))
        if follower is not None and task is not None and now - since >= FOLLOWED_S:
            self._loop.remove(follower)
            del self._followed[follower]
            follower.subscription.cancel()
            task.rest()
            self._turned_away.append(task)
        self.submit(self._turned_away.popleft())

    def close(self) -> None:
        """Close everything after a failure of our own."""
        self._loop.close()
        followed = [task for task, _ in self._followed.values()]
        for task in (*self._advancing.values(), *followed):
            task.close()
