"""doctor against real servers: what is wrong is found, named, and fixed by what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from tests.support.command import PROGRAM, Command
from tests.support.redis_servers import RedisServer, evict, free_port, start_redis
from tests.support.sources import Source


def checks(command: Command, *arguments: str, expect: int = 0, **env: str) -> dict[str, dict[str, Any]]:
    """Check → its worst finding."""
    order = ["ok", "warn", "fail"]
    worst: dict[str, dict[str, Any]] = {}
    for finding in command("doctor", *arguments, expect=expect, **env).report["checks"]:
        known = worst.get(finding["check"])
        if known is None or order.index(finding["level"]) > order.index(known["level"]):
            worst[finding["check"]] = finding
    return worst


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


def test_healthy_servers_have_only_short_history_to_report(command: Command, source: Source) -> None:
    """Without RETAIN HISTORY a warning with the statement that fixes it, and exit 0."""
    source.put(a="1", b="2")
    found = checks(command, "--every", "1m")
    assert [name for name, finding in found.items() if finding["level"] != "ok"] == ["history"]
    source.execute(found["history"]["fix"])
    assert checks(command, "--every", "1m")["history"]["level"] == "ok"


def test_doctor_leaves_nothing_behind(command: Command, source: Source, client: redis.Redis) -> None:
    """Not one key more or less in Redis, even though rights are tried out."""
    source.put(a="1")
    command("snapshot")
    before = {key: client.dump(key) for key in client.scan_iter()}
    checks(command)
    assert {key: client.dump(key) for key in client.scan_iter()} == before


def test_keys_that_cannot_be_stored(command: Command, source: Source) -> None:
    """NULL keys and keys with several rows fail, with examples."""
    source.put(a="1")
    source.execute("INSERT INTO t VALUES (NULL, 'x'), ('twice', '1'), ('twice', '2')")
    findings = command("doctor", expect=2).report["checks"]
    failed = [finding["message"] for finding in findings if finding["level"] == "fail"]
    assert len(failed) == 2
    assert "1 of 4 rows have no key" in failed[0]
    assert "p:twice (2 rows)" in failed[1]
    assert {finding["check"] for finding in command("doctor", "--quick").report["checks"]}.isdisjoint({"keys"})


def test_index_trap(command: Command, source: Source) -> None:
    """An index on the view shortens its history in spite of RETAIN HISTORY; dropping it helps."""
    source.put(a="1")
    source.retain_history()
    source.execute("CREATE INDEX v_by_key ON v (key)")
    history = checks(command, "--every", "1m")["history"]
    assert history["level"] == "warn"
    assert "index trap" in history["message"]
    source.execute(history["fix"].splitlines()[0])
    assert checks(command, "--every", "1m")["history"]["level"] == "ok"


def test_history_shorter_than_two_intervals(command: Command, source: Source) -> None:
    """A schedule whose late run would lose the history is told so."""
    source.execute("ALTER MATERIALIZED VIEW v SET (RETAIN HISTORY FOR '90s')")
    assert "one late run" in checks(command, "--every", "1m")["history"]["message"]
    assert checks(command, "--every", "30s")["history"]["level"] == "ok"


def test_missing_privileges(command: Command, source: Source) -> None:
    """A role that may not read gets the GRANT that lets it."""
    role = f"reader_{source.schema}"
    source.execute(f"CREATE ROLE {role}")
    try:
        reader = psycopg.conninfo.conninfo_to_dict(source.url) | {"user": role}
        command.config["materialize"]["url"] = psycopg.conninfo.make_conninfo(**reader)
        for _ in range(2):
            result = command("doctor", expect=None)
            if result.code == 0:
                break
            (denied,) = [finding for finding in result.report["checks"] if finding["level"] == "fail"]
            assert denied["fix"].startswith("GRANT "), denied
            source.execute(denied["fix"])
        assert checks(command)["access"]["level"] == "ok"
    finally:
        source.execute(f"REVOKE SELECT ON v FROM {role}")
        source.execute(f"REVOKE USAGE ON SCHEMA {source.schema} FROM {role}")
        source.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize("name", ["nope", "no such one", 'Back\\slash -- and it\'s "quoted"'])
def test_unknown_cluster(name: str, command: Command, source: Source) -> None:
    """Materialize says so in a notice only; the first query would fail. The name arrives as it was given."""
    command.config["materialize"]["cluster"] = name
    assert f"no cluster {name}" in checks(command, expect=2)["cluster"]["message"]


def test_wrong_columns(command: Command, source: Source) -> None:
    """A query that cannot be mapped is what a user has to fix."""
    command.config["materialize"]["sql"] = f"SELECT key AS k, value FROM {source.relation}"
    assert "no column 'key'" in checks(command, expect=2)["columns"]["message"]


@pytest.mark.parametrize("server", ["materialize", "redis"])
def test_unreachable(command: Command, source: Source, server: str) -> None:
    """Exit 6, and the other server is looked at all the same."""
    urls = {"materialize": "postgresql://materialize@127.0.0.1:1/materialize", "redis": "redis://127.0.0.1:1/0"}
    command.config[server]["url"] = urls[server]
    found = checks(command, expect=6)
    assert found[server]["level"] == "fail"
    assert found["role" if server == "materialize" else "columns"]["level"] == "ok"


def test_eviction_policy(command: Command, source: Source, tmp_path: Path) -> None:
    """A policy that removes any key is warned of; one that spares keys without expiry is not."""
    with start_redis(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as server:
        command.config["redis"]["url"] = server.url
        eviction = checks(command)["eviction"]
        assert eviction["level"] == "warn"
        server.client().config_set(*eviction["fix"].splitlines()[0].split()[2:])
        assert checks(command)["eviction"]["level"] == "ok"


def test_rights(command: Command, source: Source, tmp_path: Path) -> None:
    """Refused commands and refused keys are named with the rule that allows them; following it helps."""
    with start_redis(tmp_path, "--maxmemory", "0") as server:
        admin = server.client()
        allowed = ["+info", "+select", "+get", "+client|setname"]
        admin.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "resetkeys", "-@all", *allowed)
        command.config["redis"] = {"host": "127.0.0.1", "port": server.port, "key_prefix": "p"}
        command.config["redis"] |= {"username": "limited", "password": "secret"}
        seen = []
        for _ in range(3):
            rights = checks(command, "--quick", expect=2)["rights"]
            seen.append(rights["message"])
            admin.execute_command(*(word.strip("'") for word in rights["fix"].split()))
            if command("doctor", "--quick", expect=None).code == 0:
                break
        assert {"MULTI", "MSET", "EXEC"} <= set(seen[0].replace(",", "").split())
        assert "keys like p:*" in seen[-1]
        assert checks(command)["rights"]["level"] == "ok"
        source.put(a="1")
        command("snapshot")


def test_what_can_be_done_without(command: Command, source: Source, tmp_path: Path) -> None:
    """A server that gives no INFO is no reason to expect that runs fail."""
    with start_redis(tmp_path, "--rename-command", "INFO", "", "--rename-command", "DBSIZE", "") as server:
        command.config["redis"]["url"] = server.url
        rights = checks(command)["rights"]
        assert (rights["level"], rights["message"].split(":")[0]) == ("warn", "INFO and DBSIZE")
        source.put(a="1")
        command("run")


def test_replica(command: Command, source: Source, tmp_path: Path) -> None:
    """Nothing can be written to a replica; its primary is named."""
    with start_redis(tmp_path, "--maxmemory", "0") as server:
        server.client().replicaof("127.0.0.1", "1")
        command.config["redis"]["url"] = server.url
        role = checks(command, expect=2)["role"]
        assert "replica" in role["message"]
        assert "127.0.0.1:1" in role["fix"]


def test_cluster_node(command: Command, source: Source, tmp_path: Path) -> None:
    """A node of a Redis Cluster is not what runs can work with."""
    with start_redis(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        command.config["redis"]["url"] = server.url
        assert "Cluster" in checks(command, expect=2)["role"]["message"]


def test_keys_of_others_under_the_prefix(command: Command, source: Source, client: redis.Redis) -> None:
    """Keys that the first run, or the next deep one, would remove are told of before."""
    source.put(a="1")
    client.set("p:foreign", "x")
    assert "p:foreign" in checks(command)["key space"]["message"]
    client.delete("p:foreign")
    command("snapshot")
    assert checks(command)["key space"]["level"] == "ok"
    client.set("p:foreign", "x")
    surplus = checks(command)["key space"]
    assert surplus["level"] == "warn"
    assert "1 key that the view did not write, e.g. p:foreign" in surplus["message"]


def test_lost_and_surplus_keys_are_told_apart(command: Command, source: Source, client: redis.Redis) -> None:
    """As many keys as the view has is not well when some are lost and others are not the view's."""
    source.retain_history()
    source.put(a="1", b="2", c="3")
    command("snapshot")
    client.delete("p:a", "p:b")
    client.mset({"p:x": "1", "p:y": "2"})
    source.put(later="4")
    found = command("doctor").report["checks"]
    told = [finding["message"] for finding in found if finding["check"] == "key space"]
    assert told == [
        "3 keys under p:, 3 of the view: 2 keys lost, e.g. p:a, p:b",
        "3 keys under p:, 3 of the view: 2 keys that the view did not write, e.g. p:x, p:y",
    ]
    command("snapshot", "--deep")
    assert checks(command)["key space"]["level"] == "ok"


def test_keys_in_the_way_of_a_view_without_prefix(command: Command, source: Source, client: redis.Redis) -> None:
    """What the first run would not overwrite is told before it, and what settles it; equal keys are in nobody's way."""
    command.config["redis"].pop("key_prefix")
    source.put(a="1", b="2")
    client.mset({"a": "1", "theirs": "x"})
    assert checks(command)["key space"]["level"] == "ok"
    client.set("b", "somebody's")
    found = checks(command)["key space"]
    assert "1 of 2 keys of the view that were tried exist already with other content, e.g. b" in found["message"]
    assert "--adopt" in found["fix"]
    command("run", expect=5)
    command("snapshot", "--adopt")
    assert checks(command)["key space"]["level"] == "ok"


def test_remembered_keys_that_are_lost(command: Command, source: Source, client: redis.Redis) -> None:
    """Without a prefix the names are remembered; that is no reason to believe that they are there."""
    command.config["redis"].pop("key_prefix")
    source.put(a="1", b="2")
    command("snapshot")
    assert checks(command)["key space"]["level"] == "ok"
    client.delete("a")
    assert "1 key lost, e.g. a" in checks(command)["key space"]["message"]


def test_time_to_live_on_our_keys(command: Command, source: Source, client: redis.Redis) -> None:
    """A TTL that something else has set is found, on one key of many; one on a key of somebody else's is not ours."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 3000) AS n")
    command("snapshot")
    client.set("theirs", "1", ex=1000)
    assert checks(command)["expiry"]["level"] == "ok"
    client.expire("p:k1234", 1000)
    expiry = checks(command)["expiry"]
    assert "1 of 3,000 keys under p:" in expiry["message"]
    assert "p:k1234" in expiry["message"]
    client.persist("p:k1234")
    assert checks(command)["expiry"]["level"] == "ok"


def test_time_to_live_on_a_field(command: Command, source: Source, client: redis.Redis) -> None:
    """HEXPIRE leaves a hash as it is until it fires; the printed command ends it."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 100) AS n")
    command.config["views"] = [{"name": "h", "sql": source.sql, "layout": "hash", "key_prefix": "p"}]
    del command.config["materialize"]["sql"], command.config["redis"]["key_prefix"]
    command("snapshot")
    assert checks(command)["expiry"]["level"] == "ok"
    try:
        client.execute_command("HEXPIRE", "p:k17", 1000, "FIELDS", 1, "value")
    except redis.ResponseError:
        pytest.skip("this server has no TTLs of fields")
    expiry = [one for one in command("doctor", expect=0).report["checks"] if one["check"] == "expiry"][-1]
    assert "1 of 100 hashes under p: has a field with a TTL" in expiry["message"]
    assert "p:k17" in expiry["message"]
    assert expiry["fix"].splitlines()[0].endswith("redis-cli HPERSIST '{}' FIELDS 1 value")
    client.execute_command("HPERSIST", "p:k17", "FIELDS", 1, "value")
    assert checks(command)["expiry"]["level"] == "ok"


@pytest.mark.parametrize("redis", [{"key_prefix": "it's *?[x]\\"}, {"dedicated": True}, {}], ids=str)
def test_what_settles_a_time_to_live(
    redis: dict[str, Any], command: Command, source: Source, client: redis.Redis, tmp_path: Path
) -> None:
    """The printed commands do it, and touch nobody else's key. The program of that name knows only what they need."""
    program = tmp_path / "redis-cli"
    program.write_text(
        f"#!{sys.executable}\nimport sys, redis\n"
        f"client = redis.Redis.from_url({command.config['redis']['url']!r})\n"
        "match sys.argv[1:]:\n"
        "    case ['--scan']: found = client.scan_iter()\n"
        "    case ['--scan', '--pattern', pattern]: found = client.scan_iter(pattern)\n"
        "    case ['SMEMBERS', name]: found = client.smembers(name)\n"
        "    case ['PERSIST', key]: found = [b'%d' % client.persist(key)]\n"
        "print(*(one.decode() for one in found), sep='\\n')\n"
    )
    program.chmod(0o755)
    command.config["redis"].pop("key_prefix")
    command.config["redis"] |= redis
    source.put(**{"a": "1", "b c": "2", "d'\"x\\y": "3"})
    command("snapshot", "--allow-deletes")
    client.set("theirs", "1")
    for key in client.scan_iter():
        client.expire(key, 1000)
    expiry = checks(command)["expiry"]
    assert "3 of" in expiry["message"] or "4 of" in expiry["message"]
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["bash", "-c", expiry["fix"]], env={**os.environ, "PATH": path}, check=True)
    assert checks(command)["expiry"]["level"] == "ok"
    assert (client.ttl("theirs") > 0) is ("dedicated" not in redis)


def test_claims(command: Command, source: Source, client: redis.Redis) -> None:
    """An overlap fails, an orphan and a lost claim are warned of; following the advice helps."""
    command("snapshot")
    assert checks(command)["claims"]["level"] == "ok"
    client.hset("reconcile:{claims}", "gone", f"prefix {b'other:'.hex()} ")
    orphan = checks(command)["claims"]
    assert (orphan["level"], orphan["fix"]) == ("warn", "reconcile drop gone")
    client.hset("reconcile:{claims}", "gone", f"prefix {b'p'.hex()} ")
    overlap = checks(command, expect=2)["claims"]
    assert "views default and gone claim the same keys" in overlap["message"]
    assert overlap["fix"].splitlines()[0] == "reconcile drop gone"
    client.delete("reconcile:{claims}")
    assert "no claim" in checks(command)["claims"]["message"]
    command("run")
    assert checks(command)["claims"]["level"] == "ok"


def test_claims_that_something_else_overwrote(command: Command, client: redis.Redis) -> None:
    """Every run stops at it, so it is no warning; following the advice helps."""
    command("run")
    client.delete("reconcile:{claims}")
    client.set("reconcile:{claims}", "x")
    claims = checks(command, expect=2)["claims"]
    assert "is not a hash" in claims["message"]
    assert claims["fix"].startswith("DEL reconcile:{claims};")
    client.delete("reconcile:{claims}")
    command("run")
    assert checks(command)["claims"]["level"] == "ok"


def test_claims_in_namespaces(command: Command, source: Source, client: redis.Redis) -> None:
    """The printed command names the view as it was configured, and reaches it."""
    view = {"sql": source.sql, "key_prefix": "gone"}
    del command.config["materialize"]["sql"], command.config["redis"]["key_prefix"]
    for namespace, name in (("blue", "gone"), ("green", "other"), ("", "bare")):
        command.config["redis"]["namespace"] = namespace
        command.config["views"] = [view | {"name": name, "key_prefix": f"gone {name}"}]
        command("run")
        command("drop", name, "--yes")
    client.hset("reconcile:{claims}", "blue.gone", f"prefix {b'a:'.hex()} ")
    client.hset("reconcile:{claims}", "green.other", f"prefix {b'b:'.hex()} ")
    client.hset("reconcile:{claims}", "bare", f"prefix {b'c:'.hex()} ")
    command.config["redis"]["namespace"] = "blue"
    command.config["views"] = [view | {"name": "prices", "key_prefix": "p"}]
    fixes = [one["fix"] for one in command("doctor").report["checks"] if one["check"] == "claims"]
    assert sorted(fixes) == [
        "RECONCILE_REDIS__NAMESPACE=green reconcile drop other",
        "reconcile drop bare --config <a configuration without redis.namespace>",
        "reconcile drop gone",
    ]
    command("drop", "gone", "--yes")
    command("drop", "other", "--yes", RECONCILE_REDIS__NAMESPACE="green")
    del command.config["redis"]["namespace"]
    command("drop", "bare", "--yes")
    assert checks(command)["claims"]["level"] == "ok"


def test_a_claim_of_another_configuration_is_missing(command: Command, client: redis.Redis) -> None:
    """Only its own next run restores it: no command of this configuration is proposed."""
    command("run")
    client.hset("reconcile:{theirs}:state", "format", "1")
    fix = checks(command)["claims"]["fix"]
    assert "theirs" not in fix
    assert "the configuration that has this view" in fix


def test_what_waits_for_consent(command: Command, source: Source, client: redis.Redis) -> None:
    """Runs end with exit 5: told without a look at the key space, by doctor and explain, for this view alone."""
    source.put(a="1")
    command("run")
    client.mset({f"p:theirs{n}": "x" for n in range(12)})
    command("snapshot", "--deep", expect=5)
    for arguments in ([], ["--quick"]):
        state = checks(command, *arguments)["state"]
        assert "12 keys that the source lacks wait for consent" in state["message"]
        assert state["fix"].startswith("reconcile snapshot --view default --allow-deletes")
    assert checks(command)["key space"]["level"] == "ok"
    told = command("explain", "theirs3").report
    assert (told["verdict"], "--allow-deletes --view default" in told["hint"]) == ("extra", True)
    command("snapshot", "--allow-deletes")
    assert checks(command)["state"]["level"] == "ok"


def test_a_timestamp_key_that_another_view_has(command: Command, source: Source) -> None:
    """It is no leftover of mz-redis-sync, whatever its name."""
    del command.config["materialize"]["sql"], command.config["redis"]["key_prefix"]
    named = {"name": "second", "key_prefix": "b", "mz_timestamp_key": "mz_latest_timestamp"}
    command.config["views"] = [{"sql": source.sql} | one for one in ({"name": "first", "key_prefix": "a"}, named)]
    command("run")
    found = [one for one in command("doctor").report["checks"] if one["check"] == "timestamp key"]
    assert [(one["view"], one["level"]) for one in found] == [("second", "ok")]


def test_another_prefix_than_claimed(command: Command, source: Source) -> None:
    """What runs would refuse is told before."""
    command("snapshot")
    command.config["redis"]["key_prefix"] = "q"
    refused = checks(command, expect=2)["claims"]
    assert "has claimed the prefix 'p:'" in refused["message"]
    assert refused["fix"]


def test_shards_that_never_ran(command: Command, source: Source, client: redis.Redis) -> None:
    """Whoever runs only some of them is told which are missing, and what brings them in."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 100) AS n")
    command("run", "--shard", "0/2")
    found = checks(command)["shards"]
    assert "shard 1/2 of default has never completed a run" in found["message"]
    assert found["fix"].startswith("reconcile run --view default --shard 1/2")
    command("run", "--shard", "1/2")
    assert "shards" not in checks(command)


def test_companion_view_that_would_pay(command: Command, source: Source) -> None:
    """The saving is measured on this very view, and judged by the time between two runs."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 1000) AS n")
    assert checks(command, "--every", "1h")["companion view"]["level"] == "ok"
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1001, 50000) AS n")
    absent = checks(command, "--every", "100ms")["companion view"]
    assert absent["level"] == "warn"
    assert "50,000 rows" in absent["message"]
    assert absent["fix"].startswith("reconcile init --companion --view default\n")
    made = command("init", "--companion").report
    for statement in filter(None, made["ddl"].split(";\n")):
        source.execute(statement)
    present = checks(command, "--every", "100ms", RECONCILE_VIEW__COMPANION=made["companion"])["companion view"]
    assert (present["level"], "matches the query" in present["message"]) == ("ok", True)


def test_what_runs_of_this_view_cost(command: Command, source: Source) -> None:
    """Each way a run may learn what changed, from what this view's fingerprints took; with a companion view too."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 20000) AS n")
    told = checks(command, "--every", "5m")["cost"]
    assert told["level"] == "ok"
    assert "20,000 rows" in told["message"]
    assert "every 5m" in told["message"]
    for way in ("fingerprints on demand", "companion view saves", "by delta", "--for 1h", "Cheapest: "):
        assert way in told["message"]
    assert "cost" not in checks(command, "--quick")
    made = command("init", "--companion").report
    for statement in filter(None, made["ddl"].split(";\n")):
        source.execute(statement)
    assert "20,000 rows" in checks(command, RECONCILE_VIEW__COMPANION=made["companion"])["cost"]["message"]


def test_room_for_the_view(command: Command, source: Source, tmp_path: Path) -> None:
    """Rows to come, by their mean length, against what maxmemory leaves; the advice makes room for the first load."""
    source.execute("INSERT INTO t SELECT 'k' || n, repeat('v', 1000) FROM generate_series(1, 5000) AS n")
    with start_redis(tmp_path, "--maxmemory", "4mb") as server:
        command.config["redis"]["url"] = server.url
        memory = checks(command)["memory"]
        assert memory["level"] == "warn"
        assert "5,000 rows to load" in memory["message"]
        server.client().config_set(*memory["fix"].splitlines()[0].split()[2:])
        assert checks(command)["memory"]["level"] == "ok"
        command("snapshot")
        assert server.client().dbsize() > 5000


def test_what_was_evicted(command: Command, source: Source, tmp_path: Path) -> None:
    """Evictions that the rolling compare has not seen yet are told; the repair ends it."""
    source.execute("INSERT INTO t SELECT 'k' || n, repeat('v', 1000) FROM generate_series(1, 2000) AS n")
    with start_redis(tmp_path, "--maxmemory", "100mb") as server:
        command.config["redis"]["url"] = server.url
        command("snapshot")
        client = server.client()
        evict(client, "allkeys-random", 400_000)
        if client.exists("reconcile:{default}:state"):
            assert "were evicted since" in checks(command)["evicted"]["message"]
        client.config_set("maxmemory-policy", "noeviction")
        command("snapshot", "--deep")
        assert checks(command)["key space"]["level"] == "ok"


def test_a_view_that_fails_does_not_hide_the_next(command: Command, source: Source) -> None:
    """A NULL key ends the reading of one view, not the examination of the other."""
    source.put(a="1")
    source.execute("CREATE TABLE bad (key text, value text)")
    source.execute("INSERT INTO bad VALUES (NULL, 'x')")
    command.config["materialize"].pop("sql")
    command.config["redis"].pop("key_prefix")
    command.config["views"] = [
        {"name": "bad", "relation": f"{source.schema}.bad", "key_prefix": "b"},
        {"name": "good", "sql": source.sql, "key_prefix": "g"},
    ]
    found = command("doctor", expect=2).report["checks"]
    assert {finding["check"] for finding in found if finding["level"] == "fail"} == {"keys"}
    assert {finding["check"] for finding in found if finding["view"] == "good"} >= {"keys", "history", "key space"}


def test_a_value_that_cannot_be_computed(command: Command, source: Source) -> None:
    """Counting the keys works, fingerprints fail: one finding, and the examination goes on."""
    source.put(a="secret")
    command.config["materialize"]["sql"] = f"SELECT key, value::int AS value FROM {source.schema}.t"
    result = command("doctor", expect=2)
    found = {finding["check"]: finding for finding in result.report["checks"]}
    assert [name for name, finding in found.items() if finding["level"] == "fail"] == ["companion view"]
    assert "cannot be evaluated" in found["companion view"]["message"]
    assert "key space" in found
    assert "secret" not in result.out + result.err


def test_mz_redis_sync_beside_runs(command: Command, client: redis.Redis) -> None:
    """That it still runs is told after the first run too, though its key is not configured."""
    command("run")
    client.set("mz_latest_timestamp", int(time.time() * 1000))
    assert "still seems to be running" in checks(command)["timestamp key"]["message"]


def test_mz_redis_sync_beside_us(command: Command, source: Source, client: redis.Redis) -> None:
    """Its timestamp key is noticed, whether it was configured or not, and whether it is still being written."""
    client.set("mz_latest_timestamp", int(time.time() * 1000))
    assert "still seems to be running" in checks(command)["timestamp key"]["message"]
    client.set("mz_latest_timestamp", 1_700_000_000_000)
    assert "mz_timestamp_key" in checks(command)["timestamp key"]["fix"]
    command.config["redis"]["mz_timestamp_key"] = "mz_latest_timestamp"
    assert checks(command)["timestamp key"]["level"] == "ok"
    command("snapshot")
    assert "checkpoint's frontier" in checks(command)["timestamp key"]["message"]
    client.set("mz_latest_timestamp", int(time.time() * 1000) + 7)
    assert "still seems to be running" in checks(command)["timestamp key"]["message"]
    client.set("mz_latest_timestamp", 1_700_000_000_000)
    assert "something else wrote it" in checks(command)["timestamp key"]["message"]


def test_state_that_something_else_wrote(command: Command, source: Source, client: redis.Redis) -> None:
    """A lost manifest is a warning, a state that cannot be read a failure."""
    source.put(a="1")
    command("snapshot")
    client.delete("reconcile:{default}:manifest")
    assert checks(command)["state"]["level"] == "warn"
    client.set("reconcile:{default}:state", "x")
    assert "--reset-state" in checks(command, expect=2)["state"]["fix"]


def test_text_for_people(command: Command, source: Source) -> None:
    """One line per finding, the fix indented below, a count at the end."""
    command.write_config()
    done = subprocess.run(
        [PROGRAM, "doctor", "--config", str(command.config_path)], capture_output=True, text=True, check=True
    )
    assert "warn  default: history:" in done.stdout
    assert "        ALTER MATERIALIZED VIEW" in done.stdout
    assert done.stdout.rstrip().endswith("0 to fix")


def test_two_configurations_that_take_turns(command: Command, source: Source) -> None:
    """What runs refuse is told before; a query that was changed once is no fault."""
    source.put(a="1")
    source.execute("CREATE MATERIALIZED VIEW other AS SELECT key, value FROM t")
    other = source.sql.replace(source.relation, f"{source.schema}.other")
    queries = [source.sql, other]
    for turn in range(3):
        command.config["materialize"]["sql"] = queries[turn % 2]
        command("run")
        if turn == 0:
            command.config["materialize"]["sql"] = other
            assert checks(command)["identity"]["level"] == "ok"
    command.config["materialize"]["sql"] = other
    contested = checks(command, expect=2)["identity"]
    assert "in turn" in contested["message"]
    command("run", expect=5)
