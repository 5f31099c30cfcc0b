"""Materialize restarted, without replicas, with the view dropped, replaced, edited, failing: what a user sees and what
the next run does."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconcile.source import query
from reconcile.source.reading import BEHIND_S
from reconcile_standin import StandIn
from tests.faults.rig import FOLLOWED_S, SLACK_S, Ended, Rig, failed, new_rig
from tests.support.meanwhile import beside, eventually
from tests.support.redis_servers import RedisServer, free_port
from tests.support.redis_state import owned, state
from tests.support.sources import SourceServer


@pytest.fixture
def restartable(redis_server: RedisServer, tmp_path: Path) -> Iterator[tuple[Rig, StandIn]]:
    """A rig on a stand-in of its own that keeps its content over restarts."""
    (tmp_path / "data").mkdir()
    with (
        StandIn(free_port(), str(tmp_path / "data")) as standin,
        SourceServer(standin.url, standin).new_source() as source,
        new_rig(source, redis_server, tmp_path) as made,
    ):
        yield made, standin


def unchanged(rig: Rig, run: Callable[[], Ended]) -> Ended:
    """The run leaves data and checkpoint as they were."""
    before = state(rig.client)
    data = {key: rig.client.get(key) for key in rig.client.scan_iter("p:*")}
    ended = run()
    after = state(rig.client)
    for name in ("token", "commit", "updated_at_ms"):
        before.pop(name, None)
        after.pop(name, None)
    assert after == before
    assert {key: rig.client.get(key) for key in rig.client.scan_iter("p:*")} == data
    return ended


def reconnect(rig: Rig) -> None:
    """The test's own connection to a source that was restarted."""
    import psycopg

    rig.source.connection.close()
    rig.source.connection = psycopg.connect(rig.source.url, autocommit=True, prepare_threshold=None)
    rig.source.execute(f"SET search_path = {rig.source.schema}")


def test_restart_between_runs(restartable: tuple[Rig, StandIn]) -> None:
    """Retained history survives a restart: down is exit 6, afterwards the delta goes on where it stopped."""
    rig, standin = restartable
    rig.source.retain_history()
    rig.fill(100)
    assert rig.run().code == 0
    rig.source.put(k1="before the restart")
    standin.kill()
    failed(unchanged(rig, rig.run), 6, "Materialize is not available")
    standin.start()
    reconnect(rig)
    rig.source.put(k2="after it")
    ended = rig.run()
    assert (ended.code, ended.view.action, ended.view.puts) == (0, "delta", 2)
    rig.in_sync()


def test_restart_while_followed(restartable: tuple[Rig, StandIn]) -> None:
    """The subscription breaks: exit 6 at once, progress is committed, the next run continues."""
    rig, standin = restartable
    rig.source.retain_history()
    rig.fill(100)
    assert rig.run().code == 0

    def kill(_: threading.Event) -> None:
        rig.await_following()
        rig.source.put(k1="committed")
        eventually(lambda: rig.client.get("p:k1") == b"committed")
        standin.kill()

    with beside(kill):
        ended = rig.run("run", follow_s=FOLLOWED_S)
    failed(ended, 6, "Materialize")
    assert ended.seconds < FOLLOWED_S / 2
    assert rig.client.get("p:k1") == b"committed"
    standin.start()
    reconnect(rig)
    rig.source.put(k2="after it")
    ended = rig.run()
    assert (ended.code, ended.view.action, ended.view.puts) == (0, "delta", 1)
    rig.in_sync()


def test_restart_during_a_load(restartable: tuple[Rig, StandIn]) -> None:
    """The read breaks: exit 6; the next run writes only what is not there yet."""
    rig, standin = restartable
    rig.fill(30000)
    rig.source_proxy.down_bytes_per_s = 2_000_000
    sent = rig.redis_proxy.on(b"MSETNX")
    thread = threading.Thread(target=lambda: (sent.seen.wait(30), time.sleep(0.2), standin.kill()))
    thread.start()
    failed(rig.run(), 6, "Materialize is not available")
    thread.join()
    there = len(owned(rig.client))
    assert state(rig.client)["as_of"] == ""
    standin.start()
    reconnect(rig)
    ended = rig.run(direct=True)
    assert (ended.code, ended.view.puts) == (0, 30000 - there)
    rig.in_sync()


def test_a_cluster_without_replicas(rig: Rig) -> None:
    """Nothing can run: exit 6 with Materialize's hint; with a replica the next run goes on."""
    cluster = f"c_{rig.source.schema}"
    if not rig.source.is_standin:
        pytest.skip("the stand-in's cluster has a replica again by one statement; a real one takes minutes")
    rig.source.execute(f"CREATE CLUSTER {cluster} REPLICAS ()")
    rig.source.retain_history()
    rig.source.put(a="1")
    rig.materialize = {"cluster": cluster}
    assert rig.run().code == 0
    rig.source.put(a="2")
    rig.source.execute(f"ALTER CLUSTER {cluster} SET (REPLICATION FACTOR 0)")
    for mode in ("run", "delta", "snapshot"):
        failed(unchanged(rig, lambda mode=mode: rig.run(mode)), 6, "no replicas", "REPLICATION FACTOR")  # type: ignore[misc]
    failed(rig.run("verify"), 6, "no replicas")
    rig.source.execute(f"ALTER CLUSTER {cluster} SET (REPLICATION FACTOR 1)")
    ended = rig.run()
    assert (ended.code, ended.view.action, ended.view.puts) == (0, "delta", 1)
    rig.in_sync()
    rig.materialize = {}
    rig.source.execute(f"DROP CLUSTER {cluster}")


def test_a_view_whose_cluster_has_no_replicas(rig: Rig) -> None:
    """The session's cluster runs, the view's own does not: Materialize waits for it without a word. The message says
    what is missing; with a replica the next run goes on."""
    if not rig.source.is_standin:
        pytest.skip("the stand-in's cluster has a replica again by one statement; a real one takes minutes")
    cluster = f"c_{rig.source.schema}"
    rig.source.execute(f"CREATE CLUSTER {cluster} REPLICAS ()")
    rig.source.execute(f"CREATE MATERIALIZED VIEW elsewhere IN CLUSTER {cluster} AS SELECT key, value FROM t")
    rig.view = {"sql": f"SELECT key, value FROM {rig.source.schema}.elsewhere"}
    rig.source.put(a="1")
    assert rig.run().code == 0
    rig.source.execute(f"ALTER CLUSTER {cluster} SET (REPLICATION FACTOR 0)")
    rig.source.put(a="2")
    time.sleep(BEHIND_S + 1)
    rig.materialize = {"read_timeout": 3}
    for mode, said in (("run", "not even progress"), ("snapshot", "s behind the time to read")):
        failed(unchanged(rig, lambda mode=mode: rig.run(mode)), 6, "said nothing for 3 s", said, "replicas")  # type: ignore[misc]
    rig.source.execute(f"ALTER CLUSTER {cluster} SET (REPLICATION FACTOR 1)")
    rig.materialize = {}
    assert rig.run().view.puts == 1
    rig.in_sync()


def test_a_plan_that_is_not_shown(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """EXPLAIN is not a stable interface: where its form is another, runs work, and say what they cannot notice."""
    monkeypatch.setattr(query, "plan_of", lambda sql: f"EXPLAIN PLAN IN A FORM TO COME FOR {sql}")
    rig.source.put(a="1")
    ended = rig.run()
    assert (ended.code, ended.view.puts) == (0, 1)
    assert [text for text in ended.view.warnings if "goes unnoticed" in text]


def test_a_cluster_that_does_not_exist(rig: Rig) -> None:
    """Materialize only notices; we say so: exit 2."""
    rig.source.put(a="1")
    rig.materialize = {"cluster": "nowhere"}
    failed(rig.run(), 2, "nowhere")


def test_the_view_is_dropped(rig: Rig) -> None:
    """Between runs: exit 2 and Redis stays as it is; made again, the next run takes a snapshot and says why."""
    rig.source.retain_history()
    rig.source.put(a="1", b="2")
    assert rig.run().code == 0
    rig.source.execute("DROP MATERIALIZED VIEW v")
    for mode in ("run", "delta", "snapshot", "verify"):
        failed(unchanged(rig, lambda mode=mode: rig.run(mode)), 2, "unknown catalog item")  # type: ignore[misc]
    rig.source.execute("CREATE MATERIALIZED VIEW v AS SELECT key, value FROM t WHERE key <> 'b'")
    ended = rig.run()
    assert (ended.code, ended.view.action, ended.view.deletes) == (0, "snapshot", 1)
    assert "not the one of the checkpoint" in ended.view.reason
    rig.in_sync()


def test_the_view_is_dropped_while_followed(rig: Rig) -> None:
    """The subscription ends with Materialize's words: exit 6, and the next run says exit 2."""
    rig.source.retain_history()
    rig.source.put(a="1")
    assert rig.run().code == 0

    def drop(_: threading.Event) -> None:
        rig.await_following()
        rig.source.execute("DROP MATERIALIZED VIEW v")

    with beside(drop):
        ended = rig.run("run", follow_s=FOLLOWED_S)
    failed(ended, 6, "dropped or replaced")
    assert ended.seconds < FOLLOWED_S / 2
    failed(rig.run(), 2, "unknown catalog item")


@pytest.mark.parametrize("mode", ["delta", "run"])
def test_beyond_a_thousand_descriptors(mode: str, rig: Rig) -> None:
    """A run over many views has more than select() knows."""
    rig.source.retain_history()
    rig.source.put(a="1")
    assert rig.run().code == 0
    rig.source.put(a="2")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2048)), hard))
    with contextlib.ExitStack() as held:
        for _ in range(1100):
            held.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        ended = rig.run(mode, follow_s=0.5)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert ended.code == 0, ended.told
    rig.in_sync()


def test_blue_green(rig: Rig) -> None:
    """ALTER SCHEMA … SWAP puts another view under the same name: no delta over the seam, a snapshot instead."""
    source = rig.source
    green = f"{source.schema}_g"
    source.execute(f"CREATE SCHEMA {green}")
    try:
        source.retain_history()
        source.put(a="1", b="2")
        assert rig.run().code == 0
        source.execute(
            f"CREATE MATERIALIZED VIEW {green}.v AS SELECT key, value || '!' AS value FROM {source.schema}.t"
        )
        source.execute(f"ALTER MATERIALIZED VIEW {green}.v SET (RETAIN HISTORY FOR '1hr')")
        source.execute(f"ALTER SCHEMA {source.schema} SWAP WITH {green}")
        ended = rig.run()
        assert (ended.code, ended.view.action, ended.view.puts) == (0, "snapshot", 2)
        assert "not the one of the checkpoint" in ended.view.reason
        assert rig.client.get("p:a") == b"1!"
        ended = rig.run()
        assert (ended.code, ended.view.puts) == (0, 0)
        failed_delta = rig.run("delta")
        assert failed_delta.code == 0
    finally:
        source.execute(f"ALTER SCHEMA {source.schema} SWAP WITH {green}")
        source.execute(f"DROP SCHEMA {green} CASCADE")


def test_swapped_while_followed(rig: Rig) -> None:
    """A running subscription goes on with the old view (as in Materialize); the next run notices."""
    source = rig.source
    green = f"{source.schema}_g"
    source.execute(f"CREATE SCHEMA {green}")
    try:
        source.retain_history()
        source.put(a="1", b="2")
        source.execute(
            f"CREATE MATERIALIZED VIEW {green}.v AS SELECT key, value || '!' AS value FROM {source.schema}.t"
        )
        times: list[int] = []
        """The load's; then that of a follower, at which the schemas are swapped."""

        def goes_on() -> bool:
            """After the swap too: so much later that the new view's content would have come."""
            as_of = int(state(rig.client).get("as_of") or 0)
            if len(times) < 2 and as_of > max(times, default=0):
                times.append(as_of)
                if len(times) == 2:
                    source.execute(f"ALTER SCHEMA {source.schema} SWAP WITH {green}")
            return len(times) == 2 and as_of > times[1] + 1000

        ended = rig.follow(goes_on)
        assert ended.code == 0, ended.told
        assert rig.client.get("p:a") == b"1"
        ended = rig.run()
        assert (ended.code, ended.view.action, ended.view.puts) == (0, "snapshot", 2)
        assert rig.client.get("p:a") == b"1!"
    finally:
        source.execute(f"ALTER SCHEMA {source.schema} SWAP WITH {green}")
        source.execute(f"DROP SCHEMA {green} CASCADE")


def test_the_query_is_edited(rig: Rig) -> None:
    """Another query over the same view: delta refuses (8), run takes a snapshot of exactly what differs."""
    rig.source.retain_history()
    rig.source.put(a="1", b="2", c="3")
    assert rig.run().code == 0
    rig.view = {"sql": f"SELECT key, value FROM {rig.source.relation} WHERE key <> 'c'"}
    failed(unchanged(rig, lambda: rig.run("delta")), 8, "cannot continue by delta")
    ended = rig.run()
    assert (ended.code, ended.view.action, ended.view.puts, ended.view.deletes) == (0, "snapshot", 0, 1)
    assert set(rig.client.keys("p:*")) == {b"p:a", b"p:b"}  # type: ignore[arg-type]


def test_a_column_changes_its_type(rig: Rig) -> None:
    """text → bigint → jsonb value, then a key type that cannot be a key: snapshots, then exit 2 naming the column."""
    source = rig.source
    source.retain_history()
    source.put(a="1", b="2")
    assert rig.run().code == 0
    for expression in ("value::bigint", "to_jsonb(value)"):
        source.execute("DROP MATERIALIZED VIEW v")
        source.execute(f"CREATE MATERIALIZED VIEW v AS SELECT key, {expression} AS value FROM t")
        ended = rig.run()
        assert (ended.code, ended.view.action) == (0, "snapshot"), ended.told
        assert "not the one of the checkpoint" in ended.view.reason
        rig.in_sync()
    source.execute("DROP MATERIALIZED VIEW v")
    source.execute("CREATE MATERIALIZED VIEW v AS SELECT to_jsonb(key) AS key, value FROM t")
    failed(unchanged(rig, rig.run), 2, "'key'", "cast it")
    source.execute("DROP MATERIALIZED VIEW v")
    source.execute("CREATE MATERIALIZED VIEW v AS SELECT key AS id, value FROM t")
    failed(unchanged(rig, rig.run), 2, "key", "configuration")


@pytest.mark.parametrize(("one", "other"), [("1", "'1'"), ("'true'", "true"), ("'1.5'::jsonb", "1.5::numeric")])
def test_a_number_that_becomes_text(one: str, other: str, rig: Rig) -> None:
    """Both have the same text, by which the source hashes them, and JSON shows which it is. By turns."""
    rig.source.put(a="x")
    rig.source.execute("CREATE VIEW w AS SELECT key FROM t")
    rig.view = {"sql": f"SELECT key, n FROM {rig.source.schema}.w", "layout": "json", "value": ["n"]}
    for value in (one, other, one):
        rig.source.execute(f"CREATE OR REPLACE VIEW w AS SELECT key, {value} AS n FROM t")
        ((shown,),) = rig.source.execute("SELECT jsonb_build_object('n', n)::text FROM w")
        ended = rig.run("snapshot")
        assert ended.code == 0, ended.told
        assert rig.client.get("p:a") == shown.encode()


@pytest.mark.parametrize("history", [True, False])
def test_an_evaluation_error_comes_and_goes(history: bool, rig: Rig) -> None:
    """Division by zero in the view: exit 5, Redis untouched; once it is corrected, the next run converges."""
    source = rig.source
    source.execute("DROP MATERIALIZED VIEW v")
    source.execute("CREATE MATERIALIZED VIEW v AS SELECT key, (100 / value::int)::text AS value FROM t")
    if history:
        source.retain_history()
    source.put(**{f"k{n}": "5" for n in range(20)})
    assert rig.run().code == 0
    source.put(bad="0")
    if not history:
        source.await_oblivion()
    for mode in ("run", "snapshot"):
        failed(unchanged(rig, lambda mode=mode: rig.run(mode)), 5, "division by zero")  # type: ignore[misc]
    source.put(bad="50")
    rig.converges()


def test_an_evaluation_error_on_first_contact(rig: Rig) -> None:
    """The same before anything was loaded: exit 5, no checkpoint; then a load."""
    source = rig.source
    source.execute("DROP MATERIALIZED VIEW v")
    source.execute("CREATE MATERIALIZED VIEW v AS SELECT key, (100 / value::int)::text AS value FROM t")
    source.execute("INSERT INTO t SELECT 'k' || n, (n % 1000)::text FROM generate_series(1, 5000) AS n")
    failed(rig.run(), 5, "division by zero")
    assert not state(rig.client).get("as_of")
    source.execute("UPDATE t SET value = '1' WHERE value = '0'")
    rig.converges()


def test_an_evaluation_error_while_followed(rig: Rig) -> None:
    """It comes over the running subscription: exit 5, everything before it is committed."""
    source = rig.source
    source.execute("DROP MATERIALIZED VIEW v")
    source.execute("CREATE MATERIALIZED VIEW v AS SELECT key, (100 / value::int)::text AS value FROM t")
    source.retain_history()
    source.put(a="5")
    assert rig.run().code == 0

    def break_it(_: threading.Event) -> None:
        rig.await_following()
        source.put(b="10")
        eventually(lambda: rig.client.get("p:b") == b"10")
        source.put(c="0")

    with beside(break_it):
        ended = rig.run("run", follow_s=FOLLOWED_S)
    failed(ended, 5, "division by zero")
    assert ended.seconds < FOLLOWED_S / 2
    assert rig.client.get("p:b") == b"10"
    source.put(c="20")
    rig.converges()


def test_as_of_in_the_future(rig: Rig) -> None:
    """Soon: it waits. Within --max-runtime never: exit 4. Further than a read may wait: exit 2 at once."""
    rig.source.retain_history()
    rig.source.put(a="1")
    assert rig.run().code == 0
    soon = int(time.time() * 1000) + 1500
    ended = rig.run("snapshot", as_of=soon)
    assert (ended.code, ended.view.as_of) == (0, soon), ended.told
    hour = int(time.time() * 1000) + 3_600_000
    ended = unchanged(rig, lambda: rig.run("snapshot", as_of=hour, max_runtime=1.0))
    assert ended.code == 4, ended.told
    assert ended.seconds < 1.0 + 1.0 + SLACK_S
    assert not rig.client.exists("reconcile:{default}:lease")
    ended = unchanged(rig, lambda: rig.run("snapshot", as_of=hour))
    failed(ended, 2, "in the future")
    assert ended.seconds < SLACK_S
    rig.converges()


def test_a_plain_view_may_be_read_but_not_what_it_shows(rig: Rig) -> None:
    """SUBSCRIBE to the object itself is refused; the view is followed instead."""
    if not rig.source.is_standin:
        pytest.skip("needs to create roles")
    source = rig.source
    role = f"r_{source.schema}"
    source.retain_history()
    source.execute("CREATE VIEW shown AS SELECT key, value FROM v")
    source.execute(f"CREATE ROLE {role}")
    source.execute(f"GRANT USAGE ON SCHEMA {source.schema} TO {role}")
    source.execute(f"GRANT SELECT ON shown TO {role}")
    source.put(a="1")
    rig.materialize = {"url": f"postgresql://{role}@127.0.0.1:{rig.source_proxy.port}/materialize"}
    rig.view = {"sql": f"SELECT key, value FROM {source.schema}.shown"}
    assert rig.run().code == 0
    source.put(a="2")
    for mode, key in (("delta", "b"), ("run", "c")):
        source.put(**{key: "1"})
        ended = rig.run(mode)
        assert (ended.code, ended.view.action) == (0, "delta"), ended.told
        rig.in_sync()


def test_credentials_are_revoked(rig: Rig) -> None:
    """SELECT taken away: exit 2 with the privilege's name; Redis untouched; given back, the next run goes on."""
    if not rig.source.is_standin:
        pytest.skip("needs to create roles")
    source = rig.source
    role = f"r_{source.schema}"
    source.execute(f"CREATE ROLE {role}")
    source.execute(f"GRANT USAGE ON SCHEMA {source.schema} TO {role}")
    source.execute(f"GRANT SELECT ON v TO {role}")
    source.execute(f"CREATE CLUSTER {role} REPLICAS ()")
    source.execute(f"GRANT USAGE ON CLUSTER {role} TO {role}")
    source.retain_history()
    source.put(a="1")
    port = rig.source_proxy.port
    rig.materialize = {"url": f"postgresql://{role}@127.0.0.1:{port}/materialize", "cluster": role}
    assert rig.run().code == 0
    source.execute(f"REVOKE SELECT ON v FROM {role}")
    source.put(a="2")
    failed(unchanged(rig, rig.run), 2, "permission denied", "SELECT")
    source.execute(f"GRANT SELECT ON v TO {role}")
    ended = rig.run()
    assert (ended.code, ended.view.puts) == (0, 1)
    rig.in_sync()
