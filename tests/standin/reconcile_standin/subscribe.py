"""SUBSCRIBE: the changes of a query, as they become known."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reconcile_standin import types
from reconcile_standin.changes import linear_changes
from reconcile_standin.encoding import sort_key
from reconcile_standin.plan import Column
from reconcile_standin.problem import SqlError
from reconcile_standin.reading import rows_at
from reconcile_standin.session import END_OF_TIME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from reconcile_standin.batches import Rows
    from reconcile_standin.engine import Row
    from reconcile_standin.plan import Plan
    from reconcile_standin.session import Session

# A snapshot is consolidated and sorted this many rows at a time: the whole of it may not fit in memory.
_SNAPSHOT_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Options:
    """The clauses of a SUBSCRIBE."""

    snapshot: bool
    progress: bool
    upsert: tuple[str, ...] | None
    as_of: int
    up_to: int | None


def _key_positions(names: list[str], keys: tuple[str, ...]) -> list[int]:
    for key in keys:
        if key not in names:
            raise SqlError(f'column "{key}" does not exist')
    return [names.index(key) for key in keys]


class Subscription:
    """One running SUBSCRIBE. `advance` gives what is known now; waiting is the caller's."""

    def __init__(self, session: Session, plan: Plan, options: Options) -> None:
        self._session = session
        self._store = session.store
        self._plan = plan
        self._options = options
        self._complete = plan.timeless or not plan.facts.tables
        self._started = False
        self._snapshot_due = options.snapshot
        self._tables = frozenset(self._store.catalog.items[i].number for i in plan.facts.tables)
        self._watched = {item.id: item.full_name for item in plan.facts.reads}
        self.finished = False
        # Everything before the frontier has been given out.
        self.frontier = options.as_of if plan.facts.inputs else END_OF_TIME
        self._engine = self._store.reader()
        self._hold = self._store.clock.hold(options.as_of)
        names = [c.name for c in plan.columns]
        self._keys = _key_positions(names, options.upsert or ())
        self._rest = [i for i in range(len(names)) if i not in self._keys]
        self._latest: tuple[int, Counter[Row]] | None = None

    @staticmethod
    def shape(plan: Plan, options: Options) -> tuple[Column, ...]:
        """The columns of a SUBSCRIBE: mz_timestamp, and the others."""
        head = [Column("mz_timestamp", types.NUMERIC)]
        if options.progress:
            head.append(Column("mz_progressed", types.BOOL))
        if options.upsert is None:
            return (*head, Column("mz_diff", types.INT8), *plan.columns)
        names = [c.name for c in plan.columns]
        keys = _key_positions(names, options.upsert)
        order = [*keys, *(i for i in range(len(names)) if i not in keys)]
        return (*head, Column("mz_state", types.TEXT), *(plan.columns[i] for i in order))

    def wait(self, timeout_s: float) -> None:
        """Wait for something to say, but no longer."""
        bound = self._options.up_to is not None
        if self._store.upper(self._plan.facts.inputs) <= self.frontier < self._store.clock.upper:
            time.sleep(min(timeout_s, 0.02))  # nothing wakes a view that has stalled
        self._store.clock.wait_past(self.frontier, timeout_s, None if bound else self._tables)

    def advance(self) -> Iterator[Rows]:
        """What has become known since the last call, in batches."""
        if not self._started:
            self._started = True
            yield from self._progress(self.frontier)
        if self._complete:
            yield from self._finite()
            return
        self._check_dropped()
        limit = self._store.upper(self._plan.facts.inputs)
        if self._options.up_to is not None:
            limit = min(limit, self._options.up_to)
        if self._snapshot_due and limit > self._options.as_of:
            self._snapshot_due = False
            yield from self._snapshot(self._options.as_of, self._options.as_of)
        # What is at as_of itself belongs to the snapshot, wanted or not.
        low = max(self.frontier, self._options.as_of + 1)
        if limit > low:
            yield from self._changes(low, limit)
        if limit > self.frontier and limit > self._options.as_of:
            self.frontier = limit
            self._store.clock.move_hold(self._hold, limit - 1)
            if limit != self._options.up_to:
                yield from self._progress(limit)
        if self._options.up_to is not None and limit >= self._options.up_to:
            self.finished = True

    def _check_dropped(self) -> None:
        for item_id, name in self._watched.items():
            if item_id not in self._store.catalog.items:
                raise SqlError(f'subscribe has been terminated because underlying relation "{name}" was dropped')

    def _finite(self) -> Iterator[Rows]:
        if self._snapshot_due:
            yield from self._snapshot(self._store.clock.read_ts, self.frontier)
        self.finished = True

    def _progress(self, frontier: int) -> Iterator[Rows]:
        if self._options.progress:
            nulls = (None,) * (len(self._plan.columns) + 1)
            yield [(b"%d" % frontier, 1, *nulls)]

    def _snapshot(self, t: int, stamp: int) -> Iterator[Rows]:
        rows: Iterable[Row] = itertools.chain.from_iterable(rows_at(self._store, self._engine, self._plan, t))
        if self._options.upsert is not None:
            counted: Counter[Row] = Counter(rows)
            yield self._shaped(stamp, counted)
            return
        rows = iter(rows)
        while True:
            counted = Counter(itertools.islice(rows, _SNAPSHOT_ROWS))
            if not counted:
                return
            yield self._shaped(stamp, counted)

    def _shaped(self, stamp: int, diffs: Counter[Row]) -> list[Row]:
        time = b"%d" % stamp
        head: tuple[Any, ...] = (time, 0) if self._options.progress else (time,)
        if self._options.upsert is None:
            changed = [(row, diff) for row, diff in diffs.items() if diff]
            changed.sort(key=lambda pair: sort_key(pair[0]))
            return [(*head, diff, *row) for row, diff in changed]
        return list(self._upserts(head, diffs))

    def _upserts(self, head: tuple[Any, ...], diffs: Counter[Row]) -> Iterator[Row]:
        groups: dict[Row, list[tuple[int, Row]]] = {}
        for row, diff in diffs.items():
            if diff:
                groups.setdefault(tuple(row[i] for i in self._keys), []).append((diff, row))
        nulls = (None,) * len(self._rest)
        for key in sorted(groups, key=lambda k: [(v is None, v) if v is not None else (True, b"") for v in k]):
            changes = sorted(groups[key], key=lambda change: change[0])
            signs = [diff for diff, _ in changes]
            if signs in ([1], [-1, 1]):
                yield (*head, b"upsert", *key, *(changes[-1][1][i] for i in self._rest))
            elif signs == [-1]:
                yield (*head, b"delete", *key, *nulls)
            else:
                yield (*head, b"key_violation", *key, *nulls)

    def _changes(self, low: int, high: int) -> Iterator[Rows]:
        """The changes at low <= time < high."""
        numbers = ",".join(str(self._store.catalog.items[i].number) for i in self._plan.facts.tables)
        times = [
            ts
            for (ts,) in self._engine.all(
                f"SELECT DISTINCT ts FROM commits WHERE ts>=? AND ts<? AND number IN ({numbers}) ORDER BY 1",
                (low, high),
            )
        ]
        linear = self._plan.relation.linear
        if linear is not None:
            if times:
                progress, upsert = self._options.progress, self._options.upsert is not None
                head = None if upsert else (0,) * progress
                yield from linear_changes(self._engine, linear, low, high, self._shaped, head)
            return
        if self._plan.facts.temporal and high - 1 not in times:
            times.append(high - 1)
        for ts in times:
            before, after = self._content(ts - 1), self._content(ts)
            after_diffs = Counter(after)
            after_diffs.subtract(before)
            shaped = self._shaped(ts, after_diffs)
            if shaped:
                yield shaped

    def _content(self, t: int) -> Counter[Row]:
        # Only commits change the content: what was computed for the commit before is still right just before this one.
        if self._latest is not None and (self._latest[0] == t or not self._plan.facts.temporal):
            latest, content = self._latest
            numbers = ",".join(str(self._store.catalog.items[i].number) for i in self._plan.facts.tables)
            sql = f"SELECT 1 FROM commits WHERE ts>? AND ts<=? AND number IN ({numbers}) LIMIT 1"
            if latest <= t and not self._engine.all(sql, (latest, t)):
                return content
        content = Counter(itertools.chain.from_iterable(rows_at(self._store, self._engine, self._plan, t)))
        self._latest = (t, content)
        return content

    def close(self) -> None:
        """Give back what is held."""
        self._store.clock.release(self._hold)
        self._engine.close()

    def __del__(self) -> None:
        # A client may leave before its first row: then nobody else would let go.
        if hasattr(self, "_hold"):
            self.close()
