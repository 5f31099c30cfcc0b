"""Rows of several columns, in every layout: read, subscribed to and fingerprinted on a server."""

from __future__ import annotations

import contextlib
from binascii import crc32
from collections.abc import Iterator
from typing import Any

import pytest

from reconcile.config import address
from reconcile.core.framing import with_expiry
from reconcile.core.keys import KeyShape
from reconcile.source import query, reading
from reconcile.source import session as sessions
from reconcile.source.columns import map_columns
from reconcile.source.direct import object_read
from reconcile.source.query import Mapping
from reconcile.source.reading import open_reading
from reconcile.source.session import Session
from reconcile.source.subscription import begin_subscription, open_subscription
from reconcile.stop import Stop
from tests.support.framed import framed
from tests.support.sources import Source

SALT = "0123456789abcdef0123456789abcde0"
SQL = "SELECT tenant, id, name, price, ok, doc, raw, at FROM w"
COLUMNS = "tenant text, id int, name text, price numeric, ok bool, doc jsonb, raw bytea, at timestamptz"
FIRST = """INSERT INTO w VALUES
    ('a:b', 1, 'sn☃w "q"', 1.50, true, '{"b": 1.0, "a": [1, null, "x"]}', '\\x00ff', '2026-01-02 03:04:05.678+00'),
    ('100%', 2, NULL, NULL, NULL, NULL, NULL, NULL),
    ('', 3, '', 0, false, 'null', '', '1969-12-31 23:59:59+00')"""
AT = 1_767_323_045_678
KEY = KeyShape("user:", ("tenant", "id"), (":", ""))
KEYS = [b"user:a%3Ab:1", b"user:100%25:2", b"user::3"]
JSON = (
    b'{"at":"2026-01-02 03:04:05.678+00","doc":{"a":[1,null,"x"],"b":1},'
    b'"name":"sn\xe2\x98\x83w \\"q\\"","ok":true,"price":1.5}'
)
NULLS = b'{"at":null,"doc":null,"name":null,"ok":null,"price":null}'
EMPTY = b'{"at":"1969-12-31 23:59:59+00","doc":null,"name":"","ok":false,"price":0}'
NAMES = ("name", "price", "ok", "doc", "raw")
HASH = [
    framed([b'sn\xe2\x98\x83w "q"', b"1.5", b"true", b'{"a":[1,null,"x"],"b":1}', b"\x00\xff"]),
    None,
    framed([b"", b"0", b"false", b"null", b""]),
]


@pytest.fixture
def session(source: Source) -> Iterator[Session]:
    """A session on a source that has table w, with some rows and an hour of history."""
    source.execute(f"CREATE TABLE w ({COLUMNS})")
    source.execute(f"CREATE MATERIALIZED VIEW wv WITH (RETAIN HISTORY FOR '1hr') AS {SQL}")
    opened = connected(source)
    with contextlib.closing(opened):
        yield opened


def connected(source: Source) -> Session:
    session = sessions.connect(address.materialize(source.url), Stop())
    session.run(f"SET search_path = {source.schema}")
    return session


def mapped(session: Session, columns: str, **how: Any) -> Mapping:
    sql = f"SELECT {columns} FROM wv"
    found = session.columns(query.describe(sql))
    return map_columns(sql, found, **{"key": KEY, "values": ["*"], "view": "v"} | how)


CASES: list[tuple[str, dict[str, Any], list[bytes | None]]] = [
    ("tenant, id, name", {}, [b'sn\xe2\x98\x83w "q"', None, b""]),
    ("tenant, id, raw", {}, [b"\x00\xff", None, b""]),
    ("tenant, id, ok", {}, [b"true", None, b"false"]),
    ("tenant, id, name, price, ok, doc, at", {"layout": "json"}, [JSON, NULLS, EMPTY]),
    ("tenant, id, name, price, ok, doc, raw", {"layout": "hash"}, HASH),
    ("tenant, id, ok, at", {"expires_at": "at"}, [with_expiry(b"true", AT), None, with_expiry(b"false", 0)]),
    (
        "tenant, id, name, price, ok, doc, raw, at",
        {"layout": "hash", "expires_at": "at"},
        [with_expiry(HASH[0] or b"", AT), None, with_expiry(HASH[2] or b"", 0)],
    ),
]


@pytest.mark.parametrize(
    ("columns", "how", "values"), CASES, ids=["text", "bytea", "bool", "json", "hash", "expiring", "hash expiring"]
)
def test_rows_are_the_same_on_every_path(
    source: Source, session: Session, columns: str, how: dict[str, Any], values: list[bytes | None]
) -> None:
    """A SELECT, a SELECT of chosen buckets, and a SUBSCRIBE; buckets are those of the whole Redis key."""
    mapping = mapped(session, columns, **how)
    as_of = reading.explain(session, mapping).frontiers.now
    source.execute(FIRST)
    expected = dict(zip(KEYS, values, strict=True))
    with open_reading(session, mapping, None) as reads:
        assert dict(row for chunk in reads.rows() for row in chunk) == expected
        _, counts = reads.fingerprints(16, SALT)
        buckets = [crc32(key) % 16 for key in KEYS]
        assert [counts[bucket] for bucket in buckets] == [buckets.count(bucket) for bucket in buckets]
        there = dict(row for chunk in reads.rows_of([buckets[0]], 16) for row in chunk)
        assert there == {key: value for key, value in expected.items() if crc32(key) % 16 == buckets[0]}
        for key, value in expected.items():
            assert reading.rows_of_key(session, mapping, key, None) == [(key, value)]
    up_to = reads.as_of + 1
    begun = begin_subscription(connected(source), mapping, reads.explained.clock, 16, as_of, up_to)
    with open_subscription(begun) as subscription:
        while not subscription.finished:
            subscription.read(1.0, 1 << 20)
    assert subscription.stream.take().puts == {key: value for key, value in expected.items() if value is not None}


OBJECT = (
    "CREATE TABLE o (key text, i int2, j int4, k int8, l uint2, m uint4, n uint8, name varchar(20), d date, u uuid, "
    "doc jsonb, raw bytea)"
)
OBJECT_ROWS = (
    r"INSERT INTO o VALUES ('a', -32768, -2147483648, -9223372036854775808, 65535, 4294967295, 18446744073709551615, "
    r"E'tab\t, back\\slash\n ', '2026-01-02', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', "
    r"""'{"z": [1.0, null, "\\"], "a": {"\u2603": true}}', '\x00095c0aff'), """
    r"(E'\\N', 0, 0, 0, 0, 0, 0, '', '0001-01-01', '00000000-0000-0000-0000-000000000000', 'null', ''), "
    "('nulls', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"
)


def described(session: Session, sql: str, **how: Any) -> Mapping:
    how = {"key": KeyShape("p:", ("key",), ("",)), "values": ["*"], "layout": "hash", "view": "v"} | how
    return map_columns(sql, session.columns(query.describe(sql)), **how)


def itself(session: Session, mapping: Mapping) -> str | None:
    """The object that may be followed in the query's stead."""
    return object_read(mapping, reading.plan_of(session, mapping.sql), reading.explain(session, mapping))


def test_an_object_sends_what_the_query_does(source: Source, session: Session) -> None:
    """Every type that is printed as a cast prints it, with values that need escapes, and NULL."""
    source.execute(OBJECT)
    source.execute("CREATE MATERIALIZED VIEW itself WITH (RETAIN HISTORY FOR '1hr') AS SELECT * FROM o")
    mapping = described(session, "SELECT * FROM itself")
    as_of = reading.explain(session, mapping).frontiers.now
    relation = f'"materialize"."{source.schema}"."itself"'
    assert mapping.sends_columns
    source.execute(OBJECT_ROWS)
    with open_reading(session, mapping, None) as reads:
        expected = {key: value for chunk in reads.rows() for key, value in chunk if value is not None}
    up_to, clock, found = reads.as_of + 1, reads.explained.clock, []
    for way in (None, relation):
        begun = begin_subscription(connected(source), mapping, clock, 16, as_of, up_to, relation=way)
        with open_subscription(begun) as subscription:
            while not subscription.finished:
                subscription.read(1.0, 1 << 20)
        found.append(subscription.stream.take().puts)
    assert found == [expected, expected]
    assert len(expected) == 2


QUERIES = {
    "the view": ("SELECT key, value FROM v", "v"),
    "all of it": ("SELECT * FROM v", "v"),
    "a plain view": ("SELECT key, value FROM plain", "v"),
    "a table": ("SELECT key, value FROM t", "t"),
    "a filter": ("SELECT key, value FROM v WHERE value <> 'x'", None),
    "an expression": ("SELECT key, value || '!' AS value FROM v", None),
    "another order": ("SELECT value, key FROM v", None),
    "a column twice": ("SELECT key, key AS value FROM v", None),
    "a union": ("SELECT key, value FROM v UNION ALL SELECT key, value FROM t", None),
    "a boolean": ("SELECT key, ok FROM yes", None),
    "a name with a dot": ('SELECT key, value FROM "a.b"', None),
    "an indexed view": ("SELECT key, value FROM indexed", None),
    "a constant": ("SELECT 'a' AS key, 'b' AS value", None),
}


@pytest.mark.parametrize("case", QUERIES)
def test_which_queries_are_an_object_s_own_rows(case: str, source: Source, session: Session) -> None:
    """All others are followed as queries: their texts or rows would not be the object's."""
    for statement in (
        "CREATE VIEW plain AS SELECT key, value FROM v",
        "CREATE TABLE yes (key text, ok bool)",
        'CREATE MATERIALIZED VIEW "a.b" AS SELECT key, value FROM t',
        "CREATE VIEW indexed AS SELECT key, value FROM t",
        "CREATE INDEX i ON indexed (key)",
    ):
        source.execute(statement)
    sql, name = QUERIES[case]
    found = itself(session, described(session, sql))
    if source.is_standin or found is not None:  # a version may tell its plans in another form
        assert found == (name and f'"materialize"."{source.schema}"."{name}"')


@pytest.mark.parametrize(
    "how",
    [
        {"layout": "json", "values": ["value", "at"]},
        {"expires_at": "at"},
        {"key": KeyShape("p:", ("key", "value"), (":", ""))},
        {"key": KeyShape("p:", ("key",), ("!",))},
    ],
    ids=["json", "expires", "a template", "a suffix"],
)
def test_rows_that_the_source_makes(how: dict[str, Any], session: Session, source: Source) -> None:
    """What is not a column as it is has to be asked for."""
    source.execute("CREATE TABLE w2 (key text, value text, at timestamptz)")
    columns = "key, value, at"
    source.execute(f"CREATE MATERIALIZED VIEW made AS SELECT {columns} FROM w2")
    mapping = described(session, f"SELECT {columns} FROM made", **how)
    assert itself(session, mapping) is None


CHANGES = [
    "UPDATE w SET name = NULL WHERE id = 3",
    "UPDATE w SET name = '' WHERE id = 2",
    "UPDATE w SET price = NULL, name = '0' WHERE id = 3",
    "UPDATE w SET at = '2026-01-02 03:04:05.679+00' WHERE id = 1",
    "UPDATE w SET at = '2026-01-02 03:04:05.6784+00' WHERE id = 1",
    "UPDATE w SET raw = NULL WHERE id = 3",
    "UPDATE w SET tenant = 'a', id = 1, name = 'b:1' WHERE id = 1",
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("layout", ["json", "hash"])
def test_every_change_of_a_row_changes_its_fingerprint(
    source: Source, session: Session, change: str, layout: str
) -> None:
    """NULL against empty, a value that moves to the next column, a time alone; not a time within the millisecond."""
    source.execute(FIRST)
    columns = "tenant, id, name, price, at" if layout == "json" else "tenant, id, name, price, raw, at"
    mapping = mapped(session, columns, layout=layout, expires_at="at")
    found = []
    for statement in ("SELECT 1", change):
        source.execute(statement)
        with open_reading(session, mapping, None) as reads:
            found.append((reads.fingerprints(16, SALT)[0], dict(row for chunk in reads.rows() for row in chunk)))
    (before, rows_before), (after, rows_after) = found
    assert (before != after) == (rows_before != rows_after)


def test_a_row_of_a_key_that_is_another_s_text_is_not_found(source: Source, session: Session) -> None:
    """Escapes are undone by nobody: the unescaped text names no row."""
    source.execute(FIRST)
    mapping = mapped(session, "tenant, id, name")
    assert reading.rows_of_key(session, mapping, b"user:a:b:1", None) == []
    assert reading.rows_of_key(session, mapping, b"user:\xff:1", None) == []
