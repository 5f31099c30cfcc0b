"""Histories cut anywhere into runs of any kind, with and without others who write to Redis: the end is the view."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, currently_in_test_context, given, note, seed, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from reconcile.compare import closely, sides
from reconcile.report.run_report import ViewReport
from reconcile.runs import settled
from reconcile.runs import verify as audits
from tests.faults.support_crash import Io, forgetful, one_time_a_read, small_pages
from tests.faults.support_scene import STATE, TIME_KEY, Scene
from tests.support.redis_servers import RedisServer
from tests.support.seed import SEED, rng
from tests.support.sources import SourceServer

TALLY: Counter[str] = Counter()
FOLLOWED_TOO_SHORTLY = (4, "follow")
"""`--for` was over before the present was reached; what was committed is right."""
PHASES = [Phase.generate]
"""No shrinking: it takes longer than reading the history that failed. RECONCILE_TEST_SHRINK=1 asks for it."""
if os.environ.get("RECONCILE_TEST_SHRINK"):
    PHASES.append(Phase.shrink)

KEYS = st.sampled_from([f"k{n}" for n in range(8)])
VALUES = st.sampled_from(["a", "b", "", "\\N", "tab\tnewline\nback\\", "é☃", None])
MODES = st.sampled_from(
    ["run", "snapshot", "delta", "deep", "follow", "run forgetful", "snapshot forgetful", "delta time by time",
     "run time by time", "delta in slices", "run in small batches", "delta in small batches", "earlier"]
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def tally() -> Iterator[None]:
    """Pages are small, and at the end it is said what was tried."""
    with small_pages():
        yield
    print("\nhistories:", dict(TALLY))


def text(value: str | None) -> str:
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"


class History:
    """A source that is changed step by step, its true rows, and runs in between."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.rows: dict[str, str | None] = {}
        self.twice: dict[str, str] = {}
        """Keys with a second row, and its value."""
        self.twice_since_checkpoint = False
        scene.source.retain_history()

    def put(self, key: str, value: str | None) -> None:
        """An update, or an insert."""
        if key in self.rows:
            self.scene.write(f"UPDATE t SET value = {text(value)} WHERE key = '{key}'")
            self.twice.pop(key, None)  # both rows are equal now: still twice
            self.scene.write(f"DELETE FROM t WHERE key = '{key}'")
        self.scene.write(f"INSERT INTO t VALUES ('{key}', {text(value)})")
        self.rows[key] = value

    def delete(self, key: str) -> None:
        self.scene.write(f"DELETE FROM t WHERE key = '{key}'")
        self.rows.pop(key, None)
        self.twice.pop(key, None)

    def reinsert(self, key: str) -> None:
        """The same row goes and comes back."""
        if key in self.rows and key not in self.twice:
            value = self.rows[key]
            self.delete(key)
            self.put(key, value)

    def move(self, old: str, new: str) -> None:
        if old in self.rows and new not in self.rows and old not in self.twice:
            self.scene.write(f"UPDATE t SET key = '{new}' WHERE key = '{old}'")
            self.rows[new] = self.rows.pop(old)

    def double(self, key: str) -> None:
        """A second row for a key."""
        if self.rows.get(key) is not None and key not in self.twice:
            self.scene.write(f"INSERT INTO t VALUES ('{key}', 'second')")
            self.twice[key] = "second"
            self.twice_since_checkpoint = True

    def single(self) -> None:
        """No key has two rows any more."""
        for key, value in self.twice.items():
            self.scene.write(f"DELETE FROM t WHERE key = '{key}' AND value = '{value}'")
        self.twice.clear()

    def bulk(self, count: int) -> None:
        """Many changes at one time."""
        self.scene.write("DELETE FROM t WHERE key LIKE 'bulk%'")
        self.rows = {key: value for key, value in self.rows.items() if not key.startswith("bulk")}
        if count:
            many = f"SELECT 'bulk' || n, 'x{len(self.rows)} ' || n FROM generate_series(1, {count}) AS n"
            self.scene.write(f"INSERT INTO t {many}")
            self.rows |= dict.fromkeys((f"bulk{n}" for n in range(1, count + 1)), "")

    def idle(self) -> None:
        """Time passes at the source, and nothing changes."""
        self.scene.write("INSERT INTO elsewhere VALUES (1)")

    def run(self, mode: str) -> ViewReport:
        """A run of some kind."""
        TALLY["runs"] += 1
        scene = self.scene
        name, _, how = mode.partition(" ")
        options: dict[str, Any] = {"allow_deletes": True}
        if name == "deep":
            name, options["deep"] = "snapshot", True
        elif name == "follow":
            name, options["follow_s"] = "run", 0.03
        elif name == "earlier":
            name = "snapshot"
            state = scene.see().state
            options["as_of"] = int(state["as_of"]) if state.get("as_of") else None
        scene.memory_max_bytes = 900 if how == "in slices" else 1 << 25
        scene.batch_max_keys = 2 if how == "in small batches" else 50_000
        around: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if how == "forgetful":
            around = forgetful()
        elif how == "time by time":
            around = one_time_a_read()
        io = Io(scene.look)
        with around, io.installed():
            report = scene.execute(name, **options)
        if io.failure is not None:
            raise io.failure
        if currently_in_test_context():
            note(f"{mode}: exit {report.exit_code} {report.action} {report.reason} {report.error}")
        return report

    def judge(self, mode: str, report: ViewReport) -> None:
        """What a run may come to when nobody else writes."""
        assert report.exit_code in (0, 5, 8) or (report.exit_code, mode) == FOLLOWED_TOO_SHORTLY, report.error
        if report.exit_code in (0, 4):
            self.scene.check()
            self.twice_since_checkpoint = bool(self.twice)
        elif report.exit_code == 5:
            assert self.twice or (mode.startswith("delta") and self.twice_since_checkpoint), report.error
        else:
            assert mode.startswith("delta"), report.error
            state = self.scene.see().state
            assert not state.get("as_of"), report.error
        self.scene.look()


@contextlib.contextmanager
def new_history(source_server: SourceServer, server: RedisServer, prefix: bytes = b"p:") -> Iterator[History]:
    server.client().flushall()
    with source_server.new_source() as source:
        source.execute("CREATE TABLE elsewhere (n int)")
        yield History(Scene(source, server, prefix=prefix, buckets=16))


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
    st.tuples(st.just("run"), MODES),
    st.tuples(st.just("run"), MODES),
    st.tuples(st.just("run"), MODES),
)


@pytest.mark.parametrize("prefix", [b"p:", b""], ids=["prefix", "remembered"])
def test_history_cut_anywhere(
    prefix: bytes, source_server: SourceServer, redis_process: RedisServer, request: pytest.FixtureRequest
) -> None:
    """Any history, cut into any runs: each checkpoint is honest, and the end is the view."""
    rng("histories")
    examples = 3000 if request.config.getoption("--soak") else 15

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


@pytest.mark.parametrize("block", ["same", "other"])
@pytest.mark.parametrize("mode", ["snapshot", "run", "delta", "full", "deep", "run time by time"])
@pytest.mark.parametrize("first", ["there", "new"])
def test_key_with_two_rows(
    mode: str, block: str, first: str, source_server: SourceServer, redis_process: RedisServer
) -> None:
    """Whichever way it arrives, a second row for a key stops the run with the key's name, and the checkpoint stays."""
    with new_history(source_server, redis_process) as history:
        scene = history.scene
        history.bulk(30)
        if first == "there":
            history.put("k1", "one")
        scene.ok("run")
        before = scene.see().state["as_of"]
        if mode == "full":
            scene.client.delete(STATE + "fingerprints")
        rows = ["('k1', 'two')"] if first == "there" else ["('k1', 'one')", "('k1', 'two')"]
        if block == "same":
            scene.write(f"INSERT INTO t VALUES {', '.join(rows)}")
        else:
            scene.write(*(f"INSERT INTO t VALUES {row}" for row in rows))
        report = history.run("snapshot" if mode == "full" else mode)
        assert report.exit_code == 5
        assert report.error is not None
        assert "p:k1" in report.error.message or (mode == "delta" and "a delta alone" in report.error.message)
        if mode != "run time by time":
            assert scene.see().state["as_of"] == before


@pytest.mark.parametrize("apart", [0, 2, 40])
@pytest.mark.parametrize("mode", ["run", "snapshot"])
def test_first_load_of_a_key_with_two_rows(
    mode: str, apart: int, source_server: SourceServer, redis_process: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first load notices it too, in one block of rows or far apart, and there is no checkpoint."""
    cancelled: list[object] = []
    monkeypatch.setattr(psycopg.Connection, "_try_cancel", lambda self, **_: cancelled.append(self))
    with new_history(source_server, redis_process) as history:
        scene = history.scene
        scene.write("INSERT INTO t VALUES ('k1', 'one')")
        if apart:
            history.bulk(apart)
            scene.write("INSERT INTO t SELECT 'long' || n, repeat('y', 500) FROM generate_series(1, 90) AS n")
        # Longer rows come later.
        scene.write(f"INSERT INTO t VALUES ('k1', '{'two' * (apart + 1)}')")
        report = history.run(mode)
        assert not cancelled, "a cancelled statement ends the read transaction"
        assert report.exit_code == 5
        assert report.error is not None
        assert "p:k1" in report.error.message
        assert not scene.see().state.get("as_of")
        scene.write("DELETE FROM t WHERE value LIKE 'two%'")
        scene.ok("run")
        scene.check()


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

    @rule(mode=MODES)
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

    @rule(mode=MODES)
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
    """Whoever else writes: foreign keys survive, verify is right, a deep snapshot mends."""
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


@pytest.mark.parametrize("forgets", [False, True], ids=["history", "no history"])
def test_verify_while_others_sync(
    forgets: bool, source_server: SourceServer, redis_process: RedisServer, request: pytest.FixtureRequest
) -> None:
    """verify, over and over while the source changes and runs follow it in small transactions: never drift."""
    random = rng("verify while syncing")
    until = time.monotonic() + (120 if request.config.getoption("--soak") else 4)
    over = threading.Event()
    with new_history(source_server, redis_process) as history, forgetful() if forgets else contextlib.nullcontext():
        scene = history.scene
        history.bulk(30)
        scene.ok("run")
        syncing = Scene(scene.source, scene.server, buckets=16, batch_max_keys=5)

        def change() -> None:
            with psycopg.connect(scene.source.url, autocommit=True) as other:
                other.execute(f"SET search_path = {scene.source.schema}".encode())
                while not over.is_set():
                    n = random.randrange(1, 31)
                    other.execute(f"UPDATE t SET value = value || 'x' WHERE key = 'bulk{n}' OR key < 'bulk2'".encode())
                    over.wait(random.random() / 20)

        def sync() -> None:
            while not over.is_set():
                syncing.ok(random.choice(["run", "snapshot"]))

        threads = [threading.Thread(target=work) for work in (change, sync)]
        for thread in threads:
            thread.start()
        try:
            while time.monotonic() < until:
                report = scene.execute("verify")
                TALLY["verifies while syncing"] += 1
                assert report.exit_code in (0, 6), (report.error, report.drift)
                assert report.exit_code == 0 or "stood still" in str(report.error), report.error
        finally:
            over.set()
            for thread in threads:
                thread.join(60)


@pytest.mark.parametrize("forgets", [False, True], ids=["history", "no history"])
def test_verify_with_a_run_in_between(
    forgets: bool, source_server: SourceServer, redis_process: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source changes and a run follows it between any two calls of verify: no drift."""
    monkeypatch.setattr(audits, "LOOK_AGAIN_S", 0.001)
    with new_history(source_server, redis_process) as history:
        scene = history.scene
        history.bulk(30)
        scene.ok("run")
        n, calls = 0, 1
        while (n := n + 1) <= calls:

            def sync(n: int = n) -> None:
                scene.write(f"UPDATE t SET value = 'at {n}' WHERE key < 'bulk2'", "DELETE FROM t WHERE key = 'now'",
                            f"INSERT INTO t VALUES ('new {n}', 'x'), ('now', '{n}')")  # fmt: skip
                scene.ok("run")

            io = Io(lambda: None, n, "freezes")
            other = threading.Thread(target=meanwhile, args=(io, sync))
            other.start()
            with io.installed(), forgetful() if forgets else contextlib.nullcontext():
                report = scene.execute("verify")
            calls = len(io.calls)
            io.frozen.set()
            other.join()
            assert report.exit_code == 0, (n, io.calls, report.error, report.drift)


def test_verify_looks_again_when_overtaken(
    source_server: SourceServer, redis_process: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs commit between the starts of verify's two reads, and again while it confirms what seemed to differ."""
    with new_history(source_server, redis_process) as history:
        scene = history.scene
        history.bulk(30)
        scene.ok("run")
        left = {"scan": 1, "look": 3}

        def after_a_run(what: str, read: Callable[..., Any]) -> Callable[..., Any]:
            def reading(*arguments: Any) -> Any:
                if left[what]:
                    left[what] -= 1
                    scene.write(f"UPDATE t SET value = '{what} {left[what]}' WHERE key < 'bulk2'")
                    scene.ok("run")
                return read(*arguments)

            return reading

        monkeypatch.setattr(audits, "add_both", after_a_run("scan", sides.add_both))
        monkeypatch.setattr(closely, "look_at", after_a_run("look", closely.look_at))
        report = scene.execute("verify")
        assert left == {"scan": 0, "look": 0}
        assert report.exit_code == 0, (report.error, report.drift)


def meanwhile(io: Io, work: Callable[[], None]) -> None:
    """Do something while another run is frozen, then let it go on."""
    assert io.frozen.wait(60)
    try:
        work()
    finally:
        io.thaw.set()


@pytest.mark.parametrize("mode", ["delta", "snapshot"])
def test_verify_while_another_applies(
    mode: str, source_server: SourceServer, redis_process: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is in the middle of a change too large for one transaction, and ends at any call of verify: no drift."""
    monkeypatch.setattr(audits, "LOOK_AGAIN_S", 0.001)
    monkeypatch.setattr(settled, "LOOK_AGAIN_S", 0.02)
    with new_history(source_server, redis_process) as history:
        scene = history.scene
        history.bulk(30)
        scene.ok("run")
        scene.batch_max_keys = 5
        n, calls = 0, 1
        while (n := n + 1) <= calls:
            scene.write(f"UPDATE t SET value = 'at {n}'")
            applying = Io(lambda: None)

            def half_done(applying: Io = applying, n: int = n) -> None:
                seen = scene.see()
                done = list(seen.data.values()).count(f"at {n}".encode())
                if not applying.fired and seen.state["pending"] and 0 < done < len(seen.data):
                    applying.fired = True
                    applying.frozen.set()
                    assert applying.thaw.wait(60)

            applying.look = half_done
            codes: list[int] = []

            def apply(applying: Io = applying, codes: list[int] = codes) -> None:
                applying.thread = threading.get_ident()
                codes.append(int(scene.execute(mode).exit_code))

            thread = threading.Thread(target=apply)
            auditing = Io(lambda: None, n, "freezes")
            other = threading.Thread(target=meanwhile, args=(auditing, applying.thaw.set))
            with applying.installed(), auditing.installed():
                thread.start()
                assert applying.frozen.wait(60)
                other.start()
                report = scene.execute("verify")
                calls = min(len(auditing.calls), 40)
                auditing.frozen.set()
                other.join()
                thread.join()
            assert codes == [0]
            assert report.exit_code in (0, 6), (n, auditing.calls, report.error, report.drift)


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
