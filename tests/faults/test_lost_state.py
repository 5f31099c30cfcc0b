"""reconcile's own keys are lost, or hold nonsense: the next run leaves everything right."""

from __future__ import annotations

import pytest

from tests.faults.history import new_history
from tests.faults.scene import STATE
from tests.support.redis_servers import RedisServer
from tests.support.sources import SourceServer

pytestmark = pytest.mark.usefixtures("small")


@pytest.mark.parametrize("changed", [False, True], ids=["nothing changed", "changed"])
@pytest.mark.parametrize("mode", ["run", "snapshot"])
@pytest.mark.parametrize("lost", ["manifest", "fingerprints", "state", "zeros", "all"])
def test_lost_parts_of_the_state(
    lost: str, mode: str, changed: bool, source_server: SourceServer, redis_process: RedisServer
) -> None:
    """Whichever of reconcile's own keys is gone, or holds nonsense, the next run leaves everything right again."""
    with new_history(source_server, redis_process) as history:
        scene = history.scene
        history.bulk(40)
        history.put("k1", "v")
        scene.ok("run")
        if changed:
            history.bulk(30)
            history.delete("k1")
        before = scene.see().state["as_of"]
        names = ["manifest", "fingerprints", "state", "token"] if lost == "all" else [lost]
        if lost == "zeros":
            scene.client.set(STATE + "manifest", bytes(16 * 16))
            scene.client.delete(STATE + "fingerprints")
        else:
            scene.client.delete(*(STATE + name for name in names))
        scene.ignored_as_of = int(before)
        if lost in ("manifest", "zeros") and not changed and mode == "run":
            scene.look = lambda: None  # type: ignore[method-assign]
        report = history.run(mode)
        assert report.exit_code == 0, report.error
        if lost in ("manifest", "zeros") and not changed and mode == "run":
            return  # a delta without changes does not look at the manifest
        scene.check()


def test_manifest_that_lost_its_rows(source_server: SourceServer, redis_process: RedisServer) -> None:
    """Deletes from buckets that the manifest says are empty: the run looks instead of storing a negative number."""
    with new_history(source_server, redis_process) as history:
        scene = history.scene
        history.put("k1", "v")
        history.put("k2", "v")
        scene.ok("run")
        scene.look = lambda: None  # type: ignore[method-assign]
        scene.client.set(STATE + "manifest", bytes(16 * 16))
        history.delete("k1")
        assert scene.execute("delta").exit_code == 5
        assert history.run("run").exit_code == 0
        history.run("deep")
        scene.check()
