"""A connection to SQLite that knows Materialize's functions and speaks in SqlErrors."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import weakref
from typing import TYPE_CHECKING, Any

from reconcile_standin.aggregates import AGGREGATES, collate_decimal
from reconcile_standin.builtins import FUNCTIONS
from reconcile_standin.problem import EVALUATION, SqlError, canceled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ALIVE = 2**63 - 1
# sqlite3 gives up the interpreter's lock for each row. Threads that read at once would hand it to and fro, which takes
# many times as long as reading in turn, some rows each.
_TURN = threading.Lock()
_TURN_S = 0.05
Row = tuple[Any, ...]


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """Read while no other thread does, unless one of them takes long."""
    taken = _TURN.acquire(timeout=_TURN_S)
    try:
        yield
    finally:
        if taken:
            _TURN.release()


class Engine:
    """One SQLite connection, used by one thread at a time."""

    def __init__(self, path: str, *, writer: bool = False) -> None:
        self._problem: SqlError | None = None
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
        self.connection.execute("PRAGMA journal_mode=WAL")
        # A killed process loses nothing without it; only a machine that loses power might.
        self.connection.execute("PRAGMA synchronous=OFF")
        self.connection.execute("PRAGMA cache_size=-32000")
        self.connection.execute("PRAGMA mmap_size=4294967296")
        self.connection.execute("PRAGMA busy_timeout=60000")
        if not writer:
            # Text is sent as it is stored: decoding and encoding it again would double the cost of a read.
            self.connection.text_factory = bytes
            self.connection.execute("PRAGMA query_only=ON")
        for name, (count, function) in FUNCTIONS.items():
            self.connection.create_function(name, count, self._guarded(function), deterministic=True)
        for name, (count, aggregate) in AGGREGATES.items():
            self.connection.create_aggregate(name, count, aggregate)
        self.connection.create_collation("mz_decimal", collate_decimal)

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        known = weakref.ref(self)  # what a connection calls is not seen by the collector: it would keep both for ever

        def failed(problem: SqlError) -> None:
            engine = known()
            if engine is not None:
                engine._problem = problem

        def call(*args: Any) -> Any:
            try:
                return function(*args)
            except SqlError as problem:
                evaluation = problem.message.startswith(EVALUATION) or problem.code != "XX000"
                failed(problem if evaluation else SqlError.evaluation(problem.message))
                raise
            except (ArithmeticError, ValueError, TypeError, KeyError) as problem:
                failed(SqlError.evaluation(str(problem)))
                raise

        return call

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        self._problem = None
        try:
            yield
        except sqlite3.Error as error:
            if self._problem is not None:
                raise self._problem from None
            if "interrupted" in str(error):
                raise canceled() from None
            raise SqlError(f"the stand-in's engine: {error}") from error

    def execute(self, sql: str, binds: Mapping[str, Any] | tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Run a statement."""
        with self._errors():
            return self.connection.execute(sql, binds)

    def all(self, sql: str, binds: Mapping[str, Any] | tuple[Any, ...] = ()) -> list[Row]:
        """All rows of a query."""
        with self._errors():
            return self.connection.execute(sql, binds).fetchall()

    def chunks(
        self, sql: str, binds: Mapping[str, Any] | tuple[Any, ...] = (), size: int = 1000
    ) -> Iterator[list[Row]]:
        """The rows of a query, some at a time."""
        cursor = self.execute(sql, binds)
        try:
            while True:
                with self._errors(), _turn():
                    rows = cursor.fetchmany(size)
                if not rows:
                    return
                yield rows
        finally:
            cursor.close()

    def interrupt(self) -> None:
        """Make the running statement fail; from any thread."""
        self.connection.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()
