"""What is stored beside the data is not what it was: another type, text for a number, a time to live, another view's.
Every command says what is wrong and what settles it; that command settles it; nobody's keys are touched."""

from __future__ import annotations

import binascii
import json
import time
from typing import Any

import pytest

from reconcile.errors import ReconcileError
from reconcile.inspect.explain import explain_one
from reconcile.inspect.status import read_status
from reconcile.stop import Stop
from tests.faults.rig import Ended, Rig
from tests.support.redis_state import state

OWN = "reconcile:{default}:"
FOREIGN = {b"other": b"theirs", b"q:1": b"theirs"}


def string(rig: Rig, name: str) -> None:
    rig.client.set(name, "nonsense")


def as_list(rig: Rig, name: str) -> None:
    rig.client.rpush(name, "nonsense")


def as_hash(rig: Rig, name: str) -> None:
    rig.client.hset(name, mapping={"a": "b", b"\xff\x00": b"\xff"})


def as_set(rig: Rig, name: str) -> None:
    rig.client.sadd(name, "nonsense")


TYPES = {"string": string, "list": as_list, "hash": as_hash, "set": as_set}


@pytest.fixture
def loaded(rig: Rig) -> Rig:
    """A view that is in Redis, beside others' keys, and has changed since."""
    rig.source.retain_history()
    rig.fill(40)
    rig.client.mset(FOREIGN)  # type: ignore[arg-type]
    assert rig.run().code == 0
    rig.source.put(k1="changed", new="row")
    return rig


def told(ended: Ended) -> None:
    """Not a bug: a code that is documented, and what to do."""
    assert ended.code in (0, 5, 6), ended.told
    if ended.code:
        assert ended.view.error is not None
        assert ended.view.error.kind != "reconcile_error", ended.told
        assert ended.view.error.hint, ended.told


def settled(rig: Rig) -> None:
    """One more command, the one that a message would name, and all is right."""
    ended = rig.run()
    told(ended)
    for name in ("reconcile:{claims}", OWN + "shards"):
        if ended.code == 5 and name.rpartition(":")[2] in ended.told and "--reset-state" not in ended.told:
            rig.client.delete(name)
            ended = rig.run()
    if ended.code == 5:
        assert "--reset-state" in ended.told, ended.told
        ended = rig.run("snapshot", reset_state=True)
    assert ended.code == 0, ended.told
    rig.in_sync()
    assert rig.run("verify").code == 0
    assert {name: rig.client.get(name) for name in FOREIGN} == FOREIGN


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "name", ["state", "manifest", "fingerprints", "surplus", "lease", "token", "audit", "shards", "reconcile:{claims}"]
)
def test_of_another_type(name: str, kind: str, loaded: Rig) -> None:
    """Whichever of them, whatever it holds now."""
    key = name if name.startswith("reconcile") else OWN + name
    loaded.client.delete(key)
    TYPES[kind](loaded, key)
    for mode in ("verify", "delta", "run"):
        told(loaded.run(mode))
    settled(loaded)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", ["state", "audit", "lease", "shards", "reconcile:{claims}"])
def test_those_who_only_look(name: str, kind: str, loaded: Rig) -> None:
    """status and explain meet the same."""
    key = name if name.startswith("reconcile") else OWN + name
    loaded.client.delete(key)
    TYPES[kind](loaded, key)
    settings = loaded.settings()
    for look in (
        lambda: read_status(settings, (), None, Stop()),
        lambda: explain_one(settings, "k1", None, Stop()),
    ):
        refused = None
        try:
            look()
        except ReconcileError as error:
            refused = error
        assert refused is None or (refused.exit_code == 5 and refused.hint), refused


@pytest.mark.parametrize(
    "field", ["token", "commit", "claim", "surplus_names", "earlier", "companion", "updated_at_ms"]
)
@pytest.mark.parametrize("value", ["", "-1", "9" * 30, "\x1b[31m{}[]", b"\xff\x00\xfe"])
def test_fields_of_the_state(field: str, value: str | bytes, loaded: Rig) -> None:
    """What somebody wrote into one of them is never repeated raw, and never a bug."""
    loaded.client.hset(OWN + "state", field, value)
    for mode in ("verify", "run"):
        ended = loaded.run(mode)
        told(ended)
        assert "\x1b" not in ended.told
    settled(loaded)


def test_times_far_ahead(loaded: Rig) -> None:
    """All that a host whose clock was decades ahead may have left: nothing waits for that time to come."""
    ahead = int(time.time() * 1000) + 10**12
    fields = state(loaded.client)
    turn = json.loads(fields["turn"]) | {"hint_ms": ahead, "began_ms": ahead, "done_ms": ahead, "looked_ms": ahead}
    changed: dict[Any, Any] = {
        "turn": json.dumps(turn), "peak": json.dumps({"since_ms": ahead, "keys": 40, "before": 0}),
        "removed": json.dumps([[ahead, 9]]), "updated_at_ms": str(ahead),
        "earlier": json.dumps([["a" * 32, ahead], [fields["source"], ahead]]),
    }  # fmt: skip
    loaded.client.hset(OWN + "state", mapping=changed)
    settled(loaded)
    turn = json.loads(state(loaded.client)["turn"])
    assert turn["done_ms"] <= time.time() * 1000 + 1000, "the compare waits for that time"


@pytest.mark.parametrize("name", ["state", "manifest", "fingerprints", "token"])
def test_that_expire(name: str, loaded: Rig) -> None:
    """EXPIRE by pattern hits ours too: the next run that writes takes it away, or does without the key."""
    loaded.client.pexpire(OWN + name, 300)
    told(loaded.run())
    time.sleep(0.4)
    loaded.source.put(k2="changed")
    settled(loaded)


def test_renamed_to_another_view(loaded: Rig) -> None:
    """A copy of one view's state under another's name: its claim tells whose it is."""
    loaded.client.copy(OWN + "state", "reconcile:{two}:state")
    loaded.client.copy(OWN + "manifest", "reconcile:{two}:manifest")
    loaded.view = {"name": "two", "key_prefix": "z"}
    ended = loaded.run()
    assert ended.code == 5, ended.told
    assert not loaded.client.keys("z:*")
    loaded.client.delete("reconcile:{two}:state", "reconcile:{two}:manifest")
    loaded.view = {}
    settled(loaded)


@pytest.mark.parametrize("mode", ["run", "delta", "snapshot", "deep"])
@pytest.mark.parametrize("kind", ["string", "list", "hash"])
def test_remembered_names_of_another_type(kind: str, mode: str, rig: Rig) -> None:
    """A set in which the view remembers its keys is met by a write, or by a look: the message names it."""
    rig.view = {"key_prefix": ""}
    rig.source.retain_history()
    rig.fill(40)
    rig.client.mset(FOREIGN)  # type: ignore[arg-type]
    assert rig.run().code == 0
    name = f"{OWN}keys:{binascii.crc32(b'new') % 256}"
    rig.client.delete(name)
    TYPES[kind](rig, name)
    rig.source.put(k1="changed", new="row")
    for _ in range(2):
        ended = rig.run("snapshot", deep=True) if mode == "deep" else rig.run(mode)
        told(ended)
        assert ended.code == 5, ended.told
        assert name in ended.told
        mode = "run"
    rig.client.delete(name)
    assert rig.run("snapshot", deep=True).code == 0
    rig.source.put(new="another")
    assert rig.run().code == 0
    assert rig.client.get("new") == b"another"
    assert {name: rig.client.get(name) for name in FOREIGN} == FOREIGN


def test_remembered_names_are_gone(rig: Rig) -> None:
    """A view without prefix has forgotten some of its keys: it overwrites none of them before somebody agrees."""
    rig.view = {"key_prefix": ""}
    rig.source.retain_history()
    rig.fill(40)
    assert rig.run().code == 0
    for group in range(256):
        rig.client.delete(f"{OWN}keys:{group}")
    rig.source.execute("UPDATE t SET value = value || '!'")
    ended = rig.run("snapshot", deep=True)
    assert ended.code == 5, ended.told
    assert "--adopt" in ended.told
    assert rig.run("snapshot", adopt=True).code == 0
    assert rig.client.get("k7") == rig.source.content()[b"k7"]
    assert rig.run().code == 0
