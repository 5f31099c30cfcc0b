"""The main job end to end: a Redis follows a view through everything that happens to it."""

from __future__ import annotations

import time

import pytest

from reconcile.config.load import load
from reconcile.report.progress import Progress
from reconcile.runs.entry import execute
from reconcile.runs.request import Request
from reconcile.stop import Stop
from tests.support.command import Command
from tests.support.mappings import SALT, string_mapping
from tests.support.redis_cluster import eventually
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import check_manifest, owned, prefixed, state
from tests.support.sources import Source


def in_sync(source: Source, redis_server: RedisServer) -> None:
    """Redis holds exactly the view's content, and the manifest says so."""
    assert owned(redis_server.client()) == prefixed(source.content())
    check_manifest(redis_server.client())


def test_first_run_loads_the_view(source: Source, redis_server: RedisServer, command: Command) -> None:
    """The first run writes every row and records the time it read at."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, 1000) AS n")
    view = command("run").view
    in_sync(source, redis_server)
    assert (view["action"], view["puts"], view["deletes"], view["keys"]) == ("snapshot", 1000, 0, 1000)
    assert state(redis_server.client())["as_of"] == str(view["as_of"])


def test_second_run_with_nothing_changed_writes_nothing(
    source: Source, redis_server: RedisServer, command: Command
) -> None:
    """With no change and no history the next run reads no rows and writes no keys."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, 1000) AS n")
    command("run")
    source.await_oblivion()
    view = command("run").view
    assert (view["action"], view["reason"]) == ("snapshot", "history lost")
    assert (view["rows_read"], view["puts"], view["deletes"], view["buckets_read"]) == (0, 0, 0, 0)
    in_sync(source, redis_server)


def test_changes_without_history_touch_only_what_changed(
    source: Source, redis_server: RedisServer, command: Command
) -> None:
    """An update, an insert and a delete cost two puts and one delete, and few buckets are read."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, 1000) AS n")
    command("run")
    source.await_oblivion()
    source.execute("UPDATE t SET value = 'new' WHERE key = 'k7'")
    source.execute("DELETE FROM t WHERE key = 'k8'")
    source.execute("INSERT INTO t VALUES ('k1001', 'more')")
    view = command("run").view
    assert (view["puts"], view["deletes"]) == (2, 1)
    assert 1 <= view["buckets_read"] <= 3
    in_sync(source, redis_server)


def test_delta_continues_from_the_checkpoint(source: Source, redis_server: RedisServer, command: Command) -> None:
    """With retained history the changes since the checkpoint are applied, each exactly once."""
    source.retain_history()
    source.put(a="1", b="2", c="3")
    command("snapshot")
    source.put(a="1b", d="4")
    source.execute("DELETE FROM t WHERE key = 'b'")
    view = command("delta").view
    assert (view["action"], view["puts"], view["deletes"], view["rows_read"]) == ("delta", 2, 1, 0)
    in_sync(source, redis_server)
    assert command("delta").view["puts"] == 0


def test_run_continues_by_delta_though_its_neighbours_forget(
    source: Source, redis_server: RedisServer, command: Command
) -> None:
    """The view's history decides, not that of the table beside it, which keeps a second: inside the read transaction
    EXPLAIN TIMESTAMP's determination speaks for the whole schema."""
    source.retain_history()
    source.put(a="1", b="2")
    command("run")
    source.await_oblivion("t")
    source.put(a="1b")
    view = command("run").view
    assert (view["action"], view["puts"], view["rows_read"]) == ("delta", 1, 0)
    in_sync(source, redis_server)


def test_delta_follows_for_a_while(source: Source, redis_server: RedisServer, command: Command) -> None:
    """A change committed while `delta --for` runs is in Redis before it ends."""
    source.retain_history()
    source.put(a="1")
    command("snapshot")
    client = redis_server.client()
    with command.following("delta"):
        for value in ("2", "3"):  # the first may be what it catches up with
            source.put(a=value)
            eventually(lambda value=value: client.get("p:a") == value.encode())
    in_sync(source, redis_server)


def test_run_follows_after_a_snapshot_without_history(
    source: Source, redis_server: RedisServer, command: Command
) -> None:
    """`run --for` takes a snapshot and follows from its time without a gap, though no history is retained."""
    source.put(a="1")
    client = redis_server.client()
    with command.following("run"):
        eventually(lambda: client.get("p:a") == b"1")
        for n in range(10):
            source.put(a=f"x{n}", **{f"k{n}": str(n)})
            time.sleep(0.1)
        eventually(lambda: owned(client) == prefixed(source.content()))
    in_sync(source, redis_server)
    assert int(state(client)["as_of"]) > 0


def test_lost_history_fails_delta_and_is_repaired_by_run(
    source: Source, redis_server: RedisServer, command: Command
) -> None:
    """Without history `delta` exits 8 and changes nothing; `run` takes a snapshot and says why."""
    source.put(a="1", b="2")
    command("run")
    source.await_oblivion()
    source.put(a="9")
    result = command("delta", expect=8)
    assert result.view["error"]["kind"] == "history_lost"
    assert redis_server.client().get("p:a") == b"1"
    assert command("run").view["reason"] == "history lost"
    in_sync(source, redis_server)


def test_drift_is_found_named_and_repaired(source: Source, redis_server: RedisServer, command: Command) -> None:
    """verify names an edited, a deleted and an added key and exits 3; a deep snapshot repairs exactly these."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, 500) AS n")
    command("run")
    assert command("verify").view["drift"]["missing"] == 0
    client = redis_server.client()
    client.set("p:k1", "edited")
    client.delete("p:k2")
    client.set("p:stray", "x")
    view = command("verify", expect=3).view
    named = {(entry["key"], entry["kind"]) for entry in view["drift"]["keys"]}
    assert named == {("p:k1", "stale"), ("p:k2", "missing"), ("p:stray", "extra")}
    assert set(view["drift"]["causes"]) == {"changed outside"}
    repaired = command("snapshot", "--deep").view
    assert (repaired["puts"], repaired["deletes"]) == (2, 1)
    command("verify")
    in_sync(source, redis_server)


def test_null_values_are_absent_keys(source: Source, redis_server: RedisServer, command: Command) -> None:
    """A NULL value means the key is absent, whichever way the change arrives."""
    source.retain_history()
    source.put(a="1", b=None, c="3")
    command("run")
    in_sync(source, redis_server)
    source.put(a=None, b="2")
    command("run")
    in_sync(source, redis_server)
    source.put(b=None, a="back", c=None)
    command("snapshot")
    in_sync(source, redis_server)
    command("verify")


def test_dry_run_writes_nothing(source: Source, redis_server: RedisServer, command: Command) -> None:
    """--dry-run reports the changes, leaves Redis untouched, and exits 3 only when asked to."""
    source.put(a="1", b="2")
    view = command("run", "--dry-run").view
    assert (view["puts"], view["dry_run"]) == (2, True)
    assert redis_server.client().dbsize() == 0
    command("run", "--dry-run", "--detailed-exitcode", expect=3)
    command("run")
    before = state(redis_server.client())
    source.put(a="2")
    assert command("snapshot", "--dry-run").view["puts"] == 1
    assert redis_server.client().get("p:a") == b"1"
    assert state(redis_server.client()) == before
    command("snapshot")
    command("snapshot", "--dry-run", "--detailed-exitcode")


def test_snapshot_at_an_earlier_time(source: Source, redis_server: RedisServer, command: Command) -> None:
    """--as-of brings Redis to the view's content at exactly that time; a later run comes back to the present."""
    source.retain_history()
    source.put(a="1")
    as_of = command("run").view["as_of"]
    source.put(a="2", b="2")
    command("run")
    in_sync(source, redis_server)
    view = command("snapshot", "--as-of", str(as_of)).view
    assert view["as_of"] == as_of
    assert owned(redis_server.client()) == {b"p:a": b"1"}
    check_manifest(redis_server.client())
    command("run")
    in_sync(source, redis_server)


def test_swapped_view_is_noticed(source: Source, redis_server: RedisServer, command: Command) -> None:
    """A view dropped and made again under the same name is not continued by delta."""
    source.retain_history()
    source.put(a="1", b="2")
    command("run")
    source.execute("DROP MATERIALIZED VIEW v")
    source.execute("CREATE MATERIALIZED VIEW v AS SELECT key, value || '!' AS value FROM t")
    view = command("run").view
    assert view["action"] == "snapshot"
    assert "not the one of the checkpoint" in view["reason"]
    in_sync(source, redis_server)


def test_large_change_is_applied_in_several_transactions(
    source: Source, redis_server: RedisServer, command: Command
) -> None:
    """A change larger than one transaction ends with the same exact content and no pending mark."""
    command.config["limits"] = {"batch_max_keys": 100}
    source.retain_history()
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, 1000) AS n")
    command("run")
    source.execute("UPDATE t SET value = value || 'x'")
    assert command("delta").view["puts"] == 1000
    in_sync(source, redis_server)
    source.execute("UPDATE t SET value = value || 'y'")
    assert command("snapshot").view["puts"] == 1000
    in_sync(source, redis_server)
    assert state(redis_server.client())["pending"] == ""


def test_companion_view_tells_what_changed(source: Source, redis_server: RedisServer, command: Command) -> None:
    """With an indexed companion view a run reads fingerprints from it and only the changed buckets' rows."""
    from reconcile.source.query import companion_ddl

    source.execute("INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, 1000) AS n")
    mapping = string_mapping(source.sql, "p:")
    for statement in companion_ddl(mapping, f"{source.schema}.v_digest", 64, SALT).split(";\n"):
        if statement.strip():
            source.execute(statement)
    command.config["views"] = [
        {
            "name": "default",
            "sql": source.sql,
            "key_prefix": "p",
            "digest_view": f"{source.schema}.v_digest",
            "buckets": 64,
        }
    ]
    del command.config["materialize"]["sql"]
    del command.config["redis"]["key_prefix"]
    assert command("run").view["warnings"] == []
    source.execute("UPDATE t SET value = 'new' WHERE key = 'k7'")
    view = command("run").view
    assert (view["puts"], view["buckets_read"], view["warnings"]) == (1, 1, [])
    in_sync(source, redis_server)
    source.retain_history()
    as_of = command("run").view["as_of"]
    source.execute("UPDATE t SET value = 'newer' WHERE key = 'k7'")
    source.await_oblivion("v_digest")
    command("verify", "--fast")
    command("run")
    command("verify", "--fast")
    assert command("snapshot", "--as-of", str(as_of)).view["puts"] == 1
    command("verify")


def test_replaced_plain_view_is_noticed(source: Source, redis_server: RedisServer, command: Command) -> None:
    """A plain view made again over the same table has no frontier of its own; its plan tells that it is another."""
    source.execute("ALTER TABLE t SET (RETAIN HISTORY FOR '1hr')")
    source.put(a="1", b="2")
    source.execute("CREATE VIEW plain AS SELECT key, value FROM t")
    command.config["materialize"]["sql"] = f"SELECT key, value FROM {source.schema}.plain"
    command("run")
    in_sync(source, redis_server)
    source.execute("DROP VIEW plain")
    source.execute("CREATE VIEW plain AS SELECT key, value || '!' AS value FROM t")
    view = command("run").view
    assert view["action"] == "snapshot", view
    assert owned(redis_server.client()) == {b"p:a": b"1!", b"p:b": b"2!"}
    command("verify")


class Phases(Progress):
    """Keeps the phases that were shown, and ends the run when it follows."""

    def __init__(self, stop: Stop) -> None:
        self.shown: list[str] = []
        self._stop = stop

    def phase(self, view: str, name: str, total_rows: int | None) -> None:
        self.shown.append(name)
        if name == "follow":
            self._stop.request("seen")


@pytest.mark.parametrize("history", [True, False], ids=["delta", "snapshot"])
def test_a_view_that_is_followed_is_shown_as_such(source: Source, command: Command, history: bool) -> None:
    """Not as `connect` or `repair` for as long as --for lasts, which looks like a run that hangs."""
    if history:
        source.retain_history()
    source.put(a="1")
    command("run")
    if not history:
        source.await_oblivion()
    command.write_config()
    phases = Phases(stop := Stop())
    report = execute(load(str(command.config_path), {}), Request(mode="run", follow_s=60), stop, progress=phases)
    assert report.views[0].action == ("delta" if history else "snapshot")
    assert phases.shown[-1] == "follow"
