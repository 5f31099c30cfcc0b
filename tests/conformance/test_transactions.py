"""What a read transaction says of times, where it is not what the same statement says outside of one."""

from __future__ import annotations

import json
import time
from typing import Any

import psycopg

from tests.conformance.conftest import Row

Client = psycopg.Connection[Row]


def _explained(client: Client, relation: str = "v") -> dict[str, Any]:
    row = client.execute(f"EXPLAIN TIMESTAMP AS JSON FOR SELECT key, value FROM {relation}").fetchone()
    assert row is not None
    explained: dict[str, Any] = json.loads(str(row[0]))
    return explained


def _since(explained: dict[str, Any]) -> tuple[int, int]:
    """(determination, the one source)."""
    (source,) = explained["sources"]
    return explained["determination"]["since"]["elements"][0], source["read_frontier"][0]


def test_a_transaction_explains_the_whole_schema_but_lists_what_is_read(client: Client) -> None:
    """The determination inside a transaction covers everything in the schemas of its first query, because any of it may
    be read next (adapter/src/coord/sequencer/inner/peek.rs: timedomain_for); the sources are those of the query."""
    client.execute("ALTER MATERIALIZED VIEW v SET (RETAIN HISTORY FOR '1hr')")
    deadline = time.monotonic() + 60
    while _since(_explained(client, "t"))[0] <= _since(_explained(client))[0]:
        assert time.monotonic() < deadline, "the table still remembers"
        time.sleep(0.1)
    outside = _since(_explained(client))
    assert outside[0] == outside[1], "outside of a transaction both are the view's"
    client.execute("BEGIN")
    inside = _since(_explained(client))
    client.execute("COMMIT")
    assert inside[1] < inside[0], "the table beside the view keeps a second"
    assert inside[1] - outside[1] < 2000, "the view keeps its hour"
