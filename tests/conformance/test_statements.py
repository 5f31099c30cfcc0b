"""Every statement the product builds from a query, for every type a key or value may have, as a server takes it."""

from __future__ import annotations

import zlib
from typing import Any

import psycopg
import pytest
from psycopg import errors

from reconcile.core.keys import KeyShape
from reconcile.source import query
from reconcile.source.columns import KEY_TYPES, VALUE_TYPES, map_columns
from reconcile.source.query import Column, Mapping
from tests.conformance.conftest import Row
from tests.support import environment
from tests.support.mappings import SALT, string_mapping

Client = psycopg.Connection[Row]

SAMPLES: dict[int, tuple[str, str]] = {
    16: ("boolean", "true"),
    17: ("bytea", "'\\x00ff5c'"),
    18: ('"char"', "'c'"),
    19: ("name", "'n'"),
    20: ("bigint", "-9223372036854775808"),
    21: ("smallint", "-7"),
    23: ("integer", "7"),
    25: ("text", "'it''s'"),
    700: ("real", "1.5"),
    701: ("double precision", "0.1"),
    1042: ("char(3)", "'ab'"),
    1043: ("varchar(5)", "'ab'"),
    1082: ("date", "'2026-01-02'"),
    1083: ("time", "'03:04:05.678'"),
    1114: ("timestamp", "'2026-01-02 03:04:05.678'"),
    1184: ("timestamptz", "'2026-01-02 03:04:05.678+00'"),
    1186: ("interval", "'1 day 02:03:04'"),
    1700: ("numeric", "1.500"),
    2950: ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"),
    3802: ("jsonb", """'{"b": 1, "a": [1, null]}'"""),
    16460: ("uint2", "7"),
    16462: ("uint4", "7"),
    16464: ("uint8", "7"),
    16552: ("mz_timestamp", "1755000000000"),
}
BUCKETS = 16
NOT_EMULATED = (18, 19, 1083)
"""Types the stand-in does not have: "char", name, time."""
real_only = pytest.mark.skipif(environment.source_url() is None, reason="the stand-in does not have this")


def each(oids: dict[int, str]) -> list[Any]:
    return [pytest.param(oid, id=name, marks=[real_only] * (oid in NOT_EMULATED)) for oid, name in oids.items()]


def test_every_type_has_a_sample() -> None:
    """A type that is added to the product is tried here."""
    assert SAMPLES.keys() == VALUE_TYPES.keys()


def made(client: Client, key_oid: int, value_oid: int, prefix: str) -> Mapping:
    """A view with a row of such a key and value, and the mapping of the query as the product finds it."""
    (key_type, key), (value_type, value) = SAMPLES[key_oid], SAMPLES[value_oid]
    client.execute(f"CREATE TABLE typed (key {key_type}, value {value_type})".encode())
    client.execute(f"INSERT INTO typed VALUES ({key}, {value}), ({key}, NULL)".encode())
    sql = "SELECT key, value FROM typed"
    described = client.execute(query.describe(sql).encode()).description or []
    columns = [Column(item.name, item.type_code) for item in described]
    assert columns == [Column("key", key_oid), Column("value", value_oid)]
    return map_columns(sql, columns, KeyShape(prefix, ("key",), ("",)), view="view")


def streamed(client: Client, statement: str) -> list[tuple[Any, ...]]:
    """As the product reads: extended protocol, binary results, in chunks."""
    return list(client.cursor().stream(statement.encode(), binary=True, size=2))


def as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def check(client: Client, mapping: Mapping) -> None:
    """All of its statements agree with each other, and with what the product computes itself."""
    rows = streamed(client, mapping.mapped())
    made = mapping.form.rows([[None if field is None else as_bytes(field) for field in row] for row in rows])
    keys = {key for key, _ in made}
    assert len(rows) == 2
    assert len(keys) == 1
    (redis_key,) = keys
    assert redis_key.startswith(mapping.key.prefix.encode())
    bucket = zlib.crc32(redis_key) % BUCKETS
    hashed = streamed(client, f"SELECT {mapping.hash_sql(SALT)} AS hash FROM ({mapping.sql}) AS q")
    assert {len(as_bytes(row[0])) for row in hashed} == {8}
    hashes = sum(int.from_bytes(as_bytes(row[0]), "big") for row in hashed)
    found = client.execute(mapping.fingerprints(BUCKETS, SALT).encode()).fetchall()
    assert [tuple(int(as_bytes(str(one))) for one in row) for row in found] == [(bucket, 2, hashes)]
    there = streamed(client, mapping.mapped() + mapping.within([bucket], BUCKETS))
    assert sorted(map(str, there)) == sorted(map(str, rows))
    assert streamed(client, mapping.mapped() + mapping.within([(bucket + 1) % BUCKETS], BUCKETS)) == []
    client.execute(query.current_of(mapping.sql).encode())
    client.execute(query.plan_of(mapping.sql).encode())


@pytest.mark.parametrize("prefix", ["", "é's:"])
@pytest.mark.parametrize("oid", each(KEY_TYPES))
def test_statements_for_every_type_of_key(oid: int, prefix: str, client: Client) -> None:
    """The key's text form is its cast to text, or its bytes; buckets are zlib's crc32 of them."""
    check(client, made(client, oid, 25, prefix))


@pytest.mark.parametrize("oid", each(VALUE_TYPES))
def test_statements_for_every_type_of_value(oid: int, client: Client) -> None:
    """A value is hashed and sent in the same form; NULL is a value of its own."""
    check(client, made(client, 25, oid, "p:"))


def test_bytes_cannot_be_joined(client: Client) -> None:
    """Which is why a prefix goes before a bytea key in hexadecimal (sql/src/func.rs: "||")."""
    with pytest.raises((errors.UndefinedFunction, errors.InternalError), match="operator does not exist"):
        client.execute("SELECT '\\x00'::bytea || '\\xff'::bytea")
    row = client.execute("SELECT decode('00' || encode('\\xff'::bytea, 'hex'), 'hex')").fetchone()
    assert row == (b"\x00\xff",)


def test_the_largest_mask_is_taken(client: Client) -> None:
    """262,144 digits of a bytea literal; a statement may have 1,000,000 bytes (sql-parser/src/parser.rs)."""
    mapping = string_mapping("SELECT key, value FROM v")
    everything = list(range(131_072))
    assert len(streamed(client, mapping.mapped() + mapping.within(everything, 131_072))) == 2


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT key, value FROM v ORDER BY key LIMIT 1",
        "WITH a AS (SELECT key, value FROM v) SELECT key, value FROM a /* all of it */",
        "SELECT q.key, q.value FROM v AS q -- the same name\nWHERE q.key = 'a'",
        "SELECT key, max(value) AS value FROM v GROUP BY key HAVING key = 'a'",
        "(SELECT key, value FROM v WHERE key = 'a')",
        "VALUES ('a', '1')",
        pytest.param("TABLE v", marks=real_only),
    ],
)
def test_shapes_of_queries(sql: str, client: Client) -> None:
    """Whatever a query is made of, it can be described, explained and read as a subquery."""
    described = client.execute(query.describe(sql).encode()).description or []
    columns = [Column(item.name, item.type_code) for item in described]
    shape = KeyShape("p:", (columns[0].name,), ("",))
    mapping = map_columns(sql, columns, shape, (columns[1].name,), view="view")
    assert len(streamed(client, mapping.mapped())) >= 1
    client.execute(query.current_of(sql).encode())
    client.execute(query.plan_of(sql).encode())


def test_a_plan_changes_with_what_it_reads_and_with_nothing_else(client: Client) -> None:
    """The same after changes of data; another when a companion view is made again, word for word."""
    companion = "CREATE VIEW w AS SELECT crc32(key) % 4::uint4 AS bucket, count(*) AS rows FROM v GROUP BY 1"

    def plan() -> Any:
        return client.execute(query.plan_of("SELECT bucket, rows FROM w").encode()).fetchone()

    client.execute(companion.encode())
    client.execute("CREATE INDEX ON w (bucket)")
    before = plan()
    client.execute("INSERT INTO t VALUES ('plan', '1')")
    assert plan() == before
    client.execute("DROP VIEW w")
    client.execute(companion.encode())
    client.execute("CREATE INDEX ON w (bucket)")
    assert plan() != before
