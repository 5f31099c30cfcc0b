"""Mass deletes are withheld, by snapshot and by delta; what is not ours survives everything, byte for byte."""

from __future__ import annotations

import json
import shlex
import threading
import time
from binascii import crc32
from typing import Any

import pytest
import redis

from reconcile.runs import delta
from tests.faults.io_calls import one_time_a_read
from tests.faults.proxy import Fault
from tests.faults.rig import FOLLOWED_S, Ended, Rig
from tests.faults.test_first_contact import ends_at_part
from tests.support.command import Command
from tests.support.meanwhile import beside, eventually
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import owned, state
from tests.support.sources import Source


def withheld(ended: Ended, deletes: int, owned: int | None = None) -> None:
    """A safety stop that counts, and names the command that allows it. owned: how many keys were there."""
    assert ended.code == 5, ended.told
    assert ended.view.error is not None
    assert f"{deletes} of {'' if owned is None else owned}" in ended.view.error.message
    assert "keys would be deleted" in ended.view.error.message
    assert "reconcile snapshot --view default --allow-deletes" in str(ended.view.error.hint)
    assert ended.view.deletes_withheld == deletes


def lose_history(rig: Rig, history: bool) -> None:
    """Retained or not: what a run finds."""
    if not history:
        rig.source.await_oblivion()


@pytest.mark.parametrize("rows", [0, 60])
@pytest.mark.parametrize("mode", ["run", "snapshot", "deep"])
def test_a_snapshot_applies_puts_and_withholds_deletes(rows: int, mode: str, rig: Rig) -> None:
    """The view is empty, or has lost 40 %: puts are applied, nothing is deleted, the checkpoint stays; then allowed."""
    if mode != "run":
        rig.source.retain_history()  # no need to wait for its loss
    rig.fill(100)
    assert rig.run().code == 0
    before = state(rig.client)["as_of"]
    rig.source.execute("DELETE FROM t WHERE substring(key, 2)::int > 60" if rows else "DELETE FROM t")
    if rows:
        rig.source.put(k1="changed", more="added")
    if mode == "run":
        rig.source.await_oblivion()
    options: dict[str, Any] = {"deep": True} if mode == "deep" else {}
    kind = "snapshot" if mode == "deep" else mode
    ended = rig.run(kind, **options)
    withheld(ended, 100 - rows, 100)
    assert (ended.view.puts, ended.view.deletes) == (2 if rows else 0, 0)
    content = owned(rig.client)
    assert len(content) == 101 if rows else 100
    if rows:
        assert (content[b"p:k1"], content[b"p:more"]) == (b"changed", b"added")
    assert state(rig.client)["as_of"] == before
    stays_withheld(rig, content)
    command = str(ended.view.error.hint if ended.view.error else "").partition("run: ")[2]
    name, verb, *flags = shlex.split(command)
    assert (name, verb, flags) == ("reconcile", "snapshot", ["--view", "default", "--allow-deletes"])
    allowed = rig.run("snapshot", allow_deletes=True)
    assert (allowed.code, allowed.view.deletes) == (0, 100 - rows)
    rig.in_sync()
    assert rig.run().code == 0


def stays_withheld(rig: Rig, content: dict[bytes, bytes]) -> None:
    """Until a human decides every run says so, without looking through Redis for it; what is stored is true."""
    assert '"withheld"' in state(rig.client)["pending"]
    assert rig.manifest_is_true(content)
    again = rig.run()
    assert again.code == 5, again.told
    assert not again.view.deep
    assert again.view.rows_read <= 2 * rig.source.rows()  # all digests, and the buckets that hold keys too many
    assert (again.view.puts, again.view.deletes) == (0, 0)
    assert owned(rig.client) == content
    for fast in (False, True):
        audit = rig.run("verify", fast=fast)  # no drift, since nobody else wrote; but not in sync
        assert audit.code == 5, audit.told
        assert "deletes are withheld" in audit.told
        assert audit.view.drift is not None
        assert audit.view.drift.total == 0
        noted = json.loads(str(rig.client.hget("reconcile:{default}:audit", "report"), "utf-8"))  # type: ignore[arg-type]
        assert noted["verdict"] == "deletes withheld"


@pytest.mark.parametrize("batch", [50_000, 7])
@pytest.mark.parametrize("mode", ["run", "snapshot"])
def test_rows_that_come_back_need_no_human(mode: str, batch: int, rig: Rig) -> None:
    """The view was empty for a while: once its rows are there again, the next run is clean, and cheap."""
    rig.limits["batch_max_keys"] = batch
    rig.fill(100)
    assert rig.run().code == 0
    rig.source.execute("DELETE FROM t")
    rig.source.await_oblivion()
    withheld(rig.run(mode), 100, 100)
    rig.fill(100, 61)
    ended = rig.run(mode)
    assert (ended.code, ended.view.deep, ended.view.puts, ended.view.deletes) == (0, False, 100, 0), ended.told
    rig.in_sync()


@pytest.mark.parametrize("batch", [50_000, 7])
def test_a_bucket_that_comes_back_as_it_was_is_looked_at(batch: int, rig: Rig) -> None:
    """Deletes in one bucket of many are withheld, a put beside them is not: its fingerprint is unknown from then on,
    whether the change took one write or several, or the put would stay once the source has its old rows again."""
    rig.limits["batch_max_keys"] = batch
    rig.view["buckets"] = 64
    names = [f"n{i}" for i in range(4000)]
    inside = [name for name in names if crc32(b"p:" + name.encode()) % 64 == 7][:30]
    others = [name for name in names if crc32(b"p:" + name.encode()) % 64 != 7][:25]
    old = dict.fromkeys(inside + others, "old")
    rig.source.put(**old)
    assert rig.run().code == 0
    rig.source.execute(f"DELETE FROM t WHERE key IN ({', '.join(repr(name) for name in inside[1:])})")
    rig.source.put(**{inside[0]: "new"})
    rig.source.await_oblivion()
    withheld(rig.run(), 29, 55)
    assert owned(rig.client)[b"p:" + inside[0].encode()] == b"new"
    rig.source.put(**old)
    rig.source.await_oblivion()
    ended = rig.run()
    assert (ended.code, ended.view.puts) == (0, 1), ended.told
    rig.in_sync()


@pytest.mark.parametrize("rows", [0, 60])
@pytest.mark.parametrize("batch", [50_000, 7])
def test_a_delta_stops_before_the_batch(rows: int, batch: int, rig: Rig) -> None:
    """Nothing of the range with the deletes is applied by a delta, however many transactions it needs; ranges before it
    are, and a run goes on by snapshot."""
    rig.limits["batch_max_keys"] = batch
    rig.source.retain_history()
    rig.fill(100)
    assert rig.run().code == 0
    rig.source.put(k1="changed")
    assert rig.run("delta").code == 0
    before = state(rig.client)
    content = owned(rig.client)
    rig.source.put(k2="changed too")
    rig.source.execute("DELETE FROM t WHERE substring(key, 2)::int > 60" if rows else "DELETE FROM t")
    withheld(rig.run("delta"), 100 - rows, 100)
    assert owned(rig.client) == content
    after = state(rig.client)
    assert (after["as_of"], after["pending"]) == (before["as_of"], "")
    withheld(rig.run("run"), 100 - rows, 100)  # becomes a snapshot, so that puts go on
    assert owned(rig.client) == content | ({b"p:k2": b"changed too"} if rows else {})
    after = state(rig.client)
    assert after["as_of"] == before["as_of"]
    assert '"withheld"' in after["pending"]
    allowed = rig.run("snapshot", allow_deletes=True)
    assert allowed.code == 0, allowed.told
    assert allowed.view.deletes == 100 - rows
    rig.in_sync()
    ended = rig.run("delta")
    assert (ended.code, ended.view.puts, ended.view.deletes) == (0, 0, 0)


def test_a_dry_run_takes_no_time_for_reached(rig: Rig) -> None:
    """It has come past a first change when the next one meets the guard: the snapshot that would follow starts from
    what Redis holds, not from what the dry run has in memory."""
    rig.source.retain_history()
    rig.fill(100)
    assert rig.run().code == 0
    before = state(rig.client)["as_of"]
    rig.source.put(k1="changed")
    rig.source.execute("DELETE FROM t WHERE substring(key, 2)::int > 60")
    with one_time_a_read():
        ended = rig.run(dry_run=True)
    withheld(ended, 40, 100)
    assert (ended.view.action, ended.view.deep) == ("snapshot", False)
    assert not any("does not match the state" in warning for warning in ended.view.warnings)
    assert state(rig.client)["as_of"] == before


@pytest.mark.parametrize("mode", ["delta", "run"])
def test_a_dry_run_of_several_times(mode: str, rig: Rig) -> None:
    """Nothing of the first is in Redis: neither is what a later one finds there in doubt, nor the manifest wrong."""
    rig.source.retain_history()
    rig.view = {**rig.view, "buckets": 1024}
    rig.fill(100)
    assert rig.run().code == 0
    rig.source.put(k1="changed")
    rig.source.execute("UPDATE t SET value = value || ' later'")
    with one_time_a_read():
        ended = rig.run(mode, dry_run=True)
    assert (ended.code, ended.view.action, ended.view.commits, ended.view.puts) == (0, "delta", 1, 100), ended.told


def test_a_delta_may_be_allowed_too(rig: Rig) -> None:
    """--allow-deletes works with every command that deletes."""
    rig.source.retain_history()
    rig.fill(100)
    assert rig.run().code == 0
    rig.source.execute("DELETE FROM t")
    ended = rig.run("delta", allow_deletes=True)
    assert (ended.code, ended.view.deletes) == (0, 100)
    rig.in_sync()


@pytest.mark.parametrize("mode", ["snapshot", "delta"])
def test_consent_is_the_new_measure(mode: str, rig: Rig) -> None:
    """Who allowed 100 keys to become 50 is not asked again about 12 more within the hour, but about many."""
    rig.source.retain_history()
    rig.fill(100)
    assert rig.run().code == 0
    rig.source.execute("DELETE FROM t WHERE substring(key, 2)::int > 50")
    assert rig.run(mode, allow_deletes=True).code == 0
    rig.source.execute("DELETE FROM t WHERE substring(key, 2)::int > 38")
    ended = rig.run()
    assert (ended.code, ended.view.deletes) == (0, 12), ended.told
    rig.source.execute("DELETE FROM t WHERE substring(key, 2)::int > 20")
    withheld(rig.run("delta"), 18, 38)


def test_a_delta_while_followed_stops_too(rig: Rig) -> None:
    """The view empties while it is followed: the run stops before it, with what came before committed."""
    rig.source.retain_history()
    rig.fill(100)
    assert rig.run().code == 0

    def empty(_: threading.Event) -> None:
        rig.await_following()
        rig.source.put(k1="kept")
        eventually(lambda: rig.client.get("p:k1") == b"kept")
        rig.source.execute("DELETE FROM t")

    with beside(empty):
        ended = rig.run("run", follow_s=FOLLOWED_S)
    withheld(ended, 100, 100)
    assert ended.seconds < FOLLOWED_S / 2
    assert rig.client.get("p:k1") == b"kept"
    assert len(owned(rig.client)) == 100


@pytest.mark.parametrize("mode", ["run", "snapshot", "delta"])
def test_a_handful_is_never_suspicious(mode: str, rig: Rig) -> None:
    """Ten of ten keys may go without asking."""
    rig.source.retain_history()
    rig.fill(10)
    assert rig.run().code == 0
    rig.source.execute("DELETE FROM t")
    ended = rig.run(mode)
    assert (ended.code, ended.view.deletes) == (0, 10)
    rig.in_sync()


def test_the_limit_is_the_views(rig: Rig) -> None:
    """max_delete_fraction decides, not a constant: 20 of 100 are too many for 0.1 and fine for 0.3."""
    rig.source.retain_history()
    rig.fill(100)
    assert rig.run().code == 0
    rig.source.execute("DELETE FROM t WHERE substring(key, 2)::int > 80")
    rig.view = {"max_delete_fraction": 0.1}
    withheld(rig.run("delta"), 20, 100)
    rig.view = {}
    assert rig.run("delta").code == 0
    rig.in_sync()


@pytest.mark.parametrize("cut", [False, True])
def test_a_replaced_view_waits_for_consent(cut: bool, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has three times as many rows, and none of the old ones. The next run does not take that for the same view,
    even if the first one was cut short."""
    rig.fill(100)
    assert rig.run().code == 0
    rig.source.execute("CREATE VIEW w AS SELECT 'z' || key || n AS key, value FROM t, generate_series(1, 3) AS n")
    rig.view = {"sql": f"SELECT key, value FROM {rig.source.schema}.w"}
    if cut:
        with monkeypatch.context() as patch:
            ends_at_part(2, patch)
            assert rig.run(max_runtime=600).code == 6
        assert '"snapshot"' in state(rig.client)["pending"]
    for _ in range(3):
        withheld(rig.run(), 100)
        assert len(owned(rig.client)) == 400
    assert rig.run("snapshot", allow_deletes=True).code == 0
    assert len(owned(rig.client)) == 300
    assert rig.run().code == 0


def test_a_prefix_that_covers_foreign_keys(rig: Rig) -> None:
    """First contact under a prefix somebody else uses: the view's rows are written, the others stay until allowed."""
    for n in range(50):
        rig.client.set(f"p:foreign{n}", f"theirs {n}")
    rig.fill(30)
    for _ in range(3):
        ended = rig.run()
        assert ended.code == 5, ended.told
        assert "50 keys in the range of view default are unexplained" in ended.told
        assert "p:foreign" in ended.told
        assert "reconcile snapshot --view default --allow-deletes" in ended.told
        content = owned(rig.client)
        assert all(content[f"p:foreign{n}".encode()] == f"theirs {n}".encode() for n in range(50))
        assert len(content) == 80
        assert rig.manifest_is_true({k: v for k, v in content.items() if b"foreign" not in k})
    ended = rig.run("verify")
    assert ended.code == 3
    assert ended.view.drift is not None
    assert ended.view.drift.extra == 50
    ended = rig.run("snapshot", allow_deletes=True)
    assert (ended.code, ended.view.deletes) == (0, 50)
    rig.in_sync()


def test_from_the_command_line(source: Source, redis_server: RedisServer, command: Command) -> None:
    """What a user sees, and the printed command does what it says."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 50) AS n")
    command("run")
    source.execute("DELETE FROM t")
    result = command("snapshot", expect=5)
    assert result.view["status"] == "stopped"
    assert result.view["deletes_withheld"] == 50
    words = shlex.split(result.view["error"]["hint"].partition("run: ")[2])
    assert command(*words[1:]).view["deletes"] == 50
    assert owned(redis_server.client()) == {}


def foreign_of(client: redis.Redis) -> dict[bytes, tuple[bytes, int]]:
    """Everything that is neither under p: nor reconcile's own: exact content, and when it expires."""
    keys = [key for key in client.scan_iter(count=1000) if not key.startswith((b"p:", b"reconcile:{"))]
    return {key: (client.dump(key), client.pexpiretime(key)) for key in keys}  # type: ignore[misc]


def test_foreign_keys_survive_everything(rig: Rig) -> None:
    """Strings, hashes, lists, sets, streams, expiries, names close to ours: untouched by every run and failure."""
    client, source = rig.client, rig.source
    client.set("other", b"\x00\xff raw")
    client.set("p", "the prefix without its colon")
    client.set("pp:1", "a longer prefix")
    client.set("P:1", "another case")
    client.set("reconcile", "not ours")
    client.set("reconcile:x", "not ours either")
    client.set("with-expiry", "x", px=3_600_000)
    client.hset("hash", mapping={"f": "v"})
    client.rpush("list", "a", "b")
    client.sadd("set", "m")
    client.zadd("zset", {"m": 1.5})
    client.xadd("stream", {"f": "v"}, id="1-1")
    client.set("x" * 5000, "long name")
    before = foreign_of(client)
    source.retain_history()
    rig.fill(300)
    steps: list[tuple[str, dict[str, Any]]] = [
        ("run", {}), ("snapshot", {"deep": True}), ("delta", {}), ("verify", {}),
        ("snapshot", {"reset_state": True, "allow_deletes": True}), ("snapshot", {"allow_deletes": True}),
        ("run", {"follow_s": 0.5}),
    ]  # fmt: skip
    for n, (mode, options) in enumerate(steps):
        source.execute(f"UPDATE t SET value = 'step {n}' WHERE key LIKE 'k{n}%'")
        source.execute(f"DELETE FROM t WHERE key = 'k{100 + n}'")
        rig.redis_proxy.arm(Fault("up", 1000 * (n + 1), "cut"))
        rig.run(mode, **options)
        rig.redis_proxy.heal()
        ended = rig.run(mode, **options)
        assert ended.code in (0, 3) or (ended.code == 4 and "follow_s" in options), ended.told
        assert foreign_of(client) == before
    source.execute("DELETE FROM t")
    assert rig.run("snapshot").code == 5
    assert rig.run("snapshot", allow_deletes=True).code == 0
    assert owned(client) == {}
    assert foreign_of(client) == before


def test_without_prefix_nothing_of_others_is_touched(rig: Rig) -> None:
    """Remembered ownership: a key of the view that exists already is refused by name, never overwritten."""
    rig.view = {"key_prefix": ""}
    rig.client.set("k5", "theirs", px=3_600_000)
    rig.client.hset("k6", "f", "theirs")
    rig.client.set("unrelated", "theirs")
    before = {key: (rig.client.dump(key), rig.client.pexpiretime(key)) for key in (b"k5", b"k6", b"unrelated")}
    rig.source.retain_history()
    rig.fill(30)
    ended = rig.run()
    assert ended.code == 5, ended.told
    assert "k5" in ended.told
    assert "--adopt" in ended.told
    rig.source.execute("DELETE FROM t WHERE key IN ('k5', 'k6')")
    assert rig.run().code == 0
    rig.source.execute("INSERT INTO t VALUES ('k5', 'ours now')")
    assert rig.run().code == 5
    rig.source.execute("DELETE FROM t")
    assert rig.run("snapshot", allow_deletes=True).code == 0
    after = {key: (rig.client.dump(key), rig.client.pexpiretime(key)) for key in (b"k5", b"k6", b"unrelated")}
    assert after == before


def test_a_range_that_is_repeated_overwrites_nothing_of_others(rig: Rig) -> None:
    """An earlier run may have written its new keys, with the same value; another value is somebody else's."""
    rig.view = {"key_prefix": ""}
    rig.source.retain_history()
    rig.fill(5)
    assert rig.run().code == 0
    rig.source.put(k6="ours")
    rig.client.set("k6", "theirs")
    pending = {"kind": "delta", "until": int(time.time() * 1000), "clean": True}
    rig.client.hset("reconcile:{default}:state", "pending", json.dumps(pending))
    ended = rig.run()
    assert ended.code == 5, ended.told
    assert "--adopt" in ended.told
    assert rig.client.get("k6") == b"theirs"


def test_every_new_key_is_looked_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of many new keys is somebody else's: it is asked for too, and not overwritten."""
    monkeypatch.setattr(delta, "EXISTS_KEYS", 3)
    rig.view = {"key_prefix": ""}
    rig.source.retain_history()
    rig.fill(5)
    assert rig.run().code == 0
    for n in range(10):
        rig.source.put(**{f"n{n}": "ours"})
    rig.client.set("n9", "theirs")
    ended = rig.run()
    assert ended.code == 5, ended.told
    assert rig.client.get("n9") == b"theirs"


def test_a_double_key_in_a_large_first_load(rig: Rig) -> None:
    """The load stops where it meets a key for the second time, while the source still sends: exit 5 names it."""
    rig.fill(30_000, 100)
    rig.source.execute("INSERT INTO t VALUES ('k7', 'again')")
    ended = rig.run()
    assert ended.code == 5, ended.told
    assert "k7" in ended.told
    assert not state(rig.client).get("as_of")
    rig.source.execute("DELETE FROM t WHERE value = 'again'")
    ended = rig.run(direct=True)
    assert ended.code == 0, ended.told
    rig.in_sync()


def test_a_foreign_key_that_appears_during_a_first_load(rig: Rig) -> None:
    """Somebody writes under the prefix while the first load runs: every row is compared instead, at the same time."""
    rig.fill(30_000, 100)
    rig.source_proxy.down_bytes_per_s = 2_000_000
    begun = rig.redis_proxy.on(b"MSETNX")

    def interfere() -> None:
        begun.seen.wait(30)
        rig.client.mset({f"p:k{n}": "theirs" for n in range(10_000, 30_001)})

    thread = threading.Thread(target=interfere)
    thread.start()
    ended = rig.run()
    thread.join()
    assert ended.code == 0, ended.told
    assert any("all are compared instead" in warning for warning in ended.view.warnings)
    rig.in_sync()
