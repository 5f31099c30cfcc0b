"""Keys of any type that something else wrote in place of rows, or beside them: told, explained and mended, whatever the
layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from msgspec import Struct
from msgspec.structs import replace

from reconcile.config import address
from reconcile.config.settings import Settings, ViewSettings
from reconcile.inspect.explain import explain_one
from reconcile.report.run_report import ViewReport
from reconcile.runs.entry import execute
from reconcile.runs.request import Request
from reconcile.stop import Stop
from tests.faults.stories import THEIRS
from tests.support.redis_cluster import Cluster
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import entries
from tests.support.sources import Source

KINDS = {
    **THEIRS,
    "row and more": ("HSET", "a", "1", "b", "2", "c", "3"),
    "half a row": ("HSET", "a", "1"),
    "half a document": ("SET", '{"a":'),
    "hyperloglog": ("PFADD", "a"),
}
GONE, CHANGED, KEPT = 0, 1, 2
"""What becomes of a row at the source."""


class Scene(Struct):
    """A view with history, its rows in Redis."""

    settings: Settings
    source: Source
    client: Any
    nodes: list[redis.Redis]

    def run(self, mode: str, **options: Any) -> ViewReport:
        (view,) = execute(self.settings, Request(mode=mode, **options), Stop()).views  # type: ignore[arg-type]
        return view

    def held(self) -> dict[bytes, Any]:
        """Every key of the view with its value."""
        found = {key: value for node in self.nodes for key, (value, _) in entries(node).items()}
        return {key: value for key, value in found.items() if key.startswith(b"p:")}

    def overwrite(self, names: list[str]) -> None:
        """Something else writes keys of all types."""
        for name, (verb, *arguments) in zip(names, KINDS.values(), strict=True):
            self.client.delete(f"p:{name}")
            self.client.execute_command(verb, f"p:{name}", *arguments)

    def verdicts(self, names: list[str]) -> set[str]:
        found = [explain_one(self.settings, name, None, Stop()).to_dict(show_values=True) for name in names]
        assert not any(one["manifest_agrees_with_redis"] for one in found)
        return {str(one["verdict"]) for one in found}


@pytest.fixture(params=["single", "cluster"])
def scene(request: pytest.FixtureRequest, source: Source, layout: str, expires: bool) -> Iterator[Scene]:
    place: RedisServer | Cluster = request.getfixturevalue("cluster" if request.param == "cluster" else "redis_server")
    clustered = isinstance(place, Cluster)
    client: Any = redis.RedisCluster.from_url(place.url) if isinstance(place, Cluster) else place.client()
    source.execute("CREATE TABLE u (key text, a text, b text, until timestamptz)")
    source.execute("CREATE MATERIALIZED VIEW w AS SELECT key, a, b, until FROM u")
    source.execute("ALTER MATERIALIZED VIEW w SET (RETAIN HISTORY FOR '1hr')")
    count = 3 * len(KINDS)
    source.execute(f"INSERT INTO u SELECT 'k' || n, 'a' || n, 'b', NULL FROM generate_series(1, {count}) AS n")
    values = ("a",) if layout == "string" else ("a", "b")
    columns = ", ".join(["key", *values, *(["until"] if expires else [])])
    view = ViewSettings(
        name="default", sql=f"SELECT {columns} FROM {source.schema}.w", key_prefix="p:", layout=layout,
        value_columns=values, expires_at="until" if expires else None, max_delete_fraction=1.0,
    )  # fmt: skip
    where = replace(address.redis(place.url), cluster=clustered)
    settings = Settings(materialize=address.materialize(source.url), redis=where, views=(view,))
    made = Scene(settings, source, client, place.primaries() if isinstance(place, Cluster) else [client])
    assert made.run("run").exit_code == 0
    yield made
    client.close()


pytestmark = [
    pytest.mark.parametrize("layout", ["string", "json", "hash"]),
    pytest.mark.parametrize("expires", [False, True], ids=["", "expiring"]),
]


def test_in_place_of_rows(scene: Scene) -> None:
    """Rows that stay, change and go: a run overwrites and deletes what changed, a deep snapshot mends the rest."""
    names = [f"k{n}" for n in range(1, 3 * len(KINDS) + 1)]
    before = scene.held()
    for fate in (GONE, CHANGED, KEPT):
        scene.overwrite(names[fate::3])
    wrong = {key for key, value in scene.held().items() if before[key] != value}
    for options in ({}, {"subset": (0, 1)}, {"as_of": as_of(scene)}):
        report = scene.run("verify", **options)
        assert report.drift is not None
        assert (report.exit_code, report.drift.stale, report.drift.total) == (3, len(wrong), len(wrong))
    assert scene.verdicts(names) == {"changed outside"}
    scene.source.execute(f"DELETE FROM u WHERE substr(key, 2)::int % 3 = {(GONE + 1) % 3}")
    scene.source.execute(f"UPDATE u SET a = a || '!' WHERE substr(key, 2)::int % 3 = {(CHANGED + 1) % 3}")
    # Where rows expire, something else in place of one that goes may have come after the row.
    expires = scene.settings.views[0].expires_at is not None
    assert scene.run("run").exit_code == (5 if expires else 0)
    assert scene.run("snapshot", allow_deletes=expires).exit_code == 0
    report, held = scene.run("verify"), scene.held()
    assert report.drift is not None
    assert report.drift.total == sum(held[key] != before[key] for key in keys(names[KEPT::3]))
    assert scene.run("snapshot", deep=True).exit_code == 0
    assert scene.held().keys() == keys(names[CHANGED::3] + names[KEPT::3])
    assert [scene.run("verify", fast=fast).exit_code for fast in (False, True)] == [0, 0]


def test_beside_rows(scene: Scene) -> None:
    """Names of no row: told, left alone without consent, and gone with it; then a row comes by such a name."""
    names = [f"stray{n}" for n in range(len(KINDS))]
    before = scene.held()
    scene.overwrite(names)
    for fast in (False, True):
        report = scene.run("verify", fast=fast)
        assert report.drift is not None
        assert (report.exit_code, report.drift.total) == (3, len(names))
    assert scene.verdicts(names) == {"extra"}
    assert scene.run("snapshot", deep=True).exit_code == 5
    assert scene.held().keys() == before.keys() | keys(names)
    assert scene.run("snapshot", allow_deletes=True).exit_code == 0
    assert scene.held() == before
    scene.overwrite(names)
    scene.source.execute(
        f"INSERT INTO u SELECT 'stray' || n, 'a', 'b', NULL FROM generate_series(0, {len(names)}) AS n"
    )
    assert scene.run("delta").exit_code == 5
    assert scene.run("run").exit_code == 0
    assert len(scene.held()) == len(before) + len(names) + 1
    assert [scene.run("verify", fast=fast).exit_code for fast in (False, True)] == [0, 0]


def keys(names: list[str]) -> set[bytes]:
    return {f"p:{name}".encode() for name in names}


def as_of(scene: Scene) -> int:
    """The checkpoint's time."""
    return int(scene.client.hget("reconcile:{default}:state", "as_of"))
