"""A source that is changed step by step, and runs of every kind in between."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from hypothesis import currently_in_test_context, note

from reconcile.report.run_report import ViewReport
from tests.faults.io_calls import Io, forgetful, one_time_a_read
from tests.faults.scene import Scene
from tests.support.redis_servers import RedisServer
from tests.support.sources import SourceServer

FILLED_ROWS = 240
TALLY: Counter[str] = Counter()
"""What was tried, for who wants to know how much that is."""
MODES = (
    "run", "snapshot", "delta", "deep", "follow", "run forgetful", "snapshot forgetful", "delta time by time",
    "run time by time", "delta in slices", "run in small batches", "delta in small batches", "earlier",
)  # fmt: skip
FOLLOWED_TOO_SHORTLY = (4, "follow")
"""`--for` was over before the present was reached; what was committed is right."""


def text(value: str | None) -> str:
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"


class History:
    """A source that is changed step by step, its true rows, and runs in between."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.rows: dict[str, str | None] = {}
        self.twice: dict[str, str] = {}
        """Keys with a second row, and its value."""
        self.twice_since_checkpoint = False
        scene.source.retain_history()

    def put(self, key: str, value: str | None) -> None:
        """An update, or an insert."""
        if key in self.rows:
            self.scene.write(f"UPDATE t SET value = {text(value)} WHERE key = '{key}'")
            self.twice.pop(key, None)  # both rows are equal now: still twice
            self.scene.write(f"DELETE FROM t WHERE key = '{key}'")
        self.scene.write(f"INSERT INTO t VALUES ('{key}', {text(value)})")
        self.rows[key] = value

    def delete(self, key: str) -> None:
        self.scene.write(f"DELETE FROM t WHERE key = '{key}'")
        self.rows.pop(key, None)
        self.twice.pop(key, None)

    def reinsert(self, key: str) -> None:
        """The same row goes and comes back."""
        if key in self.rows and key not in self.twice:
            value = self.rows[key]
            self.delete(key)
            self.put(key, value)

    def move(self, old: str, new: str) -> None:
        if old in self.rows and new not in self.rows and old not in self.twice:
            self.scene.write(f"UPDATE t SET key = '{new}' WHERE key = '{old}'")
            self.rows[new] = self.rows.pop(old)

    def double(self, key: str) -> None:
        """A second row for a key."""
        if self.rows.get(key) is not None and key not in self.twice:
            self.scene.write(f"INSERT INTO t VALUES ('{key}', 'second')")
            self.twice[key] = "second"
            self.twice_since_checkpoint = True

    def single(self) -> None:
        """No key has two rows any more."""
        for key, value in self.twice.items():
            self.scene.write(f"DELETE FROM t WHERE key = '{key}' AND value = '{value}'")
        self.twice.clear()

    def bulk(self, count: int) -> None:
        """Many changes at one time."""
        self.scene.write("DELETE FROM t WHERE key LIKE 'bulk%'")
        self.rows = {key: value for key, value in self.rows.items() if not key.startswith("bulk")}
        if count:
            many = f"SELECT 'bulk' || n, 'x{len(self.rows)} ' || n FROM generate_series(1, {count}) AS n"
            self.scene.write(f"INSERT INTO t {many}")
            self.rows |= dict.fromkeys((f"bulk{n}" for n in range(1, count + 1)), "")

    def idle(self) -> None:
        """Time passes at the source, and nothing changes."""
        self.scene.write("INSERT INTO elsewhere VALUES (1)")

    def run(self, mode: str) -> ViewReport:
        """A run of some kind."""
        TALLY["runs"] += 1
        scene = self.scene
        name, _, how = mode.partition(" ")
        options: dict[str, Any] = {"allow_deletes": True}
        if name == "deep":
            name, options["deep"] = "snapshot", True
        elif name == "follow":
            name, options["follow_s"] = "run", 0.03
        elif name == "earlier":
            name = "snapshot"
            state = scene.see().state
            options["as_of"] = int(state["as_of"]) if state.get("as_of") else None
        scene.memory_max_bytes = 900 if how == "in slices" else 1 << 25
        scene.batch_max_keys = 2 if how == "in small batches" else 50_000
        around: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if how == "forgetful":
            around = forgetful()
        elif how == "time by time":
            around = one_time_a_read()
        io = Io(scene.look)
        with around, io.installed():
            report = scene.execute(name, **options)
        if io.failure is not None:
            raise io.failure
        if currently_in_test_context():
            note(f"{mode}: exit {report.exit_code} {report.action} {report.reason} {report.error}")
        return report

    def judge(self, mode: str, report: ViewReport) -> None:
        """What a run may come to when nobody else writes."""
        assert report.exit_code in (0, 5, 8) or (report.exit_code, mode) == FOLLOWED_TOO_SHORTLY, report.error
        if report.exit_code in (0, 4):
            self.scene.check()
            self.twice_since_checkpoint = bool(self.twice)
        elif report.exit_code == 5:
            assert self.twice or (mode.startswith("delta") and self.twice_since_checkpoint), report.error
        else:
            assert mode.startswith("delta"), report.error
            state = self.scene.see().state
            assert not state.get("as_of"), report.error
        self.scene.look()


@contextlib.contextmanager
def new_history(source_server: SourceServer, server: RedisServer, prefix: bytes = b"p:") -> Iterator[History]:
    server.client().flushall()
    with source_server.new_source() as source:
        source.execute("CREATE TABLE elsewhere (n int)")
        yield History(Scene(source, server, prefix=prefix, buckets=16))
