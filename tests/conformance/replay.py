"""Replays a recording of a real Materialize against a server and compares every answer.

What may differ, and is therefore normalised:
* times and object ids, up to renaming (symbols.py);
* idle progress rows of SUBSCRIBE: how many come in two seconds, and which times they carry. Only the first row, the
  AS OF, is compared; of the others it is checked that they rise, that no data comes after them with an earlier time,
  and that there are some where some were recorded;
* the order of rows where no ORDER BY asks for one, and with it which row LIMIT 1 leaves;
* the counts in the tags of SUBSCRIBE and of its FETCH, which count progress rows: they must equal what came.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conformance.session import Client
from tests.conformance.symbols import Mismatch, Symbols

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.json"))

# (transcript, statement) -> why the stand-in need not answer it as recorded.
OUT_OF_SCOPE = {
    (
        "subscribe_bounds",
        "COPY (SUBSCRIBE (SELECT key, value FROM v) WITH (PROGRESS, SNAPSHOT=false) AS OF AT LEAST 0 UP TO <T6>) "
        "TO STDOUT",
    ): "a new materialized view is empty between its since and its first hydration, some milliseconds; here it is not",
    (
        "plan",
        "EXPLAIN TIMESTAMP AS JSON FOR SELECT key, value FROM p",
    ): "an index has not caught up some milliseconds after it was made; here it has at once",
    (
        "plan",
        "EXPLAIN TIMESTAMP AS JSON FOR SELECT * FROM (SELECT key, value FROM v) AS q",
    ): "it names thirty collections of the system catalog, which are no collections here",
    (
        "plan",
        "EXPLAIN OPTIMIZED PLAN AS JSON FOR SELECT 1 AS key, 2 AS value",
    ): "constant relations are told in the engine's SQL",
    (
        "plan",
        "EXPLAIN OPTIMIZED PLAN AS TEXT FOR SELECT * FROM (SELECT key, value FROM v) AS q",
    ): "a form for people; `reconcile` asks for JSON",
    (
        "catalog",
        "SELECT records, size FROM mz_introspection.mz_dataflow_arrangement_sizes WHERE name LIKE '%v_i%'",
    ): "there are no dataflows here whose arrangements could be measured",
    (
        "catalog",
        "SELECT o.name, h.hydrated FROM mz_internal.mz_hydration_statuses h JOIN mz_objects o ON h.object_id = o.id "
        "WHERE o.name IN ('v','v_i') ORDER BY 1",
    ): "the recorder's other schemas had views of that name too",
}

Derive = Callable[[dict[int, int]], int]


def _in_s(seconds: float) -> Derive:
    return lambda _times: int((time.time() + seconds) * 1000)


# Times the recorder computed instead of reading them: how.
_DERIVED: dict[tuple[str, int], Derive] = {
    ("subscribe", 11): lambda times: times[8] + 1,
    ("retain_history", 11): _in_s(4),
    ("subscribe_bounds", 6): lambda times: times[4] + 2,
    ("subscribe_bounds", 9): lambda times: times[7] + 2,
    ("subscribe_bounds", 14): _in_s(3),
    ("subscribe_bounds", 15): _in_s(3600),
}
# Objects of the recorder's earlier schemas that happened to have the same names.
_LEFTOVERS = {"retain_history": "u9"}
_FRESH = (
    "DROP SCHEMA IF EXISTS s CASCADE",
    "DROP SCHEMA IF EXISTS s2 CASCADE",
    "DROP SCHEMA IF EXISTS other CASCADE",
    "DROP ROLE IF EXISTS reader",
)
# The schema the recorder worked in, where it was not `s`.
_SCHEMAS = dict.fromkeys(("plan", "catalog", "mistakes"), "s2")
_OTHER_SESSION = re.compile(r"after (\d+) s another session runs (.*)")
_PROGRESS_ONLY = re.compile(r"SUBSCRIBE|FETCH", re.IGNORECASE)


class Replay:
    """One replay of one recording."""

    def __init__(self, path: Path, url: str) -> None:
        self.name = path.stem
        self.steps: list[dict[str, Any]] = json.loads(path.read_text())["steps"]
        self.symbols = Symbols()
        self.compared = 0
        self.problems: list[str] = []
        self.surprises: list[str] = []
        self._url = url
        self._schema = _SCHEMAS.get(self.name, "s")
        self._clients: dict[str, Client] = {}

    def run(self) -> Replay:
        """All steps, in a fresh schema."""
        admin = Client(self._url, "--welcome_message=off")
        for sql in (*_FRESH, f"CREATE SCHEMA {self._schema}"):
            admin.run(sql)
        try:
            for number, step in enumerate(self.steps, 1):
                self._step(number, step)
            self._guard("the order of times", self.symbols.check_order)
        finally:
            for client in (admin, *self._clients.values()):
                client.close()
        return self

    def _guard(self, what: str, check: Callable[[], None]) -> bool:
        try:
            check()
        except Mismatch as problem:
            self.problems.append(f"{what}: {problem}")
            return False
        return True

    def _step(self, number: int, step: dict[str, Any]) -> None:
        if "sleep_s" in step:
            time.sleep(step["sleep_s"])
        elif "connect" in step:
            self._guard(f"step {number}, connect", lambda: self._connect(step))
        else:
            key = (self.name, step["sql"])
            before = len(self.problems)
            self._guard(f"step {number}, {step['sql']}", lambda: self._statement(step))
            self.compared += 1
            if key in OUT_OF_SCOPE:
                if len(self.problems) == before:
                    self.surprises.append(f"out of scope, but works: {step['sql']}")
                del self.problems[before:]

    def _connect(self, step: dict[str, Any]) -> None:
        options = step["connect"].removeprefix("options: ")
        client = Client(self._url, "" if options == "no options" else options)
        self._clients[step["conn"]] = client
        for name, value in step.get("parameter_status", {}).items():
            self.symbols.match(value, client.parameter(name))

    def _client(self, name: str) -> Client:
        if name not in self._clients:
            user = "reader" if name == "r" else None
            self._clients[name] = Client(self._url, f"--welcome_message=off --search_path={self._schema}", user)
        return self._clients[name]

    def _statement(self, step: dict[str, Any]) -> None:
        client = self._client(step["conn"])
        for number in self.symbols.unbound(step["sql"]):
            self.symbols.times[number] = _DERIVED[self.name, number](self.symbols.times)
        other = self._other_session(step.get("note", ""))
        cancel = 2 if "blocked" in step else step.get("cancelled_after_s")
        results = client.run(self.symbols.text(step["sql"]), cancel)
        if other is not None:
            other.join()
        recorded = step["result"]
        if [r["kind"] for r in recorded] != [r["kind"] for r in results]:
            raise Mismatch(f"recorded {recorded}, got {results}")
        for a, b in zip(recorded, results, strict=True):
            self._result(step["sql"], a, b)
        notices = step.get("notices", [])
        if len(notices) != len(client.notices):
            raise Mismatch(f"notices {client.notices}, recorded {notices}")
        for a, b in zip(notices, client.notices, strict=True):
            self._problem(a, b)
        if step["txn"] != client.transaction:
            raise Mismatch(f"transaction status {client.transaction}, recorded {step['txn']}")

    def _other_session(self, note: str) -> threading.Timer | None:
        found = _OTHER_SESSION.search(note)
        if found is None:
            return None

        def run() -> None:
            client = Client(self._url, f"--welcome_message=off --search_path={self._schema}")
            client.run(found[2])
            client.close()

        timer = threading.Timer(float(found[1]), run)
        timer.start()
        return timer

    def _result(self, sql: str, recorded: dict[str, Any], actual: dict[str, Any]) -> None:
        kind = recorded["kind"]
        if kind == "error":
            self._problem(recorded, actual)
        elif kind == "rows":
            if recorded["columns"] != actual["columns"]:
                raise Mismatch(f"columns {actual['columns']}, recorded {recorded['columns']}")
            self._rows(sql, recorded["rows"], actual["rows"], [name for name, _ in recorded["columns"]])
            self._tag(sql, recorded["tag"], actual["tag"], len(actual["rows"]))
        elif kind == "copy_out":
            for field in ("format", "columns"):
                if recorded[field] != actual[field]:
                    raise Mismatch(f"{field} {actual[field]}, recorded {recorded[field]}")
            lines = actual["lines"]
            if recorded["count"] > len(recorded["lines"]):  # of long answers only the beginning was kept
                lines = lines[: len(recorded["lines"])]
            rows = [[[line] for line in side] for side in (recorded["lines"], lines)]
            if _PROGRESS_ONLY.search(sql):
                rows = [[row[0].rstrip("\n").split("\t") for row in side] for side in rows]
            names = ["mz_timestamp", "mz_progressed"] if "PROGRESS" in sql else ["mz_timestamp"]
            self._rows(sql, rows[0], rows[1], names if _PROGRESS_ONLY.search(sql) else [])
        elif kind == "ok" and not (_PROGRESS_ONLY.search(sql) and recorded["tag"].startswith("COPY")):
            self.symbols.match(recorded["tag"], actual["tag"])

    def _problem(self, recorded: dict[str, Any], actual: dict[str, Any]) -> None:
        for field in ("severity", "sqlstate", "message", "detail", "hint", "position"):
            self.symbols.match(recorded.get(field), actual.get(field), frontier=True)

    def _tag(self, sql: str, recorded: str, actual: str, count: int) -> None:
        if _PROGRESS_ONLY.search(sql) or self.name in _LEFTOVERS:
            recorded = f"{recorded.split()[0]} {count}"
        self.symbols.match(recorded, actual)

    def _rows(self, sql: str, recorded: list[Any], actual: list[Any], names: list[str]) -> None:
        recorded = [row for row in recorded if row[0] is None or row[0] != _LEFTOVERS.get(self.name)]
        if "mz_progressed" in names:
            recorded, actual = self._without_idle(recorded, actual, names.index("mz_progressed"))
        elif "ORDER BY" not in sql and "mz_timestamp" not in names:
            recorded, actual = (sorted(rows, key=str) for rows in (recorded, actual))
        if len(recorded) != len(actual):
            raise Mismatch(f"recorded {recorded}, got {actual}")
        if "LIMIT 1" in sql and "ORDER BY" not in sql:
            return
        frontier = "EXPLAIN" in sql or "mz_frontiers" in sql
        for a_row, b_row in zip(recorded, actual, strict=True):
            if len(a_row) != len(b_row):
                raise Mismatch(f"recorded {a_row}, got {b_row}")
            for a, b in zip(a_row, b_row, strict=True):
                self.symbols.match(a, b, frontier=frontier)

    def _without_idle(self, recorded: list[Any], actual: list[Any], at: int) -> tuple[list[Any], list[Any]]:
        known = -1
        for row in actual:
            stamp, progress = int(row[0]), row[at] == "t"
            if stamp < known or (progress and stamp == known):
                raise Mismatch(f"row {row} after progress {known}")
            known = stamp if progress else known
        # The first row of a subscription is the progress row of its AS OF; a later FETCH has none of these.
        kept = []
        counts = []
        for rows in (recorded, actual):
            first = [rows[0]] if (rows and any(row[at] == "f" for row in rows)) or len(recorded) == 1 else []
            rest = [row for row in rows[len(first) :] if row[at] == "f"]
            kept.append(first + rest)
            counts.append(len(rows) - len(kept[-1]))
        if (counts[0] > 0) > (counts[1] > 0):
            raise Mismatch(f"no progress came in {actual}, recorded {recorded}")
        return kept[0], kept[1]
