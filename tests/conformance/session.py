"""A client as bare as the recorder was: one PGconn, results in the recordings' own form."""

from __future__ import annotations

import contextlib
import select
import threading
from typing import Any

import psycopg
from psycopg import pq

_COPY_FORMATS = {0: "text", 1: "binary"}


class Client:
    """One connection."""

    def __init__(self, url: str, options: str = "", user: str | None = None) -> None:
        conninfo = f"{url}?options={_quoted(options)}" if options else url
        if user is not None:
            conninfo = conninfo.replace("//materialize@", f"//{user}@")
        self.notices: list[dict[str, str]] = []
        self.pgconn = pq.PGconn.connect(conninfo.encode())
        if self.pgconn.status != pq.ConnStatus.OK:
            raise ConnectionError(self.pgconn.error_message.decode())
        self.pgconn.notice_handler = lambda result: self.notices.append(_problem(result))

    def run(self, sql: str, cancel_after_s: float | None = None) -> list[dict[str, Any]]:
        """Run a text in the simple protocol; a CancelRequest may follow."""
        self.notices.clear()
        timer = None
        if cancel_after_s is not None:
            timer = threading.Timer(cancel_after_s, self.pgconn.get_cancel().cancel)
            timer.start()
        try:
            return self._results(sql)
        finally:
            if timer is not None:
                timer.cancel()
                timer.join()

    def _results(self, sql: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        self.pgconn.send_query(sql.encode())
        while (result := self._next_result()) is not None:
            status = result.status
            if status == pq.ExecStatus.COPY_OUT:
                found.append(self._copy(result))
            elif status == pq.ExecStatus.TUPLES_OK:
                found.append(_rows(result))
            elif status == pq.ExecStatus.FATAL_ERROR:
                problem = _problem(result)
                # Without a SQLSTATE it is libpq's own remark that the connection is gone.
                if "sqlstate" in problem:
                    found.append({"kind": "error", **problem})
            elif status == pq.ExecStatus.EMPTY_QUERY:
                found.append({"kind": "0"})
            else:
                found.append({"kind": "ok", "tag": (result.command_status or b"").decode()})
        if self.pgconn.status != pq.ConnStatus.OK:
            found.append({"kind": "connection_lost"})
        return found

    def _next_result(self) -> Any:
        while self.pgconn.is_busy():
            self._wait()
        return self.pgconn.get_result()

    def _wait(self) -> None:
        # libpq's own waiting would hold the interpreter's lock, and the timer that cancels could not run.
        select.select([self.pgconn.socket], [], [], 60)
        with contextlib.suppress(psycopg.OperationalError):
            self.pgconn.consume_input()

    def _copy(self, result: Any) -> dict[str, Any]:
        lines = []
        while True:
            size, data = self.pgconn.get_copy_data(1)
            if size < 0:
                break
            if size == 0:
                self._wait()
            else:
                lines.append(bytes(data).decode("utf-8", "backslashreplace"))
        return {
            "kind": "copy_out",
            "format": _COPY_FORMATS[result.binary_tuples],
            "columns": result.nfields,
            "lines": lines,
        }

    @property
    def transaction(self) -> str:
        """The transaction status, by the recordings' names."""
        if self.pgconn.status != pq.ConnStatus.OK:
            return "CONNECTION_BAD"
        return pq.TransactionStatus(self.pgconn.transaction_status).name

    def parameter(self, name: str) -> str | None:
        """A ParameterStatus."""
        value = self.pgconn.parameter_status(name.encode())
        return None if value is None else value.decode()

    def close(self) -> None:
        """Good-bye."""
        self.pgconn.finish()


def _quoted(options: str) -> str:
    return options.replace(" ", "%20").replace("=", "%3D")


def _rows(result: Any) -> dict[str, Any]:
    columns = [[result.fname(i).decode(), result.ftype(i)] for i in range(result.nfields)]
    rows = []
    for r in range(result.ntuples):
        values = [result.get_value(r, c) for c in range(result.nfields)]
        rows.append([None if v is None else bytes(v).decode() for v in values])
    return {"kind": "rows", "columns": columns, "rows": rows, "tag": result.command_status.decode()}


_FIELDS = {
    "severity": pq.DiagnosticField.SEVERITY,
    "sqlstate": pq.DiagnosticField.SQLSTATE,
    "message": pq.DiagnosticField.MESSAGE_PRIMARY,
    "detail": pq.DiagnosticField.MESSAGE_DETAIL,
    "hint": pq.DiagnosticField.MESSAGE_HINT,
    "position": pq.DiagnosticField.STATEMENT_POSITION,
}


def _problem(result: Any) -> dict[str, str]:
    fields = {name: result.error_field(code) for name, code in _FIELDS.items()}
    return {name: value.decode() for name, value in fields.items() if value is not None}
