"""A bug of ours anywhere in the work on one view is that view's failure alone.

An exception is raised in the n-th call that any function of ours gets while one view is worked on, whichever thread
does that. Others are worked on beside it, in the same process.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import reconcile
from reconcile.config.load import load
from reconcile.errors import ExitCode
from reconcile.runs.delta import Follower
from reconcile.runs.entry import execute
from reconcile.runs.request import Request
from reconcile.runs.task import Task
from reconcile.stop import Stop
from tests.support.redis_servers import RedisServer
from tests.support.seed import rng
from tests.support.sources import Source

OURS = str(Path(reconcile.__file__).parent)
BROKEN, OTHERS = "broken", ("b", "c")
VIEWS = (BROKEN, *OTHERS)
GIVES_BACK = "give_back"
"""Where the lease is given back: a bug there leaves it to expire."""
MODES: dict[str, dict[str, Any]] = {"load": {}, "snapshot": {}, "delta": {}, "follow": {"follow_s": 0.5}}


class BugError(RuntimeError):
    """What no code of ours expects."""


class Fault:
    """Raises in the `at`-th call (0: in none) of a function of ours for the view BROKEN."""

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self.calls = 0
        self.trail: list[str] = []
        """The functions it was raised in, innermost first."""

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call" or getattr(_here, "view", None) != BROKEN or not frame.f_code.co_filename.startswith(OURS):
            return
        self.calls += 1
        if self.calls == self.at:
            caller: FrameType | None = frame
            while caller is not None:
                self.trail.append(caller.f_code.co_name)
                caller = caller.f_back
            raise BugError


_here = threading.local()
"""view: the one this thread works on."""


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread knows which view it works on."""
    for name in ("advance", "idle", "rest", "close"):
        _tag(monkeypatch, Task, name, lambda task: task.view.name)
    _tag(monkeypatch, Follower, "step", lambda follower: follower.run.view.name)


def _tag(monkeypatch: pytest.MonkeyPatch, kind: type, name: str, view_of: Callable[[Any], str]) -> None:
    original = getattr(kind, name)

    def tagged(self: Any, *arguments: Any, **options: Any) -> Any:
        before, _here.view = getattr(_here, "view", None), view_of(self)
        try:
            return original(self, *arguments, **options)
        finally:
            _here.view = before

    monkeypatch.setattr(kind, name, tagged)


@contextlib.contextmanager
def installed(fault: Fault) -> Iterator[None]:
    """See every call in this thread, and in those that begin meanwhile."""
    threading.setprofile(fault)
    sys.setprofile(fault)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
def test_a_bug_in_the_work_on_one_view(
    mode: str, source: Source, redis_server: RedisServer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """It ends with exit code 1, the others are right, and so is the next run."""
    for name in VIEWS:
        source.execute(f"CREATE TABLE t{name} (key text, value text)")
        source.execute(f"INSERT INTO t{name} SELECT 'k' || n, 'v' || n FROM generate_series(1, 50) AS n")
        source.execute(f"CREATE MATERIALIZED VIEW v{name} AS SELECT key, value FROM t{name}")
        if mode in ("delta", "follow"):
            source.execute(f"ALTER MATERIALIZED VIEW v{name} SET (RETAIN HISTORY FOR '1hr')")
    views = [{"name": n, "sql": f"SELECT key, value FROM {source.schema}.v{n}", "key_prefix": n} for n in VIEWS]
    path = tmp_path / "config.json"
    servers = {"materialize": {"url": source.url}, "redis": {"url": redis_server.url}}
    path.write_text(json.dumps({**servers, "limits": {"lease": "1s", "jobs": 2}, "views": views}))
    settings, client, chosen = load(str(path), {}), redis_server.client(), rng("bugs")

    def run(fault: Fault | None = None) -> dict[str, ExitCode]:
        with installed(fault) if fault is not None else contextlib.nullcontext():
            report = execute(
                settings, Request(mode="run", if_leased="wait", **(MODES[mode] if fault else {})), Stop(60)
            )
        return {view.view: view.exit_code for view in report.views}

    def held(name: str) -> dict[bytes, bytes | None]:
        return {key.partition(b":")[2]: client.get(key) for key in client.scan_iter(f"{name}:*")}

    def content(name: str) -> dict[bytes, bytes]:
        return {k.encode(): v.encode() for k, v in source.execute(f"SELECT key, value FROM v{name}")}

    def begin(number: int) -> None:
        if mode == "load":
            client.flushdb()
            return
        for name in VIEWS:
            source.execute(f"UPDATE t{name} SET value = 'w{number}' WHERE key LIKE 'k{number % 5}%'")
        if mode == "snapshot":
            source.await_oblivion(f"v{BROKEN}")

    assert set(run().values()) == {ExitCode.OK}
    begin(1)
    whole = Fault()
    assert set(run(whole).values()) == {ExitCode.OK}
    for number in range(2, 102 if request.config.getoption("--soak") else 8):
        begin(number)
        fault = Fault(chosen.randint(1, whole.calls))
        codes = run(fault)
        assert [codes[name] for name in OTHERS] == [ExitCode.OK] * len(OTHERS), fault.trail
        assert [held(name) for name in OTHERS] == [content(name) for name in OTHERS], fault.trail
        if fault.trail and GIVES_BACK not in fault.trail:
            assert codes[BROKEN] == ExitCode.BUG, fault.trail
        assert set(run().values()) == {ExitCode.OK}, fault.trail
        assert [held(name) for name in VIEWS] == [content(name) for name in VIEWS], fault.trail
