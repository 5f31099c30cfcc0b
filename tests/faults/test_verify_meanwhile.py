"""verify while others write: the source changes, runs follow it, a large change is half applied. Never drift."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from reconcile.compare import contents, sides
from reconcile.runs import audit_fast, settled
from reconcile.runs import verify as audits
from tests.faults.history import TALLY, new_history
from tests.faults.io_calls import Io, forgetful
from tests.faults.scene import Scene
from tests.support.redis_servers import RedisServer
from tests.support.seed import rng
from tests.support.sources import SourceServer

SPARSE = 3
"""Without --soak every third call is tried; which, depends on the seed."""


pytestmark = pytest.mark.usefixtures("small")


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
    forgets: bool,
    source_server: SourceServer,
    redis_process: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """The source changes and a run follows it between any two calls of verify (without --soak: some): no drift."""
    monkeypatch.setattr(audits, "LOOK_AGAIN_S", 0.001)
    with new_history(source_server, redis_process) as history:
        scene = history.scene
        history.bulk(30)
        scene.ok("run")
        step = 1 if request.config.getoption("--soak") else SPARSE
        n, calls = 1 - step + rng("calls of verify").randrange(step), 1
        while (n := n + step) <= max(calls, step):

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
        monkeypatch.setattr(contents, "compare", after_a_run("look", contents.compare))
        report = scene.execute("verify")
        assert left == {"scan": 0, "look": 0}
        assert report.exit_code == 0, (report.error, report.drift)


def while_a_row_is_there(scene: Scene, read: Callable[[], Any]) -> Any:
    """A row comes and a run follows; something is read; the row goes and a run follows."""
    scene.write("INSERT INTO t VALUES ('comes', 'and goes')")
    scene.ok("run")
    found = read()
    scene.write("DELETE FROM t WHERE key = 'comes'")
    scene.ok("run")
    return found


def test_a_row_that_comes_and_goes_is_no_drift(
    source_server: SourceServer, redis_process: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same row is there whenever verify scans, and gone whenever it reads the records: however often, no drift."""
    monkeypatch.setattr(audits, "LOOK_AGAIN_S", 0.001)
    with new_history(source_server, redis_process) as history:
        scene = history.scene
        history.bulk(30)
        scene.ok("run")
        left = {"scan": 1, "keys": 3}

        def beside_a_row(what: str, read: Callable[..., Any]) -> Callable[..., Any]:
            def reading(*arguments: Any) -> Any:
                if not left[what]:
                    return read(*arguments)
                left[what] -= 1
                return while_a_row_is_there(scene, lambda: read(*arguments))

            return reading

        monkeypatch.setattr(audits, "add_both", beside_a_row("scan", sides.add_both))
        monkeypatch.setattr(contents._Comparison, "at_keys", beside_a_row("keys", contents._Comparison.at_keys))
        report = scene.execute("verify")
        assert left == {"scan": 0, "keys": 0}
        assert report.exit_code == 0, (report.error, report.drift)
        assert report.drift is not None
        assert report.drift.total == 0


def test_a_row_that_comes_and_goes_is_no_drift_by_names(
    source_server: SourceServer, redis_process: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for `--fast`, which counts names: the count is one too many, however often it is repeated."""
    monkeypatch.setattr(audit_fast, "LOOK_AGAIN_S", 0.001)
    with new_history(source_server, redis_process) as history:
        scene = history.scene
        history.bulk(30)
        scene.ok("run")
        counts, names = 0, audit_fast._names

        def count(*arguments: Any) -> Any:
            nonlocal counts
            counts += 1
            return while_a_row_is_there(scene, lambda: names(*arguments))

        monkeypatch.setattr(audit_fast, "_names", count)
        report = scene.execute("verify", fast=True)
        assert counts == audit_fast.MAX_COUNTS
        assert report.exit_code == 0, (report.error, report.drift)
        scene.client.delete(scene.prefix + b"bulk3")  # what is there is still found beside commits, and by name
        report = scene.execute("verify", fast=True)
        assert report.exit_code == 3
        assert report.drift is not None
        assert [(one["key"], one["kind"]) for one in report.drift.keys] == [
            ((scene.prefix + b"bulk3").decode(), "missing")
        ]


def meanwhile(io: Io, work: Callable[[], None]) -> None:
    """Do something while another run is frozen, then let it go on."""
    assert io.frozen.wait(60)
    try:
        work()
    finally:
        io.thaw.set()


@pytest.mark.parametrize("mode", ["delta", "snapshot"])
def test_verify_while_another_applies(
    mode: str,
    source_server: SourceServer,
    redis_process: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """A run is in the middle of a change too large for one transaction, and ends at any call of verify: no drift.
    Without --soak: at some."""
    monkeypatch.setattr(audits, "LOOK_AGAIN_S", 0.001)
    monkeypatch.setattr(settled, "LOOK_AGAIN_S", 0.02)
    with new_history(source_server, redis_process) as history:
        scene = history.scene
        history.bulk(30)
        scene.ok("run")
        scene.batch_max_keys = 5
        step = 1 if request.config.getoption("--soak") else SPARSE
        n, calls = 1 - step + rng("calls of verify").randrange(step), 1
        while (n := n + step) <= max(calls, step):
            scene.write(f"UPDATE t SET value = 'at {n}'")
            applying = Io(lambda: None)

            def half_done(applying: Io = applying, n: int = n) -> None:
                seen = scene.see()
                done = list(seen.data.values()).count(f"at {n}".encode())
                if not applying.frozen.is_set() and seen.state["pending"] and 0 < done < len(seen.data):
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
