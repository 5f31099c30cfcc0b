"""Runs in this process, with a proxy before each server; and scenarios that can be set up again quickly."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from psycopg.conninfo import conninfo_to_dict

from reconcile.config.load import load
from reconcile.config.settings import Settings
from reconcile.errors import ExitCode
from reconcile.report.run_report import RunReport, ViewReport
from reconcile.runs.entry import execute
from reconcile.runs.request import Request
from reconcile.stop import Stop
from tests.faults.proxy import Proxy
from tests.support.meanwhile import beside, eventually
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import Stored, owned, prefixed, state, true_manifest
from tests.support.sources import Source
from tests.support.tls import Certificate, TlsFront

READ_TIMEOUT_S = 0.7
REDIS_TIMEOUT_S = 0.7
CONNECT_TIMEOUT_S = 1.5
SLACK_S = 6.0
"""What a loaded machine may add to any bound."""
FOLLOWED_S = 120.0
"""Longer than anything takes that a follower is to do."""


@dataclass
class Ended:
    """How a run in this process ended."""

    report: RunReport
    seconds: float
    stop: Stop

    @property
    def code(self) -> ExitCode:
        return self.report.exit_code

    @property
    def view(self) -> ViewReport:
        (view,) = self.report.views
        return view

    @property
    def told(self) -> str:
        """The error as a user sees it."""
        error = self.view.error
        return "" if error is None else f"{error.kind}: {error.message} [{error.hint}]"


def failed(ended: Ended, code: int, *texts: str) -> None:
    """It ended with this code and one message that has these texts, with a hint."""
    assert ended.code == code, ended.told
    assert ended.view.error is not None
    for text in texts:
        assert text in ended.told, ended.told
    assert ended.view.error.hint
    assert "\n" not in ended.view.error.message


@dataclass
class Rig:
    """A source and a Redis, reached directly or through `source_proxy` and `redis_proxy`."""

    source: Source
    server: RedisServer
    directory: Path
    source_proxy: Proxy
    redis_proxy: Proxy
    limits: dict[str, Any] = field(default_factory=lambda: {"lease": "1s"})
    view: dict[str, Any] = field(default_factory=dict)
    materialize: dict[str, Any] = field(default_factory=dict)
    redis: dict[str, Any] = field(default_factory=dict)
    tls_ca: str | None = None
    """Both proxies pass TLS on, of servers that this authority vouches for."""

    def impatient(self) -> None:
        """Short timeouts. For runs that are to fail: a loaded machine may exceed them."""
        self.materialize = {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S}
        self.redis = {"connect_timeout": CONNECT_TIMEOUT_S, "timeout": REDIS_TIMEOUT_S}

    @property
    def client(self) -> redis.Redis:
        return self.server.client()

    def proxy(self, side: str) -> Proxy:
        return self.source_proxy if side == "source" else self.redis_proxy

    def config(self, *, direct: bool) -> dict[str, Any]:
        """The configuration file's content."""
        source_url, redis_url = self.source.url, self.server.url
        source_tls, redis_tls = {}, {}
        if not direct:
            source_url = _through(source_url, self.source_proxy.port)
            redis_url = _through(redis_url, self.redis_proxy.port)
        if not direct and self.tls_ca is not None:
            redis_url = redis_url.replace("redis://", "rediss://", 1)
            source_tls = {"sslmode": "verify-full", "sslrootcert": self.tls_ca}
            redis_tls = {"tls_ca_cert": self.tls_ca}
        return {
            "materialize": {
                "url": source_url, **source_tls, **({} if direct else self.materialize),
            },
            "redis": {
                "url": redis_url, **redis_tls, **({} if direct else self.redis),
            },
            "limits": self.limits,
            "views": [{"name": "default", "sql": self.source.sql, "key_prefix": "p", **self.view}],
        }  # fmt: skip

    def settings(self, *, direct: bool = False) -> Settings:
        path = self.directory / ("direct.yaml" if direct else "proxied.yaml")
        path.write_text(json.dumps(self.config(direct=direct)))
        return load(str(path), {})

    def run(
        self, mode: str = "run", *, direct: bool = False, max_runtime: float | None = None, stop: Stop | None = None,
        **options: Any,
    ) -> Ended:  # fmt: skip
        """One run, to its end."""
        stop = stop or Stop(max_runtime)
        request = Request(mode=mode, if_leased="wait", **options)  # type: ignore[arg-type]
        settings = self.settings(direct=direct)
        started = time.monotonic()
        report = execute(settings, request, stop)
        return Ended(report, time.monotonic() - started, stop)

    def follow(self, true: Callable[[], bool], mode: str = "run", **options: Any) -> Ended:
        """One run that follows the view until this is true, and on from there; then its time is over."""
        stop = Stop()

        def watch(over: threading.Event) -> None:
            while not true() and not over.wait(0.02):
                pass
            if not over.is_set():
                self.await_following()  # a snapshot may have made it true, and not have ended
            stop.request("deadline")

        with beside(watch):
            return self.run(mode, follow_s=FOLLOWED_S, stop=stop, **options)

    def await_following(self) -> None:
        """Wait until a run that was begun beside has come past the source's present, which only a follower does."""
        present = self.source.present()
        eventually(lambda: int(state(self.client).get("as_of") or 0) > present)

    def converges(self, mode: str = "run", **options: Any) -> None:
        """The next run, with nothing in its way, makes Redis equal to the view; and a true manifest."""
        ended = self.run(mode, direct=True, **options)
        assert ended.code == 0, f"the next run: {ended.told}"
        assert ended.seconds < 10 + SLACK_S
        self.in_sync()

    def in_sync(self) -> None:
        """Redis holds exactly the view's content, and the manifest says so."""
        content = owned(self.client)
        assert content == prefixed(self.source.content())
        assert state(self.client)["pending"] == ""
        assert self.manifest_is_true(content)

    def honest(self) -> None:
        """What Redis holds after a failed run does not claim to be more than it is."""
        fields = state(self.client)
        if fields.get("as_of") and not fields["pending"]:
            assert self.manifest_is_true(owned(self.client))

    def manifest_is_true(self, content: dict[bytes, bytes]) -> bool:
        """Whether the stored manifest is what the content adds up to."""
        manifest, _ = true_manifest(content, state(self.client))
        return self.client.get("reconcile:{default}:manifest") == manifest

    def fill(self, rows: int, size: int = 60) -> None:
        """Rows k1 … kn."""
        self.source.execute(
            f"INSERT INTO t SELECT 'k' || n, 'v' || n || repeat('x', {size}) FROM generate_series(1, {rows}) AS n"
        )


def _through(url: str, port: int) -> str:
    """The same URL by way of the proxy."""
    head, _, tail = url.partition("://")
    credentials, at, rest = tail.rpartition("@")
    path = rest.partition("/")[2]
    return f"{head}://{credentials}{at}127.0.0.1:{port}/{path}"


@contextlib.contextmanager
def new_rig(source: Source, server: RedisServer, directory: Path, *, tls: Certificate | None = None) -> Iterator[Rig]:
    """A rig with a proxy before each server. tls: what passes the proxies is TLS, under this certificate."""
    there = conninfo_to_dict(source.url)
    ours = str(there.get("host", "127.0.0.1")), int(str(there.get("port", 6875)))
    kept = server.client().connection_pool.connection_kwargs
    theirs = str(kept["host"]), int(kept["port"])
    with contextlib.ExitStack() as fronts:
        if tls is not None:
            ours = "127.0.0.1", fronts.enter_context(TlsFront(*ours, tls, postgres=True)).port
            theirs = "127.0.0.1", fronts.enter_context(TlsFront(*theirs, tls)).port
        with Proxy(*ours) as source_proxy, Proxy(*theirs) as redis_proxy:
            yield Rig(source, server, directory, source_proxy, redis_proxy, tls_ca=tls.ca if tls else None)


# -- scenarios ---------------------------------------------------------------------------------------------------


@dataclass
class Scenario:
    """A kind of run, and the state of the world it starts from. `start` restores Redis; the source stays as it is."""

    name: str
    mode: str
    options: dict[str, Any]
    stored: Stored

    def start(self, rig: Rig) -> None:
        self.stored.restore(rig.client)

    def run(self, rig: Rig, **more: Any) -> Ended:
        return rig.run(self.mode, **{**self.options, **more})

    def run_whole(self, rig: Rig) -> None:
        """Let everything pass; `--for` may be over before the present was reached, then it is tried again."""
        for _ in range(5):
            self.start(rig)
            rig.source_proxy.heal()
            rig.redis_proxy.heal()
            ended = self.run(rig)
            if ended.code != 4 or "follow_s" not in self.options:
                break
        assert ended.code in (0, 3), ended.told


SCENARIOS = [
    "first_load",
    "large_first_load",
    "fingerprints",
    "deep",
    "large_snapshot",
    "delta",
    "large_delta",
    "follow",
    "verify",
]
TAMPERED = {"deep", "verify"}
"""Scenarios that start from a Redis somebody else has changed: its manifest is not what it holds."""
ROWS = 300


def prepare(rig: Rig, name: str) -> Scenario:
    """Set the world up for a scenario."""
    makers: dict[str, Callable[[Rig], Scenario]] = {
        "first_load": lambda rig: Scenario(name, "run", {}, Stored({})),
        "large_first_load": lambda rig: Scenario(name, "run", {}, Stored({})),
        "fingerprints": lambda rig: Scenario(name, "run", {}, _changed(rig, history=False)),
        "deep": lambda rig: Scenario(name, "snapshot", {"deep": True}, _changed(rig, history=False, tampered=True)),
        "large_snapshot": lambda rig: Scenario(name, "snapshot", {}, _changed(rig, history=True, everything=True)),
        "delta": lambda rig: Scenario(name, "delta", {}, _changed(rig, history=True)),
        "large_delta": lambda rig: Scenario(name, "delta", {}, _changed(rig, history=True, everything=True)),
        "follow": lambda rig: Scenario(name, "run", {"follow_s": 0.8}, _changed(rig, history=True)),
        "verify": lambda rig: Scenario(name, "verify", {}, _changed(rig, history=True, tampered=True)),
    }
    if name == "large_first_load":
        rig.fill(4500, 10)
    else:
        rig.fill(ROWS)
    if name.startswith("large"):
        rig.limits["batch_max_keys"] = 50
    return makers[name](rig)


def _changed(rig: Rig, *, history: bool, tampered: bool = False, everything: bool = False) -> Stored:
    """A loaded Redis; then the view changes (and Redis is tampered with)."""
    source = rig.source
    if history:
        source.retain_history()
    assert rig.run(direct=True).code == 0
    if tampered:
        rig.client.set("p:k20", "edited")
        rig.client.delete("p:k21")
        rig.client.set("p:stray", "x")
    if everything:
        source.execute("UPDATE t SET value = value || '!'")
        source.execute("DELETE FROM t WHERE key IN ('k1', 'k2', 'k3', 'k4', 'k5')")
    else:
        source.execute("UPDATE t SET value = value || '!' WHERE key LIKE 'k1%'")
        source.execute("DELETE FROM t WHERE key IN ('k7', 'k8')")
        source.execute("INSERT INTO t SELECT 'n' || n, 'new' FROM generate_series(1, 20) AS n")
    stored = Stored.of(rig.client)
    if not history:
        source.forget_history()
    return stored
