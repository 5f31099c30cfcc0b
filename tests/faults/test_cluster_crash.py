"""In a cluster: death, torn writes, lost answers and sleep at every I/O call; then the next run is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from reconcile.source import session as sessions
from tests.faults import test_crash as crash
from tests.faults.cluster_scene import ClusterScene
from tests.faults.io_calls import WRITE, steady_pieces
from tests.support.redis_cluster import Cluster
from tests.support.sources import Source


@pytest.fixture(scope="module", autouse=True)
def pages() -> Iterator[None]:
    """A load of a few tens of rows takes several steps, each of which goes to all nodes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "CHUNK_ROWS", 15)
        patch.setattr(sessions, "ROWS_AT_ONCE", 5)
        steady_pieces(patch, 5)
        yield


def make_scene(source: Source, cluster: Cluster, kind: crash.Kind, size: int) -> ClusterScene:
    scene = ClusterScene(source, cluster, batch_max_keys=size, buckets=kind.buckets)
    kind.prepare(scene)
    scene.memory_max_bytes = kind.memory_max_bytes
    scene.save()
    return scene


KINDS = {kind.name: kind for kind in [*crash.KINDS, *crash.BIG_ONLY]}
CASES = [
    ("load", 50_000), ("delta", 50_000), ("fingerprints", 50_000),
    ("repeat", 2), ("delta", 2), ("deep", 2), ("run that follows", 50_000), ("slices", 2), ("deep after snapshot", 2),
]  # fmt: skip
IN_CI = CASES[:3]


@pytest.mark.parametrize(("name", "size"), CASES)
def test_every_io_call(name: str, size: int, source: Source, cluster: Cluster, request: pytest.FixtureRequest) -> None:
    """Whatever call is the last one, the next run converges, and no reader ever saw a dishonest checkpoint."""
    soak = request.config.getoption("--soak")
    if not soak and (name, size) not in IN_CI:
        pytest.skip("only with --soak")
    kind = KINDS[name]
    scene = make_scene(source, cluster, kind, size)
    calls = crash.fewest_calls(scene, kind)
    for n in range(1, calls.count(WRITE) + 1):
        for how in crash.EVERY if soak else crash.EVERY[n % 4 : n % 4 + 1]:
            tried = (crash.crash_at(scene, kind, n, how, among=WRITE) for _ in range(crash.ATTEMPTS))
            assert any(tried), f"there is no write {n}"
    for n, call in enumerate(calls, 1):
        if call != WRITE and (soak or n % 8 == 0):
            crash.crash_at(scene, kind, n, "times_out")


@pytest.mark.parametrize(("name", "size"), [("load", 50_000), ("delta", 50_000), ("deep", 2), ("repeat", 2)])
def test_frozen_at_every_write(
    name: str, size: int, source: Source, cluster: Cluster, request: pytest.FixtureRequest
) -> None:
    """A run that sleeps past its lease before any write, and wakes after another has finished, changes nothing at all,
    on no node."""
    soak = request.config.getoption("--soak")
    if not soak and (name, size) not in IN_CI:
        pytest.skip("only with --soak")
    kind = KINDS[name]
    scene = make_scene(source, cluster, kind, size)
    calls = crash.fewest_calls(scene, kind)
    codes = Counter[int | None](crash.freeze_at_write(scene, kind, n) for n in range(1, calls.count(WRITE) + 1))
    if soak:
        codes.update(crash.freeze_at(scene, kind, n) for n, call in enumerate(calls, 1) if call != WRITE)
    assert codes[6] >= 3, "no run was stopped from writing"
