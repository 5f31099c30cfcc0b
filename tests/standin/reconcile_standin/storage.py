"""Tables with a history: each row knows when it was born and when it died."""

from __future__ import annotations

import gc
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from reconcile_standin import types
from reconcile_standin.catalog import Catalog, Item
from reconcile_standin.clock import Clock
from reconcile_standin.columns import Columns
from reconcile_standin.engine import ALIVE, Engine

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from reconcile_standin.engine import Row

_FILE = "standin.sqlite3"
_COMPACT_ROWS = 100_000
# Under writer after writer the ticker hardly ever gets the lock: then a writer has to do it.
_COMPACT_AT_LEAST_EVERY_S = 1.0


def table_name(item: Item) -> str:
    """The engine's table of a table."""
    return f"d{item.number}"


class Store:
    """The data directory: one SQLite file, one writer, any number of readers."""

    def __init__(self, directory: str) -> None:
        os.makedirs(directory, exist_ok=True)
        self.path = os.path.join(directory, _FILE)
        self.lock = threading.RLock()
        # Not the lock of writers: a long INSERT must not keep others from reading.
        self._times = threading.Lock()
        self._opening = threading.Lock()
        self.writer = Engine(self.path, writer=True)
        self.writer.execute("CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT)")
        self.writer.execute("CREATE TABLE IF NOT EXISTS commits(ts INTEGER, number INTEGER)")
        self.writer.execute("CREATE INDEX IF NOT EXISTS commits_ts ON commits(ts)")
        self.writer.execute("CREATE TEMP TABLE hits(rid INTEGER PRIMARY KEY)")
        saved: dict[str, str] = dict(self.writer.all("SELECT key, value FROM meta"))
        self.catalog = Catalog.from_json(saved["catalog"]) if "catalog" in saved else Catalog()
        latest = self.writer.all("SELECT max(ts) FROM commits")[0][0] or 0
        self.clock = Clock(max(int(saved.get("read_ts", 0)), latest) + 1)
        self._columns: dict[str, Columns] = {}
        self._compacted_at = time.monotonic()
        self.sessions: dict[int, str] = {}
        """Those of clients: process id → role."""
        for item in self.catalog.items.values():
            # History of indexes is not durable: theirs starts again.
            if item.kind == "index":
                item.since = max(item.since, self.clock.read_ts)

    def reader(self) -> Engine:
        """A connection for reading."""
        return Engine(self.path)

    def columns(self, item: Item) -> Columns:
        """The table's vectors."""
        with self._opening:
            if item.id not in self._columns:
                self._columns[item.id] = Columns(table_name(item), self.reader())
            return self._columns[item.id]

    def save_catalog(self) -> None:
        """Make the catalog durable; the caller holds the lock."""
        self.catalog.version += 1
        values = (("catalog", self.catalog.to_json()), ("read_ts", str(self.clock.read_ts)))
        self.writer.connection.executemany("INSERT OR REPLACE INTO meta VALUES (?,?)", values)

    def create_table(self, item: Item) -> None:
        """Storage for a new table."""
        columns = ", ".join(f"c{i} {types.named(kind).affinity}" for i, (_, kind) in enumerate(item.columns))
        name = table_name(item)
        self.writer.execute(
            f"CREATE TABLE {name}(rid INTEGER PRIMARY KEY, born INTEGER NOT NULL, died INTEGER NOT NULL, {columns})"
        )
        self.writer.execute(f"CREATE INDEX {name}_born ON {name}(born)")
        self.writer.execute(f"CREATE INDEX {name}_died ON {name}(died) WHERE died < {ALIVE}")

    def drop_table(self, item: Item) -> None:
        """Forget a table's rows."""
        self.writer.execute(f"DROP TABLE IF EXISTS {table_name(item)}")
        if self._columns.pop(item.id, None) is not None:
            gc.collect()  # they lie in cycles, with two open files, and the collector hardly ever comes (foreground.py)

    def commit(self, work: Callable[[int], Iterable[Item]]) -> int:
        """Do some writing at one new time; `work` gets the time and gives the tables it changed."""
        with self.lock:
            ts = self.clock.next_write()
            self.writer.execute("BEGIN IMMEDIATE")
            try:
                changed = {item.number for item in work(ts)}
                for number in changed:
                    self.writer.execute("INSERT INTO commits VALUES (?,?)", (ts, number))
                self.writer.execute("COMMIT")
            except BaseException:
                self.writer.execute("ROLLBACK")
                raise
            self.clock.publish(ts, changed)
            if time.monotonic() > self._compacted_at + _COMPACT_AT_LEAST_EVERY_S:
                self.compact()
            return ts

    def insert_query(self, item: Item, sql: str, binds: Mapping[str, Any], ts: int) -> int:
        """Insert the rows of an engine query; gives their number."""
        names = ", ".join(f"c{i}" for i in range(len(item.columns)))
        into = f"INSERT INTO {table_name(item)}(born, died, {names})"
        cursor = self.writer.execute(f"{into} SELECT {ts}, {ALIVE}, {names} FROM ({sql})", binds)
        return cursor.rowcount

    def insert_rows(self, item: Item, rows: list[Row], ts: int) -> None:
        """Insert rows at hand."""
        marks = ",".join("?" * len(item.columns))
        names = ", ".join(f"c{i}" for i in range(len(item.columns)))
        self.writer.connection.executemany(
            f"INSERT INTO {table_name(item)}(born, died, {names}) VALUES ({ts}, {ALIVE}, {marks})", rows
        )

    def delete(self, item: Item, alias: str, where: str, ts: int) -> int:
        """End the life of the rows that satisfy a condition and were there before ts."""
        self.writer.execute("DELETE FROM temp.hits")
        self.writer.execute(
            f"INSERT INTO temp.hits SELECT {alias}.rid FROM {table_name(item)} AS {alias} "
            f"WHERE {alias}.died={ALIVE} AND +{alias}.born<=:t AND ({where})",
            {"t": ts - 1},
        )
        hits = "SELECT rid FROM temp.hits"
        sql = f"UPDATE {table_name(item)} SET died=? WHERE rid IN ({hits})"
        return self.writer.execute(sql, (ts,)).rowcount

    def update(self, item: Item, alias: str, exprs: list[str], where: str, ts: int) -> int:
        """Replace the rows that satisfy a condition by what the expressions make of them."""
        count = self.delete(item, alias, where, ts)
        names = ", ".join(f"c{i}" for i in range(len(item.columns)))
        self.writer.execute(
            f"INSERT INTO {table_name(item)}(born, died, {names}) SELECT :t + 1, {ALIVE}, {', '.join(exprs)} "
            f"FROM temp.hits CROSS JOIN {table_name(item)} AS {alias} ON {alias}.rid = hits.rid",
            {"t": ts - 1},
        )
        return count

    def index_column(self, item: Item, position: int) -> None:
        """Rows are looked up by a column: real Materialize finds them by its indexes."""
        name = table_name(item)
        with self.lock:
            self.writer.execute(f"CREATE INDEX IF NOT EXISTS {name}_c{position} ON {name}(c{position})")

    def upper(self, items: Iterable[Item]) -> int:
        """The frontier up to which all of these are complete."""
        stalled = [self.catalog.stalled.get(i.cluster) for i in items if i.kind in ("materialized-view", "index")]
        return min([self.clock.upper, *(at for at in stalled if at is not None)])

    def since(self, item: Item) -> int:
        """The earliest readable time of a stored item; only ever grows."""
        return self.sinces([item])[0]

    def sinces(self, items: Collection[Item]) -> list[int]:
        """The same of many, at once."""
        with self._times:
            upper, held = self.clock.upper, self.clock.held()
            for item in items:
                bound = (min(upper, self.upper([item])) - item.window_ms) // 1000 * 1000
                item.since = max(item.since, bound if held is None else min(bound, held))
            return [item.since for item in items]

    def readable(self, item: Item) -> int:
        """The earliest time at which a view that is stored or indexed can be read from what is maintained."""
        kept = [item] * item.stored + self.catalog.indexes(item)
        return min(self.sinces(kept), default=self.clock.read_ts)

    def needed(self, table: Item) -> int:
        """The earliest time at which anybody may still read a table's rows."""
        return min(self.sinces(self.catalog.readers(table)))

    def compact(self) -> None:
        """Drop rows nobody can see any more, a bounded number at a time."""
        with self.lock:
            self._compacted_at = time.monotonic()
            tables = [i for i in list(self.catalog.items.values()) if i.kind == "table"]
            needed = {item.id: self.needed(item) for item in tables}
            for item in tables:
                self._compact_table(item, needed[item.id])
            if tables:
                oldest = min(needed.values())
                # The last one stays: the clock must not start before it.
                self.writer.execute(
                    "DELETE FROM commits WHERE ts < ? AND ts < (SELECT max(ts) FROM commits)", (oldest,)
                )

    def _compact_table(self, item: Item, bound: int) -> None:
        name = table_name(item)
        dead = f"SELECT rid FROM {name} WHERE died < {ALIVE} AND died <= ? LIMIT {_COMPACT_ROWS}"
        found = self.writer.all(dead, (bound,))
        if not found:
            return
        columns = self._columns.get(item.id)
        if columns is not None:
            columns.refresh(self.clock.read_ts)
        self.writer.execute(f"DELETE FROM {name} WHERE rid IN ({dead})", (bound,))
        if columns is not None:
            columns.prune(np.array(found, dtype=np.int64)[:, 0])

    def close(self) -> None:
        """Close the file; what was committed is in it."""
        with self.lock:
            self.save_catalog()
            self.writer.close()
