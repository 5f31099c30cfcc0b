"""Translate psycopg's errors. Texts and SQLSTATEs as recorded on a real Materialize (tests/conformance)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import psycopg

from reconcile.errors import (
    AccessError,
    ConnectionLimit,
    EvaluationFailed,
    FellBehind,
    HistoryLost,
    ReconcileError,
    ResultTooLarge,
    Unavailable,
    UsageError,
)
from reconcile.stop import Stop

# Patterns as text: most runs need none of them, and compiling them all would take half a millisecond of each start.
_HISTORY_LOST = (
    r"is not valid for all inputs|could not find a valid timestamp"
    # Compaction between choosing the time and starting to read at it (compute-client/src/controller/error.rs).
    r"|not beyond the since|insufficient read holds"
)
_DROPPED = (
    r"subscribe has been terminated because|dependency was removed|was dropped|has been dropped"
    r"|is not readable at any time"
)
_MISSING = r"unknown (catalog item|schema|database|cluster|function)|does not exist|invalid id"
_NO_COLUMN = r"^column .* does not exist$"
_NO_RELATION = r"^unknown (catalog item|schema|database)"
_REFUSED = (
    r"invalid password|password authentication failed|authentication|role \".*\" does not exist|pg_hba"
    # blocked organisations and network policies (adapter/src/error.rs), and libpq without any password
    r"|login blocked|session denied|no password supplied"
)
_TLS = r"certificate|private key|does not support SSL|TLS encryption is required|alert (unknown ca|handshake)"
_MISUSED = r"connection is bad: (invalid|weak)|could not match"
"""libpq's words for a connection string it rejects without connecting."""
_DATA = r"(Evaluation|Decode|Source|Envelope) error: |Invalid data in source|negative record multiplicity"
"""Errors caused by a row (storage-types/src/errors.rs: DataflowError), or by one that was retracted more often than it
was there (compute/src/compute_state.rs and peek_result_iterator.rs; from 26.23 on in the last words)."""
_VALUES = (
    r"(?s) ?\(original (?:text|bytes): .*|(?<=does not exist): .*|\[.*"
    # Why a text cannot be parsed quotes a part of it, unlike the text itself without quotes (repr/src/strconv.rs).
    r"|(?<=invalid input syntax for type )(?P<type>[^:]*): .*"
    r"|(?:\"|(?<!\w)')(?:.*[\"']|.*$)"
)
"""Where such a text quotes the row: what could not be decoded or parsed, or the whole of it."""
_ACCESS_STATES = {"28P01", "28000", "42501", "MZ010", "MZ011"}
_RETRY_STATES = {"57014", "25P03", "53000", "53200", "25006", "57P01", "57P02", "57P03"}
_USAGE_CLASSES = ("42", "0A", "2F", "54", "08P")
"""psycopg calls some of these OperationalError, but retrying does not help."""


@contextlib.contextmanager
def once_described() -> Iterator[None]:
    """Inside, a query is sent that has been described: what it names and is not there has gone since."""
    try:
        yield
    except UsageError as error:
        cause = error.__cause__
        if isinstance(cause, psycopg.Error) and re.search(f"{_NO_COLUMN}|{_NO_RELATION}", text := _first_line(cause)):
            raise _dropped(text) from error
        raise


@contextlib.contextmanager
def translated(stop: Stop, *, planning: bool = False) -> Iterator[None]:
    """Translate psycopg errors inside the block. A statement cancelled because the run ends becomes Incomplete.

    planning: nothing is read inside, so that any complaint is about the query.
    """
    try:
        yield
    except psycopg.Error as error:
        if stop.requested:
            stop.check()
        meant = translate(error)
        # Nearly all that planning can complain of has the SQLSTATE of an internal error (adapter/src/error.rs).
        if planning and type(meant) is ReconcileError and error.sqlstate == "XX000":
            hint = meant.hint or "check `sql` in the configuration"
            meant = UsageError(f"Materialize refuses the query: {_first_line(error)}", hint=hint)
        raise meant from error


def translate(error: psycopg.Error) -> ReconcileError:
    """Translate a psycopg error. Row values that a server quotes are left out."""
    state = error.sqlstate or ""
    text = _first_line(error)
    if _is_of_data(state, text):  # first, as it may quote a row, which may say anything
        return EvaluationFailed(
            f"the view cannot be evaluated at the moment: {_without_values(text)}",
            hint="fix the data or the view; the checkpoint stays, the next run tries again",
        )
    if re.search(_HISTORY_LOST, text):
        return HistoryLost(
            f"Materialize no longer has the requested time: {text}",
            hint="it keeps about a second of history, unless RETAIN HISTORY says more; reconcile doctor shows how much",
        )
    if state.startswith("53300") or "max_connections limit" in text:
        return ConnectionLimit(
            f"Materialize takes no more connections: {text}",
            hint="raise max_connections, or lower limits.jobs; a view takes up to two, and one while it is followed",
        )
    if not state or state.startswith(("08", "28", "MZ")) or state == "42501":
        meant = _about_connecting(error, state, text)
        if meant is not None:
            return meant
    return _about_reading(error, state, text)


def _is_of_data(state: str, text: str) -> bool:
    """Whether a row is what the server complains of."""
    of_bounds = text.startswith(("subscription lower", "could not find a valid timestamp"))
    return (state.startswith("22") and state != "22023" and not of_bounds) or re.search(_DATA, text) is not None


def _about_connecting(error: psycopg.Error, state: str, text: str) -> ReconcileError | None:
    """Translate errors of sessions that are refused or ended for reasons of their own."""
    if "authentication expired" in text:
        return Unavailable(f"Materialize ended the session: {text}", hint="the next run signs in again and continues")
    if "protocol version" in text:
        return UsageError(
            f"Materialize speaks version 3.0 of the protocol only: {text}",
            hint="remove max_protocol_version from materialize.url",
        )
    if not state and re.search(_MISUSED, text):
        return UsageError(f"materialize.url is not usable: {text}", hint="see libpq's connection parameters")
    if (not state or state.startswith("08")) and re.search(_TLS, text):
        return UsageError(f"TLS to Materialize fails: {text}", hint=_tls_hint(text))
    if state in _ACCESS_STATES or (not state and re.search(_REFUSED, text)):
        return AccessError(
            f"Materialize refused access: {text}",
            hint=error.diag.message_detail or "check user, password and database in the configuration",
        )
    return None


def _about_reading(error: psycopg.Error, state: str, text: str) -> ReconcileError:
    hint = error.diag.message_hint
    if "same timedomain" in text:
        return UsageError(
            "Materialize reads objects of different schemas at different times, so they cannot be compared",
            hint="create the companion view in the schema of the view",
        )
    if "fell behind" in text:
        return FellBehind(f"Materialize ended the subscription: {text}", hint="the next run continues")
    if "no replicas available" in text or "target replica failed" in text:
        return Unavailable(f"Materialize cannot run the query: {text}", hint=hint)
    if re.search(_DROPPED, text):
        return _dropped(text)
    if "exceeds max size" in text:
        return ResultTooLarge(
            f"Materialize refuses a result of this size: {text}",
            hint="raise max_query_result_size for this role, or max_result_size",
        )
    if text.startswith("unknown cluster"):
        return UsageError(
            f"Materialize refuses the query: {text}",
            hint="check `cluster` in the configuration; SHOW CLUSTERS lists the existing ones",
        )
    usage = re.search(_MISSING, text) or state.startswith((*_USAGE_CLASSES, "22"))
    if state not in _RETRY_STATES and usage:
        check = "check `sql` in the configuration"
        if re.search(_NO_COLUMN, text):
            check = (
                "check `sql`, or with `relation` what key, key_template, value and expires_at name, "
                "in the configuration"
            )
        elif "cannot materialize call" in text:
            check = "changes of such a query cannot be followed: compare with mz_now(), or use: reconcile snapshot"
        elif re.search(_NO_RELATION, text):
            check = "check `sql` or `relation` in the configuration; names fold to lower case unless in double quotes"
        return UsageError(f"Materialize refuses the query: {text}", hint=hint or check)
    if not state or state in _RETRY_STATES or isinstance(error, psycopg.OperationalError):
        return Unavailable(
            f"Materialize is not available: {text}", hint=hint or "is it running, and reachable from here?"
        )
    return ReconcileError(f"Materialize reports {state}: {_without_values(text)}", hint=hint)


def _dropped(text: str) -> Unavailable:
    return Unavailable(
        f"the view, or what it is read from, was dropped or replaced: {text}",
        hint="the next run looks the view up again",
    )


def _without_values(text: str) -> str:
    return re.sub(_VALUES, _left_out, text)


def _left_out(quoted: re.Match[str]) -> str:
    if quoted["type"] is not None:
        return f"{quoted['type']}: …"
    return "…" if quoted[0][0] in "\"'[" else ""


def _tls_hint(text: str) -> str:
    if "does not support SSL" in text:
        return "sslmode=prefer or disable where this server has no TLS; or another port"
    if "TLS encryption is required" in text:
        return "sslmode=require; better verify-full"
    if "alert" in text or "private key" in text:
        return "it seems to ask for a client certificate: sslcert and sslkey in materialize.url"
    if "does not match host name" in text:
        return "connect by a name that the server's certificate was made for"
    # psycopg's own OpenSSL does not know where this system keeps its authorities.
    return (
        "sslrootcert: a file with the authorities to trust (the system's own: /etc/ssl/certs/ca-certificates.crt, "
        "not `system`); or has the certificate expired?"
    )


def _first_line(error: psycopg.Error) -> str:
    text = error.diag.message_primary or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
