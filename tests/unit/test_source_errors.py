# ruff: noqa: E501 - a table of recorded messages
"""Every error Materialize is known to send: what it means, and the code a run exits with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import psycopg
import pytest

from reconcile.errors import (
    AccessError,
    ConnectionLimit,
    EvaluationFailed,
    ExitCode,
    FellBehind,
    HistoryLost,
    Incomplete,
    ReconcileError,
    ResultTooLarge,
    Unavailable,
    UsageError,
)
from reconcile.source.errors import translate, translated
from reconcile.stop import Stop

TRANSCRIPTS = Path(__file__).parents[1] / "conformance" / "transcripts"


class _Diagnostic:
    def __init__(self, message: str, hint: str | None, detail: str | None) -> None:
        self.message_primary = message
        self.message_hint = hint
        self.message_detail = detail


def error(state: str | None, message: str, hint: str | None = None, detail: str | None = None) -> psycopg.Error:
    """A psycopg error as the server's message makes it; without SQLSTATE: one of the client library."""
    if state is None:
        return psycopg.OperationalError(message)
    try:
        kind: type[psycopg.Error] = psycopg.errors.lookup(state)
    except KeyError:  # Materialize's own states (MZ…), for which psycopg has no class
        kind = psycopg.DatabaseError
    stub = type(kind.__name__, (kind,), {"diag": _Diagnostic(message, hint, detail), "sqlstate": state})
    made = stub(message)
    assert isinstance(made, psycopg.Error)
    return made


Case = tuple[str | None, str, type[ReconcileError]]

RECORDED: list[Case] = [
    # history_lost, digest_view, index_trap, errors, transaction_snapshot
    ("XX000", "Timestamp (1755860001000) is not valid for all inputs: []", HistoryLost),
    # drop_swap
    ("XX000", 'subscribe has been terminated because underlying relation "materialize.s.v" was dropped', Unavailable),
    # errors: the query, the configuration
    ("XX000", "unknown catalog item 'nosuch'", UsageError),
    ("XX000", "unknown schema 'nosuch'", UsageError),
    ("XX000", "unknown cluster 'nope'", UsageError),
    ("XX000", 'column "nokey" does not exist', UsageError),
    ("42601", 'Expected a keyword at the beginning of a statement, found identifier "selec"', UsageError),
    ("42601", "Expected joined table, found comma", UsageError),
    ("42704", 'unrecognized configuration parameter "nosuch"', UsageError),
    ("0A000", "cannot call mz_now in AS OF or UP TO ", UsageError),
    ("0A000", "cannot call current_timestamp in AS OF or UP TO ", UsageError),
    # mistakes, framing: the query again
    ("XX000", "unknown catalog item 's2.nope'", UsageError),
    ("XX000", "unknown schema 'nope'", UsageError),
    ("XX000", 'column "Key" does not exist', UsageError),
    ("XX000", 'column "copy" does not exist', UsageError),
    ("XX000", 'column "nope" does not exist', UsageError),
    ("XX000", 'function "convert_to" does not exist', UsageError),
    ("XX000", 'function "nosuch" does not exist', UsageError),
    ("XX000", "function sum(text) does not exist", UsageError),
    ("42601", "Expected joined table, found FROM", UsageError),
    ("42P02", "there is no parameter $1", UsageError),
    ("22023", 'parameter "max_query_result_size" requires a "bytes" value', UsageError),
    ("XX000", "result exceeds max size of 1.0 KB", ResultTooLarge),
    # catalog: what another version may lack
    ("XX000", "unknown catalog item 'mz_internal.mz_recent_storage_usage'", UsageError),
    ("42704", 'unrecognized configuration parameter "max_rows_per_ms"', UsageError),
    # mistakes, framing: only planning says them, and all that planning says is UsageError
    ("XX000", "WHERE clause must have type boolean, not type text", ReconcileError),
    ("XX000", 'invalid input syntax for type bigint: invalid digit found in string: "x"', ReconcileError),
    ("XX000", '"11916928230973246548 + 18326680962986713139" uint8 out of range', ReconcileError),
    # errors: the data
    ("XX000", "Evaluation error: division by zero", EvaluationFailed),
    # privileges
    ("42501", 'permission denied for SCHEMA "materialize.s"', AccessError),
    ("42501", 'permission denied for MATERIALIZED VIEW "materialize.s.v"', AccessError),
    ("42501", "must be owner of CLUSTER quickstart", AccessError),
    # copy_text, transaction_snapshot, subscribe_bounds
    ("54000", "null character not permitted", UsageError),
    (
        "2F003",
        'querying the following items "materialize.s.v" is not allowed from the "mz_catalog_server" cluster',
        UsageError,
    ),
    ("22000", 'subscription lower ("as of") bound is beyond its upper ("up to") bound: 4 < 5', UsageError),
    # cannot now: privileges (cancelled), transaction_snapshot
    ("57014", "canceling statement due to user request", Unavailable),
    ("25P03", "terminating connection due to idle-in-transaction timeout", Unavailable),
    ("25006", "transaction in read-only mode", Unavailable),
    # errors, cursor, history_lost, retain_history: statements that are never sent
    ("XX000", "can't use text as a mz_timestamp for AS OF or UP TO", ReconcileError),
    ("XX000", "can't use null as a mz_timestamp for AS OF or UP TO", ReconcileError),
    ("XX000", "out of range integral type conversion attempted", ReconcileError),
    ("XX000", "decimal cannot be expressed in target primitive type", ReconcileError),
    ("XX000", "named with COPY TO STDOUT unsupported", ReconcileError),
    ("XX000", "COPY TO does not support DELIMITER option yet", ReconcileError),
    ("XX000", "RETAIN HISTORY cannot be set lower than 1000ms", ReconcileError),
    ("XX000", "VIEW does not support RETAIN HISTORY", ReconcileError),
    ("25P01", "DECLARE CURSOR can only be used in transaction blocks", ReconcileError),
    ("25P02", "current transaction is aborted, commands ignored until end of transaction block", ReconcileError),
]
"""Transcript by transcript; their symbolic times are numbers here."""

READ_OF: list[Case] = [
    # Of the version recorded, from its sources and tests
    (
        "XX000",
        "Timestamp (1) is not valid for all inputs: [(User(5), Antichain { elements: [1755860000000] })]",
        HistoryLost,
    ),
    (
        "XX000",
        "internal error: dataflow creation error: dataflow has an as_of not beyond the since of collection: u5",
        HistoryLost,
    ),
    ("XX000", 'subscribe has been terminated because underlying cluster "c" was dropped', Unavailable),
    ("XX000", "target replica failed or was dropped", Unavailable),
    ("0A000", "dependency was removed: u6", Unavailable),
    ("0A000", 'CLUSTER "x" has no replicas available to service request', Unavailable),
    ("25006", "cannot write in read-only mode", Unavailable),
    ("XX000", "invalid id u1", UsageError),
    ("XX000", "Decode error: Text: expected value at line 1 column 1", EvaluationFailed),
    ("XX000", "Source error: source must be dropped and recreated due to failure: gtid", EvaluationFailed),
    ("XX000", "Envelope error: Upsert: Null key: record with NULL key in UPSERT source", EvaluationFailed),
    ("XX000", "result exceeds max size of 1.0 GB", ResultTooLarge),
    ("XX000", "total result exceeds max size of 1.0 GB", ResultTooLarge),
    ("53200", "result exceeds max size of 1048576 B", ResultTooLarge),
    ("54000", "statement batch size cannot exceed 976.6 KiB", UsageError),
    ("28P01", "invalid password", AccessError),
    ("28000", 'role "nobody" does not exist', AccessError),
    ("28000", "authentication expired", Unavailable),
    (
        "53000",
        "creating connection would violate max_connections limit (desired: 2, limit: 1, current: 1)",
        ConnectionLimit,
    ),
    ("08006", "server closed the connection unexpectedly", Unavailable),
    ("57P01", "terminating connection due to administrator command", Unavailable),
    # Of versions after it (adapter/src/error.rs)
    ("22000", "could not find a valid timestamp for the query", HistoryLost),
    ("42704", "relation 'v' was dropped", Unavailable),
    ("42704", "collection 'u35' was dropped", Unavailable),
    ("42704", "cluster 'u2' was dropped", Unavailable),
    ("42704", "replica 'u3' was dropped", Unavailable),
    ("25000", "the transaction's active cluster has been dropped", Unavailable),
    ("02000", "collection 'u35' is not readable at any timestamp", Unavailable),
    ("40001", "catalog item 'u35' was concurrently modified", Unavailable),
    ("40001", "cannot serve query under bounded staleness 10s", Unavailable),
    (
        "53200",
        "SUBSCRIBE fell behind: the client did not read results fast enough, so its backlog reached 130.0 MiB, exceeding the 128.0 MiB budget",
        FellBehind,
    ),
    ("22012", "Evaluation error: division by zero", EvaluationFailed),
    ("22012", "division by zero", EvaluationFailed),
    ("22P02", "Evaluation error: invalid input syntax for type integer: …", EvaluationFailed),
    ("22000", "the view's own words, by error_if_null", EvaluationFailed),
    ("54000", "query exceeded the configured row iteration limit of 1000 rows", UsageError),
    ("22000", "subscription lower bound (`AS OF`) is greater than its upper bound (`UP TO`): 5 > 4", UsageError),
    ("MZ010", "login blocked", AccessError),
    ("MZ011", "session denied", AccessError),
]
"""Read of in Materialize's sources; never seen."""

WITHOUT_STATE: list[Case] = [
    (
        None,
        'connection failed: connection to server at "127.0.0.1", port 6875 failed: FATAL:  invalid password',
        AccessError,
    ),
    (None, 'connection failed: FATAL:  role "nobody" does not exist', AccessError),
    (None, "connection failed: FATAL:  session denied", AccessError),
    (None, 'connection to server at "h" (127.0.0.1), port 6875 failed: fe_sendauth: no password supplied', AccessError),
    (None, 'connection failed: FATAL:  database "nosuch" does not exist', UsageError),
    (None, "connection failed: FATAL:  TLS encryption is required", UsageError),
    (None, "connection failed: server does not support SSL, but SSL was required", UsageError),
    (None, "connection failed: SSL error: certificate verify failed", UsageError),
    (None, "connection failed: FATAL:  server does not support the client's requested protocol version", UsageError),
    (None, "consuming input failed: authentication expired\nserver closed the connection unexpectedly", Unavailable),
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
]
"""What psycopg raises without an answer of the server's, or while connecting, where it keeps no SQLSTATE."""

ALL = RECORDED + READ_OF + WITHOUT_STATE


@pytest.mark.parametrize(("state", "message", "expected"), ALL, ids=[f"{s} {m[:50]}" for s, m, _ in ALL])
def test_every_error_has_a_meaning(state: str | None, message: str, expected: type[ReconcileError]) -> None:
    """Each text and SQLSTATE becomes the right class."""
    meant = translate(error(state, message))
    assert type(meant) is expected
    if message:
        told = message.splitlines()[0].strip()
        assert (re.sub('invalid digit.*|".*"', "…", told) if expected is ReconcileError else told) in meant.message
    assert "\n" not in meant.message


def test_what_each_class_exits_with() -> None:
    """2 a human corrects the configuration, 5 the data, 6 and 8 the next run may do, 1 nobody thought of it."""
    codes = {kind: ExitCode(kind("").exit_code) for _, _, kind in ALL}
    assert codes == {
        UsageError: ExitCode.USAGE,
        AccessError: ExitCode.USAGE,
        ResultTooLarge: ExitCode.USAGE,
        FellBehind: ExitCode.UNAVAILABLE,
        EvaluationFailed: ExitCode.SAFETY_STOP,
        Unavailable: ExitCode.UNAVAILABLE,
        ConnectionLimit: ExitCode.UNAVAILABLE,
        HistoryLost: ExitCode.HISTORY_LOST,
        ReconcileError: ExitCode.BUG,
    }


def recorded_errors() -> set[tuple[str, str]]:
    """(SQLSTATE, text) of every error in the transcripts, symbolic times left out."""
    found = set()
    for path in TRANSCRIPTS.glob("*.json"):
        for step in json.loads(path.read_text())["steps"]:
            for result in step.get("result") or []:
                if result["kind"] == "error":
                    found.add((result["sqlstate"], symbolic(re.sub(r"<T\d+(\+1)?>", "0", result["message"]))))
    return found


def symbolic(text: str) -> str:
    """A message without its times."""
    return re.sub(r"\(\d+\)|\d+ < \d+", lambda m: re.sub(r"\d+", "N", m[0]), text)


def test_no_recorded_error_is_left_out() -> None:
    """A transcript that is added brings its errors into the table."""
    assert recorded_errors() == {(state, symbolic(text)) for state, text, _ in RECORDED}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('Evaluation error: invalid input syntax for type integer: invalid digit found in string: "se"cret"', "Evaluation error: invalid input syntax for type integer: …"),
        # The reason quotes a part of the text without quotes (repr/src/adt/datetime.rs).
        ('Evaluation error: invalid input syntax for type timestamp with time zone: Cannot parse timezone offset secret: "1 secret"', "Evaluation error: invalid input syntax for type timestamp with time zone: …"),
        ('Evaluation error: "secret" integer out of range', "Evaluation error: … integer out of range"),
        ('Evaluation error: invalid input syntax for type jsonb: "sec', "Evaluation error: invalid input syntax for type jsonb: …"),
        ("Decode error: Text: bad JSON (original text: secret, original bytes: \"736563726574\")", "Decode error: Text: bad JSON"),
        ("Envelope error: Upsert: Value error: bad (original bytes: \"73\"), decoded key: Row{[secret]}", "Envelope error: Upsert: Value error: bad"),
        # In single quotes, and unquoted (expr/src/scalar.rs: Display of EvalError; compute/src/compute_state.rs).
        ("Evaluation error: invalid time zone 'se'cret'", "Evaluation error: invalid time zone …"),
        ("Evaluation error: invalid byte sequence 'secret' for encoding 'utf-8'", "Evaluation error: invalid byte sequence …"),
        ('Invalid data in source, saw retractions (1) for row that does not exist: [Int64(736563), String("secret")]', "Invalid data in source, saw retractions (1) for row that does not exist"),
        ("Invalid data in source errors, saw retractions (2) for row that does not exist: unit 'secret' not recognized", "Invalid data in source errors, saw retractions (2) for row that does not exist"),
        ('negative record multiplicity: [String("secret")]', "negative record multiplicity: …"),
    ],
)  # fmt: skip
def test_values_quoted_by_an_evaluation_error_are_left_out(text: str, told: str) -> None:
    """Row values never reach logs or reports (texts: repr/src/strconv.rs, storage-types/src/errors.rs)."""
    meant = translate(error("XX000", text))
    assert meant.message == f"the view cannot be evaluated at the moment: {told}"
    assert "sec" not in f"{meant.hint}"


@pytest.mark.parametrize(
    "value", ["is not valid for all inputs", "max_connections limit", "not beyond the since", "same timedomain", "exceeds max size"]
)  # fmt: skip
@pytest.mark.parametrize("state", ["XX000", "22P02"])
def test_a_row_does_not_say_what_an_error_means(state: str, value: str) -> None:
    """A value that the server quotes may be the text of any other error."""
    text = f'Evaluation error: invalid input syntax for type integer: invalid digit found in string: "{value}"'
    meant = translate(error(state, text))
    assert type(meant) is EvaluationFailed
    assert value not in meant.message


def test_values_quoted_by_an_error_nobody_thought_of_are_left_out() -> None:
    """The same for texts without a meaning here: what they quote may be a row."""
    meant = translate(error("XX000", 'internal error: cannot pack [String("secret")]'))
    assert meant.message == "Materialize reports XX000: internal error: cannot pack …"


def test_hints_and_missing_privileges_are_passed_on() -> None:
    """The server's hint helps with a misspelt column, its detail names the privilege to grant."""
    hint = 'The similarly named column "key" does exist.'
    assert translate(error("XX000", 'column "nokey" does not exist', hint=hint)).hint == hint
    assert "key_template" in (translate(error("XX000", 'column "nokey" does not exist')).hint or "")
    detail = "The 'reader' role needs SELECT privileges on MATERIALIZED VIEW \"materialize.s.v\""
    assert translate(error("42501", "permission denied for MATERIALIZED VIEW", detail=detail)).hint == detail


def test_details_that_may_quote_rows_are_left_out() -> None:
    """Row values never reach logs or reports."""
    meant = translate(error("22000", "something is wrong", detail="row (secret-value)"))
    assert "secret-value" not in f"{meant.message} {meant.hint}"


def test_what_planning_complains_of_is_the_query() -> None:
    """Materialize plans a query with the SQLSTATE of an internal error for nearly all mistakes in it (error.rs)."""
    text = "aggregate functions are not allowed in WHERE clause (function pg_catalog.count)"
    assert type(translate(error("XX000", text))) is ReconcileError
    with pytest.raises(UsageError, match="refuses the query: aggregate functions"), translated(Stop(), planning=True):
        raise error("XX000", text)
    with pytest.raises(Unavailable), translated(Stop(), planning=True):
        raise error("57P03", "starting up")


def test_another_time_domain_is_about_the_companion_view() -> None:
    """The one statement of a read transaction that may leave the schema of the view reads its companion."""
    text = "Transactions can only reference objects in the same timedomain. See https://materialize.com/docs/sql/begin/"
    meant = translate(error("25000", text))
    assert type(meant) is UsageError
    assert "in the schema of the view" in (meant.hint or "")


def test_errors_inside_are_translated_with_their_cause() -> None:
    """One place turns the driver's errors into ours, and keeps the chain for --log-level debug."""
    original = error("XX000", "unknown catalog item 'nosuch'")
    with pytest.raises(UsageError) as caught, translated(Stop()):
        raise original
    assert caught.value.__cause__ is original


@pytest.mark.parametrize("state", ["57014", None, "XX000"])
def test_an_error_while_the_run_ends_is_the_end_of_the_run(state: str | None) -> None:
    """Cancelling a statement is how a run stops: that is no fault of Materialize (exit 4, not 6)."""
    stop = Stop()
    stop.request("SIGTERM")
    with pytest.raises(Incomplete, match="SIGTERM"), translated(stop):
        raise error(state, "canceling statement due to user request")


def test_a_cluster_that_does_not_exist_is_looked_for_where_it_is_configured() -> None:
    """Not in the query, which has nothing to do with it."""
    meant = translate(error("XX000", "unknown cluster 'nope'"))
    assert "`cluster`" in (meant.hint or "")
    assert "sql" not in (meant.hint or "")


@pytest.mark.parametrize("text", ["unknown catalog item 'prices'", "unknown schema 'shop'", "unknown database 'shop'"])
def test_a_relation_that_does_not_exist_may_be_one_in_upper_case(text: str) -> None:
    """The likeliest reason, and one may have given `relation` rather than `sql`."""
    hint = translate(error("XX000", text)).hint or ""
    assert "`relation`" in hint
    assert "lower case" in hint


def test_lost_history_says_where_history_comes_from() -> None:
    """`snapshot --as-of -5m` is how people learn of it; what the server says names neither."""
    meant = translate(error("XX000", "Timestamp (1755860001000) is not valid for all inputs: []"))
    assert "RETAIN HISTORY" in (meant.hint or "")
