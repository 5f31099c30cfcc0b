"""The guard looks at an hour, not at one change: a view that melts away stops, one that replaces its keys does not."""

from __future__ import annotations

import threading
import time

import pytest

from tests.faults.rig import FOLLOWED_S, Rig
from tests.support.meanwhile import beside
from tests.support.redis_state import owned, prefixed, state

ROWS = 1000


def test_a_view_that_melts_away_is_stopped(rig: Rig) -> None:
    """A quarter goes as soon as the last one has gone from Redis, each time less than max_delete_fraction of what is
    left: the follower stops at the fraction of what the hour began with."""
    rig.source.retain_history()
    rig.fill(ROWS)
    assert rig.run().code == 0

    def melt(over: threading.Event) -> None:
        rig.await_following()
        while not over.wait(0.02) and (left := rig.source.rows()) > 20:
            if left == len(owned(rig.client)):  # else the follower would meet two of them at once
                rig.source.execute(f"DELETE FROM t WHERE substring(key, 2)::int > {left * 3 // 4}")

    with beside(melt):
        ended = rig.run(follow_s=FOLLOWED_S)
    assert ended.code == 5, ended.told
    assert "--allow-deletes" in ended.told
    assert ended.seconds < FOLLOWED_S / 2
    kept = len(owned(rig.client))
    assert ROWS * 0.7 <= kept < ROWS, kept
    assert rig.run().code == 5  # in a run of its own too
    assert len(owned(rig.client)) == kept


@pytest.mark.parametrize("how", ["follows", "run by run", "no history"])
def test_a_session_table_never_stops(how: str, rig: Rig) -> None:
    """Every key is replaced, again and again, all day: nothing shrinks, so nobody is asked."""
    if how != "no history":
        rig.source.retain_history()
    rig.fill(200)
    assert rig.run().code == 0
    replace = "UPDATE t SET key = CASE WHEN key LIKE 'x%' THEN substring(key, 2) ELSE 'x' || key END || '_'"
    turns = 4
    if how == "follows":
        left = [turns]

        def turn() -> bool:
            """Replace them again, once that has come to Redis: several changes at once leave out what is between."""
            if owned(rig.client) == prefixed(rig.source.content()):
                if not left[0]:
                    return True
                left[0] -= 1
                rig.source.execute(replace)
            return False

        ended = rig.follow(turn)
        assert (ended.code, ended.view.deletes) == (0, turns * 200), ended.told
    else:
        for _ in range(turns):
            rig.source.execute(replace)
            ended = rig.run("run" if how == "run by run" else "snapshot")
            assert (ended.code, ended.view.puts, ended.view.deletes) == (0, 200, 200), ended.told
    assert rig.run().code == 0
    rig.in_sync()


def test_a_table_that_is_emptied_and_filled_by_turns(rig: Rig) -> None:
    """What leaves in one change and comes back in the next is a mass delete in between: asked once, not for ever."""
    rig.source.retain_history()
    rig.fill(100)
    assert rig.run().code == 0
    rig.source.execute("DELETE FROM t")
    assert rig.run().code == 5
    rig.fill(100, 61)
    assert rig.run().code == 0
    rig.in_sync()


def test_the_window_ends(rig: Rig) -> None:
    """What the view was hours ago is no measure: a slow decline passes."""
    rig.source.retain_history()
    rig.fill(200)
    assert rig.run().code == 0
    for left in (150, 120, 90, 70):
        rig.source.execute(f"DELETE FROM t WHERE substring(key, 2)::int > {left}")
        fields = state(rig.client)
        long_ago = int(time.time() * 1000) - 3 * 3_600_000
        peak = f'{{"since_ms": {long_ago}, "keys": {fields["keys"]}, "before": 0}}'
        rig.client.hset("reconcile:{default}:state", "peak", peak)
        ended = rig.run()
        assert ended.code == 0, ended.told
    rig.in_sync()
