"""Every statement of every recording is answered as a real Materialize answered it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from reconcile_standin import StandIn
from tests.conformance.replay import OUT_OF_SCOPE, TRANSCRIPTS, Replay
from tests.support import environment


def _replayed(path: Path) -> Replay:
    with StandIn() as standin:
        return Replay(path, standin.url).run()


@pytest.fixture(scope="module")
def replays() -> Iterator[dict[str, Future[Replay]]]:
    """All replays. They mostly sleep: on stand-ins, one each, side by side; on a real Materialize one after another."""
    url = environment.source_url()
    with ThreadPoolExecutor(1 if url else len(TRANSCRIPTS)) as pool:
        if url:
            yield {path.stem: pool.submit(Replay(path, url).run) for path in TRANSCRIPTS}
        else:
            yield {path.stem: pool.submit(_replayed, path) for path in TRANSCRIPTS}


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(replays: dict[str, Future[Replay]], path: Path) -> None:
    replay = replays[path.stem].result()
    assert replay.problems == []
    assert replay.compared == sum("sql" in step for step in replay.steps), "a statement was skipped"


@pytest.mark.skipif(environment.source_url() is not None, reason="what is out of the stand-in's scope works there")
def test_out_of_scope_is_out_of_scope(replays: dict[str, Future[Replay]]) -> None:
    surprises = [s for replay in replays.values() for s in replay.result().surprises]
    assert surprises == []
    finished = [replay.result() for replay in replays.values()]
    statements = {(replay.name, step.get("sql")) for replay in finished for step in replay.steps}
    assert set(OUT_OF_SCOPE) <= statements


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) == 19
