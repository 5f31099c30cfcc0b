"""Several views in one process: workers bring them to the present, one thread follows all that have come there."""

from __future__ import annotations

import os
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from reconcile.config.settings import Settings
from reconcile.errors import ReconcileError
from reconcile.runs.delta import Follower
from reconcile.runs.follow import LOOK_EVERY_S, Loop
from reconcile.runs.task import Task
from reconcile.stop import Stop
from reconcile.target.opening import open_nodes
from reconcile.target.renewal import LeaseKeeper

BUSY_LOOK_S = 0.02
"""How long the loop waits for changes while workers may have a view to hand over."""


def work_on(tasks: list[Task], settings: Settings, stop: Stop) -> None:
    """Work on all views until each is done with or its time is over. Their reports say how it went."""
    jobs = min(len(tasks), settings.limits.jobs or os.cpu_count() or 1)
    with (
        LeaseKeeper(lambda: open_nodes(settings.redis, Stop())) as keeper,
        _Workers(jobs, inline=len(tasks) == 1) as workers,
    ):
        scheduled = _Scheduled(workers, keeper)
        try:
            for task in tasks:
                scheduled.submit(task, None)
            scheduled.run()
        finally:
            scheduled.close()


class _Workers:
    """Threads that advance tasks; a single view is advanced in the calling thread, which costs nothing."""

    def __init__(self, jobs: int, *, inline: bool) -> None:
        self._pool = None if inline else ThreadPoolExecutor(jobs, thread_name_prefix="reconcile-view")

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def advance(self, task: Task, keeper: LeaseKeeper, left: Exception | None) -> Future[Follower | None]:
        """Have a task advanced, now or soon."""
        if self._pool is not None:
            return self._pool.submit(task.advance, keeper, left)
        done: Future[Follower | None] = Future()
        done.set_result(task.advance(keeper, left))
        return done


class _Scheduled:
    """Which task is with a worker, and which is followed."""

    def __init__(self, workers: _Workers, keeper: LeaseKeeper) -> None:
        self._workers = workers
        self._keeper = keeper
        self._advancing: dict[Future[Follower | None], Task] = {}
        self._followed: dict[Follower, Task] = {}
        self._loop = Loop(lambda follower: self._followed[follower].idle())

    def submit(self, task: Task, left: Exception | None) -> None:
        """Hand a task to the workers."""
        self._advancing[self._workers.advance(task, self._keeper, left)] = task

    def run(self) -> None:
        """Until nothing is advancing and nothing followed."""
        while self._advancing or self._followed:
            timeout_s = 0.0 if self._followed else LOOK_EVERY_S
            if self._advancing:
                done, _ = wait(self._advancing, timeout_s, FIRST_COMPLETED)
                for future in done:
                    self._settle(self._advancing.pop(future), future.result())
            if self._followed:
                for left in self._loop.turn(BUSY_LOOK_S if self._advancing else LOOK_EVERY_S):
                    left.follower.subscription.cancel()
                    self.submit(self._followed.pop(left.follower), left.error)

    def _settle(self, task: Task, follower: Follower | None) -> None:
        if follower is None:
            task.close()
            return
        try:
            self._loop.add(follower)
        except ReconcileError as lost:
            self.submit(task, lost)
        else:
            self._followed[follower] = task

    def close(self) -> None:
        """After a failure of our own: nothing stays open."""
        self._loop.close()
        for task in (*self._advancing.values(), *self._followed.values()):
            task.close()
