"""doctor against real servers: what is wrong is found, named, and mended by what it prints."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from tests.support.command import PROGRAM, Command
from tests.support.redis_servers import RedisServer, free_port, start_redis
from tests.support.sources import Source


def checks(command: Command, *arguments: str, expect: int = 0) -> dict[str, dict[str, Any]]:
    """Check → its worst finding."""
    order = ["ok", "warn", "fail"]
    worst: dict[str, dict[str, Any]] = {}
    for finding in command("doctor", *arguments, expect=expect).report["checks"]:
        known = worst.get(finding["check"])
        if known is None or order.index(finding["level"]) > order.index(known["level"]):
            worst[finding["check"]] = finding
    return worst


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


def test_healthy_servers_have_only_short_history_to_report(command: Command, source: Source) -> None:
    """Without RETAIN HISTORY a warning with the statement that mends it, and exit 0."""
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


@pytest.mark.parametrize("name", ["nope", "no such one", "Back\\slash -- and it's \"quoted\""])
def test_unknown_cluster(name: str, command: Command, source: Source) -> None:
    """Materialize says so in a notice only; the first query would fail. The name arrives as it was given."""
    command.config["materialize"]["cluster"] = name
    assert f"no cluster {name}" in checks(command, expect=2)["cluster"]["message"]


def test_wrong_columns(command: Command, source: Source) -> None:
    """A query that cannot be mapped is what a user has to mend."""
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
    """Refused commands and refused keys are named with the rule that allows them; following them mends it."""
    with start_redis(tmp_path, "--maxmemory", "0") as server:
        admin = server.client()
        allowed = ["+multi", "+exec", "+info", "+select", "+get", "+client|setname"]
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
        assert "MSET" in seen[0]
        assert "keys like p:*" in seen[-1]
        assert checks(command)["rights"]["level"] == "ok"
        source.put(a="1")
        command("snapshot")


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
    assert "1 more keys" in checks(command)["key space"]["message"]


def test_mz_redis_sync_beside_us(command: Command, source: Source, client: redis.Redis) -> None:
    """Its timestamp key is noticed, whether it was configured or not, and whether it is still being written."""
    client.set("mz_latest_timestamp", int(time.time() * 1000))
    assert "running still" in checks(command)["timestamp key"]["message"]
    client.set("mz_latest_timestamp", 1_700_000_000_000)
    assert "mz_timestamp_key" in checks(command)["timestamp key"]["fix"]
    command.config["redis"]["mz_timestamp_key"] = "mz_latest_timestamp"
    assert checks(command)["timestamp key"]["level"] == "ok"
    command("snapshot")
    assert "checkpoint's frontier" in checks(command)["timestamp key"]["message"]


def test_state_that_something_else_wrote(command: Command, source: Source, client: redis.Redis) -> None:
    """A lost manifest is a warning, a state that cannot be read a failure."""
    source.put(a="1")
    command("snapshot")
    client.delete("reconcile:{default}:manifest")
    assert checks(command)["state"]["level"] == "warn"
    client.set("reconcile:{default}:state", "x")
    assert "--reset-state" in checks(command, expect=2)["state"]["fix"]


def test_text_for_people(command: Command, source: Source) -> None:
    """One line per finding, the mending indented below, a count at the end."""
    command.write_config()
    done = subprocess.run(
        [PROGRAM, "doctor", "--config", str(command.config_path)], capture_output=True, text=True, check=True
    )
    assert "warn  default: history:" in done.stdout
    assert "        ALTER MATERIALIZED VIEW" in done.stdout
    assert done.stdout.rstrip().endswith("0 to mend")
