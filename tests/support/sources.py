"""The source of every e2e test: a real Materialize when one is named, else the stand-in."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from reconcile.core.decide import Frontiers
from reconcile.source.frontiers import parse_explanation
from reconcile_standin import StandIn

OBLIVION_S = 60


@dataclass
class Source:
    """One schema with table t and view v. `url` reaches it by search_path, so `sql` needs no qualified names."""

    url: str
    schema: str
    connection: psycopg.Connection[Any]
    is_standin: bool

    @property
    def relation(self) -> str:
        """The view's qualified name."""
        return f"{self.schema}.v"

    @property
    def sql(self) -> str:
        """The query to configure."""
        return f"SELECT key, value FROM {self.relation}"

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement in the schema; rows if it has any."""
        cursor = self.connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []

    def content(self) -> dict[bytes, bytes]:
        """What the view holds now, as Redis should: NULL values left out."""
        rows = self.execute("SELECT key::text, value::text FROM v WHERE value IS NOT NULL")
        return {key.encode(): value.encode() for key, value in rows}

    def rows(self) -> int:
        """How many rows the view has now."""
        ((count,),) = self.execute("SELECT count(*) FROM v")
        return int(count)

    def put(self, **rows: str | None) -> None:
        """Insert or update rows of t, one statement a row."""
        for key, value in rows.items():
            shown = "NULL" if value is None else sql.Literal(value).as_string()
            self.execute(f"DELETE FROM t WHERE key = {sql.Literal(key).as_string()}")
            self.execute(f"INSERT INTO t VALUES ({sql.Literal(key).as_string()}, {shown})")

    def retain_history(self) -> None:
        """Let the view remember an hour."""
        self.execute("ALTER MATERIALIZED VIEW v SET (RETAIN HISTORY FOR '1hr')")

    def forget_history(self) -> None:
        """Let the view remember a second, and wait until the past is gone."""
        self.execute("ALTER MATERIALIZED VIEW v RESET (RETAIN HISTORY)")
        self.await_oblivion()

    def present(self, relation: str = "v") -> int:
        """The time that a read would be of now."""
        return self._frontiers(relation).now

    def await_oblivion(self, relation: str = "v") -> None:
        """Wait until it no longer knows what it holds now: a second, and what compaction takes to come round."""
        present = self.present(relation)
        until = time.monotonic() + OBLIVION_S
        while self._frontiers(relation).since <= present:
            assert time.monotonic() < until, f"{relation} still remembers"
            time.sleep(0.1)

    def _frontiers(self, relation: str) -> Frontiers:
        ((text,),) = self.execute(f"EXPLAIN TIMESTAMP AS JSON FOR SELECT * FROM {relation}")
        return parse_explanation(text).frontiers


@dataclass
class SourceServer:
    """Where sources are made."""

    url: str
    standin: StandIn | None

    @contextlib.contextmanager
    def new_source(self) -> Iterator[Source]:
        """A schema with table t (key text, value text) and materialized view v over it, dropped at the end."""
        schema = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url, autocommit=True, prepare_threshold=None) as connection:
            connection.execute(f"CREATE SCHEMA {schema}".encode())
            connection.execute(f"SET search_path = {schema}".encode())
            connection.execute("CREATE TABLE t (key text, value text)")
            connection.execute("CREATE MATERIALIZED VIEW v AS SELECT key, value FROM t")
            try:
                yield Source(self.url, schema, connection, self.standin is not None)
            finally:
                with contextlib.suppress(psycopg.Error), psycopg.connect(self.url, autocommit=True) as last:
                    last.execute(f"DROP SCHEMA {schema} CASCADE".encode())


@contextlib.contextmanager
def start_source(url: str | None) -> Iterator[SourceServer]:
    """The Materialize at `url`, or a stand-in."""
    if url:
        conninfo_to_dict(url)
        yield SourceServer(url, None)
        return
    with StandIn(port=0) as standin:
        yield SourceServer(standin.url, standin)
