"""A maintained view of fingerprints says at any readable time what its query would say then, computed from the rows."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconcile_standin import StandIn
from tests.conformance.conftest import Row
from tests.support import environment

Client = psycopg.Connection[Row]
Content = dict[int | None, tuple[int, object]]

HASH = "seahash(length(q.key)::text || ':' || q.key || coalesce('=' || q.value, ''))"
SOURCES = (
    "SELECT key, value FROM hv",
    "SELECT 'p:' || key AS key, value FROM hv",
    "SELECT key, value FROM hv WHERE value IS NOT NULL AND key <> 'b'",
    "SELECT key, value FROM hv WHERE get_byte('\\x0001'::bytea, (crc32(key) % 2::uint4)::int4) = 1",
    "SELECT key, nullif(value, '1') AS value FROM hv WHERE crc32(key) % 3::uint4 = 0::uint4",
)
KEYS = st.sampled_from(["'a'", "'b'", "'c'", "'d'", "''", "NULL"])
VALUES = st.sampled_from(["'1'", "'2'", "''", "NULL"])
WRITES = st.one_of(
    st.builds("INSERT INTO h VALUES ({}, {})".format, KEYS, VALUES),
    st.builds("INSERT INTO h VALUES ({0}, {1}), ({0}, {1}), ('z', {1})".format, KEYS, VALUES),
    st.builds("INSERT INTO h SELECT 'n' || n::text, {} FROM generate_series(1, 150) AS n".format, VALUES),
    st.builds("UPDATE h SET value = {1} WHERE key = {0}".format, KEYS, VALUES),
    st.builds("UPDATE h SET key = key || 'x' WHERE value = {}".format, VALUES),
    st.builds("DELETE FROM h WHERE key = {}".format, KEYS),
    st.just("DELETE FROM h WHERE key LIKE 'n%'"),
    st.just("DELETE FROM h"),
)


def _query(source: str, buckets: int) -> str:
    return (
        f"SELECT crc32(q.key) % {buckets}::uint4 AS bucket, count(*) AS rows, sum({HASH}) AS fingerprint "
        f"FROM ({source}) AS q GROUP BY 1"
    )


def _companion(client: Client, name: str, query: str) -> None:
    client.execute(f"DROP VIEW IF EXISTS {name}")
    client.execute(f"CREATE VIEW {name} AS {query}")
    client.execute(f"CREATE INDEX {name}_by_bucket ON {name} (bucket)")


def _bucket(value: object) -> int | None:
    """A uint4, of which the client knows neither form."""
    if value is None:
        return None
    return int.from_bytes(value, "big") if isinstance(value, bytes) else int(str(value))


def _content(rows: list[Row]) -> Content:
    found = {_bucket(bucket): (int(str(count)), total) for bucket, count, total in rows}
    assert len(found) == len(rows), "a group came twice"
    return found


def _read(client: Client, sql: str, *, binary: bool = True) -> Content:
    with client.cursor(binary=binary) as cursor:
        return _content(cursor.execute(sql.encode()).fetchall())


def _summed(client: Client, source: str, buckets: int, at: str = "") -> Content:
    """Grouped here, from the rows."""
    rows = client.execute(f"SELECT crc32(q.key) % {buckets}::uint4, {HASH} FROM ({source}) AS q{at}").fetchall()
    groups: dict[int | None, list[int | None]] = defaultdict(list)
    for bucket, hashed in rows:
        groups[_bucket(bucket)].append(None if hashed is None else int(str(hashed)))
    known = {bucket: [h for h in hashes if h is not None] for bucket, hashes in groups.items()}
    return {b: (len(hashes), sum(known[b]) if known[b] else None) for b, hashes in groups.items()}


def _now(client: Client) -> int:
    client.execute("BEGIN")
    client.execute("SELECT count(*) FROM hv")
    row = client.execute("SELECT mz_now()::text").fetchone()
    client.execute("COMMIT")
    assert row is not None
    return int(str(row[0]))


@pytest.fixture
def history(client: Client) -> Client:
    client.execute("CREATE TABLE h (key text, value text)")
    client.execute("CREATE MATERIALIZED VIEW hv WITH (RETAIN HISTORY FOR '1hr') AS SELECT key, value FROM h")
    return client


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    writes=st.lists(WRITES, min_size=1, max_size=8),
    source=st.sampled_from(SOURCES),
    buckets=st.sampled_from([1, 2, 4, 64]),
    before=st.integers(0, 3),
)
def test_maintained_equals_computed_at_any_time(
    history: Client, writes: list[str], source: str, buckets: int, before: int
) -> None:
    history.execute("DELETE FROM h")
    for sql in writes[:before]:
        history.execute(sql)
    query = _query(source, buckets)
    _companion(history, "hd", query)
    history.execute("ALTER INDEX hd_by_bucket SET (RETAIN HISTORY FOR '1hr')")
    times = [_now(history)]
    for sql in writes[before:]:
        history.execute(sql)
        present = _read(history, "SELECT * FROM hd")
        assert present == _summed(history, source, buckets)
        times.append(_now(history))
    for t in times:
        maintained = _read(history, f"SELECT * FROM hd AS OF {t}")
        assert maintained == _read(history, f"{query} AS OF {t}")
        assert maintained == _read(history, f"SELECT * FROM hd AS OF {t}", binary=False)
        assert maintained == _summed(history, source, buckets, f" AS OF {t}")


@pytest.fixture
def churned(history: Client) -> Client:
    """A view of many groups, all of whose rows have been replaced."""
    _companion(history, "hd", _query(SOURCES[0], 1024))
    history.execute("INSERT INTO h SELECT 'k' || n::text, md5(n::text) FROM generate_series(1, 3000) AS n")
    history.execute("SELECT * FROM hd")
    history.execute("UPDATE h SET value = md5(value)")
    return history


def test_many_groups_in_every_format(churned: Client) -> None:
    expected = _summed(churned, SOURCES[0], 1024)
    assert len(expected) > 900
    assert _read(churned, "SELECT * FROM hd") == expected
    assert _read(churned, "SELECT * FROM hd", binary=False) == expected
    with churned.cursor().copy("COPY (SELECT * FROM hd) TO STDOUT") as copy:
        copy.set_types(["int8", "int8", "numeric"])
        assert _content(list(copy.rows())) == expected
    with churned.cursor() as cursor:
        chunks = list(cursor.stream("SELECT bucket, rows, fingerprint FROM hd", binary=True, size=100))
    assert _content(chunks) == expected
    ordered = churned.execute("SELECT bucket FROM hd ORDER BY bucket DESC").fetchall()
    assert [_bucket(row[0]) for row in ordered] == sorted((b for b in expected if b is not None), reverse=True)


def test_queries_over_the_companion(churned: Client) -> None:
    expected = _summed(churned, SOURCES[0], 1024)
    largest = max(b for b in expected if b is not None)
    assert churned.execute("SELECT max(bucket)::int8 FROM hd").fetchall() == [(largest,)]
    assert churned.execute("SELECT sum(rows) FROM hd").fetchall() == [(3000,)]
    found = churned.execute(f"SELECT fingerprint, rows FROM hd WHERE bucket = {largest}").fetchall()
    assert found == [expected[largest][::-1]]
    joined = churned.execute("SELECT count(*) FROM hd a JOIN hd b USING (bucket)").fetchall()
    assert joined == [(len(expected),)]


def test_a_group_without_rows_is_gone(history: Client) -> None:
    _companion(history, "hd", _query(SOURCES[0], 64))
    assert _read(history, "SELECT * FROM hd") == {}
    history.execute("INSERT INTO h VALUES ('a', '1'), ('b', '2'), (NULL, '3')")
    assert set(_read(history, "SELECT * FROM hd")) == {3, 57, None}
    history.execute("DELETE FROM h WHERE key = 'b'")
    history.execute("DELETE FROM h WHERE key IS NULL")
    assert set(_read(history, "SELECT * FROM hd")) == {3}
    history.execute("DELETE FROM h")
    assert _read(history, "SELECT * FROM hd") == {}
    assert history.execute("SELECT max(bucket) FROM hd").fetchall() == [(None,)]


def test_a_transaction_keeps_its_time(history: Client, schema: str) -> None:
    _companion(history, "hd", _query(SOURCES[0], 16))
    history.execute("INSERT INTO h SELECT 'k' || n::text, 'v' FROM generate_series(1, 200) AS n")
    with psycopg.connect(schema, autocommit=True) as other:
        history.execute("BEGIN")
        first = _read(history, "SELECT * FROM hd")
        other.execute("UPDATE h SET value = 'w'")
        other.execute("DELETE FROM h WHERE key LIKE '%1'")
        # Time enough for compaction, were it not held.
        time.sleep(4.5)
        other.execute("INSERT INTO h VALUES ('new', 'x')")
        assert _read(history, "SELECT * FROM hd") == first == _summed(history, SOURCES[0], 16)
        history.execute("COMMIT")
        assert _read(history, "SELECT * FROM hd") == _summed(history, SOURCES[0], 16) != first


def test_rows_that_are_compacted_away(client: Client) -> None:
    client.execute("CREATE TABLE h (key text, value text)")
    client.execute("CREATE MATERIALIZED VIEW hv AS SELECT key, value FROM h")
    _companion(client, "hd", _query(SOURCES[0], 16))
    for _ in range(3):
        client.execute("INSERT INTO h SELECT 'k' || n::text, 'v' FROM generate_series(1, 300) AS n")
        client.execute("DELETE FROM h WHERE key LIKE '%7' OR value = 'w'")
        client.execute("UPDATE h SET value = 'w' WHERE key LIKE 'k1%'")
        time.sleep(2)
        assert _read(client, "SELECT * FROM hd") == _summed(client, SOURCES[0], 16)


def test_an_error_counts_while_its_row_lives(history: Client) -> None:
    source = "SELECT key, (10 / value::int4)::text AS value FROM hv"
    _companion(history, "hd", _query(source, 16))
    history.execute("INSERT INTO h VALUES ('a', '1'), ('b', '2')")
    before = _read(history, "SELECT * FROM hd")
    history.execute("INSERT INTO h VALUES ('c', '0')")
    with pytest.raises(psycopg.Error, match="division by zero"):
        history.execute("SELECT * FROM hd")
    history.execute("DELETE FROM h WHERE key = 'c'")
    assert _read(history, "SELECT * FROM hd") == before == _summed(history, source, 16)


def test_a_materialized_view_is_maintained_too(history: Client) -> None:
    query = _query(SOURCES[0], 16)
    history.execute(f"CREATE MATERIALIZED VIEW hm WITH (RETAIN HISTORY FOR '1hr') AS {query}")
    times = []
    for n in range(5):
        history.execute(f"INSERT INTO h SELECT 'k' || n::text, '{n}' FROM generate_series(1, 20) AS n")
        history.execute(f"DELETE FROM h WHERE key LIKE '%{n}'")
        times.append(_now(history))
    for t in times:
        assert _read(history, f"SELECT * FROM hm AS OF {t}") == _read(history, f"{query} AS OF {t}")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    if environment.source_url() is not None:
        pytest.skip("restarts the stand-in")
    return tmp_path


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_restart(directory: Path, how: str) -> None:
    with contextlib.closing(_Restarted(directory)) as server:
        with server.connect() as client:
            client.execute("CREATE TABLE h (key text, value text)")
            client.execute("CREATE MATERIALIZED VIEW hv WITH (RETAIN HISTORY FOR '1hr') AS SELECT key, value FROM h")
            _companion(client, "hd", _query(SOURCES[0], 16))
            client.execute("INSERT INTO h SELECT 'k' || n::text, 'v' FROM generate_series(1, 500) AS n")
            client.execute("DELETE FROM h WHERE key LIKE '%5'")
            before = _read(client, "SELECT * FROM hd")
        server.restart(how)
        with server.connect() as client:
            assert _read(client, "SELECT * FROM hd") == before == _summed(client, SOURCES[0], 16)
            client.execute("UPDATE h SET value = 'w' WHERE key = 'k1'")
            after = _read(client, "SELECT * FROM hd")
            assert after == _summed(client, SOURCES[0], 16) != before


class _Restarted:
    def __init__(self, directory: Path) -> None:
        self._standin = StandIn(data_dir=str(directory))
        self._standin.start()

    def connect(self) -> Client:
        return psycopg.connect(self._standin.url, autocommit=True)

    def restart(self, how: str) -> None:
        getattr(self._standin, how)()
        self._standin.start()

    def close(self) -> None:
        self._standin.stop()
