"""What Redis loses is noticed by whoever runs next, in every mode: deleted, evicted, expired keys, clocks that lie."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from pathlib import Path

import pytest

from reconcile.runs import scopes
from tests.faults.io_calls import Died, Io, small_pages
from tests.faults.rig import Rig, new_rig
from tests.support.meanwhile import eventually
from tests.support.redis_servers import evict, start_redis
from tests.support.redis_state import state
from tests.support.sources import Source

FEW_RUNS = 6


def lose(rig: Rig, number: int) -> None:
    """DEL of the first keys."""
    rig.client.delete(*[f"p:k{n}" for n in range(1, number + 1)])


def told_of_drift(warnings: list[str]) -> bool:
    """Whether the report says that Redis did not hold what it should."""
    return any(warning.startswith("drift:") for warning in warnings)


@pytest.mark.parametrize("changing", [True, False])
def test_deleted_keys_are_put_back_while_deltas_go_on(changing: bool, rig: Rig) -> None:
    """900 of 1,000 keys go; runs that have something to do, or nothing, notice and repair it, and say so."""
    rig.view = {"compare_every": "1s"}
    rig.source.retain_history()
    rig.fill(1000)
    assert rig.run().code == 0
    lose(rig, 900)
    warnings: list[str] = []
    for n in range(FEW_RUNS):
        time.sleep(1.0)
        if changing:
            rig.source.put(k950=f"change {n}")
        ended = rig.run()
        assert ended.code == 0, ended.told
        warnings += ended.view.warnings
        if len(rig.client.keys("p:*")) == 1000:
            break
    rig.in_sync()
    assert told_of_drift(warnings), warnings


def test_a_constant_view(rig: Rig) -> None:
    """A view that can never change again."""
    rig.view = {"compare_every": "1s", "sql": "SELECT 'k' || n AS key, 'v' AS value FROM generate_series(1, 1000) AS n"}
    assert rig.run().code == 0
    lose(rig, 900)
    warnings: list[str] = []
    for _ in range(FEW_RUNS):
        time.sleep(1.0)
        ended = rig.run()
        assert ended.code == 0, ended.told
        warnings += ended.view.warnings
    assert len(rig.client.keys("p:*")) == 1000
    assert told_of_drift(warnings)


def test_while_following(rig: Rig) -> None:
    """A follower looks too, between two changes."""
    rig.view = {"compare_every": "1s"}
    rig.source.retain_history()
    rig.fill(1000)
    assert rig.run().code == 0
    lost: list[bool] = []

    def repaired() -> bool:
        if not lost and int(state(rig.client)["as_of"]) > present:
            lose(rig, 900)
            lost.append(True)
        return bool(lost) and len(rig.client.keys("p:*")) == 1000

    present = rig.source.present()
    ended = rig.follow(repaired)
    assert ended.code == 0, ended.told
    assert ended.view.puts >= 900
    rig.in_sync()


def test_a_delta_alone_says_what_it_must_not_repair(rig: Rig) -> None:
    """The command delta takes no snapshots: exit 5 names the one that helps."""
    rig.view = {"compare_every": "1s"}
    rig.source.retain_history()
    rig.fill(1000)
    assert rig.run().code == 0
    lose(rig, 900)
    time.sleep(1.2)
    ended = rig.run("delta")
    assert ended.code == 5
    assert "reconcile snapshot --view default" in ended.told


def test_evictions_are_a_hint(source: Source, tmp_path: Path) -> None:
    """Long before the compare is due: evicted_keys grew, so a slice is looked at."""
    with start_redis(tmp_path) as server, new_rig(source, server, tmp_path) as rig:
        rig.source.retain_history()
        rig.fill(3000, 300)
        assert rig.run().code == 0
        assert rig.run().code == 0
        evict(rig.client, "allkeys-random", 200_000)
        assert len(rig.client.keys("p:*")) < 3000
        own = ("reconcile:{default}:state", "reconcile:{default}:manifest")
        spared = rig.client.exists(*own) == len(own)  # they are victims like any other: then every row is compared
        warnings: list[str] = []
        for n in range(FEW_RUNS):
            rig.source.put(k1=f"change {n}")
            ended = rig.run()
            assert ended.code == 0, ended.told
            warnings += ended.view.warnings
        assert not spared or any("has evicted keys" in warning for warning in warnings)
        assert not spared or told_of_drift(warnings)
        rig.in_sync()


def test_another_process_is_a_hint(source: Source, tmp_path: Path) -> None:
    """A Redis that may evict was restarted, and its file lacks keys: one slice is compared, long before it is due."""
    options = "--maxmemory-policy", "allkeys-lru", "--appendonly", "yes", "--appendfsync", "always"
    with start_redis(tmp_path, *options) as server, new_rig(source, server, tmp_path) as rig:
        rig.source.retain_history()
        rig.fill(1000)
        assert rig.run().code == 0
        quiet = rig.run()
        assert not quiet.view.warnings
        lose(rig, 900)
        assert not rig.run().view.warnings  # nothing tells of it yet
        server.stop(signal.SIGKILL)
        server.start()
        ended = rig.run()
        assert ended.code == 0, ended.told
        assert any("was restarted" in warning for warning in ended.view.warnings)
        assert told_of_drift(ended.view.warnings)
        rig.in_sync()
        assert not rig.run().view.warnings


@pytest.mark.parametrize("prefix", ["p", ""])
def test_keys_that_are_taken_over_lose_their_expiry(prefix: str, rig: Rig) -> None:
    """First contact meets keys with the right value and a time to live: they must not vanish later."""
    rig.view = {"key_prefix": prefix}
    rig.source.retain_history()
    rig.source.put(a="1", b="2")
    at = "p:" if prefix else ""
    rig.client.set(at + "a", "1", px=60_000)
    ended = rig.run(adopt=not prefix)
    assert ended.code == 0, ended.told
    assert rig.client.ttl(at + "a") == -1
    assert rig.client.get(at + "b") == b"2"


def test_an_expiry_set_by_others_later(rig: Rig) -> None:
    """The key vanishes before long; the compare puts it back."""
    rig.view = {"compare_every": "1s"}
    rig.source.retain_history()
    rig.fill(100)
    assert rig.run().code == 0
    rig.client.pexpire("p:k7", 200)
    for _ in range(FEW_RUNS):
        time.sleep(1.0)
        assert rig.run().code == 0
    rig.in_sync()
    assert rig.client.ttl("p:k7") == -1


def test_fast_verify_counts_names(rig: Rig) -> None:
    """900 of 1,000 gone: exit 3, in a glance."""
    rig.source.retain_history()
    rig.fill(1000)
    assert rig.run().code == 0
    assert rig.run("verify", fast=True).code == 0
    lose(rig, 900)
    ended = rig.run("verify", fast=True)
    assert (ended.code, ended.view.buckets_read) == (3, 0)
    assert ended.view.drift is not None
    assert ended.view.drift.missing == 900


def test_fast_verify_of_what_was_never_loaded(rig: Rig) -> None:
    """Nothing to compare with is not "in sync"."""
    rig.fill(10)
    ended = rig.run("verify", fast=True)
    assert ended.code == 2
    assert "reconcile snapshot" in ended.told


@pytest.mark.parametrize("ahead_ms", [10**9, -(10**9)])
def test_a_turn_noted_by_a_clock_that_lied(ahead_ms: int, rig: Rig) -> None:
    """A turn that ended in the future counts as now: compares come again in time."""
    rig.view = {"compare_every": "1s"}
    rig.source.retain_history()
    rig.fill(100)
    assert rig.run().code == 0
    name = "reconcile:{default}:state"
    turn = state(rig.client)["turn"]
    now_ms = int(time.time() * 1000)
    stored = json.loads(turn) | {"done_ms": now_ms + ahead_ms, "began_ms": 0, "i": 0, "n": 1}
    rig.client.hset(name, "turn", json.dumps(stored))
    lose(rig, 50)
    for _ in range(FEW_RUNS):
        time.sleep(1.0)
        assert rig.run().code == 0
    rig.in_sync()


@pytest.mark.parametrize("why", ["no room", "no right", "replica"])
def test_a_verdict_does_not_depend_on_being_noted(why: str, rig: Rig) -> None:
    """Redis takes no write of the auditor: drift is exit 3 all the same, and a warning says what could not be kept."""
    rig.source.retain_history()
    rig.fill(100)
    assert rig.run().code == 0
    lose(rig, 50)
    client = rig.client
    try:
        if why == "no room":
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", 1)
        elif why == "no right":
            client.execute_command("ACL", "SETUSER", "default", "-@write")
        else:
            client.execute_command("REPLICAOF", "127.0.0.1", 1)
        ended = rig.run("verify")
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.config_set("maxmemory", 0)
        client.execute_command("ACL", "SETUSER", "default", "+@all")
    assert ended.code == 3, ended.told
    assert ended.view.drift is not None
    assert ended.view.drift.missing == 50
    assert any("could not be recorded" in warning for warning in ended.view.warnings)


@pytest.mark.parametrize("batch", [7, 50_000])
@pytest.mark.parametrize(("before", "after"), [(16, 1024), (1024, 16)])
def test_a_lost_manifest_of_another_number_of_buckets(before: int, after: int, batch: int, rig: Rig) -> None:
    """As many are committed as are right now: the fingerprints that are left are of the former number."""
    rig.limits["batch_max_keys"] = batch
    rig.view = {"buckets": before}
    rig.fill(100)
    assert rig.run().code == 0
    rig.client.delete("reconcile:{default}:manifest")
    rig.source.execute("UPDATE t SET value = 'other' WHERE key LIKE 'k1%'")
    rig.source.await_oblivion()
    rig.view = {"buckets": after}
    ended = rig.run()
    assert ended.code == 0, ended.told
    assert state(rig.client)["buckets"] == str(after)
    rig.in_sync()


@pytest.mark.parametrize("seconds", [None, 1.5])
def test_a_delta_alone_meets_a_row_that_has_expired(seconds: float | None, rig: Rig) -> None:
    """The view still has it, and Redis rightly does not: that is no reason to stop. What is lost verify tells."""
    source = rig.source
    source.execute("CREATE TABLE s (key text, value text, until timestamptz)")
    source.execute("CREATE MATERIALIZED VIEW w AS SELECT key, value, until FROM s")
    source.execute("ALTER MATERIALIZED VIEW w SET (RETAIN HISTORY FOR '1hr')")
    rig.view = {
        "sql": f"SELECT key, value, until FROM {source.schema}.w", "expires_at": "until", "compare_every": "1s",
    }  # fmt: skip
    source.execute("INSERT INTO s SELECT 'k' || n, 'v', NULL::timestamptz FROM generate_series(1, 100) AS n")
    source.execute("INSERT INTO s VALUES ('x', 'v', now() + interval '1 second')")
    assert rig.run().code == 0
    eventually(lambda: not rig.client.exists("p:x"))
    time.sleep(1.2)  # until a compare is due
    ended = rig.run("delta", follow_s=seconds)
    assert ended.code in (0, 4 if seconds else 0), ended.told  # 4: over before the present was reached
    assert any("or rows have expired there" in warning for warning in ended.view.warnings), ended.view.warnings
    assert rig.run("verify").code == 0
    lose(rig, 1)
    assert rig.run("verify").code == 3


def expiring(rig: Rig, **view: object) -> None:
    """A view of 30 rows that expire in an hour, and one that has expired."""
    rig.source.execute("CREATE TABLE s (key text, value text, until timestamptz)")
    rig.source.execute("INSERT INTO s SELECT 'k' || n, 'v', now() + interval '1 hour' FROM generate_series(1, 30) AS n")
    rig.source.execute("INSERT INTO s VALUES ('x', 'v', '2024-01-01T00:00:00Z')")
    rig.view = {"sql": f"SELECT key, value, until FROM {rig.source.schema}.s", "expires_at": "until", **view}
    assert rig.run().code == 0


def test_an_expired_row_that_was_replaced_is_no_drift(rig: Rig) -> None:
    """Redis rightly lost it, and holds the row that took its place from the next run on. History is gone: only the
    fingerprints tell that the bucket lags. Where nothing has changed at the source, a lost key is drift."""
    expiring(rig, buckets=64)
    rig.source.execute("UPDATE s SET value = 'again', until = NULL WHERE key = 'x'")
    rig.source.await_oblivion("s")
    ended = rig.run("verify")
    assert ended.view.drift is not None
    assert (ended.code, ended.view.drift.lagging_buckets) == (0, 1), ended.told
    rig.client.delete("p:k7")
    assert rig.run("verify").code == 3
    assert rig.run().code == 0
    assert rig.client.get("p:x") == b"again"


def test_an_expired_row_that_another_expired_one_replaced_is_no_drift(rig: Rig) -> None:
    """Neither is in Redis; beside them a row went, which is so far extra there. A key that somebody else adds is none
    that expired."""
    expiring(rig, buckets=16)
    rig.source.execute("INSERT INTO s SELECT 'y' || n, 'v', '2024-01-01T00:00:00Z' FROM generate_series(1, 60) AS n")
    assert rig.run("snapshot").code == 0
    rig.source.execute("UPDATE s SET value = 'again', until = '2024-01-02T00:00:00Z' WHERE key LIKE 'y%'")
    rig.source.execute("DELETE FROM s WHERE key = 'k7'")
    rig.source.await_oblivion("s")
    ended = rig.run("verify")
    assert ended.code == 0, (ended.view.drift, ended.told)
    assert ended.view.drift is not None
    assert ended.view.drift.lagging_buckets > 0
    assert rig.run().code == 0
    rig.client.set("p:k7", "theirs")
    assert rig.run("verify").code == 3


@pytest.mark.parametrize(
    ("value", "until", "later"),
    [
        ("NULL", "2124-01-01T00:00:00Z", "2125-01-01T00:00:00Z"),
        ("'1'", "0044-03-15 00:00:00Z BC", "1969-01-01T00:00:00Z"),
    ],
    ids=["without a value", "before 1970"],
)
def test_times_that_are_one_to_redis(value: str, until: str, later: str, rig: Rig) -> None:
    """Another time that only the source tells apart is neither drift nor a missed update: its fingerprint changes."""
    expiring(rig)
    source = rig.source
    source.execute("CREATE MATERIALIZED VIEW w AS SELECT key, value, until FROM s")
    source.execute("ALTER MATERIALIZED VIEW w SET (RETAIN HISTORY FOR '1hr')")
    source.execute(f"INSERT INTO s VALUES ('one', {value}, '{until}')")
    rig.view["sql"] = f"SELECT key, value, until FROM {source.schema}.w"
    assert rig.run("snapshot").code == 0
    source.execute(f"UPDATE s SET until = '{later}' WHERE key = 'one'")
    ended = rig.run("delta")
    assert (ended.code, ended.view.updates) == (0, 2), ended.told
    assert rig.run("verify").code == 0
    ended = rig.run("verify", fast=True)
    assert ended.code == 0, ended.view.drift


@pytest.mark.parametrize("at", [0, *range(30, 200, 10)])
@pytest.mark.parametrize("prefix", ["p:", ""])
def test_rows_that_no_longer_expire(prefix: str, at: int, rig: Rig) -> None:
    """Their keys have what the view holds already, but would vanish; also if the run that writes them is cut short."""
    expiring(rig, key_prefix=prefix)
    rig.view = {"sql": f"SELECT key, value FROM {rig.source.schema}.s", "key_prefix": prefix}
    rig.limits = {"batch_max_keys": 5, "lease": "60s"}  # no renewal beside the calls that are numbered
    with small_pages(), Io(lambda: None, at).installed(), contextlib.suppress(Died):
        rig.run("snapshot", direct=True)
    rig.client.delete("reconcile:{default}:lease")
    assert rig.run("snapshot", direct=True).code == 0
    assert {rig.client.ttl(key) for key in rig.client.keys(f"{prefix}[kx]*")} == {-1}


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("at", range(30, 200, 10))
def test_rows_that_no_longer_expire_in_parts(at: int, deep: bool, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run that is cut short has stored some parts. The next one comes to the others, though their digests are
    right."""
    expiring(rig, buckets=16)
    rig.view = {"sql": f"SELECT key, value FROM {rig.source.schema}.s", "buckets": 16}
    monkeypatch.setattr(scopes, "PART_ROWS", 1)
    rig.limits["lease"] = "60s"
    with small_pages(), Io(lambda: None, at).installed(), contextlib.suppress(Died):
        rig.run("snapshot", direct=True, max_runtime=600)
    rig.client.delete("reconcile:{default}:lease")
    assert rig.run("snapshot", direct=True, deep=deep).code == 0
    assert {rig.client.ttl(key) for key in rig.client.keys("p:[kx]*")} == {-1}


@pytest.mark.parametrize("layout", ["string", "hash"])
def test_something_else_in_place_of_a_row_that_has_expired(layout: str, rig: Rig) -> None:
    """Whatever its type: verify tells, and a deep snapshot removes it."""
    expiring(rig, layout=layout, value=["value"] if layout == "hash" else "value")
    rig.client.sadd("p:x", "theirs")
    assert rig.run("verify").code == 3
    assert rig.run("snapshot", deep=True).code == 0
    assert not rig.client.exists("p:x")
    assert rig.run("verify").code == 0
