"""Fingerprints that are to be believed: nobody can forge them, and a companion view has to prove what it is."""

from __future__ import annotations

import binascii
import itertools
from typing import Any

import pytest

from reconcile.config import address
from reconcile.core.keys import KeyShape
from reconcile.source import query
from reconcile.source import session as sessions
from reconcile.source.columns import map_columns
from reconcile.source.query import Mapping
from reconcile.stop import Stop
from reconcile_standin.hashing import _MASK, _PRIME, _SEEDS, _diffuse, seahash
from tests.faults.rig import Ended, Rig
from tests.support.redis_state import owned, prefixed, state

BUCKETS = 16
SALT = "00c0ffee" * 4
M = 2**64 - 1


# -- forged fingerprints -----------------------------------------------------------------------------------------------


def undiffuse(x: int) -> int:
    """The step of SeaHash backwards."""
    inverse = pow(_PRIME, -1, 2**64)
    x = x * inverse & _MASK
    x ^= (x >> 32) >> (x >> 60)
    return x * inverse & _MASK


def hashed(salt: str, key: str, value: str) -> int:
    """What Materialize sums up for a row."""
    return seahash(f"{salt}{key}{salt}{value}".encode())


def forged(salt: str, key: str, wanted: int) -> str:
    """A value with which the row has this hash."""
    for number in itertools.count():
        front = f"{salt}{key}{salt}{number}"
        front += "x" * (-len(front) % 8)
        a, b, c, d = _SEEDS
        for at in range(0, len(front), 8):
            a, b, c, d = b, c, d, _diffuse(a ^ int.from_bytes(front[at : at + 8].encode(), "little"))
        word = undiffuse(undiffuse(wanted) ^ b ^ c ^ d ^ (len(front) + 8)) ^ a
        tail = word.to_bytes(8, "little")
        if all(0 < byte < 128 for byte in tail):
            value = front[len(f"{salt}{key}{salt}") :] + tail.decode()
            assert hashed(salt, key, value) == wanted
            return value
    raise AssertionError


@pytest.mark.parametrize("knows_the_salt", [True, False])
def test_a_forged_row_hides_nobody_elses_change(knows_the_salt: bool, rig: Rig) -> None:
    """Who controls one row of a bucket writes, in the minute in which an admin is dismissed, a value that leaves the
    bucket's fingerprint as it was. That takes the salt: with it (the control of this test) the change stays hidden."""
    rig.view = {"buckets": BUCKETS}
    bucket = binascii.crc32(b"p:boss") % BUCKETS
    mine = next(f"m{n}" for n in range(10**6) if binascii.crc32(f"p:m{n}".encode()) % BUCKETS == bucket)
    rig.source.put(**{"boss": "admin", mine: "before"})
    assert rig.run().code == 0
    salt = state(rig.client)["source_salt"] if knows_the_salt else "0" * 32
    wanted = (hashed(salt, mine, "before") + hashed(salt, "boss", "admin") - hashed(salt, "boss", "none")) % M
    rig.source.put(**{"boss": "none", mine: forged(salt, mine, wanted)})
    ended = rig.run("snapshot")
    assert ended.code == 0, ended.told
    assert rig.client.get("p:boss") == (b"admin" if knows_the_salt else b"none")


def test_salts_are_random_and_two(rig: Rig) -> None:
    """New with every state, and none can be told from the other."""
    rig.fill(3)
    seen = []
    for _ in range(2):
        assert rig.run("snapshot", reset_state=True, deep=True).code == 0
        fields = state(rig.client)
        seen += [fields["salt"], fields["source_salt"][:16], fields["source_salt"][16:]]
    assert len(set(seen)) == len(seen)


# -- companion views ---------------------------------------------------------------------------------------------------


KEY = KeyShape("p:", ("key",), ("",))


def mapping_of(rig: Rig, sql: str, key: KeyShape) -> Mapping:
    """A query as our own code maps it."""
    session = sessions.connect(address.materialize(rig.source.url), Stop())
    try:
        return map_columns(sql, session.columns(query.describe(sql)), key, view="v")
    finally:
        session.close()


def create(
    rig: Rig, sql: str, *, buckets: int = BUCKETS, salt: str = SALT, index: bool = True, key: KeyShape = KEY
) -> None:
    """Make, or replace, the companion view; of another query, perhaps."""
    name = f"{rig.source.schema}.companion"
    rig.source.execute(f"DROP VIEW IF EXISTS {name}")
    ddl = query.companion_ddl(mapping_of(rig, sql, key), name, buckets, salt).strip().split(";\n")
    for statement in ddl if index else ddl[:1]:
        rig.source.execute(statement.removesuffix(";"))
    rig.view = {"companion": name, "buckets": None}


def lesser(rig: Rig) -> str:
    """A query that lacks what the view has."""
    return f"SELECT key, value FROM {rig.source.relation} WHERE value NOT LIKE 'secret%'"


def brings(rig: Rig, **rows: str) -> Ended:
    """A change arrives with the next snapshot."""
    rig.source.put(**rows)
    ended = rig.run("snapshot")
    assert ended.code == 0, ended.told
    assert owned(rig.client) == prefixed(rig.source.content())
    return ended


def distrusted(ended: Ended) -> bool:
    """Whether the report says that the companion was not used."""
    return any("does not match the query" in warning for warning in ended.view.warnings)


@pytest.mark.parametrize("index", [True, False])
def test_a_companion_that_is_replaced_is_checked_again(index: bool, rig: Rig) -> None:
    """By one of another query, with the same name, salt and number of buckets; with a new index or without any."""
    create(rig, rig.source.sql)
    rig.source.put(a="1", b="secret 1")
    assert not distrusted(rig.run())
    assert not distrusted(brings(rig, a="2"))
    create(rig, lesser(rig), index=index)
    assert distrusted(brings(rig, b="secret 2"))
    assert distrusted(brings(rig, b="secret 3"))
    create(rig, rig.source.sql, index=index)
    assert not distrusted(brings(rig, b="secret 4"))


def test_a_companion_that_was_met_while_the_view_was_empty(rig: Rig) -> None:
    """Equal numbers prove nothing then, and it is not trusted for ever after."""
    create(rig, lesser(rig))
    rig.run()
    assert distrusted(brings(rig, a="1", b="secret 1"))
    assert distrusted(brings(rig, b="secret 2"))


@pytest.mark.parametrize("filled", [True, False])
@pytest.mark.parametrize("buckets", [16, 64])
def test_the_companion_says_how_many_buckets_there_are(buckets: int, filled: bool, rig: Rig) -> None:
    """Whatever the state has, and however few of them the view's rows are in."""
    rig.view = {"buckets": BUCKETS}
    if filled:
        rig.source.put(a="1")
    assert rig.run().code == 0
    create(rig, rig.source.sql, buckets=buckets)
    assert not distrusted(brings(rig, b="2"))
    assert state(rig.client)["buckets"] == str(buckets)
    assert brings(rig, c="3").view.buckets_read < buckets


def test_the_query_changes_beside_its_companion(rig: Rig) -> None:
    """What was proved was proved of another query."""
    create(rig, rig.source.sql)
    rig.source.put(a="1", b="secret 1")
    assert rig.run().code == 0
    companion = rig.view["companion"]
    rig.source.execute(f"CREATE VIEW w AS SELECT key, value || '!' AS value FROM {rig.source.relation}")
    rig.view = {"companion": companion, "sql": f"SELECT key, value FROM {rig.source.schema}.w"}
    assert distrusted(rig.run("snapshot"))
    assert rig.client.get("p:b") == b"secret 1!"
    rig.source.put(b="secret 2")
    rig.run("snapshot")
    assert rig.client.get("p:b") == b"secret 2!"


@pytest.mark.parametrize("key", [{"key": ["b", "a"]}, {"key_template": "p:{a}-{b}"}, {"key_template": "p:{b}:{a}"}])
def test_the_key_changes_beside_its_companion(key: dict[str, Any], rig: Rig) -> None:
    """What was proved was proved of another mapping: the same rows are in other buckets now."""
    rig.source.execute("CREATE TABLE c (a text, b text, value text)")
    rig.source.execute("INSERT INTO c SELECT 'a' || n, 'b' || n, 'v' FROM generate_series(1, 40) AS n")
    sql = f"SELECT a, b, value FROM {rig.source.schema}.c"
    create(rig, sql, key=KeyShape("p:", ("a", "b"), (":", "")))
    kept = {**rig.view, "sql": sql}
    rig.view = {**kept, "key": ["a", "b"]}
    ended = rig.run("snapshot")
    assert ended.code == 0, ended.told
    assert not distrusted(ended)
    rig.view = {**kept, **key, **({"key_prefix": None} if "key_template" in key else {})}
    assert distrusted(rig.run("snapshot", allow_deletes=True))
    assert len(owned(rig.client)) == 40
    assert b"p:a1:b1" not in owned(rig.client)
    rig.source.execute("UPDATE c SET value = 'w' WHERE a IN ('a1', 'a2', 'a3')")
    assert distrusted(rig.run("snapshot"))
    assert list(owned(rig.client).values()).count(b"w") == 3
