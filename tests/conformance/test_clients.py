"""Clients as people use them: psql, psycopg 3, and the way mz-redis-sync talks."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from reconcile_standin import StandIn
from tests.conformance.conftest import Row
from tests.support import environment

standin_only = pytest.mark.skipif(environment.source_url() is not None, reason="starts and stops the server")
HASH = "seahash(length(q.key::text)::text || ':' || q.key::text || coalesce('=' || q.value::text, ''))"


def _psql(url: str, text: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("psql") is None:
        pytest.skip("psql is not on the PATH")
    return subprocess.run(["psql", url, "-qAtX", "-F|"], input=text, capture_output=True, text=True, timeout=30)


def test_psql(client: psycopg.Connection[Row], schema: str) -> None:
    done = _psql(schema, "SELECT key, value FROM v ORDER BY key;\nSELECT nosuch FROM v;\nCOPY (SELECT 1) TO STDOUT;\n")
    assert done.stdout == "a|1\nb|2\n1\n"
    assert 'column "nosuch" does not exist' in done.stderr


def test_the_way_mz_redis_sync_talks(client: psycopg.Connection[Row]) -> None:
    described = client.execute("SELECT * FROM (SELECT key, value FROM v) WHERE FALSE LIMIT 0")
    assert [c.name for c in described.description or ()] == ["key", "value"]
    client.execute("BEGIN")
    client.execute(
        "DECLARE c CURSOR FOR SUBSCRIBE (SELECT key, value FROM v) WITH (SNAPSHOT, PROGRESS) "
        "ENVELOPE UPSERT (KEY (key))"
    )
    seen: list[tuple[object, ...]] = []
    while len([s for s in seen if s[0] is not None]) < 2:
        seen += [row[2:] for row in client.execute("FETCH 100 c").fetchall()]
    assert [s for s in seen if s[0] is not None] == [("upsert", "a", "1"), ("upsert", "b", "2")]
    client.execute("ROLLBACK")


def test_prepared_statements_parameters_and_binary_results(client: psycopg.Connection[Row]) -> None:
    for number in range(3):
        cursor = client.cursor(binary=True)
        cursor.execute("SELECT key, %s::int4 + 1, 1.50, NULL::bool FROM v WHERE key = %s", (number, "a"), prepare=True)
        row = cursor.fetchone()
        assert row is not None
        assert (*row[:2], float(row[2]), row[3]) == ("a", number + 1, 1.5, None)


def test_cancel(client: psycopg.Connection[Row]) -> None:
    with client.cursor().copy("COPY (SUBSCRIBE v) TO STDOUT") as copy:
        rows = iter(copy)
        next(rows), next(rows)  # the view: from here on it waits
        client.cancel()
        with pytest.raises(errors.QueryCanceled):
            next(rows)
    assert client.execute("SELECT 1").fetchone() == (1,)


def test_idle_transaction_is_ended(client: psycopg.Connection[Row]) -> None:
    client.execute("SET idle_in_transaction_session_timeout = '300ms'")
    client.execute("BEGIN")

    def read_twice() -> None:
        """On a machine that stalls the first may be too late already."""
        client.execute("SELECT key FROM v")
        time.sleep(1)
        client.execute("SELECT key FROM v")

    with pytest.raises(errors.IdleInTransactionSessionTimeout):
        read_twice()
    assert client.closed


def test_two_readers_see_one_content_each(client: psycopg.Connection[Row], schema: str) -> None:
    with psycopg.connect(schema, autocommit=True) as early, psycopg.connect(schema, autocommit=True) as late:
        early.execute("BEGIN")
        before = early.execute("SELECT key, value FROM v").fetchall()
        client.execute("UPDATE t SET value = value || '!'")
        late.execute("BEGIN")
        after = late.execute("SELECT key, value FROM v").fetchall()
        client.execute("DELETE FROM t")
        time.sleep(3.5)
        for session, first, content in (
            (early, before, [("a", "1"), ("b", "2")]),
            (late, after, [("a", "1!"), ("b", "2!")]),
        ):
            again = session.execute("SELECT key, value FROM v").fetchall()
            assert sorted(first) == sorted(again) == content
        assert early.execute("SELECT mz_now()::text").fetchone() < late.execute("SELECT mz_now()::text").fetchone()


def test_fingerprints_and_masked_rows_agree_with_the_rows(client: psycopg.Connection[Row]) -> None:
    client.execute("INSERT INTO t SELECT 'k' || i::text, md5(i::text) FROM generate_series(1, 500) AS i")
    client.execute("INSERT INTO t VALUES ('null', NULL), ('é', '日本'), (NULL, 'no key')")
    client.execute("DELETE FROM t WHERE key = 'k7'")
    inner = "(SELECT key, value FROM v) AS q"
    rows = client.execute(
        f"SELECT (crc32('p:' || q.key::text) % 16::uint4)::int4, {HASH}::text FROM {inner}"
    ).fetchall()
    expected: dict[object, list[int]] = {}
    for bucket, hashed in rows:
        entry = expected.setdefault(bucket, [0, 0])
        entry[0] += 1
        entry[1] += int(str(hashed or 0))
    grouped = client.execute(
        f"SELECT (crc32('p:' || q.key::text) % 16::uint4) AS bucket, count(*) AS rows, sum({HASH}) AS fingerprint "
        f"FROM {inner} GROUP BY 1"
    ).fetchall()
    found = {None if b is None else int(str(b)): [int(str(n)), int(str(f or 0))] for b, n, f in grouped}
    assert found == expected
    mask = "\\x" + "".join("01" if i in (3, 9) else "00" for i in range(16))
    masked = client.execute(
        f"SELECT q.key FROM {inner} WHERE get_byte('{mask}'::bytea, (crc32('p:' || q.key::text) % 16::uint4)::int4) = 1"
    ).fetchall()
    assert len(masked) == expected[3][0] + expected[9][0]


@standin_only
def test_content_survives_a_kill(tmp_path: Path) -> None:
    standin = StandIn(data_dir=str(tmp_path))
    with standin:
        with psycopg.connect(standin.url, autocommit=True) as client:
            client.execute("CREATE TABLE t (key text, value text)")
            client.execute("CREATE MATERIALIZED VIEW v WITH (RETAIN HISTORY FOR '1hr') AS SELECT key, value FROM t")
            client.execute("INSERT INTO t VALUES ('a', '1')")
            client.execute("BEGIN")
            client.execute("SELECT key FROM v")
            as_of = client.execute("SELECT mz_now()::text").fetchone()[0]
            client.execute("COMMIT")
            client.execute("UPDATE t SET value = '2'")
        port = standin.port
        standin.kill()
        standin.start()
        assert standin.port == port
        with psycopg.connect(standin.url, autocommit=True) as client:
            assert client.execute("SELECT key, value FROM v").fetchall() == [("a", "2")]
            assert client.execute(f"SELECT key, value FROM v AS OF {as_of}").fetchall() == [("a", "1")]


@standin_only
def test_refused_password() -> None:
    with StandIn(password="right") as standin:
        psycopg.connect(standin.url).close()
        with pytest.raises(psycopg.OperationalError, match="invalid password"):
            psycopg.connect(standin.url.replace("right", "wrong"))


@standin_only
def test_no_more_clients_than_allowed() -> None:
    """One beyond the limit is refused in the words of a real one; when another has left, there is room again."""
    with StandIn(max_connections=1) as standin:
        with psycopg.connect(standin.url, autocommit=True) as client:
            assert client.execute("SHOW max_connections").fetchone() == ("1",)
            with pytest.raises(
                psycopg.OperationalError, match=r"max_connections limit \(desired: 2, limit: 1, current: 1\)"
            ):
                psycopg.connect(standin.url)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                psycopg.connect(standin.url).close()
                return
            except psycopg.OperationalError:
                time.sleep(0.05)
        pytest.fail("there is no room although nobody is connected")


@standin_only
def test_the_server_ends_with_its_parent() -> None:
    script = (
        "import os, reconcile_standin as e; s = e.StandIn(); s.start(); "
        "print(s.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    pid = int(done.stdout)
    for _ in range(600):
        try:
            if "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.1)
    raise AssertionError("the server outlived its parent")
