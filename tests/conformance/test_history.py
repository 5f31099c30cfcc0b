"""Whatever happened: the changes a SUBSCRIBE reports, added up to a time, are the content at that time."""

from __future__ import annotations

from collections import Counter

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.conftest import Row

KEYS = st.sampled_from(["a", "b", "c", "d"])
VALUES = st.sampled_from(["'1'", "'2'", "NULL"])
WRITES = st.one_of(
    st.builds("INSERT INTO h VALUES ('{}', {})".format, KEYS, VALUES),
    st.builds("INSERT INTO h VALUES ('{0}', {1}), ('{0}', {1})".format, KEYS, VALUES),
    st.builds("UPDATE h SET value = {1} WHERE key = '{0}'".format, KEYS, VALUES),
    st.builds("DELETE FROM h WHERE key = '{}'".format, KEYS),
    st.builds("BEGIN; INSERT INTO h VALUES ('{0}', {1}); INSERT INTO h VALUES ('{2}', {1}); COMMIT".format,
              KEYS, VALUES, KEYS),
)  # fmt: skip
QUERIES = (
    "SELECT key, value FROM hv",
    "SELECT 'p:' || key AS key, value FROM hv WHERE crc32(key) % 2::uint4 = 1",
    "SELECT key, count(*) AS n, max(value) AS value FROM hv GROUP BY key",
    "SELECT DISTINCT a.key FROM hv a JOIN hv b ON a.value = b.value",
    "SELECT crc32(key) % 2::uint4 AS bucket, count(*), sum(seahash(key || coalesce(value, ''))) FROM hv GROUP BY 1",
)


@pytest.fixture
def history(client: psycopg.Connection[Row]) -> psycopg.Connection[Row]:
    client.execute("CREATE TABLE h (key text, value text)")
    client.execute("CREATE MATERIALIZED VIEW hv WITH (RETAIN HISTORY FOR '1hr') AS SELECT key, value FROM h")
    return client


def _now(client: psycopg.Connection[Row]) -> int:
    client.execute("BEGIN")
    client.execute("SELECT key FROM hv")
    row = client.execute("SELECT mz_now()::text").fetchone()
    client.execute("COMMIT")
    assert row is not None
    return int(str(row[0]))


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(writes=st.lists(WRITES, min_size=1, max_size=8), query=st.sampled_from(QUERIES))
def test_changes_add_up(history: psycopg.Connection[Row], writes: list[str], query: str) -> None:
    history.execute("DELETE FROM h")
    start = _now(history)
    content = Counter(map(str, history.execute(f"{query} AS OF {start}").fetchall()))
    for sql in writes:
        history.execute(sql)
    end = _now(history)
    rows = history.execute(f"SUBSCRIBE ({query}) WITH (SNAPSHOT = false) AS OF {start} UP TO {end + 1}").fetchall()
    assert [r[0] for r in rows] == sorted(r[0] for r in rows)
    for time in sorted({int(str(row[0])) for row in rows} | {end}):
        known = content.copy()
        for row in rows:
            if int(str(row[0])) <= time:
                known[str(row[2:])] += int(str(row[1]))
        at = Counter(map(str, history.execute(f"{query} AS OF {time}").fetchall()))
        assert {k: n for k, n in known.items() if n} == dict(at)
