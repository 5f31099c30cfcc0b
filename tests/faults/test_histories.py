"""Histories cut anywhere into runs of any kind, with and without others who write to Redis: the end is the view."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from reconcile.report.run_report import ViewReport
from tests.faults.history import FOLLOWED_TOO_SHORTLY, MODES, TALLY, new_history
from tests.faults.io_calls import Io, small_pages
from tests.faults.scene import STATE, TIME_KEY
from tests.support.redis_servers import RedisServer
from tests.support.seed import SEED, rng
from tests.support.sources import SourceServer

PHASES = [Phase.generate]
"""No shrinking: it takes longer than reading the history that failed. RECONCILE_TEST_SHRINK=1 asks for it."""
if os.environ.get("RECONCILE_TEST_SHRINK"):
    PHASES.append(Phase.shrink)

KEYS = st.sampled_from([f"k{n}" for n in range(8)])
VALUES = st.sampled_from(["a", "b", "", "\\N", "tab\tnewline\nback\\", "é☃", None])
KINDS_OF_RUNS = st.sampled_from(MODES)


@pytest.fixture(scope="module", autouse=True)
def tally() -> Iterator[None]:
    """Pages are small, and at the end it is said what was tried."""
    with small_pages():
        yield
    print("\nhistories:", dict(TALLY))


STEPS = st.one_of(
    st.tuples(st.just("put"), KEYS, VALUES),
    st.tuples(st.just("put"), KEYS, VALUES),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("reinsert"), KEYS),
    st.tuples(st.just("move"), KEYS, KEYS),
    st.tuples(st.just("double"), KEYS),
    st.tuples(st.just("single")),
    st.tuples(st.just("bulk"), st.sampled_from([0, 30])),
    st.tuples(st.just("idle")),
    st.tuples(st.just("run"), KINDS_OF_RUNS),
    st.tuples(st.just("run"), KINDS_OF_RUNS),
    st.tuples(st.just("run"), KINDS_OF_RUNS),
)


@pytest.mark.parametrize("prefix", [b"p:", b""], ids=["prefix", "remembered"])
def test_history_cut_anywhere(
    prefix: bytes, source_server: SourceServer, redis_process: RedisServer, request: pytest.FixtureRequest
) -> None:
    """Any history, cut into any runs: each checkpoint is honest, and the end is the view."""
    rng("histories")
    examples = 1000 if request.config.getoption("--soak") else 15

    @seed(SEED)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=PHASES,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(st.lists(STEPS, min_size=10, max_size=30))
    def tried(steps: list[tuple[Any, ...]]) -> None:
        TALLY["histories"] += 1
        with new_history(source_server, redis_process, prefix) as history:
            for name, *arguments in steps:
                if name == "run":
                    history.judge(arguments[0], history.run(arguments[0]))
                else:
                    getattr(history, name)(*arguments)
            history.single()
            assert history.run("run").exit_code == 0
            history.scene.check()
            assert history.run("verify").exit_code == 0

    tried()


# -- others write too ------------------------------------------------------------------------------------------------


class Others(RuleBasedStateMachine):
    """Runs, a changing source, and everybody else who may write to Redis or replace the view."""

    source_server: SourceServer
    server: RedisServer

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.history = self.stack.enter_context(new_history(self.source_server, self.server))
        self.scene = self.history.scene
        self.touched = False
        """Somebody else changed Redis since every row was last compared."""
        self.swapped = False
        """The view is not the one of the checkpoint."""
        self.counter = 0
        TALLY["stories"] += 1

    def teardown(self) -> None:
        self.stack.close()

    def _touch(self) -> None:
        self.touched = True
        # What readers see is not ours alone any more.
        self.scene.look = self._look_at_foreign  # type: ignore[method-assign]

    def _look_at_foreign(self) -> None:
        assert self.scene.see(fully=False).foreign == self.scene.foreign, "a foreign key was touched"

    def _clean(self) -> None:
        self.touched = self.swapped = False
        self.scene.__dict__.pop("look", None)

    @initialize()
    def begin(self) -> None:
        self.history.bulk(20)
        self.history.put("k1", "v")

    @rule(key=KEYS, value=VALUES)
    def put(self, key: str, value: str | None) -> None:
        self.history.put(key, value)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.history.delete(key)

    @rule(old=KEYS, new=KEYS)
    def move(self, old: str, new: str) -> None:
        self.history.move(old, new)

    @rule()
    def swap_view(self) -> None:
        """Replaced under the same name, with other content."""
        self.counter += 1
        self.scene.write(
            "DROP MATERIALIZED VIEW v",
            f"CREATE MATERIALIZED VIEW v AS SELECT key, value || '{self.counter}' AS value FROM t",
            "ALTER MATERIALIZED VIEW v SET (RETAIN HISTORY FOR '1hr')",
        )
        self.scene.forget_what_was_seen()
        self.swapped = True

    @rule(key=KEYS, how=st.sampled_from(["edit", "remove", "stray", "list"]))
    def foreign_write(self, key: str, how: str) -> None:
        """Under our prefix: edits, deletes, strangers."""
        self._touch()
        self.counter += 1
        name = f"p:{key}"
        if how == "edit":
            self.scene.client.set(name, f"edited {self.counter}")
        elif how == "remove":
            self.scene.client.delete(name)
        elif how == "stray":
            self.scene.client.set(f"p:stray{self.counter}", "x")
        else:
            self.scene.client.delete(name)
            self.scene.client.rpush(name, "x")

    @rule(name=st.binary(min_size=1, max_size=4), value=st.binary(max_size=4))
    def foreign_key(self, name: bytes, value: bytes) -> None:
        """Outside of our prefix."""
        if not name.startswith((b"p:", b"reconcile")) and name != TIME_KEY:
            self.scene.client.set(name, value)
            self.scene.foreign[name] = value

    @rule(which=st.sampled_from(["state", "manifest", "fingerprints", "token", "data", "data"]), pick=st.randoms())
    def evict(self, which: str, pick: Any) -> None:
        """Redis drops a key to make room."""
        self._touch()
        if which != "data":
            self.scene.client.delete(STATE + which)
        elif data := sorted(self.scene.see().data):
            self.scene.client.delete(pick.choice(data))

    @rule()
    def flush(self) -> None:
        self._touch()
        self.scene.client.flushall()
        self.scene.plant()

    @rule(mode=KINDS_OF_RUNS)
    def run(self, mode: str) -> None:
        self._run(mode)

    def _run(self, mode: str) -> None:
        if self.swapped:
            self._look_lightly()
        report = self.history.run(mode)
        assert report.exit_code in (0, 5, 8) or (report.exit_code, mode) == FOLLOWED_TOO_SHORTLY, report.error
        if report.exit_code in (0, 4) and (report.deep or not self.touched):
            self._clean()
            self.scene.check()
        if report.exit_code == 5:
            assert self.touched, report.error
        if report.exit_code == 8:
            # A view that was made anew does not know the time of the checkpoint.
            assert mode.startswith("delta") or (mode == "earlier" and self.swapped), report.error

    def _look_lightly(self) -> None:
        self.scene.look = self._look_at_foreign  # type: ignore[method-assign]

    @rule(mode=KINDS_OF_RUNS)
    def deep_after(self, mode: str) -> None:
        """A deep snapshot repairs everything, and verify agrees."""
        self._run("deep")
        assert not self.touched
        assert self.history.run("verify").exit_code == 0
        assert self.history.run("verify forgetful").exit_code == 0

    @rule(forgets=st.booleans())
    def verify(self, forgets: bool) -> None:
        """Never a false alarm; and what is wrong at the checkpoint's own time is found."""
        seen = self.scene.see()
        if not seen.settled or self.swapped:
            return
        report = self.history.run("verify forgetful" if forgets else "verify")
        assert report.exit_code in (0, 3), report.error
        if not self.touched:
            assert report.exit_code == 0, report.drift
        elif not forgets:
            true = seen.data == self.scene.content_at(seen.as_of) and not self.scene.has_odd_keys()
            assert (report.exit_code == 0) == true, report.drift

    @precondition(lambda self: not self.touched and not self.swapped)
    @rule(at=st.integers(1, 50), sleeper=st.sampled_from(["run", "snapshot", "delta", "delta in small batches"]))
    def two_runners(self, at: int, sleeper: str) -> None:
        """One falls asleep at some call, another overtakes it."""
        if not self.scene.see().settled:
            return
        io = Io(lambda: None, at, "freezes")
        reports: list[ViewReport] = []
        self.scene.batch_max_keys = 2 if sleeper.endswith("batches") else 50_000

        def sleep_on_it() -> None:
            io.thread = threading.get_ident()
            reports.append(self.scene.execute(sleeper.split(" ")[0], allow_deletes=True))

        thread = threading.Thread(target=sleep_on_it)
        with io.installed():
            thread.start()
            while thread.is_alive() and not io.frozen.wait(0.005):
                pass
            self.history.put("k2", f"overtaken {at}")
            self.scene.expire_lease()
            self.scene.ok("run", allow_deletes=True)
            io.thaw.set()
            thread.join(60)
        assert [report.exit_code for report in reports] in ([0], [6])
        self.scene.check()

    @invariant()
    def foreign_keys_survive(self) -> None:
        self._look_at_foreign()


def test_others_write_too(
    source_server: SourceServer, redis_process: RedisServer, request: pytest.FixtureRequest
) -> None:
    """Whoever else writes: foreign keys survive, verify is right, a deep snapshot repairs."""
    rng("others")
    soak = request.config.getoption("--soak")
    Others.source_server, Others.server = source_server, redis_process
    run_state_machine_as_test(
        seed(SEED)(Others),
        settings=settings(
            phases=PHASES,
            max_examples=1000 if soak else 15,
            stateful_step_count=40 if soak else 15,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
