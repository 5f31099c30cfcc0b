"""The source side by itself, against a server: how much is held at once, what nothing waits for, what is noticed."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable, Iterator
from statistics import median

import pytest
from psycopg.conninfo import make_conninfo

from reconcile.config import address
from reconcile.config.settings import MaterializeSettings
from reconcile.core.keys import KeyShape
from reconcile.errors import DataError, HistoryLost, Unavailable
from reconcile.source import query, reading
from reconcile.source import session as sessions
from reconcile.source.columns import map_columns
from reconcile.source.frontiers import SourceClock
from reconcile.source.query import Mapping
from reconcile.source.reading import open_reading
from reconcile.source.session import Session
from reconcile.source.subscription import Subscription, begin_subscription
from reconcile.stop import Stop
from tests.support.sources import Source

LIMIT = 1 << 20
PATIENCE_S = 60.0
CLOCK = SourceClock(0)
"""Nothing here waits for a promise of silence to be over."""
SALT = "0123456789abcdef" * 2
Open = Callable[[], Session]


@pytest.fixture
def connect(source: Source) -> Iterator[Open]:
    """Opens sessions on the source."""
    with contextlib.ExitStack() as stack:

        def connected() -> Session:
            session = sessions.connect(address.materialize(source.url), Stop())
            stack.callback(session.close)
            return session

        yield connected


def mapped(session: Session, source: Source) -> Mapping:
    columns = session.columns(query.describe(source.sql))
    return map_columns(source.sql, columns, KeyShape("p:", ("key",), ("",)), view="v")


def fill(source: Source, sizes: dict[str, int]) -> None:
    rows = ", ".join(f"('{key}', repeat('x', {size}))" for key, size in sizes.items())
    source.execute(f"INSERT INTO t VALUES {rows}")


def test_chunks_are_bounded_in_bytes(source: Source, connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small rows come many together, large ones alone, whatever their order; nothing is lost or doubled."""
    monkeypatch.setattr(sessions, "CHUNK_BYTES", 2000)
    sizes = {f"k{i}": 5000 if i % 40 == 7 else 30 for i in range(400)}
    fill(source, sizes)
    session = connect()
    with open_reading(session, mapped(session, source), None) as reads:
        chunks = list(reads.rows())
    weights = [sum(len(key or b"") + len(value or b"") for key, value in chunk) for chunk in chunks]
    assert all(weight <= 2000 or len(chunk) == 1 for weight, chunk in zip(weights, chunks, strict=True))
    assert max(map(len, chunks)) > 16
    found = {str(key, "ascii"): len(value or b"") for chunk in chunks for key, value in chunk}
    assert found == {f"p:{key}": size for key, size in sizes.items()}
    assert sum(map(len, chunks)) == len(sizes)


def test_rows_of_an_unknown_size_are_asked_for_one_by_one_once_they_proved_large(
    source: Source, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpq holds a whole result of rows: the second statement asks for no more of them than fit."""
    monkeypatch.setattr(sessions, "CHUNK_BYTES", 2000)
    fill(source, {f"k{i}": 900 for i in range(40)})
    session = connect()
    with open_reading(session, mapped(session, source), None) as reads:
        assert sum(len(chunk) for chunk in reads.rows()) == 40
        assert session._rows_at_once == 2
        assert [len(chunk) for chunk in reads.rows()] == [2] * 20


def test_a_salt_changes_every_fingerprint_and_no_count(source: Source, connect: Open) -> None:
    """Whoever does not know the salt cannot say what a fingerprint will be."""
    fill(source, {f"k{i}": i for i in range(50)})
    source.put(hollow=None)
    session = connect()
    with open_reading(session, mapped(session, source), None) as reads:
        one, rows = reads.fingerprints(4, SALT)
        other, same_rows = reads.fingerprints(4, SALT[::-1])
    assert rows == same_rows
    assert sum(rows) == 51
    assert not set(one) & set(other)


def test_a_null_key_is_a_data_error(source: Source, connect: Open) -> None:
    """Neither counted nor skipped."""
    source.execute("INSERT INTO t VALUES (NULL, 'x')")
    session = connect()
    with pytest.raises(DataError), open_reading(session, mapped(session, source), None) as reads:
        reads.fingerprints(16, SALT)


def test_a_view_that_is_swapped_while_it_is_read_is_noticed(source: Source, connect: Open) -> None:
    """And one that stays is not suspected, whatever is written to it."""
    session, other = connect(), connect()
    mapping = mapped(session, source)
    with open_reading(session, mapping, None) as reads:
        source.put(a="1")
        assert reads.still()
        explained = reads.explained
    assert reading.still(other, mapping, explained)
    source.execute("ALTER MATERIALIZED VIEW v RENAME TO old")
    source.execute("CREATE MATERIALIZED VIEW v AS SELECT key, value FROM t")
    assert not reading.still(other, mapping, explained)
    with open_reading(session, mapping, None) as reads:
        source.execute("DROP MATERIALIZED VIEW v")
        assert not reads.still()


def test_a_query_is_known_by_its_plan(source: Source, connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain view over the same table has the same objects and another plan; a plan that a transaction shows in
    another way, or that changes by itself, is no other query."""
    source.execute("CREATE VIEW plain AS SELECT key, value FROM t")
    session, sql = connect(), f"SELECT key, value FROM {source.schema}.plain"
    mapping = map_columns(sql, session.columns(query.describe(sql)), KeyShape("p:", ("key",), ("",)), view="v")
    plan = reading.plan_of(session, sql)
    asked = iter(range(100))
    really = reading.plan_of
    for seen in (really, lambda on, sql, planning=False: really(on, sql) if on is not session else "other",
                 lambda on, sql, planning=False: f"the {next(asked)}th"):  # fmt: skip
        monkeypatch.setattr(reading, "plan_of", seen)
        with open_reading(session, mapping, None, plan) as reads:
            assert reads.still()
    monkeypatch.setattr(reading, "plan_of", really)
    with open_reading(session, mapping, None, plan) as reads:
        source.execute("CREATE OR REPLACE VIEW plain AS SELECT key, 'x' AS value FROM t")
        assert not reads.still()


# -- subscriptions ---------------------------------------------------------------------------------------------------


def now(session: Session, mapping: Mapping) -> int:
    return reading.explain(session, mapping).frontiers.now


def begun(subscription: Subscription) -> Subscription:
    while not subscription.started():
        select.select([subscription], [], [], 1.0)
    return subscription


def test_one_thread_follows_several_views(source: Source, connect: Open) -> None:
    """A selector says whose turn it is; no call waits, and every subscription gets every change."""
    source.retain_history()
    asking = connect()
    mapping = mapped(asking, source)
    as_of = now(asking, mapping)
    following = [begin_subscription(connect(), mapping, CLOCK, 16, as_of) for _ in range(5)]
    for i in range(20):
        source.put(**{f"k{i}": str(i)})
    until = now(asking, mapping)
    puts: dict[Subscription, dict[bytes, bytes]] = {one: {} for one in following}
    polls_s: list[float] = []
    give_up_at = time.monotonic() + PATIENCE_S
    while any(one.stream.frontier <= until for one in following) and time.monotonic() < give_up_at:
        ready, _, _ = select.select([one for one in following if not one.has_more], [], [], 0.1)
        for one in [*ready, *(one for one in following if one.has_more)]:
            began = time.monotonic()
            if one.poll(LIMIT):
                puts[one] |= one.stream.take().puts
            polls_s.append(time.monotonic() - began)
    expected = {b"p:k%d" % i: b"%d" % i for i in range(20)}
    assert list(puts.values()) == [expected] * 5
    assert median(polls_s) < 0.1  # a single one may be as long as the machine stalls
    for one in following:
        one.cancel()


def test_a_poll_of_a_silent_view_returns_at_once(source: Source, connect: Open) -> None:
    """Also before the server has answered at all."""
    source.retain_history()
    session = connect()
    mapping = mapped(session, source)
    subscription = begin_subscription(session, mapping, CLOCK, 16, now(session, mapping))
    polls_s = []
    for _ in range(100):
        began = time.monotonic()
        subscription.poll(LIMIT)
        polls_s.append(time.monotonic() - began)
    assert median(polls_s) < 0.005
    subscription.cancel()


def test_the_bound_ends_a_subscription_that_is_only_polled(source: Source, connect: Open) -> None:
    """Its end proves that everything below UP TO has come."""
    source.retain_history()
    session = connect()
    mapping = mapped(session, source)
    as_of = now(session, mapping)
    source.put(a="1")
    up_to = now(connect(), mapping) + 1
    subscription = begun(begin_subscription(session, mapping, CLOCK, 16, as_of, up_to))
    give_up_at = time.monotonic() + PATIENCE_S
    while not subscription.finished and time.monotonic() < give_up_at:
        if not subscription.poll(LIMIT):
            select.select([subscription], [], [], 0.1)
    assert subscription.finished
    assert subscription.stream.frontier == up_to
    assert subscription.stream.take().puts == {b"p:a": b"1"}


def test_lost_history_is_told_when_the_start_is_awaited(source: Source, connect: Open) -> None:
    """By `started` as by `poll`: nothing has been waited for before."""
    source.put(a="1")
    source.await_oblivion()
    session, other = connect(), connect()
    mapping = mapped(session, source)
    past = now(session, mapping) - 100_000
    with pytest.raises(HistoryLost):
        begun(begin_subscription(session, mapping, CLOCK, 16, past))
    polled = begin_subscription(other, mapping, CLOCK, 16, past)
    select.select([polled], [], [], PATIENCE_S)
    with pytest.raises(HistoryLost):
        polled.poll(LIMIT)


def test_a_name_whose_look_up_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq's connect_timeout begins after the look-up; ours does not. (What hangs here stands for the resolver.)"""

    def hangs(*_: object, **__: object) -> None:
        time.sleep(30)

    monkeypatch.setattr("psycopg.connect", hangs)
    monkeypatch.setattr(sessions, "LOOK_UP_S", 0.2)
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"within 0\.5 s"):
        sessions.connect(MaterializeSettings(host="nowhere.example", connect_timeout_s=0.3), Stop())
    assert time.monotonic() - began < 25


def test_a_session_that_is_closed_watches_nothing(source: Source, connect: Open) -> None:
    """Though an error left its result half read, and still holds it: a function that stays warm keeps no thread."""
    fill(source, {f"k{i}": 100 for i in range(5000)})
    session = connect()
    mapping = mapped(session, source)
    chunks = session.stream(mapping.mapped())
    assert next(chunks)
    assert session.stop._root._watches
    session.close()
    assert not session.stop._root._watches


def test_the_present_is_never_before_the_checkpoint(source: Source) -> None:
    """A role, or the address, may ask for a weaker isolation, which could read a time before the last one."""
    url = make_conninfo(source.url, options="--transaction_isolation=serializable --cluster=quickstart")
    session = sessions.connect(address.materialize(url), Stop())
    try:
        assert session.fetch("SHOW transaction_isolation") == [(b"strict serializable",)]
        assert session.fetch("SHOW cluster") == [(b"quickstart",)]
    finally:
        session.close()
