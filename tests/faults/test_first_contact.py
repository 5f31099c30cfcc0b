"""First contact in pieces: cut short, or with others who write at the same time. Whose a key is stays the same."""

from __future__ import annotations

import json
import time
from binascii import crc32
from collections.abc import Iterator
from typing import Any

import pytest

from reconcile.core.framing import Row
from reconcile.errors import ResultTooLarge, Unavailable
from reconcile.runs import large, scopes, work
from reconcile.runs import load as loads
from reconcile.source import session as sessions
from reconcile.source.reading import Reading
from tests.faults.io_calls import steady_pieces
from tests.faults.rig import Rig
from tests.support.redis_state import owned, state

STATE = "reconcile:{default}:state"
CONTENT = {f"p:k{n}": f"v{n}" for n in range(1, 61)}


def fill(rig: Rig) -> None:
    rig.source.put(**{key[2:]: value for key, value in CONTENT.items()})


def wait_for_consent(rig: Rig, keys: int) -> None:
    """So many keys wait, run after run, until somebody agrees."""
    for _ in range(2):
        ended = rig.run("snapshot")
        assert ended.code == 5, ended.told
        assert f"{keys} keys in the range" in ended.told
    assert rig.run("snapshot", allow_deletes=True).code == 0
    rig.in_sync()


def ends_at_part(nth: int, patch: pytest.MonkeyPatch) -> None:
    """The source is away when a run asks for its n-th part."""
    asked, really = 0, Reading.rows_of

    def rows_of(self: Reading, *arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == nth:
            raise Unavailable("made to be away")
        return really(self, *arguments)

    patch.setattr(scopes, "PART_ROWS", 1)
    patch.setattr(Reading, "rows_of", rows_of)


def test_what_a_cut_first_contact_had_not_come_to_is_taken_over_too(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run takes away the expiry of the other keys, and says which ones it has overwritten."""
    rig.view = {"buckets": 16}
    fill(rig)
    for key, value in CONTENT.items():
        rig.client.set(key, "theirs" if key.endswith("7") else value, px=600_000)
    with monkeypatch.context() as patch:
        ends_at_part(4, patch)
        assert rig.run("snapshot", max_runtime=600).code == 6
    left = {key for key in CONTENT if rig.client.ttl(key) > 0}
    assert 0 < len(left) < len(CONTENT), "it was not cut short in the middle: this proves nothing"
    ended = rig.run()
    assert ended.code == 0, ended.told
    assert {key for key in CONTENT if rig.client.ttl(key) > 0} == set()
    theirs = sum(key.endswith("7") for key in left)
    assert any(f"{theirs} key" in warning and "overwritten" in warning for warning in ended.view.warnings)
    rig.in_sync()


@pytest.mark.parametrize("batch", [7, 50_000])
def test_what_a_first_contact_itself_wrote_is_not_overwritten(batch: int, rig: Rig) -> None:
    """Of the keys that are there only one has other content, however small the batches that are written meanwhile."""
    rig.limits["batch_max_keys"] = batch
    fill(rig)
    rig.client.set("p:k57", "theirs")
    ended = rig.run()
    assert ended.code == 0, ended.told
    told = "1 key of the view already existed with other content, overwritten: p:k57"
    assert ended.view.warnings == [told]
    rig.in_sync()


def collides(rig: Rig, patch: pytest.MonkeyPatch, keys: dict[str, str]) -> None:
    """Somebody else writes these keys, which expire, as soon as a load has begun."""
    really, begun = loads._send, False

    def send(*arguments: Any) -> int:
        nonlocal begun
        if not begun:
            begun = True
            for key, value in keys.items():
                rig.client.set(key, value, px=600_000)
        return really(*arguments)

    patch.setattr(loads, "_send", send)
    steady_pieces(patch, 10)
    patch.setattr(sessions, "CHUNK_ROWS", 10)
    patch.setattr(sessions, "ROWS_AT_ONCE", 5)


def test_keys_that_come_during_a_load_are_taken_over(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their expiry goes, whatever their value; what had another value is told."""
    fill(rig)
    with monkeypatch.context() as patch:
        collides(rig, patch, {"p:k57": "theirs", "p:k58": "v58"})
        ended = rig.run()
    assert ended.code == 0, ended.told
    assert (rig.client.ttl("p:k57"), rig.client.ttl("p:k58")) == (-1, -1)
    assert any("overwritten: p:k57" in warning for warning in ended.view.warnings), ended.view.warnings
    assert ended.view.puts == len(CONTENT)
    rig.in_sync()


@pytest.mark.parametrize("before", [True, False])
def test_others_that_write_during_a_load_keep_their_keys(
    before: bool, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load meets one of their keys and goes on by repair, which dies: what they wrote is not the view's to the next
    run. before: an earlier load had died, and nothing of it is left."""
    fill(rig)
    theirs = {f"p:foreign{n}": "x" for n in range(50)} | {"p:k57": "theirs"}
    if before:
        cut_load(rig, monkeypatch)
        rig.client.delete(*owned(rig.client))
    with monkeypatch.context() as patch:
        collides(rig, patch, theirs)
        if not before:
            patch.setattr(scopes, "fingerprints", gone)
        ended = rig.run()
        assert ended.code == (5 if before else 6), ended.told
    ended = rig.run()
    assert ended.code == 5, ended.told
    assert "50 keys in the range" in ended.told
    assert len(owned(rig.client)) == len(CONTENT) + 50


def cut_load(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load that dies when all but its end is written."""
    with monkeypatch.context() as patch:
        collides(rig, patch, {})
        patch.setattr(loads, "_settle", gone)
        assert rig.run().code == 6
    assert len(owned(rig.client)) > 20


def gone(*_: object) -> Any:
    raise Unavailable("made to be away")


def test_a_load_that_is_cut_short_twice(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that go meanwhile were its own all the time: nobody is asked."""
    rig.view = {"buckets": 16}
    fill(rig)
    cut_load(rig, monkeypatch)
    with monkeypatch.context() as patch:
        ends_at_part(2, patch)
        assert rig.run("snapshot", max_runtime=600).code == 6
    rig.source.execute("DELETE FROM t WHERE substring(key, 2)::int <= 20")
    ended = rig.run()
    assert ended.code == 0, ended.told
    rig.in_sync()


@pytest.mark.parametrize("kind", ["delta", "snapshot"])
def test_a_change_that_died_explains_only_its_own_buckets(kind: str, rig: Rig) -> None:
    """Others' keys in buckets that it had not touched are no leftovers of it."""
    rig.fill(1000)
    rig.view = {"buckets": 64}
    assert rig.run().code == 0
    rig.client.mset({f"p:foreign{n}": "x" for n in range(640)})
    rig.client.hset(STATE, "pending", json.dumps({"kind": kind, "until": int(time.time() * 1000), "clean": True}))
    rig.client.setrange("reconcile:{default}:fingerprints", 8 * 3, bytes(8))
    rig.source.await_oblivion()
    ended = rig.run("snapshot", deep=True)
    assert ended.code == 5, ended.told
    kept = sum(b"foreign" in key for key in owned(rig.client))
    assert kept >= 600, kept
    assert state(rig.client)["surplus"] == str(kept)


def test_what_only_a_change_that_died_explains_is_named(rig: Rig) -> None:
    """Others' keys in buckets that it had touched are taken for leftovers of it, and go. Rows that the manifest still
    counts need no telling."""
    rig.view = {"buckets": 16}
    fill(rig)
    assert rig.run().code == 0
    theirs = [f"p:foreign{n}" for n in range(5)]
    rig.client.mset(dict.fromkeys(theirs, "x"))
    rig.source.execute("DELETE FROM t WHERE key IN ('k1', 'k2', 'k3')")
    rig.client.hset(STATE, "pending", json.dumps({"kind": "delta", "until": int(time.time() * 1000), "clean": True}))
    rig.client.setrange("reconcile:{default}:fingerprints", 0, bytes(8 * 16))
    rig.source.await_oblivion()
    ended = rig.run()
    assert ended.code == 0, ended.told
    rig.in_sync()
    (told,) = [warning for warning in ended.view.warnings if "removed 5 keys" in warning]
    assert sorted(told.rpartition(": ")[2].split(", ")) == theirs


def test_a_large_delta_that_died_explains_only_what_it_had_come_to(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Applied in parts, as memory did not suffice; then the history goes. Keys of others are no leftovers of it."""
    rig.source.retain_history()
    rig.view = {"buckets": 64}
    rig.fill(200)
    assert rig.run().code == 0
    rig.client.mset({f"p:foreign{n}": "x" for n in range(640)})
    rig.source.put(**{f"n{n}": "new" for n in range(3)})
    really, asked = large._Range._changes, 0

    def changes(self: Any, part: tuple[int, int]) -> Any:
        nonlocal asked
        asked += 1
        if asked == large.FIRST_PARTS:
            raise Unavailable("made to be away")
        return really(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(work, "_caught_up", lambda follower: follower.subscription.cancel())
        patch.setattr(large._Range, "_changes", changes)
        assert rig.run("delta").code == 6
    assert json.loads(state(rig.client)["pending"])["clean"]
    rig.source.forget_history()
    rig.run()
    kept = sum(b"foreign" in key for key in owned(rig.client))
    assert 640 > kept > 560, kept


def test_a_change_that_died_and_lost_its_fingerprints(rig: Rig) -> None:
    """Which buckets it had touched is not known any more: whatever is left over anywhere waits for consent."""
    rig.view = {"buckets": 64}
    rig.fill(200)
    assert rig.run().code == 0
    rig.client.mset({f"p:left{n}": "x" for n in range(640)})
    rig.client.hset(STATE, "pending", json.dumps({"kind": "delta", "until": int(time.time() * 1000), "clean": True}))
    rig.client.delete("reconcile:{default}:fingerprints")
    rig.source.await_oblivion()
    ended = rig.run()
    assert ended.code == 5, ended.told
    assert "640 keys in the range" in ended.told
    assert sum(b"left" in key for key in owned(rig.client)) == 640


@pytest.mark.parametrize("lost", ["manifest", "fingerprints"])
@pytest.mark.parametrize("nth", [2, 5])
def test_a_snapshot_without_records_that_is_cut_short_explains_nothing(
    nth: int, lost: str, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has to look at every bucket, so which of them it had come to, and what was there before, nothing shows."""
    rig.view = {"buckets": 16}
    fill(rig)
    assert rig.run().code == 0
    rig.client.delete(f"reconcile:{{default}}:{lost}")
    rig.client.mset({f"p:foreign{n}": "x" for n in range(640)})
    rig.source.put(k1="changed")
    rig.source.await_oblivion()
    with monkeypatch.context() as patch:
        ends_at_part(nth, patch)
        assert rig.run(max_runtime=600).code == 6
    assert json.loads(state(rig.client)["pending"])["kind"] == "snapshot"
    for _ in range(2):
        ended = rig.run("snapshot")
        assert ended.code == 5, ended.told
        assert "keys in the range" in ended.told
        assert sum(b"foreign" in key for key in owned(rig.client)) == 640
    assert rig.run("snapshot", deep=True, allow_deletes=True).code == 0
    rig.in_sync()


@pytest.mark.parametrize(("before", "after"), [(128, 16), (16, 128), (16, 16)])
def test_keys_that_waited_when_the_manifest_was_lost(
    before: int, after: int, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So few would be a handful, had nobody been asked about them: they wait, whatever number of buckets comes next."""
    rig.view = {"buckets": before}
    fill(rig)
    rig.client.mset({f"p:foreign{n}": "x" for n in range(5)})
    assert rig.run().code == 5
    rig.client.delete("reconcile:{default}:manifest")
    rig.view = {"buckets": after}
    with monkeypatch.context() as patch:
        ends_at_part(2, patch)
        assert rig.run("snapshot", max_runtime=600).code == 6
    assert state(rig.client)["buckets"] == str(after), "no part was saved: this proves nothing"
    wait_for_consent(rig, 5)


@pytest.mark.parametrize("why", ["first contact", "another mapping", "lost manifest"])
def test_there_is_no_handful_before_all_was_seen(why: str, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run that continues comes to keys that nobody has looked at yet, few as they may be."""
    rig.view = {"buckets": 16}
    fill(rig)
    if why != "first contact":
        assert rig.run().code == 0
    if why == "another mapping":
        rig.client.hset(STATE, "mapping", "another")
    elif why == "lost manifest":
        rig.client.delete("reconcile:{default}:manifest")
    names = [name for n in range(200) if crc32(name := b"p:foreign%d" % n) % 16 == 15][:8]
    rig.client.mset(dict.fromkeys(names, "x"))
    with monkeypatch.context() as patch:
        ends_at_part(2, patch)
        assert rig.run("snapshot", max_runtime=600).code == 6
    assert state(rig.client)["surplus"] == "0", "they were found by then: this proves nothing"
    wait_for_consent(rig, 8)


def test_there_is_no_handful_without_a_manifest(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is what the first part saves one to judge the others by."""
    monkeypatch.setattr(scopes, "PART_ROWS", 1)
    fill(rig)
    assert rig.run().code == 0
    rig.client.delete("reconcile:{default}:manifest")
    rig.client.mset({f"p:foreign{n}": "x" for n in range(5)})
    ended = rig.run("snapshot", max_runtime=600)
    assert ended.code == 5, ended.told
    assert "5 keys in the range" in ended.told


@pytest.mark.parametrize("nth", [2, 5])
def test_a_deep_snapshot_that_is_cut_short_explains_nothing(
    nth: int, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others' keys, in parts that it had done and in parts that it had not, wait for consent in the next run too."""
    rig.source.retain_history()
    rig.view = {"buckets": 16}
    fill(rig)
    assert rig.run().code == 0
    rig.client.mset({f"p:foreign{n}": "x" for n in range(640)})
    rig.source.put(k1="changed")
    with monkeypatch.context() as patch:
        ends_at_part(nth, patch)
        assert rig.run("snapshot", deep=True, max_runtime=600).code == 6
    assert json.loads(state(rig.client)["pending"])["kind"] == "snapshot"
    changed_bucket = 640 / 16
    for mode, options in (("run", {}), ("snapshot", {"deep": True})):
        ended = rig.run(mode, **options)
        assert ended.code == 5 or mode == "run", ended.told
        kept = sum(b"foreign" in key for key in owned(rig.client))
        assert kept > 640 - 2 * changed_bucket, kept
    assert "keys in the range" in ended.told
    assert rig.run("snapshot", allow_deletes=True).code == 0
    rig.in_sync()


def test_rows_that_go_before_the_view_is_read_in_more_parts(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Materialize refuses the fifth of eight results. What was written by then is known when the view is read again, at
    a later time: rows that went meanwhile are its own, and nobody is asked."""
    fill(rig)
    really, asked = Reading._rows, 0
    written: dict[bytes, bytes] = {}

    def rows(self: Reading, statement: str) -> Iterator[list[Row]]:
        nonlocal asked
        asked += 1
        if self.mapping.parts == 1:
            raise ResultTooLarge("made to be too large")
        if self.mapping.parts == 8 and asked == 6:
            written.update(owned(rig.client))
            rig.source.execute("DELETE FROM t WHERE substring(key, 2)::int <= 40")
            raise ResultTooLarge("made to be too large")
        return really(self, statement)

    steady_pieces(monkeypatch, 5)
    monkeypatch.setattr(Reading, "_rows", rows)
    ended = rig.run()
    assert ended.code == 0, ended.told
    assert len(written) > 20, "hardly anything was written by then: this proves nothing"
    rig.in_sync()
