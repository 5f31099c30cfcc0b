# ruff: noqa: E501 - tables of SQL and of recorded messages
"""What is said to Materialize and what its answers mean: SQL text, EXPLAIN TIMESTAMP."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.core.decide import Frontiers
from reconcile.core.times import MAX_TIMESTAMP
from reconcile.errors import ExitCode, ReconcileError, SchemaError
from reconcile.source import query
from reconcile.source.frontiers import SourceObject, parse_explanation
from reconcile.source.query import BYTEA, Column, Mapping, map_columns

TEXT, INT8, BOOL = 25, 20, 16
SQL = "SELECT key, value FROM v"


KEY, VALUE = Column("key", TEXT), Column("value", TEXT)


def mapping(key: Column = KEY, value: Column = VALUE, prefix: str = "", sql: str = SQL) -> Mapping:
    return Mapping(sql, key, value, prefix)


# -- text ------------------------------------------------------------------------------------------------------------

EXPRESSIONS = [
    ("text, no prefix", mapping(), 'q."key"::text', 'q."value"::text'),
    ("text, prefix", mapping(prefix="p:"), "'p:' || q.\"key\"::text", 'q."value"::text'),
    ("number and boolean as text", mapping(Column("id", INT8), Column("ok", BOOL)), 'q."id"::text', 'q."ok"::text'),
    ("bytea key", mapping(Column("key", BYTEA)), 'q."key"', 'q."value"::text'),
    ("bytea key, prefix", mapping(Column("key", BYTEA), prefix="p:"), "decode('703a' || encode(q.\"key\", 'hex'), 'hex')", 'q."value"::text'),
    (
        "bytea key, prefix beyond ASCII",
        mapping(Column("key", BYTEA), prefix="é:"),
        "decode('c3a93a' || encode(q.\"key\", 'hex'), 'hex')",
        'q."value"::text',
    ),
    ("bytea value", mapping(value=Column("value", BYTEA)), 'q."key"::text', 'q."value"'),
    ("quotes in names", mapping(Column('a"b', TEXT), Column('"; DROP', TEXT)), 'q."a""b"::text', 'q."""; DROP"::text'),
    ("quote in prefix", mapping(prefix="it's:"), "'it''s:' || q.\"key\"::text", 'q."value"::text'),
    ("backslash in prefix", mapping(prefix="a\\':"), "'a\\'':' || q.\"key\"::text", 'q."value"::text'),
    ("upper case and spaces", mapping(Column("My Key", TEXT), Column("Größe", TEXT)), 'q."My Key"::text', 'q."Größe"::text'),
]  # fmt: skip


@pytest.mark.parametrize(
    ("mapped", "key", "value"), [case[1:] for case in EXPRESSIONS], ids=[case[0] for case in EXPRESSIONS]
)
def test_key_and_value_expressions(mapped: Mapping, key: str, value: str) -> None:
    """Text forms are made in SQL on every path; bytea stays as it is; names and prefixes are quoted."""
    assert (mapped.key_sql, mapped.value_sql) == (key, value)


def test_statements_of_a_text_view() -> None:
    """The exact text of every statement; the hash is that of docs/adr/0012."""
    mapped = mapping(prefix="p:")
    salt = "0123456789abcdef" * 2
    row_hash = f"seahash('{salt}' || q.\"key\"::text || coalesce('{salt}' || q.\"value\"::text, ''))"
    key = "'p:' || q.\"key\"::text"
    source = f"FROM ({SQL}) AS q"
    assert mapped.mapped() == f'SELECT {key} AS key, q."value"::text AS value {source}'
    assert mapped.hashed(salt) == f'SELECT {key} AS key, q."value"::text AS value, {row_hash} AS hash {source}'
    assert mapped.fingerprints(16, salt) == (
        f"SELECT crc32({key}) % 16::uint4 AS bucket, count(*) AS rows, sum({row_hash}) AS fingerprint {source} GROUP BY 1"
    )
    assert mapped.within([1, 3], 4) == f" WHERE get_byte('\\x00010001'::bytea, (crc32({key}) % 4::uint4)::int4) = 1"
    assert query.subscribe(mapped, 1000) == (
        f"COPY (SUBSCRIBE ({mapped.mapped()}) WITH (PROGRESS, SNAPSHOT=false) AS OF 1000) TO STDOUT"
    )
    assert query.subscribe(mapped, 1000, 2000).endswith("AS OF 1000 UP TO 2000) TO STDOUT")


def test_bytea_rows_are_hashed_in_hexadecimal() -> None:
    """seahash takes the framed text of a row, so bytes are encoded first."""
    mapped = mapping(Column("k", BYTEA), Column("v", BYTEA))
    assert mapped.hash_sql("5a") == "seahash('5a' || encode(q.\"k\", 'hex') || coalesce('5a' || encode(q.\"v\", 'hex'), ''))"


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        (query.describe(SQL), f"SELECT * FROM ({SQL}) AS q WHERE false LIMIT 0"),
        (query.current_of(SQL), f"EXPLAIN TIMESTAMP AS JSON FOR SELECT * FROM ({SQL}) AS q"),
        (query.plan_of(SQL), f"EXPLAIN OPTIMIZED PLAN WITH (NO FAST PATH) AS JSON FOR SELECT * FROM ({SQL}) AS q"),
        (query.companion_rows("s.v_digest"), "SELECT bucket, rows, fingerprint FROM s.v_digest"),
        (query.companion_largest("s.v_digest"), "SELECT max(bucket) AS largest FROM s.v_digest"),
        (query.as_of("SELECT 1", 42), "SELECT 1 AS OF 42"),
        (query.as_of("SELECT 1", None), "SELECT 1"),
    ],
)
def test_other_statements(statement: str, text: str) -> None:
    """As recorded or documented; AS OF is a plain number, which is the only form Materialize takes as text."""
    assert statement == text


def test_the_companion_view_is_made_of_the_fingerprints() -> None:
    """Its DDL is the fingerprint query as a view, and an index that makes Materialize maintain it."""
    ddl = query.companion_ddl(mapping(), 's."My_digest"', 64)
    assert ddl == (
        f'CREATE VIEW s."My_digest" AS\n  {mapping().fingerprints(64)};\n'
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
        (hostile.hashed(), harmless.hashed()),
        (hostile.fingerprints(16), harmless.fingerprints(16)),
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


# -- columns ---------------------------------------------------------------------------------------------------------


def columns(*named: tuple[str, int]) -> list[Column]:
    return [Column(name, oid) for name, oid in named]


def test_columns_are_found_by_name() -> None:
    """In any order, with any names the configuration maps."""
    mapped = map_columns(SQL, columns(("body", BYTEA), ("id", INT8)), "id", "body", "p:", "v")
    assert mapped == Mapping(SQL, Column("id", INT8), Column("body", BYTEA), "p:")
    assert mapped.columns == ["id 20", "body 17"]


@pytest.mark.parametrize(
    ("given_columns", "message", "hint"),
    [
        (columns(("k", TEXT), ("value", TEXT)), "no column 'key'; its columns are: k, value", "AS key"),
        (columns(("key", TEXT)), "no column 'value'; its columns are: key", "`value:`"),
        (columns(), "no column 'key'; its columns are: none", "AS key"),
        (columns(("Key", TEXT), ("value", TEXT)), "no column 'key'", "AS key"),
        (columns(("key", TEXT), ("key", TEXT), ("value", TEXT)), "several columns 'key'", "give them names"),
        (columns(("key", TEXT), ("value", TEXT), ("x", TEXT), ("y", INT8)), "columns that go nowhere: x, y", "only"),
        (columns(("key", 701), ("value", TEXT)), "cannot be a Redis key (oid 701)", "cast it"),
        (columns(("key", 3802), ("value", TEXT)), "cannot be a Redis key (oid 3802)", "key::text"),
        (columns(("key", TEXT), ("value", 1009)), "cannot be a Redis value (oid 1009)", "to_jsonb(value)"),
    ],
)
def test_columns_that_cannot_be_mapped(given_columns: list[Column], message: str, hint: str) -> None:
    """Exit 2 with what the query has and how to change it."""
    with pytest.raises(SchemaError) as caught:
        map_columns(SQL, given_columns, "key", "value", "", "orders")
    assert message in caught.value.message
    assert "orders" in caught.value.message
    assert hint in (caught.value.hint or "")
    assert (caught.value.exit_code, caught.value.view) == (ExitCode.USAGE, "orders")


@pytest.mark.parametrize("oid", sorted(query.KEY_TYPES))
def test_key_types_are_value_types(oid: int) -> None:
    """Whatever can be a key can be a value; floats, intervals and jsonb have no one text form and cannot be keys."""
    assert oid in query.VALUE_TYPES
    assert not {700, 701, 1186, 3802} & query.KEY_TYPES.keys()


def test_the_signature_holds_what_digests_depend_on() -> None:
    """Prefix and kinds of columns change stored digests; names and the rest of the query do not."""
    base = mapping(prefix="p:").signature
    assert mapping(Column("other", INT8), prefix="p:", sql="SELECT 1").signature == base
    assert mapping(prefix="q:").signature != base
    assert mapping(Column("key", BYTEA), prefix="p:").signature != base
    assert mapping(value=Column("value", BYTEA), prefix="p:").signature != base


# -- frontiers -------------------------------------------------------------------------------------------------------

T1, T2, T12 = 1_755_860_001_000, 1_755_860_009_500, 1_755_860_012_345

RETAINED = """{
  "determination": {
    "timestamp_context": {
      "TimelineTimestamp": {
        "timeline": "EpochMilliseconds",
        "chosen_ts": <T12>,
        "oracle_ts": <T12>
      }
    },
    "since": {
      "elements": [
        <T1>
      ]
    },
    "upper": {
      "elements": [
        <T12+1>
      ]
    },
    "largest_not_in_advance_of_upper": <T12>,
    "oracle_read_ts": <T12>,
    "session_oracle_read_ts": null,
    "real_time_recency_ts": null,
    "constraints": {
      "lower": [
        [
          {
            "elements": [
              <T12>
            ]
          },
          {
            "IsolationLevel": "StrictSerializable"
          }
        ]
      ],
      "upper": []
    }
  },
  "sources": [
    {
      "name": "materialize.s.v (u21, storage)",
      "read_frontier": [
        <T1>
      ],
      "write_frontier": [
        <T12+1>
      ]
    }
  ],
  "session_wall_time": "<wall clock>",
  "respond_immediately": true
}"""
"""Transcript `retain_history`, with numbers for its symbolic times."""

CONSTANT = {
    "determination": {
        "timestamp_context": "NoTimestamp",
        "since": {"elements": [0]},
        "upper": {"elements": []},
        "largest_not_in_advance_of_upper": MAX_TIMESTAMP,
        "oracle_read_ts": None,
        "session_oracle_read_ts": None,
        "real_time_recency_ts": None,
        "constraints": {"lower": [], "upper": []},
    },
    "sources": [],
    "session_wall_time": "<wall clock>",
    "respond_immediately": True,
}


def source(name: str, read: list[int], written: list[int]) -> dict[str, object]:
    return {"name": name, "read_frontier": read, "write_frontier": written}


def explanation() -> dict[str, object]:
    text = RETAINED.replace("<T12+1>", str(T12 + 1)).replace("<T12>", str(T12)).replace("<T1>", str(T1))
    loaded: dict[str, object] = json.loads(text)
    return loaded


def test_the_recorded_explanation() -> None:
    """since, upper and the present time; the object read, by name and id."""
    explained = parse_explanation(json.dumps(explanation()))
    assert explained.frontiers == Frontiers(since=T1, upper=T12 + 1, now=T12)
    assert explained.objects == (SourceObject("materialize.s.v", "u21", "storage"),)
    assert explained.ids == ["u21"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("materialize.s.v_key (u39, compute)", SourceObject("materialize.s.v_key", "u39", "compute")),
        (
            "materialize.s.v_digest_by_bucket (u57, compute)",
            SourceObject("materialize.s.v_digest_by_bucket", "u57", "compute"),
        ),
        (
            'materialize."my (odd, name)".v (u7, storage)',
            SourceObject('materialize."my (odd, name)".v', "u7", "storage"),
        ),
        ("mz_catalog.mz_objects (s461, storage)", SourceObject("mz_catalog.mz_objects", "s461", "storage")),
        ("m.my (odd,\nname).v (u8, storage)", SourceObject("m.my (odd,\nname).v", "u8", "storage")),
        ("u9 (u9, storage)", SourceObject("u9", "u9", "storage")),
        ("in some new form", SourceObject("in some new form", "in some new form", "storage")),
    ],
)
def test_objects_are_named_as_recorded(name: str, expected: SourceObject) -> None:
    """'compute' tells an index (transcript `index_trap`); a form that is not known still identifies the object."""
    text = json.dumps(explanation() | {"sources": [{"name": name, "read_frontier": [], "write_frontier": []}]})
    assert parse_explanation(text).objects == (expected,)


def test_ids_do_not_depend_on_their_order() -> None:
    """The identity of a checkpoint is the same however the server lists what is read."""
    sources = [source(f"m.s.t{n} (u{n}, storage)", [T1], [T12 + 1]) for n in (3, 1, 2)]
    assert parse_explanation(json.dumps(explanation() | {"sources": sources})).ids == ["u1", "u2", "u3"]


def test_a_constant_query_has_the_last_time_there_is() -> None:
    """No timestamp, no sources, an upper without elements: complete, never changes."""
    explained = parse_explanation(json.dumps(CONSTANT))
    assert explained.frontiers == Frontiers(since=0, upper=None, now=MAX_TIMESTAMP)
    assert explained.objects == ()


def test_a_finished_object_has_no_upper() -> None:
    """A source that ended: upper without elements; its since is empty when nothing can be read."""
    finished = explanation() | {"sources": [source("m.s.v (u21, storage)", [], [])]}
    assert parse_explanation(json.dumps(finished)).frontiers == Frontiers(since=MAX_TIMESTAMP, upper=None, now=T12)


def test_frontiers_are_those_of_what_the_query_reads() -> None:
    """Inside a transaction the determination is that of the whole schema (see frontiers.py): a table beside the view,
    with a second of history, or a source that is stuck, says nothing about the view."""
    determination = explanation()["determination"]
    assert isinstance(determination, dict)
    neighbours = {"since": {"elements": [T12 - 1000]}, "upper": {"elements": [T1 + 1]}}
    explained = parse_explanation(json.dumps(explanation() | {"determination": determination | neighbours}))
    assert explained.frontiers == Frontiers(since=T1, upper=T12 + 1, now=T12)


def test_several_objects_are_readable_where_all_are() -> None:
    """since is the latest, upper the earliest; an object that is complete does not bound the upper."""
    sources = [
        source("m.s.a (u1, storage)", [T1], [T12 + 1]),
        source("m.s.b (u2, storage)", [T1 + 5], [T12 - 3]),
        source("m.s.c (u3, compute)", [T1 + 1], []),
    ]
    explained = parse_explanation(json.dumps(explanation() | {"sources": sources}))
    assert explained.frontiers == Frontiers(since=T1 + 5, upper=T12 - 3, now=T12)


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "7", '"text"', "{}", '{"determination": null}', '{"determination": {}}', "{",
        json.dumps(CONSTANT | {"sources": None}), json.dumps(CONSTANT | {"sources": [{}]}), json.dumps(CONSTANT | {"sources": ["v"]}),
        json.dumps(CONSTANT | {"sources": [source("v (u1, storage)", ["x"], [])]}),  # type: ignore[list-item]
        json.dumps(CONSTANT | {"sources": [{"name": "v (u1, storage)", "read_frontier": [1]}]}),
        json.dumps(CONSTANT | {"determination": CONSTANT["determination"] | {"timestamp_context": {"Other": 1}}}),  # type: ignore[operator]
        json.dumps(CONSTANT | {"sources": [source("v (u1, storage)", [1], [None])]}),  # type: ignore[list-item]
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_an_unknown_shape_is_said_so(text: str) -> None:
    """EXPLAIN TIMESTAMP is not a stable interface: a new form is reported as such, not as a traceback."""
    with pytest.raises(ReconcileError, match="in a form this version does not know") as caught:
        parse_explanation(text)
    assert caught.value.exit_code == ExitCode.BUG
