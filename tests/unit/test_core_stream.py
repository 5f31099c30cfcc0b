"""From COPY text to changes: whatever a view goes through and wherever progress cuts it, Redis ends up equal to it.

The lines are rendered as Materialize was recorded to send them (transcripts subscribe, subscribe_bounds, copy_text).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconcile.core import digest
from reconcile.core.changes import Changes, Net
from reconcile.core.framing import RowForm
from reconcile.core.stream import UpdateStream
from reconcile.errors import DataError
from tests.support.copy_text import TEXTS, Row, line, progress

Update = tuple[int, int, Row]
"""(time, diff, row)"""

AS_OF = 1_000
SALT = 0x5EED5A17
BUCKETS = 16


# -- a view's history ------------------------------------------------------------------------------------------------


@dataclass
class History:
    """What a view went through: updates in time order, and where the server reports progress."""

    initial: Counter[Row]
    updates: list[Update]
    cuts: list[int]
    """Progress rows, ascending; the last is behind every update."""
    tail: list[Update] = field(default_factory=list)
    """Updates after the last progress row."""

    def at(self, frontier: int) -> Counter[Row]:
        """The view's content just before a frontier."""
        content = Counter(self.initial)
        for time, diff, row in self.updates:
            if time < frontier:
                content[row] += diff
        return +content

    def lines(self, *, as_bytea: bool = False) -> list[bytes]:
        result = [progress(AS_OF)]
        pending = list(self.updates)
        for cut in self.cuts:
            while pending and pending[0][0] < cut:
                result.append(line(*pending.pop(0), as_bytea=as_bytea))
            result.append(progress(cut))
        assert not pending
        return result + [line(*update, as_bytea=as_bytea) for update in self.tail]


KEYS = st.one_of(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), TEXTS)
VALUES = st.one_of(st.none(), TEXTS)


@st.composite
def histories(draw: st.DrawFn, *, sound: bool = True) -> History:
    """A history of transactions. sound: at every time one row per key and no NULL key; else anything may happen."""
    keys = draw(st.lists(KEYS if sound else st.one_of(st.none(), KEYS), min_size=1, max_size=5, unique=True))
    initial: Counter[Row] = Counter({(key, draw(VALUES)): 1 for key in keys if key is not None and draw(st.booleans())})
    content = Counter(initial)
    time, updates = AS_OF, []
    for _ in range(draw(st.integers(0, 8))):
        time += draw(st.integers(1, 3))
        now = Counter(content)
        for _ in range(draw(st.integers(1, 4))):
            _change(draw, now, keys, sound)
        net = [(time, now[row] - content[row], row) for row in now.keys() | content.keys() if now[row] != content[row]]
        # The order within a time is the row's byte order at the source: of no use, so any order must do.
        updates += draw(st.permutations(net))
        content = +now
    frontiers = draw(st.sets(st.integers(AS_OF + 1, time + 3), max_size=6))
    return History(initial, updates, sorted(frontiers | {time + 1}))


def _change(draw: st.DrawFn, now: Counter[Row], keys: list[bytes | None], sound: bool) -> None:
    """One statement: put, delete, or a value moved from one key to another."""
    key = draw(st.sampled_from(keys))
    held = [row for row in now if row[0] == key and now[row] > 0]
    kind = draw(st.sampled_from(["put", "put", "delete", "move"]))
    if kind == "move" and held:
        other = draw(st.sampled_from(keys))
        _remove(now, other if sound else object())
        now[other, held[0][1]] += 1 if other != key or sound else 0
        if other != key:
            now[held[0]] -= 1
        return
    if kind == "delete" or sound:
        _remove(now, key)
    if kind != "delete":
        now[key, draw(VALUES)] += 1 if sound else draw(st.integers(1, 2))


def _remove(now: Counter[Row], key: object) -> None:
    for row in list(now):
        if row[0] == key:
            now[row] = 0


# -- what Redis becomes ----------------------------------------------------------------------------------------------


@dataclass
class Target:
    """Redis, its manifest and fingerprints as a dict and two lists."""

    held: dict[bytes, bytes]
    digests: list[int]

    @classmethod
    def of(cls, content: Counter[Row]) -> Target:
        held = {key: value for key, value in content if key is not None and value is not None}
        return cls(held, digests_of(held))

    def apply(self, changes: Changes) -> None:
        assert set(changes.inserts) == changes.puts.keys() - self.held.keys(), "inserts are of keys that were not there"
        for key in changes.deletes:
            del self.held[key]
        self.held.update(changes.puts)
        for bucket, more in changes.digests.items():
            self.digests[bucket] += more

    def check(self, content: Counter[Row]) -> None:
        assert self.held == {key: value for key, value in content if value is not None}
        assert [digest.normal(d) for d in self.digests] == [digest.normal(d) for d in digests_of(self.held)]


def digests_of(held: dict[bytes, bytes]) -> list[int]:
    digests = [0] * BUCKETS
    digest.add_rows(digests, held.items(), SALT)
    return digests


@given(histories(), st.booleans())
def test_every_checkpoint_equals_the_view_at_that_time(history: History, as_bytea: bool) -> None:
    """At each closed range Redis and the manifest are exactly the view just before the frontier."""
    stream = UpdateStream(AS_OF, BUCKETS, RowForm(binary=(as_bytea, as_bytea)), SALT)
    target = Target.of(history.initial)
    for each in history.lines(as_bytea=as_bytea):
        if stream.feed([each]):
            target.apply(stream.take())
            target.check(history.at(stream.frontier))
    assert stream.frontier == max(AS_OF + 1, *history.cuts)
    target.check(history.at(stream.frontier))


@given(histories(), st.data())
def test_coalescing_closed_ranges_equals_taking_each(history: History, data: st.DataObject) -> None:
    """Whether a run commits at every progress row or at a few of them, it ends with the same content and manifest."""
    stream = UpdateStream(AS_OF, BUCKETS, salt=SALT)
    target = Target.of(history.initial)
    taken = 0
    for each in history.lines():
        if stream.feed([each]) and data.draw(st.booleans()):
            target.apply(stream.take())
            target.check(history.at(stream.frontier))
            taken += 1
    target.apply(stream.take())
    target.check(history.at(stream.frontier))


@given(histories(), st.data())
def test_how_lines_arrive_changes_nothing(history: History, data: st.DataObject) -> None:
    """One at a time or many at once, progress rows between them or not: the content and the manifest are the same."""
    lines = history.lines()
    ends = data.draw(st.sets(st.integers(1, len(lines)))) | {len(lines)}
    stream = UpdateStream(AS_OF, BUCKETS, salt=SALT)
    target = Target.of(history.initial)
    start = 0
    for end in sorted(ends):
        if stream.feed(lines[start:end]):
            target.apply(stream.take())
            target.check(history.at(stream.frontier))
        start = end
    target.check(history.at(stream.frontier))
    assert stream.frontier == max(AS_OF + 1, *history.cuts)
    assert stream.size_bytes == 0


@given(histories(sound=False), st.data())
@settings(max_examples=300)
def test_a_net_is_what_a_plain_count_of_rows_says(history: History, data: st.DataObject) -> None:
    """Whatever came and went, in however many ranges: the same changes, or the same refusal, as counting all rows."""
    count: Counter[Row] = Counter()
    for _, diff, row in history.updates:
        count[row] += diff
    net, later = Net(BUCKETS, SALT), Net(BUCKETS, SALT)
    for _, diff, row in history.updates:
        later.update([row[0]], [row[1]], [b"%d" % diff])
        if data.draw(st.booleans()):
            net.merge(later)
            later = Net(BUCKETS, SALT)
    net.merge(later)
    left = {row: diff for row, diff in count.items() if diff}
    came = Counter(key for (key, _), diff in left.items() for _ in range(diff))
    went = Counter(key for (key, _), diff in left.items() for _ in range(-diff))
    if None in came or None in went or max([*came.values(), *went.values()], default=0) > 1:
        with pytest.raises(DataError):
            net.changes()
        return
    changes = net.changes()
    new = {key: value for (key, value), diff in left.items() if diff > 0 and value is not None}
    old = {key for (key, value), diff in left.items() if diff < 0 and value is not None}
    assert changes.puts == new
    assert sorted(changes.deletes) == sorted(old - new.keys())  # type: ignore[type-var]
    assert sorted(changes.inserts) == sorted(new.keys() - old)  # type: ignore[type-var]


@given(histories())
def test_touched_buckets_are_those_with_updates(history: History) -> None:
    """A bucket's fingerprint stays known only where no row came or went: two that are equal here, and cancel out, may
    differ at the source. Digests change where rows do."""
    stream = UpdateStream(AS_OF, BUCKETS, salt=SALT)
    for each in history.lines():
        stream.feed([each])
    changes = stream.take()
    before, after = history.initial, history.at(stream.frontier)
    changed = (before - after) + (after - before)
    keys = [key for at, _, (key, _) in history.updates if at < stream.frontier]
    assert changes.touched == {digest.bucket_of(key, BUCKETS) for key in keys if key is not None}
    stored = {digest.bucket_of(key, BUCKETS) for key, value in changed if key is not None and value is not None}
    assert set(changes.digests) == stored
    assert bool(changes) == bool(changes.touched)


@given(
    histories(),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-1, 1, 2]), st.tuples(KEYS, VALUES)), max_size=4),
)
def test_rows_after_the_last_progress_row_are_never_handed_out(history: History, tail: list[Update]) -> None:
    """They may be half of a transaction: whatever they are, they change nothing until progress passes them."""
    last = history.cuts[-1]
    history.tail = sorted(((last + more, diff, row) for more, diff, row in tail), key=lambda update: update[0])
    stream = UpdateStream(AS_OF, BUCKETS, salt=SALT)
    closed = [stream.feed([each]) for each in history.lines()]
    assert not any(closed[len(closed) - len(tail) :])
    target = Target.of(history.initial)
    target.apply(stream.take())
    assert stream.frontier == max(last, AS_OF + 1)
    target.check(history.at(stream.frontier))
    assert not stream.take()


@given(histories(sound=False))
@settings(max_examples=300)
def test_bad_rows_are_refused_at_the_first_closed_range_where_they_exist(history: History) -> None:
    """A NULL key or a key with several rows stops the run before that range is applied, and no earlier; what the
    changes alone cannot show (the other row was there before) shows as an insert of a key that exists."""
    stream = UpdateStream(AS_OF, BUCKETS, salt=SALT)
    target = Target.of(history.initial)
    values = dict(history.initial.keys())
    for each in history.lines():
        if not stream.feed([each]):
            continue
        content = history.at(stream.frontier)
        keys = Counter(key for key, _ in content.elements())
        sound = None not in keys and max(keys.values(), default=0) <= 1
        try:
            changes = stream.take()
        except DataError:
            assert not sound
            return
        if not sound:
            repeated = {key for key, times in keys.items() if times > 1}
            exists = [key for key in changes.inserts if key in target.held]
            hidden = {key for key in repeated if values.get(key, b"") is None or (key, None) in content}
            assert set(exists) | hidden >= repeated
            return
        target.apply(changes)
        target.check(content)
        values = dict(content.keys())


def test_what_is_dropped_takes_no_memory() -> None:
    """When more changed than may be held, another way is taken, and needs the memory."""
    stream = UpdateStream(10, 16)
    stream.feed([b"12\tf\t1\ta\t1\n", b"13\tt\t\\N\t\\N\t\\N\n", b"14\tf\t1\tb\t1\n"])
    assert stream.size_bytes > 0
    stream.drop()
    assert stream.size_bytes == 0
    assert not stream.has_changes
