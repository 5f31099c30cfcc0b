"""A view cut into shards: parallel runs, each with its own keys, and one view for whoever looks at it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from reconcile.core.shards import Shard
from tests.support.command import Command
from tests.support.redis_cluster import Cluster
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import owned, prefixed
from tests.support.sources import Source

N = 4
SHARDS = [f"{i}/{N}" for i in range(N)]
ARRIVES_S = 120.0
ABOUT_SHARDS = ("claims", "shards", "state", "identity", "key space")
"""What doctor looks at."""


@pytest.fixture
def client(redis_server: RedisServer) -> redis.Redis:
    return redis_server.client()


@pytest.fixture
def filled(source: Source) -> Source:
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, 500) AS n")
    return source


def in_sync(source: Source, client: redis.Redis) -> bool:
    return owned(client) == prefixed(source.content())


def each(command: Command, *arguments: str, n: int = N, expect: int = 0) -> list[dict[str, Any]]:
    """The reports of all shards, run one after another."""
    return [command("run", "--shard", f"{i}/{n}", *arguments, expect=expect).view for i in range(n)]


def total(reports: list[dict[str, Any]], *fields: str) -> tuple[int, ...]:
    return tuple(sum(report[field] for report in reports) for field in fields)


def wait_until_in_sync(source: Source, client: redis.Redis) -> None:
    until = time.monotonic() + ARRIVES_S
    while not in_sync(source, client):
        assert time.monotonic() < until, "the shards do not follow"
        time.sleep(0.05)


# -- the work ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [True, False], ids=["history", "no history"])
def test_load_and_go_on(command: Command, filled: Source, client: redis.Redis, *, history: bool) -> None:
    """Each writes its own keys, once; then what changed, by delta or by fingerprints."""
    if history:
        filled.retain_history()
    assert total(each(command), "puts", "deletes") == (500, 0)
    assert in_sync(filled, client)
    filled.put(k1="new", k2=None, more="x")
    filled.execute("DELETE FROM t WHERE key = 'k3'")
    if not history:
        filled.forget_history()
    second = each(command)
    assert total(second, "puts", "deletes") == (2, 2)
    assert {report["action"] for report in second} == ({"delta"} if history else {"snapshot"})
    assert in_sync(filled, client)
    assert command("verify").view["status"] == "done"


@pytest.mark.alone
def test_four_processes_and_one_is_killed(command: Command, source: Source, client: redis.Redis) -> None:
    """They load and follow one view at the same time; the others do not notice that one is gone, and its next run
    brings its keys."""
    command.config["limits"] = {"lease": "2s"}
    source.retain_history()
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, 20000) AS n")
    running = [command.start("run", "--shard", shard, "--for", "600s") for shard in SHARDS]
    try:
        wait_until_in_sync(source, client)
        running[1].kill()
        running[1].wait()
        source.execute("UPDATE t SET value = 'again' WHERE key < 'k2'")
        source.execute("DELETE FROM t WHERE key LIKE 'k9%'")
        running[1] = command.start("run", "--shard", SHARDS[1], "--for", "600s", "--if-leased", "wait")
        wait_until_in_sync(source, client)
    finally:
        codes = [_ended(process) for process in running]
    assert codes == [4, 4, 4, 4]  # by the signal, all progress committed
    assert command("verify").view["status"] == "done"


def _ended(process: subprocess.Popen[str]) -> int:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    return process.returncode


def test_extra_keys_are_handled_once(command: Command, filled: Source, client: redis.Redis) -> None:
    """A handful of keys that nobody wrote goes; each is named by one shard. So do those that the view has lost."""
    each(command)
    strangers = {f"p:stranger{n}" for n in range(8)}
    client.mset(dict.fromkeys(strangers, "x"))
    filled.execute("DELETE FROM t WHERE key LIKE 'k4%'")
    deleted = 500 - filled.rows()
    reports = each(command)
    assert total(reports, "deletes")[0] >= deleted
    again = [command("snapshot", "--deep", "--shard", shard).view for shard in SHARDS]
    assert total(reports, "deletes")[0] + total(again, "deletes")[0] == deleted + len(strangers)
    told = " ".join(warning for report in [*reports, *again] for warning in report["warnings"])
    assert all(told.count(name) == 1 for name in strangers)
    assert in_sync(filled, client)


def test_keys_that_are_remembered(command: Command, filled: Source, client: redis.Redis) -> None:
    """Without a prefix each shard remembers its own, and leaves the others' alone."""
    del command.config["redis"]["key_prefix"]
    client.set("theirs", "untouched")
    each(command)
    filled.execute("DELETE FROM t WHERE key LIKE 'k4%'")
    each(command)
    assert {key: client.get(key) for key in client.keys("k*")} == filled.content()
    assert client.get("theirs") == b"untouched"
    command("run", "--shard", "0/1")
    filled.execute("DELETE FROM t WHERE key LIKE 'k35%'")
    command("run")
    assert {key: client.get(key) for key in client.keys("k*")} == filled.content()


@pytest.mark.parametrize("layout", ["json", "hash"])
def test_other_layouts(command: Command, source: Source, client: redis.Redis, layout: str) -> None:
    """A row is a row: shards know nothing of layouts."""
    source.execute("CREATE TABLE c (id int, name text, size int)")
    source.execute("INSERT INTO c SELECT n, 'n' || n, n FROM generate_series(1, 300) AS n")
    del command.config["materialize"]["sql"], command.config["redis"]["key_prefix"]
    command.config["views"] = [
        {"name": "c", "relation": f"{source.schema}.c", "key_template": "c:{id}", "value": "*", "layout": layout}
    ]
    assert total(each(command), "puts") == (300,)
    source.execute("UPDATE c SET size = 7 WHERE id <= 10")
    assert total(each(command), "puts") == (10 - 1,)
    assert len(client.keys("c:*")) == 300
    assert command("verify").view["status"] == "done"


def test_a_companion_view_is_shared(command: Command, filled: Source, client: redis.Redis) -> None:
    """Every shard asks it for its own buckets."""
    made = command("init", "--companion").report
    for statement in filter(None, made["ddl"].split(";\n")):
        filled.execute(statement)
    env = {"RECONCILE_VIEW__COMPANION": made["companion"]}
    for shard in SHARDS:
        command("run", "--shard", shard, **env)
    filled.put(k1="new")
    second = [command("run", "--shard", shard, **env).view for shard in SHARDS]
    assert total(second, "puts", "deletes") == (1, 0)
    assert sum(report["buckets_read"] for report in second) == 1
    assert [report["warnings"] for report in second] == [[]] * N
    assert in_sync(filled, client)


# -- the whole view ---------------------------------------------------------------------------------------------------


def test_who_looks_sees_one_view(command: Command, filled: Source, client: redis.Redis) -> None:
    """status, verify, explain and doctor speak for all shards; so does a run that is told of none."""
    each(command)
    (status,) = command("status").report["views"]
    assert (status["keys"], [one["shard"] for one in status["shards"]]) == (500, SHARDS)
    assert status["as_of"] == min(one["as_of"] for one in status["shards"])
    checks = command("doctor", expect=None).report["checks"]
    assert {check["level"] for check in checks if check["check"] in ABOUT_SHARDS} == {"ok"}
    assert sum(check["check"] == "key space" for check in checks) == N
    audit = command("verify").view
    assert (audit["view"], audit["keys"], audit["status"]) == ("default", 500, "done")
    client.set("p:k17", "edited")
    client.delete("p:k18")
    audit = command("verify", expect=3).view
    assert (audit["drift"]["stale"], audit["drift"]["missing"], audit["drift"]["buckets"]) == (1, 1, 2)
    assert sorted(one["key"] for one in audit["drift"]["keys"]) == ["p:k17", "p:k18"]
    assert command("verify", "--fast", expect=3).view["drift"]["missing"] == 1
    assert "changed outside" in str(command("explain", "k17", expect=None).report)
    mended = command("snapshot", "--deep").view
    assert (mended["view"], mended["puts"], mended["keys"]) == ("default", 2, 500)
    assert in_sync(filled, client)
    assert client.get("reconcile:{default}:shards") == b"4"  # a look, or a repair, cuts nothing


@pytest.mark.parametrize("why", ["skipped", "failed"])
def test_a_shard_that_is_stuck_is_the_views_lag(
    why: str, command: Command, filled: Source, client: redis.Redis
) -> None:
    """Somebody else has its lease, or its rows cannot be stored: the view is as old as this one."""
    each(command)
    (status,) = command("status").report["views"]
    stuck = status["shards"][2]["as_of"]
    filled.put(k1="later")
    if why == "skipped":
        client.set("reconcile:{default}:lease:2/4", "somebody", px=600_000)
    else:
        key = next(name for name in (f"k{n}" for n in range(1, 500)) if Shard(2, N).owns(f"p:{name}".encode()))
        filled.execute(f"INSERT INTO t VALUES ('{key}', 'another')")
    report = command("run", "--metrics-file", "m.prom", expect=0 if why == "skipped" else 5).report
    (view,) = report["views"]
    assert any(f"shard 2/{N}" in told for told in (*view["warnings"], str(view["error"])))
    assert view["as_of"] == stuck
    assert view["lag_ms"] >= report["started_ms"] - stuck
    (told,) = [line for line in (command.directory / "m.prom").read_text().splitlines() if "lag_seconds{" in line]
    assert float(told.split()[-1]) == view["lag_ms"] / 1000


def test_slices_of_an_audit(command: Command, filled: Source, client: redis.Redis) -> None:
    """`--subset next` comes by every key, in as many audits as of a whole view."""
    command.config["materialize"].pop("sql")
    prefix = command.config["redis"].pop("key_prefix")
    command.config["views"] = [{"name": "default", "sql": filled.sql, "key_prefix": prefix, "buckets": 64}]
    each(command)
    client.set("p:k17", "edited")
    found = [command("verify", "--subset", "next", expect=None).code for _ in range(16)]
    assert sorted(found) == [0] * 15 + [3]


def test_a_view_is_dropped_as_a_whole(command: Command, filled: Source, client: redis.Redis) -> None:
    """Its keys, and all that was kept of each shard."""
    each(command)
    assert command("drop", "default", "--keys", "--yes").report["keys_deleted"] == 500
    assert {key for key in client.keys("*") if b":token" not in key} == set()


# -- another division -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [False, True], ids=["together", "at different times"])
def test_there_and_back(command: Command, filled: Source, client: redis.Redis, apart: bool) -> None:
    """From whole to four to two to whole: nothing is written that did not change, and no delete is unexplained."""
    filled.retain_history()
    command("run")
    filled.put(k1="1")
    first = each(command)
    assert {report["action"] for report in first} <= {"delta", "none"}  # what was complete is complete in each part
    assert total(first, "puts") == (1,)
    filled.execute("DELETE FROM t WHERE key LIKE 'k2%'")
    gone = 500 - filled.rows()
    assert total(each(command, n=2), "puts", "deletes") == (0, gone)
    if apart:
        time.sleep(1.1)
        command("run", "--shard", "0/2")
    filled.execute("DELETE FROM t WHERE key LIKE 'k35%'")
    filled.put(k4="4")
    back = command("run", "--shard", "0/1").view
    assert (back["view"], back["puts"], back["deletes"]) == ("default", 1, 500 - gone - filled.rows())
    if apart:
        assert back["reason"] == "parts of what Redis holds may be of different times"
    assert in_sync(filled, client)
    assert client.keys("reconcile:{default}:state*") == [b"reconcile:{default}:state"]
    assert command("verify").view["status"] == "done"


@pytest.mark.parametrize("n", [4, 8])
def test_all_shards_of_a_new_number_begin_at_once(
    command: Command, filled: Source, client: redis.Redis, n: int
) -> None:
    """One of them cuts the view, and none is skipped for that: a job that loads once has loaded all."""
    command("run")
    for number in (n, 2, n):
        running = [command.start("run", "--shard", f"{i}/{number}") for i in range(number)]
        reports = [json.loads(process.communicate(timeout=120)[0]) for process in running]
        assert [report["status"] for report in reports] == ["done"] * number, [r["error"] for r in reports]
        warnings = [line for report in reports for line in report["views"][0]["warnings"]]
        assert len([line for line in warnings if "two schedules" in line]) == 1, warnings
    assert in_sync(filled, client)


def test_no_new_division_while_a_shard_is_worked_on(command: Command, filled: Source) -> None:
    """Then the others are skipped, as any run is."""
    filled.retain_history()
    each(command)
    process = command.start("run", "--shard", "2/4", "--for", "600s")
    try:
        _wait_for_lease(command, "2/4")
        assert command("run", "--shard", "0/2").view["status"] == "skipped"
        assert command("run", "--shard", "0/2", "--if-leased", "fail", expect=7).view["status"] == "failed"
        assert command("run", "--shard", "0/4").view["status"] == "done"
    finally:
        _ended(process)
    assert command("run", "--shard", "0/2").view["status"] == "done"


def _wait_for_lease(command: Command, shard: str, *, held: bool = True) -> None:
    """Until somebody works on the shard; or until nobody does, or seems to."""
    until = time.monotonic() + ARRIVES_S
    while time.monotonic() < until:
        (status,) = command("status").report["views"]
        (lease,) = (one["lease"] for one in status["shards"] if one["shard"] == shard)
        if bool(lease) == held:
            return
        time.sleep(0.1)
    raise AssertionError(f"lease of shard {shard}: {lease}")


@pytest.mark.alone
@pytest.mark.parametrize("server", ["single", "cluster"])
def test_another_division_while_an_old_shard_is_frozen(
    source: Source, request: pytest.FixtureRequest, tmp_path: Path, server: str
) -> None:
    """What it wakes up to write is refused, and what it would have deleted stays."""
    command, held = _place(source, request, tmp_path, server)
    command.config["limits"] = {"lease": "1s"}
    source.retain_history()
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, 500) AS n")
    each(command)
    frozen = command.start("run", "--shard", "1/4", "--for", "600s")
    try:
        _wait_for_lease(command, "1/4")
        time.sleep(1.0)  # it follows by now, or begins to
        frozen.send_signal(signal.SIGSTOP)
        _wait_for_lease(command, "1/4", held=False)
        source.execute("UPDATE t SET value = 'old' WHERE key LIKE 'k1%'")  # what it will find first
        source.execute("UPDATE t SET value = 'new'")
        source.execute("DELETE FROM t WHERE key LIKE 'k3%'")
        each(command, n=2)
        assert held() == prefixed(source.content())
        frozen.send_signal(signal.SIGCONT)
        out, err = frozen.communicate(timeout=60)
    finally:
        frozen.kill()
    assert frozen.returncode == 6, f"{out}\n{err}"
    assert "another run took over" in out
    assert held() == prefixed(source.content())
    assert command("verify").view["status"] == "done"
    each(command)  # and back, to the division it was of
    assert held() == prefixed(source.content())


def _place(source: Source, request: pytest.FixtureRequest, tmp_path: Path, server: str) -> tuple[Command, Any]:
    """A command for this kind of server, and what looks at the view's keys there."""
    if server == "cluster":
        cluster: Cluster = request.getfixturevalue("cluster")
        command = Command(tmp_path, source.url, cluster.url, source.sql)
        command.config["redis"]["cluster"] = True
        return command, cluster.strings
    single: RedisServer = request.getfixturevalue("redis_server")
    return Command(tmp_path, source.url, single.url, source.sql), lambda: owned(single.client())


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "--shard", "4/4"), "--shard: there is no shard 4 of 4"),
        (("snapshot", "--shard", "1/3"), "--shard: a view cannot be cut into 3 shards"),
        (("delta", "--shard", "0/32"), "--shard: a view cannot be cut into 32 shards"),
        (("verify", "--shard", "0/4"), "No such option"),
    ],
)
def test_no_shard(command: Command, arguments: tuple[str, ...], told: str) -> None:
    """Exit 2, what is wrong and what would be right, before anything is connected to."""
    error = command(*arguments, expect=2).report["error"]
    assert told in error["message"]
    assert error["hint"]


def test_a_timestamp_key_cannot_tell_of_shards(command: Command) -> None:
    """The place in the file is named."""
    command.config["redis"]["mz_timestamp_key"] = "latest"
    error = command("run", "--shard", "0/4", expect=2).report["error"]
    assert error["message"].startswith(f"{command.config_path}:")
    assert "mz_timestamp_key" in error["message"]
    assert error["hint"]


def test_the_platform_says_which_shard(command: Command, filled: Source, client: redis.Redis) -> None:
    """An Indexed Job's pods, a Cloud Run job's tasks; a wrong number of them is exit 2."""
    for i in range(2):
        command("run", RECONCILE_SHARDS="2", JOB_COMPLETION_INDEX=str(i))
    assert in_sync(filled, client)
    for i in range(4):
        found = command("run", CLOUD_RUN_TASK_COUNT="4", CLOUD_RUN_TASK_INDEX=str(i)).view
        assert found["view"] == f"default shard {i}/4"
    assert in_sync(filled, client)
    refused = command("run", CLOUD_RUN_TASK_COUNT="3", CLOUD_RUN_TASK_INDEX="1", expect=2).report["error"]
    assert "CLOUD_RUN_TASK_COUNT" in refused["message"]
    assert command("verify", CLOUD_RUN_TASK_COUNT="3", CLOUD_RUN_TASK_INDEX="1").view["status"] == "done"
