# ruff: noqa: E501 - tables of SQL and of recorded messages
"""What is said to Materialize and what its answers mean: SQL text, EXPLAIN TIMESTAMP."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.core.decide import Frontiers
from reconcile.core.keys import KeyShape
from reconcile.core.times import MAX_TIMESTAMP
from reconcile.errors import ExitCode, ReconcileError, SchemaError
from reconcile.source import query
from reconcile.source.columns import KEY_TYPES, VALUE_TYPES, map_columns
from reconcile.source.frontiers import SourceObject, parse_explanation
from reconcile.source.query import BYTEA, Column, Mapping
from tests.support.mappings import string_mapping

TEXT, INT8, BOOL = 25, 20, 16
SQL = "SELECT key, value FROM v"


KEY, VALUE = Column("key", TEXT), Column("value", TEXT)
SALT = "0123456789abcdef0123456789abcde0"


def mapping(key: Column = KEY, value: Column = VALUE, prefix: str = "", sql: str = SQL) -> Mapping:
    return string_mapping(sql, prefix, key, value)


def shaped(prefix: str, *rest: str) -> KeyShape:
    """prefix, column, literal, column, literal …"""
    return KeyShape(prefix, rest[::2], rest[1::2])


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
            Mapping(SQL, shaped("", "key", ""), (KEY,), (VALUE,), "string", Column("at", 1184)),
            f"seahash(concat_ws('{SALT}', '', q.\"key\", coalesce(q.\"value\", '-{SALT[:0:-1]}'), "
            f"coalesce(q.\"at\"::text, '-{SALT[:0:-1]}')))",
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


# -- columns ---------------------------------------------------------------------------------------------------------


def columns(*named: tuple[str, int]) -> list[Column]:
    return [Column(name, oid) for name, oid in named]


def test_columns_are_found_by_name() -> None:
    """In any order, with any names the configuration maps."""
    mapped = map_columns(SQL, columns(("body", BYTEA), ("id", INT8)), shaped("p:", "id", ""), ["body"], view="v")
    assert mapped == mapping(Column("id", INT8), Column("body", BYTEA), "p:")
    assert mapped.columns == ["id 20", "body 17"]


def test_all_other_columns_are_meant_by_a_star() -> None:
    """All but those of the key and the time of expiry, in the order of the query."""
    found = columns(("b", TEXT), ("id", INT8), ("until", 1184), ("a", 3802), ("tenant", TEXT))
    mapped = map_columns(
        SQL, found, shaped("", "tenant", ":", "id", ""), ["*"], layout="json", expires_at="until", view="v"
    )
    assert [column.name for column in mapped.values] == ["b", "a"]
    assert [column.name for column in mapped.keys] == ["tenant", "id"]
    assert mapped.expires_at == Column("until", 1184)


PLAIN = shaped("", "key", "")


@pytest.mark.parametrize(
    ("given_columns", "message", "hint"),
    [
        (
            columns(("k", TEXT), ("value", TEXT)),
            "no column 'key', which `key:` names; its columns are: k, value",
            'AS "key"',
        ),
        (columns(("key", TEXT)), "no column 'value', which `value:` names; its columns are: key", "`value:`"),
        (columns(), "no column 'value', which `value:` names; its columns are: none", 'AS "value"'),
        (columns(("Key", TEXT), ("value", TEXT)), "no column 'key'", 'AS "key"'),
        (columns(("key", TEXT), ("key", TEXT), ("value", TEXT)), "several columns 'key'", "give them names"),
        (
            columns(("key", TEXT), ("value", TEXT), ("x", TEXT), ("y", INT8)),
            "columns that go nowhere: x, y",
            "json or hash",
        ),
        (columns(("key", 701), ("value", TEXT)), "cannot be a Redis key (double precision)", "cast it"),
        (columns(("key", 3802), ("value", TEXT)), "cannot be a Redis key (jsonb)", '"key"::text'),
        (columns(("key", TEXT), ("value", 1009)), "cannot be a Redis value (oid 1009)", 'to_jsonb("value")'),
    ],
)
def test_columns_that_cannot_be_mapped(given_columns: list[Column], message: str, hint: str) -> None:
    """Exit 2 with what the query has and how to change it."""
    with pytest.raises(SchemaError) as caught:
        map_columns(SQL, given_columns, PLAIN, view="orders")
    assert message in caught.value.message
    assert "orders" in caught.value.message
    assert hint in (caught.value.hint or "")
    assert caught.value.exit_code == ExitCode.USAGE


ROW = columns(("key", TEXT), ("value", TEXT), ("raw", BYTEA), ("at", 1184), ("n", INT8), ("?column?", INT8))


@pytest.mark.parametrize(
    ("key", "values", "layout", "expires_at", "message"),
    [
        (PLAIN, ["value", "n"], "string", None, "layout string stores one"),
        (PLAIN, [], "hash", None, "no value column"),
        (PLAIN, ["value", "value"], "hash", None, "names column 'value' twice"),
        (PLAIN, ["?column?"], "json", None, "without a name"),
        (PLAIN, ["raw"], "json", None, "JSON cannot hold"),
        (shaped("", "raw", ":", "n", ""), ["value"], "string", None, "one of several in a key"),
        (PLAIN, ["value"], "string", "n", "`expires_at:` names, is bigint"),
        (PLAIN, ["value"], "string", "until", "no column 'until', which `expires_at:` names"),
    ],
)
def test_layouts_and_columns_that_do_not_fit(
    key: KeyShape, values: list[str], layout: str, expires_at: str | None, message: str
) -> None:
    """Refused when the view is described, before anything is read."""
    wanted = {*key.columns, *values, expires_at}
    with pytest.raises(SchemaError) as caught:
        map_columns(
            SQL, [c for c in ROW if c.name in wanted], key, values, layout=layout, expires_at=expires_at, view="v"
        )
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("oid", sorted(KEY_TYPES))
def test_key_types_are_value_types(oid: int) -> None:
    """Whatever can be a key can be a value; floats, intervals and jsonb have no one text form and cannot be keys."""
    assert oid in VALUE_TYPES
    assert not {700, 701, 1186, 3802} & KEY_TYPES.keys()


def test_the_signature_holds_what_digests_depend_on() -> None:
    """Keys, kinds of columns, layout, field names and expiry change stored digests; the name of a single value and the
    rest of the query do not."""
    base = mapping(prefix="p:").signature
    assert mapping(Column("other", INT8), Column("else", INT8), prefix="p:", sql="SELECT 1").signature == base
    at = Column("at", 1184)
    two, swapped = (VALUE, KEY), (KEY, VALUE)
    others = [
        mapping(prefix="q:"),
        mapping(Column("key", BYTEA), prefix="p:"),
        mapping(value=Column("value", BYTEA), prefix="p:"),
        Mapping(SQL, shaped("p:", "key", ":x"), (KEY,), (VALUE,)),
        Mapping(SQL, shaped("p:", "key", ":", "value", ""), (KEY, VALUE), (VALUE,)),
        Mapping(SQL, shaped("p:", "key", ""), (KEY,), (VALUE,), "string", at),
        Mapping(SQL, shaped("p:", "key", ""), (KEY,), (VALUE,), "json"),
        Mapping(SQL, shaped("p:", "key", ""), (KEY,), (VALUE,), "hash"),
        Mapping(SQL, shaped("p:", "key", ""), (KEY,), two, "hash"),
        Mapping(SQL, shaped("p:", "key", ""), (KEY,), swapped, "hash"),
    ]
    signatures = [tuple(each.signature) for each in others]
    assert len({tuple(base), *signatures}) == len(others) + 1


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
