# ruff: noqa: E501 - tables of SQL and of recorded messages
"""What is said to Materialize and what its answers mean: SQL text, EXPLAIN TIMESTAMP, errors."""

from __future__ import annotations

import json
import re

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.core.decide import Frontiers
from reconcile.core.times import MAX_TIMESTAMP
from reconcile.errors import (
    AccessError,
    EvaluationFailed,
    ExitCode,
    HistoryLost,
    Incomplete,
    ReconcileError,
    SchemaError,
    Unavailable,
    UsageError,
)
from reconcile.source import query
from reconcile.source.errors import translate, translated
from reconcile.source.frontiers import SourceObject, parse_explanation
from reconcile.source.query import BYTEA, Column, Mapping, map_columns
from reconcile.stop import Stop

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
    ("bytea key, prefix", mapping(Column("key", BYTEA), prefix="p:"), "'\\x703a'::bytea || q.\"key\"", 'q."value"::text'),
    ("bytea key, prefix beyond ASCII", mapping(Column("key", BYTEA), prefix="é:"), "'\\xc3a93a'::bytea || q.\"key\"", 'q."value"::text'),
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
    """The exact text of every statement; the hash is the one recorded in the transcript `digest_view`."""
    mapped = mapping(prefix="p:")
    row_hash = (
        "seahash(length(q.\"key\"::text)::text || ':' || q.\"key\"::text || coalesce('=' || q.\"value\"::text, ''))"
    )
    key = "'p:' || q.\"key\"::text"
    source = f"FROM ({SQL}) AS q"
    assert mapped.mapped() == f'SELECT {key} AS key, q."value"::text AS value {source}'
    assert mapped.hashed() == f'SELECT {key} AS key, q."value"::text AS value, {row_hash} AS hash {source}'
    assert mapped.fingerprints(16) == (
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
    assert mapped.hash_sql == (
        "seahash(length(encode(q.\"k\", 'hex'))::text || ':' || encode(q.\"k\", 'hex') "
        "|| coalesce('=' || encode(q.\"v\", 'hex'), ''))"
    )


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        (query.describe(SQL), f"SELECT * FROM ({SQL}) AS q WHERE false LIMIT 0"),
        (query.current_of(SQL), f"EXPLAIN TIMESTAMP AS JSON FOR SELECT * FROM ({SQL}) AS q"),
        (query.plan_of(SQL), f"EXPLAIN OPTIMIZED PLAN AS TEXT FOR SELECT * FROM ({SQL}) AS q"),
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
        ("in some new form", SourceObject("in some new form", "in some new form", "storage")),
    ],
)
def test_objects_are_named_as_recorded(name: str, expected: SourceObject) -> None:
    """'compute' tells an index (transcript `index_trap`); a form that is not known still identifies the object."""
    text = json.dumps(explanation() | {"sources": [{"name": name, "read_frontier": [], "write_frontier": []}]})
    assert parse_explanation(text).objects == (expected,)


def test_ids_do_not_depend_on_their_order() -> None:
    """The identity of a checkpoint is the same however the server lists what is read."""
    sources = [{"name": f"m.s.t{n} (u{n}, storage)"} for n in (3, 1, 2)]
    assert parse_explanation(json.dumps(explanation() | {"sources": sources})).ids == ["u1", "u2", "u3"]


def test_a_constant_query_has_the_last_time_there_is() -> None:
    """No timestamp, no sources, an upper without elements: complete, never changes."""
    explained = parse_explanation(json.dumps(CONSTANT))
    assert explained.frontiers == Frontiers(since=0, upper=None, now=MAX_TIMESTAMP)
    assert explained.objects == ()


def test_a_finished_object_has_no_upper() -> None:
    """A source that ended: upper without elements; its since is empty when nothing can be read."""
    finished = explanation()
    finished["determination"] = {**finished["determination"], "upper": {"elements": []}, "since": {"elements": []}}  # type: ignore[dict-item]
    assert parse_explanation(json.dumps(finished)).frontiers == Frontiers(since=MAX_TIMESTAMP, upper=None, now=T12)


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "7", '"text"', "{}", '{"determination": null}', '{"determination": {}}', "{",
        json.dumps(CONSTANT | {"sources": None}), json.dumps(CONSTANT | {"sources": [{}]}), json.dumps(CONSTANT | {"sources": ["v"]}),
        json.dumps(CONSTANT | {"determination": CONSTANT["determination"] | {"since": {"elements": ["x"]}}}),  # type: ignore[operator]
        json.dumps(CONSTANT | {"determination": CONSTANT["determination"] | {"since": []}}),  # type: ignore[operator]
        json.dumps(CONSTANT | {"determination": CONSTANT["determination"] | {"timestamp_context": {"Other": 1}}}),  # type: ignore[operator]
        json.dumps(CONSTANT | {"determination": CONSTANT["determination"] | {"upper": {"elements": [None]}}}),  # type: ignore[operator]
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_an_unknown_shape_is_said_so(text: str) -> None:
    """EXPLAIN TIMESTAMP is not a stable interface: a new form is reported as such, not as a traceback."""
    with pytest.raises(ReconcileError, match="in a form this version does not know") as caught:
        parse_explanation(text)
    assert caught.value.exit_code == ExitCode.BUG


# -- errors ----------------------------------------------------------------------------------------------------------


class _Diagnostic:
    def __init__(self, message: str, hint: str | None, detail: str | None) -> None:
        self.message_primary = message
        self.message_hint = hint
        self.message_detail = detail


def error(state: str | None, message: str, hint: str | None = None, detail: str | None = None) -> psycopg.Error:
    """A psycopg error as the server's message makes it; without SQLSTATE: one of the client library."""
    if state is None:
        return psycopg.OperationalError(message)
    kind: type[psycopg.Error] = psycopg.errors.lookup(state)
    stub = type(kind.__name__, (kind,), {"diag": _Diagnostic(message, hint, detail), "sqlstate": state})
    made = stub(message)
    assert isinstance(made, psycopg.Error)
    return made


ERRORS: list[tuple[str | None, str, type[ReconcileError]]] = [
    # history lost: recorded (history_lost, digest_view, index_trap, errors, transaction_snapshot), and newer versions
    ("XX000", "Timestamp (1755860001000) is not valid for all inputs: []", HistoryLost),
    (
        "XX000",
        "Timestamp (1) is not valid for all inputs: [(User(5), Antichain { elements: [1755860000000] })]",
        HistoryLost,
    ),
    ("22000", "could not find a valid timestamp for the query", HistoryLost),
    # dropped
    ("XX000", 'subscribe has been terminated because underlying relation "materialize.s.v" was dropped', Unavailable),
    ("XX000", 'subscribe has been terminated because underlying cluster "c" was dropped', Unavailable),
    ("42704", "relation 'v' was dropped", Unavailable),
    ("0A000", "dependency was removed: u6", Unavailable),
    ("XX000", "target replica failed or was dropped", Unavailable),
    # missing, and other mistakes
    ("XX000", "unknown catalog item 'nosuch'", UsageError),
    ("XX000", "unknown schema 'nosuch'", UsageError),
    ("XX000", "unknown cluster 'nope'", UsageError),
    ("XX000", "invalid id u1", UsageError),
    ("XX000", 'column "nokey" does not exist', UsageError),
    ("42601", 'Expected a keyword at the beginning of a statement, found identifier "selec"', UsageError),
    ("42601", "Expected joined table, found comma", UsageError),
    ("42704", 'unrecognized configuration parameter "nosuch"', UsageError),
    ("0A000", "cannot call mz_now in AS OF or UP TO ", UsageError),
    ("0A000", "cannot call current_timestamp in AS OF or UP TO ", UsageError),
    ("54000", "null character not permitted", UsageError),
    (
        "2F003",
        'querying the following items "materialize.s.v" is not allowed from the "mz_catalog_server" cluster',
        UsageError,
    ),
    ("22000", 'subscription lower ("as of") bound is beyond its upper ("up to") bound: 4 < 5', UsageError),
    # denied
    ("42501", 'permission denied for SCHEMA "materialize.s"', AccessError),
    ("42501", 'permission denied for MATERIALIZED VIEW "materialize.s.v"', AccessError),
    ("42501", "must be owner of CLUSTER quickstart", AccessError),
    ("28P01", "invalid password", AccessError),
    ("28000", "authentication expired", AccessError),
    ("28000", 'role "nobody" does not exist', AccessError),
    (
        None,
        'connection failed: connection to server at "127.0.0.1", port 6875 failed: FATAL:  invalid password',
        AccessError,
    ),
    (None, 'connection failed: FATAL:  role "nobody" does not exist', AccessError),
    (None, 'connection failed: FATAL:  database "nosuch" does not exist', UsageError),
    # the data
    ("XX000", "Evaluation error: division by zero", EvaluationFailed),
    # too big
    ("XX000", "result exceeds max size of 1.0 GB", UsageError),
    ("XX000", "total result exceeds max size of 1.0 GB", UsageError),
    ("53200", "result exceeds max size of 1048576 B", UsageError),
    # cannot now
    ("57014", "canceling statement due to user request", Unavailable),
    ("25P03", "terminating connection due to idle-in-transaction timeout", Unavailable),
    ("0A000", 'CLUSTER "x" has no replicas available to service request', Unavailable),
    ("25006", "cannot write in read-only mode", Unavailable),
    ("25006", "transaction in read-only mode", Unavailable),
    (
        "53000",
        "creating connection would violate max_connections limit (desired: 2, limit: 1, current: 1)",
        Unavailable,
    ),
    ("57P01", "terminating connection due to administrator command", Unavailable),
    ("08006", "server closed the connection unexpectedly", Unavailable),
    (
        None,
        "server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally",
        Unavailable,
    ),
    (
        None,
        "consuming input failed: terminating connection due to idle-in-transaction timeout\nserver closed",
        Unavailable,
    ),
    (
        None,
        'connection failed: connection to server at "127.0.0.1", port 1 failed: Connection refused\n\tIs the server running',
        Unavailable,
    ),
    (None, "connection timeout expired", Unavailable),
    (None, "", Unavailable),
    # ours
    ("XX000", "can't use text as a mz_timestamp for AS OF or UP TO", ReconcileError),
    ("XX000", "can't use null as a mz_timestamp for AS OF or UP TO", ReconcileError),
    ("XX000", "out of range integral type conversion attempted", ReconcileError),
    ("XX000", "decimal cannot be expressed in target primitive type", ReconcileError),
    ("XX000", "named with COPY TO STDOUT unsupported", ReconcileError),
    ("XX000", "COPY TO does not support DELIMITER option yet", ReconcileError),
    ("25P01", "DECLARE CURSOR can only be used in transaction blocks", ReconcileError),
    ("25P02", "current transaction is aborted, commands ignored until end of transaction block", ReconcileError),
]


@pytest.mark.parametrize(("state", "message", "expected"), ERRORS, ids=[f"{s} {m[:50]}" for s, m, _ in ERRORS])
def test_every_recorded_error_has_a_meaning(state: str | None, message: str, expected: type[ReconcileError]) -> None:
    """Each text and SQLSTATE that Materialize is known to send becomes the right class, for the view at hand."""
    meant = translate(error(state, message), "orders")
    assert type(meant) is expected
    assert meant.view == "orders"
    if message:
        assert message.splitlines()[0].strip() in meant.message
    assert "\n" not in meant.message


def test_hints_and_missing_privileges_are_passed_on() -> None:
    """The server's hint helps with a misspelt column, its detail names the privilege to grant."""
    hint = 'The similarly named column "key" does exist.'
    assert translate(error("XX000", 'column "nokey" does not exist', hint=hint)).hint == hint
    detail = "The 'reader' role needs SELECT privileges on MATERIALIZED VIEW \"materialize.s.v\""
    assert translate(error("42501", "permission denied for MATERIALIZED VIEW", detail=detail)).hint == detail


def test_details_that_may_quote_rows_are_left_out() -> None:
    """Row values never reach logs or reports."""
    meant = translate(error("22000", "something is wrong", detail="row (secret-value)"))
    assert "secret-value" not in f"{meant.message} {meant.hint}"


def test_errors_inside_are_translated_with_their_cause() -> None:
    """One place turns the driver's errors into ours, and keeps the chain for --log-level debug."""
    original = error("XX000", "unknown catalog item 'nosuch'")
    with pytest.raises(UsageError) as caught, translated(Stop(), "v"):
        raise original
    assert caught.value.__cause__ is original


@pytest.mark.parametrize("state", ["57014", None, "XX000"])
def test_an_error_while_the_run_ends_is_the_end_of_the_run(state: str | None) -> None:
    """Cancelling a statement is how a run stops: that is no fault of Materialize (exit 4, not 6)."""
    stop = Stop()
    stop.request("SIGTERM")
    with pytest.raises(Incomplete, match="SIGTERM"), translated(stop, "v"):
        raise error(state, "canceling statement due to user request")
