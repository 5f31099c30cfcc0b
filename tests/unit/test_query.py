# ruff: noqa: E501 - tables of SQL and of recorded messages
"""The SQL that is sent to Materialize."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.source import query
from reconcile.source.query import BYTEA, Column, Mapping
from tests.support.mappings import KEY, SALT, SQL, VALUE, mapping, shaped

TEXT, INT8, BOOL = 25, 20, 16


# -- text ------------------------------------------------------------------------------------------------------------

EXPRESSIONS = [
    ("text, no prefix", mapping(), 'q."key"', 'SELECT q."key" AS key, q."value" AS value'),
    ("text, prefix", mapping(prefix="p:"), "'p:' || q.\"key\"", 'SELECT q."key" AS key, q."value" AS value'),
    (
        "number and boolean as text",
        mapping(Column("id", INT8), Column("ok", BOOL)),
        'q."id"::text',
        'SELECT q."id"::text AS key, q."ok"::text AS value',
    ),
    ("bytea key", mapping(Column("key", BYTEA)), 'q."key"', 'SELECT q."key" AS key, q."value" AS value'),
    (
        "bytea key, prefix beyond ASCII",
        mapping(Column("key", BYTEA), prefix="é:"),
        "decode('c3a93a' || encode(q.\"key\", 'hex'), 'hex')",
        'SELECT q."key" AS key, q."value" AS value',
    ),
    (
        "bytea key, text behind it",
        Mapping(SQL, shaped("p:", "key", ":x"), (Column("key", BYTEA),), (VALUE,)),
        "decode('703a' || encode(q.\"key\", 'hex') || '3a78', 'hex')",
        "SELECT decode(encode(q.\"key\", 'hex') || '3a78', 'hex') AS key, q.\"value\" AS value",
    ),
    ("bytea value", mapping(value=Column("value", BYTEA)), 'q."key"', 'SELECT q."key" AS key, q."value" AS value'),
    (
        "quotes in names and prefix",
        mapping(Column('a"b', TEXT), Column('"; DROP', TEXT), "it's:"),
        "'it''s:' || q.\"a\"\"b\"",
        'SELECT q."a""b" AS key, q."""; DROP" AS value',
    ),
    (
        "two columns",
        Mapping(SQL, shaped("user:", "tenant", ":", "id", ""), (Column("tenant", TEXT), Column("id", INT8)), (VALUE,)),
        "'user:' || replace(replace(q.\"tenant\", '%', '%25'), ':', '%3A') || ':' || q.\"id\"::text",
        "SELECT replace(replace(q.\"tenant\", '%', '%25'), ':', '%3A') || ':' || q.\"id\"::text AS key, q.\"value\" AS value",
    ),
    (
        "hash",
        Mapping(SQL, shaped("p:", "key", ""), (KEY,), (VALUE, Column("n", INT8), Column("raw", BYTEA)), "hash"),
        "'p:' || q.\"key\"",
        'SELECT q."key" AS key, q."value" AS value0, q."n"::text AS value1, q."raw" AS value2',
    ),
    (
        "json",
        Mapping(SQL, shaped("p:", "key", ""), (KEY,), (VALUE, Column("it's", INT8)), "json"),
        "'p:' || q.\"key\"",
        "SELECT q.\"key\" AS key, jsonb_build_object('value', q.\"value\", 'it''s', q.\"it's\")::text AS value",
    ),
    (
        "expires_at",
        Mapping(SQL, shaped("p:", "key", ""), (KEY,), (VALUE,), "string", Column("at", 1184)),
        "'p:' || q.\"key\"",
        'SELECT q."key" AS key, q."value" AS value, (extract(epoch FROM q."at") * 1000)::int8::text AS expires_at',
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("mapped", "key", "rows"), [case[1:] for case in EXPRESSIONS], ids=[case[0] for case in EXPRESSIONS]
)
def test_keys_and_rows(mapped: Mapping, key: str, rows: str) -> None:
    """Text forms are made in SQL on every path; bytea stays as it is; names are quoted. The prefix is no part of what
    travels, but of the key that buckets are made of."""
    assert (mapped.key_sql, mapped.mapped()) == (key, f"{rows} FROM ({SQL}) AS q")
    assert mapped.form.width == rows.count(" AS ")


@pytest.mark.parametrize(
    ("mapped", "row_hash"),
    [
        (mapping(), f"seahash(concat_ws('{SALT}', '', q.\"key\", q.\"value\"))"),
        (
            mapping(Column("k", BYTEA), Column("v", BYTEA)),
            f"seahash(concat_ws('{SALT}', '', encode(q.\"k\", 'hex'), encode(q.\"v\", 'hex')))",
        ),
        (
            Mapping(SQL, shaped("p:", "a", ":", "b", ""), (Column("a", TEXT), Column("b", INT8)), (VALUE, KEY), "json"),
            f"seahash(concat_ws('{SALT}', '', q.\"a\", q.\"b\"::text, coalesce(q.\"value\", '-{SALT[:0:-1]}'), "
            f"coalesce(q.\"key\", '-{SALT[:0:-1]}')))",
        ),
        (
            Mapping(SQL, shaped("", "key", ""), (KEY,), (Column("f", 701),), "json"),
            f"seahash(concat_ws('{SALT}', '', q.\"key\", q.\"f\"::numeric::text))",
        ),
        (
            Mapping(SQL, shaped("", "key", ""), (KEY,), (Column("f", 701),)),
            f"seahash(concat_ws('{SALT}', '', q.\"key\", q.\"f\"::text))",
        ),
        (
            Mapping(SQL, shaped("", "key", ""), (KEY,), (VALUE,), "string", Column("at", 1184)),
            f"seahash(concat_ws('{SALT}', '', q.\"key\", coalesce(q.\"value\", '-{SALT[:0:-1]}'), "
            f"coalesce((extract(epoch FROM q.\"at\") * 1000)::int8::text, '-{SALT[:0:-1]}')))",
        ),
    ],
)
def test_the_source_hash(mapped: Mapping, row_hash: str) -> None:
    """One call instead of concatenations; seahash takes text, so bytes are encoded (docs/adr/0013)."""
    assert mapped.hash_sql(SALT) == row_hash


def test_statements_of_a_text_view() -> None:
    """The exact text of every statement."""
    mapped = mapping(prefix="p:")
    key = "'p:' || q.\"key\""
    source = f"FROM ({SQL}) AS q"
    row_hash = mapped.hash_sql(SALT)
    assert mapped.fingerprints(16, SALT) == (
        f"SELECT crc32({key}) % 16::uint4 AS bucket, count(*) AS rows, sum({row_hash}) AS fingerprint {source} GROUP BY 1"
    )
    assert mapped.within([1, 3], 4) == f" WHERE get_byte('\\x00010001'::bytea, (crc32({key}) % 4::uint4)::int4) = 1"
    assert query.subscribe(mapped, 1000) == (
        f"COPY (SUBSCRIBE ({mapped.mapped()}) WITH (PROGRESS, SNAPSHOT=false) AS OF 1000) TO STDOUT"
    )
    assert query.subscribe(mapped, 1000, 2000).endswith("AS OF 1000 UP TO 2000) TO STDOUT")


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        (query.describe(SQL), f"SELECT * FROM ({SQL}) AS q WHERE false LIMIT 0"),
        (query.current_of(SQL), f"EXPLAIN TIMESTAMP AS JSON FOR SELECT * FROM ({SQL}) AS q"),
        (query.plan_of(SQL), f"EXPLAIN OPTIMIZED PLAN WITH (NO FAST PATH) AS JSON FOR SELECT * FROM ({SQL}) AS q"),
        (query.companion_rows("s.v_digest"), "SELECT bucket, rows, fingerprint FROM s.v_digest"),
        (query.as_of("SELECT 1", 42), "SELECT 1 AS OF 42"),
        (query.as_of("SELECT 1", None), "SELECT 1"),
    ],
)
def test_other_statements(statement: str, text: str) -> None:
    """As recorded or documented; AS OF is a plain number, which is the only form Materialize takes as text."""
    assert statement == text


def test_the_companion_view_is_made_of_the_fingerprints() -> None:
    """Its DDL is the fingerprint query as a view, and an index that makes Materialize maintain it."""
    ddl = query.companion_ddl(mapping(), 's."My_digest"', 64, SALT)
    assert ddl == (
        f'CREATE VIEW s."My_digest" AS\n  {mapping().fingerprints(64, SALT)};\n'
        'CREATE INDEX "My_digest_by_bucket" ON s."My_digest" (bucket);\n'
    )


_STRINGS = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")


@given(
    st.text(max_size=12), st.text(max_size=12), st.text(min_size=1, max_size=12).filter(lambda name: "\0" not in name)
)
def test_nothing_escapes_its_quotes(prefix: str, value_name: str, key_name: str) -> None:
    """Whatever a prefix or column name holds, it stays inside one string or quoted name: the rest of the statement is
    the same as with harmless ones."""
    harmless = mapping(Column("k", TEXT), Column("v", TEXT), "p:")
    hostile = mapping(Column(key_name, TEXT), Column(value_name, TEXT), prefix or "p:")
    for made, expected in [
        (hostile.mapped(), harmless.mapped()),
        (hostile.fingerprints(16, SALT), harmless.fingerprints(16, SALT)),
        (hostile.within([0], 16), harmless.within([0], 16)),
    ]:
        assert _STRINGS.sub("?", made) == _STRINGS.sub("?", expected)


@given(st.text())
def test_literals_and_identifiers_double_their_quotes(text: str) -> None:
    """The standard way, undone by the server to exactly the same text."""
    literal, identifier = query.literal(text), query.identifier(text)
    assert literal[0] == literal[-1] == "'"
    assert literal[1:-1].replace("''", "'") == text
    assert "'" not in literal[1:-1].replace("''", "")
    assert identifier[1:-1].replace('""', '"') == text
    assert '"' not in identifier[1:-1].replace('""', "")


@given(st.binary(max_size=20))
def test_bytea_literals(data: bytes) -> None:
    """Hexadecimal form."""
    assert query.bytes_literal(data) == "'\\x" + data.hex() + "'::bytea"
