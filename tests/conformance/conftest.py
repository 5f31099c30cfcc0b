"""One server for the module: the stand-in, or the Materialize the environment names."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from reconcile_standin import StandIn
from tests.support import environment

Row = tuple[object, ...]


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """Where to connect to."""
    given = environment.source_url()
    if given:
        yield given
        return
    with StandIn() as standin:
        yield standin.url


@pytest.fixture
def schema(url: str) -> Iterator[str]:
    """A url whose sessions live in a fresh schema."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("DROP SCHEMA IF EXISTS clients CASCADE")
        admin.execute("CREATE SCHEMA clients")
        yield f"{url}?options=--search_path%3Dclients%20--welcome_message%3Doff"
        admin.execute("DROP SCHEMA IF EXISTS clients CASCADE")


@pytest.fixture
def client(schema: str) -> Iterator[psycopg.Connection[Row]]:
    """A session with a table t and a materialized view v."""
    with psycopg.connect(schema, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (key text, value text)")
        connection.execute("INSERT INTO t VALUES ('a', '1'), ('b', '2')")
        connection.execute("CREATE MATERIALIZED VIEW v AS SELECT key, value FROM t")
        yield connection
