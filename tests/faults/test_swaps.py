"""The view is swapped for another in the middle of a run, and back before the next: no run commits half of each."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from reconcile.runs import delta, large, scopes, verify, work
from reconcile.runs.delta import Doubt, Follower, TooLarge
from reconcile.source.reading import Reading, open_reading
from tests.faults.rig import FOLLOWED_S, Ended, Rig
from tests.faults.test_companions import create
from tests.support.redis_state import owned, state


@pytest.fixture(params=["schemas", "plain view"])
def swap(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """Puts the view under another schema's name, and the other, with other content, under its own; and back.

    Or replaces a plain view by another over the same table: what the query reads keeps its ids.
    """
    rig.source.retain_history()
    rig.source.put(a="1", b="2", gone="3")
    with (swapped_schemas if request.param == "schemas" else replaced_view)(rig) as swapped:
        yield swapped


@contextlib.contextmanager
def replaced_view(rig: Rig) -> Iterator[Callable[[], None]]:
    blue = "SELECT key, value FROM t"
    green = "SELECT key, value || '!' AS value FROM t WHERE key <> 'gone' UNION ALL SELECT 'more', 'x'"
    rig.source.execute("ALTER TABLE t SET (RETAIN HISTORY FOR '1hr')")
    rig.source.execute(f"CREATE VIEW plain AS {blue}")
    rig.view = {"sql": f"SELECT key, value FROM {rig.source.schema}.plain"}
    definitions = [blue, green]

    def swapped() -> None:
        definitions.reverse()
        rig.source.execute(f"CREATE OR REPLACE VIEW plain AS {definitions[0]}")

    yield swapped


@contextlib.contextmanager
def swapped_schemas(rig: Rig) -> Iterator[Callable[[], None]]:
    source, green = rig.source, f"{rig.source.schema}_g"
    source.execute(f"CREATE SCHEMA {green}")
    other = f"SELECT key, value || '!' AS value FROM {source.schema}.t WHERE key <> 'gone'"
    source.execute(f"CREATE MATERIALIZED VIEW {green}.v AS {other} UNION ALL SELECT 'more', 'x'")
    source.execute(f"ALTER MATERIALIZED VIEW {green}.v SET (RETAIN HISTORY FOR '1hr')")

    def swapped() -> None:
        source.execute(f"ALTER SCHEMA {source.schema} SWAP WITH {green}")
        swaps.append(1)

    swaps: list[int] = []
    try:
        yield swapped
    finally:
        with contextlib.suppress(Exception):
            if len(swaps) % 2:
                swapped()
        source.execute(f"DROP SCHEMA {green} CASCADE")


def right_in_the_end(rig: Rig, ended: Ended) -> None:
    """What was committed is one of the two, and the next run, by whatever way, brings the view that is there now."""
    assert ended.code in (0, 6), ended.told
    as_of = state(rig.client).get("as_of")
    content = owned(rig.client)
    blue = {b"p:a": b"1", b"p:b": b"2", b"p:gone": b"3"}
    green = {b"p:a": b"1!", b"p:b": b"2!", b"p:more": b"x"}
    if as_of and not state(rig.client)["pending"]:
        assert content in (blue, green, blue | {b"p:a": b"1 later"}), content
    rig.source.put(c="new")
    for _ in range(2):
        ended = rig.run()
        assert ended.code == 0, ended.told
        rig.in_sync()


def swaps_before(nth: int, swap: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """The view is swapped just before the n-th subscription."""
    really, count = work.begin_subscription, 0

    def subscribe(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == nth:
            swap()
        return really(*arguments, **options)

    patch.setattr(work, "begin_subscription", subscribe)
    patch.setattr(large, "begin_subscription", subscribe)


@pytest.mark.parametrize(
    "kind", ["delta", "follow", "repeat", "parts", "later part", "before parts", "after a snapshot"]
)
def test_between_explain_and_subscribe(
    kind: str, swap: Callable[[], None], rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EXPLAIN spoke of the one view, the subscription is of the other: nothing of it is committed."""
    assert rig.run().code == 0
    before, mode, options = owned(rig.client), "delta", {}
    rig.source.put(a="1 later")
    if kind == "follow":
        options["follow_s"] = FOLLOWED_S
    elif kind == "repeat":
        pending = {"kind": "delta", "until": int(time.time() * 1000), "clean": True}
        rig.client.hset("reconcile:{default}:state", "pending", json.dumps(pending))
    elif kind == "after a snapshot":
        mode, options = "snapshot", {"follow_s": FOLLOWED_S}
    with monkeypatch.context() as patch:
        if "part" in kind:
            patch.setattr(Follower, "step", too_large)
        if kind == "before parts":
            really = work._past_too_large
            patch.setattr(work, "_past_too_large", lambda run: (swap(), really(run)))
        else:
            swaps_before({"parts": 2, "later part": 4}.get(kind, 1), swap, patch)
        ended = rig.run(mode, **options)
    assert ended.code == 6, ended.told
    assert "replaced" in ended.told
    if kind == "after a snapshot":
        before |= {b"p:a": b"1 later"}
    if kind != "later part":
        assert owned(rig.client) == before
    swap()
    right_in_the_end(rig, ended)


def test_between_explain_and_subscribe_to_the_object_itself(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain view shows the same object as before, but the object's name is another's by now."""
    source, apart = rig.source, f"{rig.source.schema}_p"
    source.retain_history()
    source.put(a="1", b="2", gone="3")
    source.execute(f"CREATE SCHEMA {apart}")
    source.execute(f"CREATE VIEW {apart}.plain AS SELECT key, value FROM {source.schema}.v")
    rig.view = {"sql": f"SELECT key, value FROM {apart}.plain"}
    try:
        with swapped_schemas(rig) as swap:
            assert rig.run().code == 0
            source.put(a="1 later")
            with monkeypatch.context() as patch:
                swaps_before(1, swap, patch)
                ended = rig.run("delta")
            assert (ended.code, "replaced" in ended.told) == (6, True), ended.told
            source.execute(f"INSERT INTO {source.schema}_g.t VALUES ('b2', 'new')")
            ended = rig.run("delta")
            assert (ended.code, ended.view.action, ended.view.puts) == (0, "delta", 2), ended.told
    finally:
        source.execute(f"DROP SCHEMA {apart} CASCADE")


def too_large(_: Follower, *, idle: bool) -> None:
    """More at one time than memory holds."""
    raise TooLarge


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("statement", ["fingerprints", "rows", "rows_of", "still"])
def test_between_two_statements_of_a_snapshot(
    statement: str, first: bool, swap: Callable[[], None], rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads the other view; by the next run the first one is back."""
    if not first:
        assert rig.run().code == 0
        rig.source.put(a="1 later")
    really, swapped = getattr(Reading, statement), False

    def asked(self: Reading, *arguments: Any) -> Any:
        nonlocal swapped
        if not swapped:
            swapped = True
            swap()
        return really(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Reading, statement, asked)
        ended = rig.run("snapshot")
    if swapped:
        swap()
    right_in_the_end(rig, ended)


@pytest.mark.parametrize("history", [True, False])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("statement", ["explain", "fingerprints", "rows", "rows_of"])
def test_an_audit_is_of_one_view(
    statement: str, fast: bool, history: bool, swap: Callable[[], None], rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What differs because the view was replaced while it was read is no drift."""
    assert rig.run().code == 0
    rig.source.put(a="1 later")
    if not history:
        monkeypatch.setattr(verify._Audit, "_reading", at_present)
    place, name = (verify, "explain") if statement == "explain" else (Reading, statement)
    really, swapped = getattr(place, name), False

    def asked(*arguments: Any, **options: Any) -> Any:
        nonlocal swapped
        if swapped:
            return really(*arguments, **options)
        swapped = True
        if statement != "explain":
            swap()
        answer = really(*arguments, **options)
        if statement == "explain":
            swap()
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(place, name, asked)
        ended = rig.run("verify", fast=fast)
    assert ended.code in (0, 6), ended.told
    if ended.code == 6:
        assert "replaced" in ended.told
    rig.client.set("p:b", "edited")
    assert rig.run("verify").code == 3


@pytest.mark.parametrize("there", ["fingerprints", "rows_of", "the companion's", "explain", "subscribe"])
def test_dropped_before_it_is_read(there: str, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The view, or its companion, was there when it was described: patience, not another configuration."""
    rig.source.retain_history()
    rig.source.put(a="1")
    if there == "the companion's":
        create(rig, rig.source.sql)
    assert rig.run().code == 0
    rig.source.put(a="2")
    place, name = {
        "explain": (work, "open_reading"), "subscribe": (work, "begin_subscription"),
        "the companion's": (Reading, "fingerprints"),
    }.get(there, (Reading, there))  # fmt: skip
    really = getattr(place, name)

    def asked(*arguments: Any, **options: Any) -> Any:
        with contextlib.suppress(psycopg.Error):  # it has gone already
            rig.source.execute(
                f"DROP VIEW {rig.view['companion']}" if there == "the companion's" else "DROP MATERIALIZED VIEW v"
            )
        return really(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, asked)
        ended = rig.run("delta" if there == "subscribe" else "snapshot")
    assert ended.code == 6, ended.told
    assert "dropped or replaced: unknown catalog item" in ended.told
    if there != "the companion's":
        rig.source.execute("CREATE MATERIALIZED VIEW v AS SELECT key, value FROM t")
    assert rig.run().code == 0
    rig.in_sync()


@contextlib.contextmanager
def at_present(audit: Any, _: object) -> Iterator[tuple[Reading, bool]]:
    """The source has no history."""
    described = audit.run.described
    with open_reading(audit.run.session, described.mapping, None, described.plan) as reading:
        yield reading, False


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_between_two_parts_of_a_snapshot(
    nth: int, swap: Callable[[], None], rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a snapshot stores of its progress is of one view too: the next run takes it for done."""
    rig.view = {**rig.view, "buckets": 16}
    monkeypatch.setattr(scopes, "PART_ROWS", 1)
    assert rig.run().code == 0
    rig.source.execute("UPDATE t SET value = value || ' later'")
    really, asked = Reading.rows_of, 0

    def rows_of(self: Reading, *arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == nth:
            swap()
        return really(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Reading, "rows_of", rows_of)
        ended = rig.run("snapshot", max_runtime=600)
    assert asked >= nth
    assert ended.code == 6, ended.told
    swap()
    assert rig.run("snapshot").code == 0
    rig.in_sync()


def test_a_repair_while_following_is_of_the_view_that_is_there(
    swap: Callable[[], None], rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that follows stays with the view it began with, until it has to take a snapshot: that is of the new one."""
    assert rig.run().code == 0
    green = {b"p:a": b"1!", b"p:b": b"2!", b"p:more": b"x"}
    really, swapped = Follower.step, False

    def step(self: Follower, *, idle: bool) -> bool:
        nonlocal swapped
        if not swapped:
            swapped = True
            swap()
            raise Doubt("the manifest looks wrong")
        return really(self, idle=idle)

    with monkeypatch.context() as patch:
        patch.setattr(Follower, "step", step)
        ended = rig.follow(lambda: owned(rig.client) == green)
    assert ended.code == 0, ended.told
    assert owned(rig.client) == green
    assert rig.run().view.action != "snapshot"
    swap()
    right_in_the_end(rig, ended)


def test_before_the_last_look(swap: Callable[[], None], rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a follower has caught up: it goes on with what it has, and the next run notices."""
    assert rig.run().code == 0
    rig.source.put(a="1 later")
    really, swapped = delta.commit_range, False

    def commit(*arguments: Any) -> None:
        nonlocal swapped
        if not swapped:
            swapped = True
            swap()
        really(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(delta, "commit_range", commit)
        ended = rig.run()
    assert ended.code == 0
    swap()
    right_in_the_end(rig, ended)
