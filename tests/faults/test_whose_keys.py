"""Nothing foreign is deleted, and nobody's range is taken: surplus, first contact, claims, names of our own."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from reconcile.compare import surplus
from reconcile.config.load import load
from reconcile.core.shards import Shard
from reconcile.errors import ConfigError, Unavailable
from reconcile.runs import context
from reconcile.runs.entry import execute
from reconcile.runs.request import Request
from reconcile.stop import Stop
from reconcile.target import reader
from reconcile.target.claims import Claims
from reconcile.target.dropping import drop
from tests.faults.rig import FOLLOWED_S, Ended, Rig, failed
from tests.support.meanwhile import beside
from tests.support.redis_state import owned, state


def second(rig: Rig, directory: Path, **view: object) -> Rig:
    """Another configuration of the same source and Redis."""
    other = Rig(rig.source, rig.server, directory / "second", rig.source_proxy, rig.redis_proxy)
    other.directory.mkdir(exist_ok=True)
    other.view = dict(view)
    return other


def plant(rig: Rig, number: int, name: str = "foreign") -> None:
    """Somebody else's keys under our prefix."""
    rig.client.mset({f"p:{name}{n}": f"theirs {n}" for n in range(number)})


def refused(ended: Ended, *texts: str) -> None:
    """A safety stop that says what it is about and how it is settled."""
    assert ended.code == 5, ended.told
    for text in texts:
        assert text in ended.told, ended.told


@pytest.mark.parametrize("history", [True, False])
def test_many_foreign_keys_and_a_few_deletes(history: bool, rig: Rig) -> None:
    """1,000 rows, 6,000 keys of others, 20 rows go: exactly the 20 go; exit 5 names some; one command settles it."""
    if history:
        rig.source.retain_history()
    rig.fill(1000)
    assert rig.run().code == 0
    plant(rig, 6000)
    rig.source.execute("DELETE FROM t WHERE substring(key, 2)::int > 980")
    if not history:
        rig.source.await_oblivion()
    rig.run("snapshot") if history else rig.run()
    content = owned(rig.client)
    assert sum(b"foreign" in key for key in content) == 6000
    assert len(content) == 6980
    ended = rig.run("snapshot", deep=True)
    refused(ended, "6,000 keys in the range", "p:foreign", "--allow-deletes")
    for _ in range(2):  # what is withheld is never taken for our own
        refused(rig.run(), "6,000 keys")
    assert sum(b"foreign" in key for key in owned(rig.client)) == 6000
    allowed = rig.run("snapshot", allow_deletes=True)
    assert (allowed.code, allowed.view.deletes) == (0, 6000), allowed.told
    rig.in_sync()


def test_more_foreign_keys_than_names_are_held(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket whose candidates are only counted and added up: all of them are the view's, or none."""
    monkeypatch.setattr(surplus, "HELD_NAMES", 50)
    rig.source.retain_history()
    rig.view = {"buckets": 16}
    rig.fill(200)
    assert rig.run().code == 0
    plant(rig, 600)
    rig.source.execute("DELETE FROM t WHERE substring(key, 2)::int > 190")
    refused(rig.run("snapshot", deep=True), "keys in the range", "--allow-deletes")
    assert sum(b"foreign" in key for key in owned(rig.client)) == 600
    assert rig.run("snapshot", allow_deletes=True).code == 0
    rig.in_sync()


@pytest.mark.parametrize("number", [10, 400])
def test_first_contact_asks(number: int, rig: Rig) -> None:
    """Whatever their number: the view's rows are there, the others stay, one command settles it."""
    plant(rig, number)
    rig.fill(1000 if number == 400 else 10)
    rows = rig.source.rows()
    ended = rig.run()
    refused(ended, f"{number} keys in the range", "p:foreign")
    assert ended.view.puts == rows
    assert len(owned(rig.client)) == rows + number
    allowed = rig.run("snapshot", allow_deletes=True)
    assert (allowed.code, allowed.view.deletes) == (0, number)
    rig.in_sync()
    assert rig.run().code == 0


def test_first_contact_after_a_state_was_lost(rig: Rig) -> None:
    """Without its state a view has no keys it could call its own."""
    rig.source.retain_history()
    rig.fill(30)
    assert rig.run().code == 0
    rig.client.delete("reconcile:{default}:state", "reconcile:{default}:manifest")
    rig.source.execute("DELETE FROM t WHERE substring(key, 2)::int > 27")
    refused(rig.run(), "3 keys in the range")
    assert len(owned(rig.client)) == 30


def test_a_handful_is_named(rig: Rig) -> None:
    """A few stray keys under an owned prefix go, by name; only so many a day."""
    rig.source.retain_history()
    rig.fill(100)
    assert rig.run().code == 0
    plant(rig, 8)
    ended = rig.run("snapshot", deep=True)
    assert ended.code == 0, ended.told
    assert any("p:foreign7" in warning for warning in ended.view.warnings)
    plant(rig, 8)
    refused(rig.run("snapshot", deep=True), "8 keys in the range")


def test_what_waits_for_consent_never_becomes_a_handful(rig: Rig) -> None:
    """Twelve were too many to go without asking; when somebody has removed five of them, the others wait all the
    same."""
    rig.source.retain_history()
    rig.fill(100)
    assert rig.run().code == 0
    plant(rig, 12)
    refused(rig.run("snapshot", deep=True), "12 keys in the range")
    rig.client.delete(*[f"p:foreign{n}" for n in range(5)])
    for deep in (False, True):
        refused(rig.run("snapshot", deep=deep), "7 keys in the range")
    assert sum(b"foreign" in key for key in owned(rig.client)) == 7
    rig.client.delete(*[f"p:foreign{n}" for n in range(5, 12)])
    assert rig.run().code == 0  # a delta alone would not notice


def test_a_run_that_is_stopped_while_keys_wait_for_consent(rig: Rig) -> None:
    """That a human has to decide is worse news than that the run had to stop: while it follows, and in the middle of a
    snapshot, whatever stops it. How many keys wait is told by each."""
    rig.source.retain_history()
    rig.fill(1000)
    assert rig.run().code == 0
    plant(rig, 12)
    refused(rig.run("snapshot", deep=True), "12 keys in the range")
    stop = Stop()

    def terminate(_: threading.Event) -> None:
        rig.await_following()
        stop.request("SIGTERM")

    with beside(terminate):
        ended = rig.run(follow_s=FOLLOWED_S, stop=stop)
    refused(ended, "12 keys in the range")
    assert ended.view.warnings == ["stopped by SIGTERM; progress is committed"]
    assert ended.view.deletes_withheld == 12

    rig.source_proxy.down_bytes_per_s = 20_000
    stop = Stop()
    rig.redis_proxy.on(b"SCAN").tell = lambda: stop.request("deadline")
    ended = rig.run("snapshot", deep=True, stop=stop)
    refused(ended, "12 keys in the range")
    assert "stopped before the work was done (deadline)" in ended.view.warnings[-1]
    assert ended.view.deletes_withheld == 12


def test_what_waited_for_consent_has_gone(rig: Rig) -> None:
    """Somebody has removed the keys: a deep snapshot notices, though Redis, manifest and view agree about the rest."""
    rig.fill(100)
    assert rig.run().code == 0
    plant(rig, 12)
    refused(rig.run("snapshot", deep=True), "12 keys in the range")
    rig.client.delete(*[f"p:foreign{n}" for n in range(12)])
    rig.converges("snapshot", deep=True)


def test_what_waited_for_consent_under_a_state_that_was_lost(rig: Rig) -> None:
    """Its record is left; the state that comes next counts none of it."""
    rig.fill(100)
    assert rig.run().code == 0
    plant(rig, 12)
    refused(rig.run("snapshot", deep=True), "12 keys in the range")
    rig.client.delete("reconcile:{default}:state")
    assert rig.run("snapshot", allow_deletes=True).code == 0
    ended = rig.run("verify", fast=True)
    assert ended.code == 0, ended.view.drift


def test_what_waits_for_consent_in_fewer_buckets(rig: Rig) -> None:
    """The same keys wait when the view gets fewer buckets, and a run that reads nothing else knows of them."""
    rig.view = {"buckets": 64}
    plant(rig, 8)
    rig.fill(200)
    refused(rig.run(), "8 keys in the range")
    rig.view = {"buckets": 16}
    for _ in range(3):
        refused(rig.run("snapshot"), "8 keys in the range")
    assert rig.client.strlen("reconcile:{default}:surplus") > 0
    assert sum(b"foreign" in key for key in owned(rig.client)) == 8
    assert rig.run("snapshot", allow_deletes=True).code == 0
    rig.in_sync()


def test_what_waits_for_consent_is_no_drift(rig: Rig) -> None:
    """The rolling compare knows of these keys: it looks at them again and again, and finds nothing."""
    rig.view = {"compare_every": "1s"}
    rig.source.retain_history()
    rig.fill(100)
    assert rig.run().code == 0
    plant(rig, 20)
    refused(rig.run("snapshot", deep=True), "20 keys in the range")
    before = json.loads(state(rig.client)["turn"])["done_ms"]
    time.sleep(1.2)
    ended = rig.run()
    refused(ended, "20 keys in the range")
    assert json.loads(state(rig.client)["turn"])["done_ms"] > before, "nothing was compared: this proves nothing"
    assert ended.view.action != "snapshot", ended.view.reason


def test_a_scan_that_names_keys_twice(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SCAN may while the server changes its table: each key is counted once, and judged by that."""
    really = reader.scan
    monkeypatch.setattr(reader, "scan", lambda *given: (page for found in really(*given) for page in (found, found)))
    rig.source.retain_history()
    rig.view = {"buckets": 16}
    rig.fill(200)
    assert rig.run().code == 0
    plant(rig, 15)
    rig.source.execute("DELETE FROM t WHERE substring(key, 2)::int > 180")
    ended = rig.run("snapshot", deep=True)
    refused(ended, "15 keys in the range")
    assert ended.view.deletes == 20
    for fast in (False, True):
        audit = rig.run("verify", fast=fast)
        assert audit.view.drift is not None
        assert (audit.code, audit.view.drift.extra) == (3, 15), audit.told


def test_lost_keys_are_no_surplus(rig: Rig) -> None:
    """95 % evicted and half of the rows changed: nothing is to be deleted, so nothing is withheld."""
    rig.fill(1000)
    assert rig.run().code == 0
    rig.client.delete(*[f"p:k{n}" for n in range(1, 951)])
    rig.source.execute("UPDATE t SET value = value || '!' WHERE substring(key, 2)::int % 2 = 0")
    rig.source.await_oblivion()
    ended = rig.run()
    assert (ended.code, ended.view.deletes) == (0, 0), ended.told
    ended = rig.run("snapshot", deep=True)
    assert ended.code == 0, ended.told
    rig.in_sync()


@pytest.mark.parametrize("deep", [True, False])
def test_lost_keys_beside_surplus(deep: bool, rig: Rig) -> None:
    """Some keys of a bucket were lost, others went at the source: what is left of these is explained all the same."""
    rig.view = {"buckets": 16}
    rig.source.retain_history()
    rig.fill(200)
    assert rig.run().code == 0
    rig.client.delete(*[f"p:k{n}" for n in range(1, 41)])
    rig.source.execute("DELETE FROM t WHERE substring(key, 2)::int > 185")
    ended = rig.run("snapshot", deep=deep)
    assert (ended.code, ended.view.deletes) == (0, 15), ended.told
    assert not ended.view.warnings
    if deep:  # else only buckets that have changed are looked at
        rig.in_sync()


@pytest.mark.parametrize("deep", [True, False])
def test_lost_keys_without_prefix(deep: bool, rig: Rig) -> None:
    """The same where keys are remembered."""
    rig.view = {"key_prefix": ""}
    rig.fill(1000)
    assert rig.run().code == 0
    rig.client.delete(*[f"k{n}" for n in range(1, 951)])
    rig.source.execute("UPDATE t SET value = value || '!' WHERE substring(key, 2)::int % 2 = 0")
    rig.source.await_oblivion()
    ended = rig.run("snapshot", deep=deep)
    assert (ended.code, ended.view.deletes) == (0, 0), ended.told
    if not deep:
        assert rig.run("snapshot", deep=True).code == 0
    assert owned(rig.client, b"k") == rig.source.content()


def test_two_prefixes_one_within_the_other(rig: Rig, tmp_path: Path) -> None:
    """`app` and `app:users`: whoever comes second is told of the first; neither touches the other's keys."""
    rig.view = {"name": "one", "key_prefix": "app"}
    rig.fill(20)
    assert rig.run().code == 0
    other = second(rig, tmp_path, name="two", key_prefix="app:users")
    refused(other.run(), "one", "two", "reconcile drop one")
    rig.client.delete("reconcile:{claims}")  # lost: made again from the states
    refused(other.run(), "one", "two")
    rig.client.hset("reconcile:{claims}", "two", "prefix " + b"app:users:".hex() + " ")
    assert rig.run().code in (0, 5)
    assert len(owned(rig.client, b"app:")) == 20


@pytest.mark.parametrize("first", ["prefix", "timestamp key"])
def test_a_timestamp_key_under_the_prefix_of_another_file(first: str, rig: Rig, tmp_path: Path) -> None:
    """To the other view it would be one of the keys nobody explains, and go as one of a handful."""
    rig.view = {"name": "one", "key_prefix": "app"}
    rig.fill(20)
    other = second(rig, tmp_path, name="two", key_prefix="q", mz_timestamp_key="app:time")
    begins, comes = (rig, other) if first == "prefix" else (other, rig)
    assert begins.run().code == 0
    refused(comes.run(), "one", "two")
    assert begins.run("snapshot", deep=True).code == 0


@pytest.mark.parametrize("prefix", ["p", ""])
def test_two_files_of_mz_redis_sync(prefix: str, rig: Rig, tmp_path: Path) -> None:
    """Unnamed views go by their timestamp key, so they are two."""
    rig.fill(20)
    names = []
    for n, one in enumerate((rig, second(rig, tmp_path))):
        config = one.config(direct=True)
        config.pop("views")
        config["materialize"]["sql"] = rig.source.sql.replace("key,", f"'x{n}' || key AS key,")
        config["redis"] |= {"mz_timestamp_key": f"time{n}", "key_prefix": f"{prefix}{n}" if prefix else ""}
        path = one.directory / "legacy.yaml"
        path.write_text(json.dumps(config))
        for _ in range(3):
            report = execute(load(str(path), {}), Request(mode="run"), Stop())
            assert report.exit_code == 0, report.views[0].error
            assert not report.views[0].skipped
        names.append(report.views[0].view)
    assert len(set(names)) == 2
    assert len(rig.client.keys("*k*[0-9]")) >= 40


def test_a_changed_range(rig: Rig) -> None:
    """The keys are not moved: exit 5 says how to."""
    rig.fill(20)
    assert rig.run().code == 0
    rig.view = {"key_prefix": "q"}
    refused(rig.run(), "reconcile drop default --keys")
    assert (len(owned(rig.client)), rig.client.keys("q:*")) == (20, [])


def moved_under_a_prefix(rig: Rig) -> None:
    """A view that remembered its keys, and has them under a prefix now."""
    rig.source.execute("INSERT INTO t SELECT 'p:k' || n, 'v' || n FROM generate_series(1, 20) AS n")
    rig.view = {"key_prefix": ""}
    assert rig.run().code == 0
    rig.view = {"sql": f"SELECT substring(key, 3) AS key, value FROM {rig.source.relation}"}
    assert rig.run().code == 0


def test_a_prefix_for_remembered_keys_is_a_claim(rig: Rig, tmp_path: Path) -> None:
    """Nobody else gets it. The state went on saying that the keys were remembered, which is in nobody's way."""
    moved_under_a_prefix(rig)
    other = second(
        rig, tmp_path, name="other", sql=f"SELECT substring(key, 3) AS key, 'x' AS value FROM {rig.source.relation}"
    )
    refused(other.run(), "would write the same keys")
    assert rig.run().code == 0
    assert rig.client.get("p:k1") == b"v1"


def test_names_remembered_before_there_was_a_prefix_are_forgotten(rig: Rig) -> None:
    """Once the view is dropped: what others write under these names later is not its own."""
    moved_under_a_prefix(rig)
    assert drop(rig.settings(direct=True).redis, "default", Stop(), keys=True, lease_s=30).keys == 20
    rig.client.mset({f"p:k{n}": "theirs" for n in range(1, 6)})
    rig.source.execute("DELETE FROM t WHERE key IN ('p:k1', 'p:k2', 'p:k3', 'p:k4', 'p:k5')")
    rig.view = {"key_prefix": ""}
    ended = rig.run()
    assert (ended.code, ended.view.deletes) == (0, 0), ended.told
    assert rig.client.get("p:k1") == b"theirs"


@pytest.mark.parametrize("shard", [None, Shard(1, 2)])
def test_a_view_that_is_dropped_as_its_run_begins(
    shard: Shard | None, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it has claimed its keys, before it has the lease. Another has claimed them since, and keeps them."""
    rig.fill(20)
    rig.view = {"name": "old"}
    assert rig.run().code == 0
    new = second(rig, tmp_path, name="new", sql=f"SELECT key, 'new' AS value FROM {rig.source.relation}")
    really = Claims.claim

    def claim(self: Claims, *arguments: Any) -> None:
        really(self, *arguments)
        monkeypatch.undo()
        drop(rig.settings(direct=True).redis, "old", Stop(), keys=False, lease_s=30)
        assert new.run().code == 0

    monkeypatch.setattr(Claims, "claim", claim)
    ended = rig.run(shard=shard)
    assert ended.code == 6, ended.told
    assert "was dropped" in ended.told
    refused(rig.run(), "would write the same keys")
    assert new.run().code == 0
    assert rig.client.get("p:k1") == b"new"


def test_a_run_that_begins_while_a_drop_sleeps(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between forgetting and giving up the claim, for longer than its lease. The run has seen the claim, and keeps it:
    nobody else gets the keys before its state has a copy."""
    rig.fill(20)
    rig.view = {"name": "old"}
    assert rig.run().code == 0
    new = second(rig, tmp_path, name="new", sql=f"SELECT key, 'new' AS value FROM {rig.source.relation}")
    release, check_claim = Claims.release, context._check_claim

    def run_first(claims: Claims, *arguments: Any) -> None:
        def wake_up(run: context.ViewRun) -> None:
            monkeypatch.undo()
            check_claim(run)
            with pytest.raises(Unavailable, match="the claim of view old stays"):
                release(claims, *arguments)
            refused(new.run(), "would write the same keys")

        monkeypatch.setattr(context, "_check_claim", wake_up)
        rig.client.delete("reconcile:{old}:lease")
        assert rig.run().code == 0
        release(claims, *arguments)

    monkeypatch.setattr(Claims, "release", run_first)
    with pytest.raises(Unavailable, match="the claim of view old stays"):
        drop(rig.settings(direct=True).redis, "old", Stop(), keys=False, lease_s=30)
    refused(new.run(), "would write the same keys")
    assert rig.run().code == 0


def test_dedicated_switched_on(rig: Rig) -> None:
    """It would make everything in the database ours, without a word."""
    rig.client.set("theirs", "x")
    rig.fill(20)
    assert rig.run().code == 0
    rig.view, rig.redis = {"key_prefix": ""}, {"dedicated": True}
    refused(rig.run(), "dedicated")
    assert rig.client.get("theirs") == b"x"


def test_a_prefix_of_colons_is_none(rig: Rig) -> None:
    """It was taken for no prefix, silently: the whole database would have been looked through for what is ours."""
    rig.view = {"key_prefix": ":"}
    rig.fill(20)
    with pytest.raises(ConfigError, match="nothing but colons"):
        rig.run()
    assert not rig.client.keys("*")


def test_two_configurations_in_turn(rig: Rig) -> None:
    """A, B, A, B within a day: somebody has to decide."""
    rig.source.retain_history()
    rig.fill(20)
    codes = []
    for n in range(6):
        rig.view = {"sql": rig.source.sql + (" WHERE key <> 'k1'" if n % 2 else "")}
        ended = rig.run()
        codes.append(int(ended.code))
    assert codes[:3] == [0, 0, 0]
    assert codes[3:] == [5, 0, 5] or codes[3:] == [5, 5, 5], codes
    rig.view = {"sql": rig.source.sql + " WHERE key <> 'k1'"}
    refused(rig.run(), "two configurations")


def test_a_namespace_keeps_two_environments_apart(rig: Rig, tmp_path: Path) -> None:
    """The same view name twice in one database."""
    rig.redis = {"namespace": "blue"}
    rig.fill(20)
    assert rig.run().code == 0
    other = second(rig, tmp_path, key_prefix="q")
    other.redis = {"namespace": "green"}
    assert other.run().code == 0
    assert (len(rig.client.keys("p:*")), len(rig.client.keys("q:*"))) == (20, 20)


def test_a_timestamp_key_is_no_licence(rig: Rig) -> None:
    """mz_timestamp_key and no prefix: once our own state exists, another's key is refused, not adopted for ever."""
    rig.view = {"key_prefix": "", "mz_timestamp_key": "the:time"}
    rig.source.retain_history()
    rig.fill(5)
    assert rig.run().code == 0
    rig.client.set("k6", "theirs")
    rig.source.put(k6="ours")
    refused(rig.run(), "k6", "--adopt")
    assert rig.client.get("k6") == b"theirs"


@pytest.mark.parametrize("key", ["reconcile:{orders}:lease", "reconcile:{default}:manifest", "reconcile:{claims}"])
@pytest.mark.parametrize("follows", [True, False])
def test_rows_named_like_our_own_keys(key: str, follows: bool, rig: Rig) -> None:
    """Refused before anything is written, by first load and by delta; no other view is locked by it."""
    rig.view, rig.redis = {"key_prefix": ""}, {"dedicated": True}
    rig.source.retain_history()
    rig.fill(5)
    if follows:
        assert rig.run().code == 0
    before = {name: rig.client.dump(name) for name in ("reconcile:{orders}:lease", "reconcile:{claims}")}
    rig.source.put(**{key: "gotcha"})
    ended = rig.run()
    assert ended.code in (2, 5), ended.told
    assert key in ended.told
    if follows:
        assert {name: rig.client.dump(name) for name in before} == before
    assert rig.client.get("reconcile:{orders}:lease") is None


@pytest.mark.parametrize("key", ["reconcile:{default}:state", "the:time"])
@pytest.mark.parametrize("adopt", [False, True])
def test_own_keys_are_not_offered_for_adoption(key: str, adopt: bool, rig: Rig) -> None:
    """A view without prefix says what is wrong with such a row, not that it could take the key over."""
    rig.view = {"key_prefix": "", "mz_timestamp_key": "the:time"}
    rig.fill(5)
    assert rig.run().code == 0
    rig.source.put(**{key: "gotcha"})
    ended = rig.run("snapshot", adopt=adopt)
    failed(ended, 5, key, "reserved")
    assert "--adopt" not in ended.told
    assert ended.view.warnings == []
    rig.source.execute("DELETE FROM t WHERE value = 'gotcha'")
    assert rig.run().code == 0
    assert rig.run("verify").code == 0


@pytest.mark.parametrize("timed", [False, True])
def test_the_empty_key(timed: bool, rig: Rig) -> None:
    """In a dedicated database it is a key like any other: counted, audited, deleted, whoever wrote it."""
    rig.view = {"key_prefix": "", **({"mz_timestamp_key": "the:time"} if timed else {})}
    rig.redis = {"dedicated": True}
    rig.fill(20)
    rig.source.put(**{"": "1"})
    assert rig.run().code == 0
    assert rig.run("verify").code == rig.run("verify", fast=True).code == 0
    rig.source.execute("DELETE FROM t WHERE key = ''")
    assert rig.run("snapshot").code == 0
    assert not rig.client.exists("")
    rig.client.set("", "theirs")
    assert rig.run("verify").code == rig.run("verify", fast=True).code == 3
    assert rig.run("snapshot", deep=True).code == 0
    assert not rig.client.exists("")
    assert rig.run("verify").code == 0


@pytest.mark.parametrize("px", [None, 7_200_000])
def test_a_lease_that_is_nobodys(px: int | None, rig: Rig) -> None:
    """Without expiry, or for hours: it must not lock a view for ever."""
    rig.fill(5)
    rig.client.set("reconcile:{default}:lease", "\x1b[31mforged", px=px)
    assert rig.run(max_runtime=20).code == 0
    rig.in_sync()
    assert state(rig.client)["as_of"]
