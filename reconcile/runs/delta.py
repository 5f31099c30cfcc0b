"""Bounded delta: SUBSCRIBE from the checkpoint, commit closed ranges, stop on a closed time.

Every commit is one transaction {data, digests of the touched buckets, as_of}. A closed range too large for one is
applied under `pending`; the run after a crash repeats exactly that range (UP TO its end), because a shorter or longer
one would not undo what the first attempt had written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping

from reconcile.core import digest
from reconcile.core.changes import Changes
from reconcile.core.guard import mass_delete, suspicious
from reconcile.core.state import Pending
from reconcile.core.times import MAX_TIMESTAMP, frontier_after
from reconcile.runs.context import ViewRun
from reconcile.source import query
from reconcile.source.session import Session
from reconcile.source.subscription import Subscription, open_subscription
from reconcile.target import store
from reconcile.target.apply import Applier
from reconcile.target.connection import Command

READ_AT_MOST_S = 0.2
"""How long a read may wait before the loop looks at the clock and at signals again."""
EXISTS_KEYS = 1000


class TooLarge(Exception):  # noqa: N818 - not an error: another way is taken
    """More changed at one time than memory may hold."""


class Doubt(Exception):  # noqa: N818 - not an error: the run goes on in another way
    """The stream of changes does not fit what Redis holds: a snapshot has to look."""

    def __init__(self, reason: str, buckets: set[int]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.buckets = buckets


@dataclasses.dataclass(frozen=True, slots=True)
class Until:
    """When a delta ends: at the source's present (frontier), at a moment (monotonic seconds), or both unset: never."""

    up_to: int | None = None
    moment: float | None = None


class DeltaRun:
    """Follows the source from the state's as_of. The lease is held (or this is a dry run)."""

    def __init__(self, run: ViewRun, mapping: query.Mapping, *, repeat: bool = False) -> None:
        """repeat: the range was applied in part before; keys of it may exist already."""
        assert run.state is not None
        self._run = run
        self._mapping = mapping
        self._repeat = repeat
        self._fence = run.new_fence()
        self._manifest = store.Manifest(run.reader, run.keyspace, run.state)
        self.frontier = frontier_after(run.state.as_of or 0)

    def subscription(self, session: Session, until: Until) -> contextlib.AbstractContextManager[Subscription]:
        """SUBSCRIBE from the checkpoint; entering it puts the read hold in place."""
        state = self._run.state
        assert state is not None
        assert state.as_of is not None
        return open_subscription(session, self._mapping, state.buckets, state.as_of, until.up_to)

    def follow(self, subscription: Subscription, until: Until) -> None:
        """Commit what comes until the end. Raises Doubt, TooLarge."""
        run = self._run
        limit = run.settings.limits.memory_max_bytes
        stream = subscription.stream
        while True:
            wait_s = READ_AT_MOST_S
            if until.moment is not None:
                wait_s = min(wait_s, until.moment - time.monotonic())
            closed = subscription.read(max(0.0, wait_s), limit)
            # A range that is repeated is committed whole: until then Redis may hold changes of any time in it.
            if closed and (subscription.finished or not self._repeat):
                self.commit(stream.take(), stream.frontier)
                run.report.updates = stream.updates
            elif stream.size_bytes > limit:
                raise TooLarge
            ended = until.moment is not None and time.monotonic() >= until.moment
            if subscription.finished or ended or run.stop.requested:
                return

    def commit(self, changes: Changes, frontier: int) -> None:
        """Apply a closed range and move the checkpoint to frontier − 1."""
        check_deletes(self._run, len(changes.deletes), self._manifest.keys)
        check_inserts(self._run, changes, repeat=self._repeat)
        add_to_manifest(self._manifest, changes.digests)
        self._apply(changes, frontier)

    def _apply(self, changes: Changes, frontier: int) -> None:
        run, report = self._run, self._run.report
        base = run.base_state
        as_of = min(frontier - 1, MAX_TIMESTAMP)
        applier = Applier(run.keyspace, self._fence, run.reader, run.settings.limits, base, Pending("delta", as_of))
        for key in changes.deletes:
            applier.delete(key)
        applier.put_all(changes.puts.items())
        commands: list[Command] = self._manifest.commands(changes.digests)
        commands += run.stored.forget(run.keyspace, changes.touched)
        new = dataclasses.replace(
            base,
            as_of=as_of,
            keys=self._manifest.keys,
            digest=self._manifest.stored_total,
            pending=None,
            updated_at_ms=store.now_ms(),
        )
        applier.finish([*commands, *store.write_state(run.keyspace, new)])
        run.stored.state = new
        self.frontier = frontier
        report.puts += applier.puts
        report.deletes += applier.deletes
        report.commits += 1
        report.as_of = as_of
        report.keys = new.keys


def add_to_manifest(manifest: store.Manifest, digests: Mapping[int, int]) -> None:
    """Add what has changed to the buckets' digests. Raises Doubt when that does not fit what is stored."""
    if not manifest.load(digests):
        raise Doubt("the stored manifest is not the state's", set())
    if not manifest.add(digests):
        raise Doubt("the changes do not fit the stored manifest", set(digests))


def check_deletes(run: ViewRun, deletes: int, owned: int) -> None:
    """Raise SafetyStop when so many deletes need a human; nothing of the range is applied then."""
    limit = run.view.max_delete_fraction
    if not run.request.allow_deletes and suspicious(deletes, owned, limit):
        run.report.deletes_withheld = deletes
        raise mass_delete(deletes, owned, limit, run.view.name)


def check_inserts(run: ViewRun, changes: Changes, *, repeat: bool) -> None:
    """Raise Doubt when a key that is new at the source exists in Redis: the view gives it twice, or it is foreign.

    repeat: an earlier attempt at the same range may have written it, then with the same value.
    """
    suspects: set[int] = set()
    buckets = run.base_state.buckets
    for start in range(0, len(changes.inserts), EXISTS_KEYS):
        page = changes.inserts[start : start + EXISTS_KEYS]
        if repeat:
            held = run.reader.call("MGET", *page)
            suspects |= {
                digest.bucket_of(key, buckets)
                for key, value in zip(page, held, strict=True)
                if value is not None and value != changes.puts[key]
            }
        elif run.reader.call("EXISTS", *page):
            suspects |= {digest.bucket_of(key, buckets) for key in page}
    if suspects:
        raise Doubt("a key is new in the view but exists in Redis already", suspects)
