"""Networks that swallow everything: every wait is bounded, by timeouts and by the deadline, in every phase."""

from __future__ import annotations

import threading
import time

import pytest
import redis

from reconcile import stop as stops
from reconcile.runs import connections
from reconcile.runs.entry import execute
from reconcile.runs.request import Request
from reconcile.source import session as sessions
from reconcile.stop import GRACE_S, Stop
from reconcile.target import base
from tests.faults.proxy import Direction, Fault
from tests.faults.rig import (
    CONNECT_TIMEOUT_S,
    FOLLOWED_S,
    READ_TIMEOUT_S,
    REDIS_TIMEOUT_S,
    SCENARIOS,
    SLACK_S,
    TAMPERED,
    Rig,
    Scenario,
    prepare,
)
from tests.support.meanwhile import beside, eventually
from tests.support.redis_state import state
from tests.support.seed import rng

POSITIONS = 1
SOAK_POSITIONS = 80
RELEASE_BOUND_S = 2.0 + 1.0
"""Giving the lease back, and waiting for its renewal."""
BOUND_S = max(READ_TIMEOUT_S, REDIS_TIMEOUT_S, CONNECT_TIMEOUT_S) + RELEASE_BOUND_S
SHORT_GRACE_S = 0.5
DEADLINE_S = 0.3


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopping runs are severed after half a second, leases given back within it: many positions take their time."""
    monkeypatch.setattr(stops, "GRACE_S", SHORT_GRACE_S)
    monkeypatch.setattr(sessions, "GRACE_S", SHORT_GRACE_S)
    monkeypatch.setattr(base, "RELEASE_S", SHORT_GRACE_S)


def patient(rig: Rig) -> None:
    """Timeouts so long that only the deadline can end a wait."""
    rig.materialize = {"read_timeout": "1h", "connect_timeout": "1h"}
    rig.redis = {"timeout": "1h", "connect_timeout": "1h"}


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.usefixtures("short_grace")
def test_black_hole_anywhere(name: str, rig: Rig, request: pytest.FixtureRequest) -> None:
    """From byte N on nothing arrives any more: exit 6 after the timeout, or 4 after the deadline; then it converges."""
    black_holes_anywhere(name, rig, SOAK_POSITIONS if request.config.getoption("--soak") else POSITIONS)


def black_holes_anywhere(name: str, rig: Rig, count: int) -> None:
    """Let a scenario's servers fall silent at that many positions of each side."""
    random = rng(name, "black holes")
    scenario = prepare(rig, name)
    scenario.start(rig)
    scenario.run_whole(rig)
    totals = {side: dict(rig.proxy(side).passed) for side in ("source", "redis")}
    directions: list[Direction] = ["up", "down"]
    tried = 0
    bounds = ["timeouts", "deadline"]
    random.shuffle(bounds)
    for side, once in zip(("source", "redis"), bounds, strict=True):
        for bound in bounds if count > 1 else [once]:
            for _ in range(count):
                direction = random.choice(directions)
                fault = Fault(direction, random.randrange(totals[side][direction]), "black_hole")
                _try(rig, scenario, side, fault, bound)
                tried += 1
    print(f"{name}: {tried} black holes")


def _try(rig: Rig, scenario: Scenario, side: str, fault: Fault, bound: str) -> None:
    scenario.start(rig)
    rig.source_proxy.heal()
    rig.redis_proxy.heal()
    rig.proxy(side).arm(fault)
    if bound == "deadline":
        patient(rig)
        ended = scenario.run(rig, max_runtime=DEADLINE_S)
        limit = DEADLINE_S + SHORT_GRACE_S + RELEASE_BOUND_S
        allowed = {4}
    else:
        rig.impatient()
        ended = scenario.run(rig)
        limit = BOUND_S + scenario.options.get("follow_s", 0)
        allowed = {6}
    case = f"{scenario.name} {side} {fault}: exit {ended.code} after {ended.seconds:.1f} s: {ended.told}"
    print(case)
    if not rig.proxy(side).fired or scenario.mode == "run":
        allowed |= {0, 4}  # at the very end of a run, or after `--for`, nobody misses the answers
    if ended.view.commits:
        allowed |= {0}  # silence came after the commit
    if scenario.mode == "verify" or scenario.mode == "delta":
        allowed |= {0, 3}
    assert ended.code in allowed, case
    assert ended.seconds < limit + SLACK_S, case
    if ended.code == 6:
        assert ended.view.error is not None
        assert ended.view.error.kind == "unavailable", case
        assert ended.view.error.hint, case
    if scenario.name not in TAMPERED:
        rig.honest()
        rig.converges()
    else:
        rig.converges("snapshot", deep=True)


CONNECTING = [
    pytest.param("source", Fault("up", 0, "black_hole"), id="Materialize: nothing at all"),
    pytest.param("source", Fault("down", 0, "black_hole"), id="Materialize: no answer to SSLRequest"),
    pytest.param("source", Fault("down", 1, "black_hole"), id="Materialize: no answer to the startup message"),
    pytest.param("source", Fault("down", 30, "black_hole"), id="Materialize: parameters, then nothing"),
    pytest.param("redis", Fault("up", 0, "black_hole"), id="Redis: nothing at all"),
    pytest.param("redis", Fault("down", 0, "black_hole"), id="Redis: no answer to AUTH or CLIENT SETNAME"),
    pytest.param("redis", Fault("down", 3, "black_hole"), id="Redis: half of the handshake"),
]


@pytest.mark.parametrize(("side", "fault"), CONNECTING)
def test_connecting_into_a_black_hole(side: str, fault: Fault, rig: Rig) -> None:
    """The connect timeout bounds the whole handshake, however long an answer may take later."""
    connect_into_a_black_hole(side, fault, rig)


def connect_into_a_black_hole(side: str, fault: Fault, rig: Rig) -> None:
    """A run that meets silence as it connects, and the one after it."""
    rig.source.put(a="1")
    rig.materialize = {"read_timeout": "1h", "connect_timeout": CONNECT_TIMEOUT_S}
    rig.redis = {"timeout": "1h", "connect_timeout": CONNECT_TIMEOUT_S}
    rig.proxy(side).arm(fault)
    ended = rig.run()
    assert ended.code == 6, ended.told
    assert ended.seconds < CONNECT_TIMEOUT_S + RELEASE_BOUND_S + SLACK_S
    assert ended.view.error is not None
    assert ended.view.error.hint
    rig.converges()


@pytest.mark.parametrize(("side", "fault"), [CONNECTING[1], CONNECTING[2], CONNECTING[4], CONNECTING[5]])
@pytest.mark.parametrize("how", ["deadline", "signal"])
def test_connecting_ends_with_the_run(side: str, fault: Fault, how: str, rig: Rig) -> None:
    """A deadline or a signal ends a connect under way at once: exit 4, no grace needed for a connection nobody has."""
    connecting_ends_with_the_run(side, fault, how, rig)


def connecting_ends_with_the_run(side: str, fault: Fault, how: str, rig: Rig) -> None:
    """A run that should end while it connects."""
    patient(rig)
    rig.proxy(side).arm(fault)
    stop = Stop(0.5 if how == "deadline" else None)
    if how == "signal":
        threading.Timer(0.5, stop.request, ["SIGTERM"]).start()
    ended = rig.run(stop=stop)
    assert ended.code == 4, ended.told
    assert ended.seconds < 0.5 + 1.0 + SLACK_S


@pytest.mark.parametrize("side", ["redis"])  # the source: test_time.py, with a real signal
def test_the_grace_of_a_real_run(side: str, rig: Rig) -> None:
    """With the shipped grace: deadline, five seconds, and little more."""
    patient(rig)
    rig.fill(3000)
    marker = b"seahash" if side == "source" else b"MSETNX"
    silent = rig.proxy(side).on(marker, then="black_hole")
    ended = rig.run(max_runtime=4.0)
    assert silent.seen.is_set()
    assert ended.code == 4, ended.told
    assert 4.0 + GRACE_S <= ended.seconds < 4.0 + GRACE_S + RELEASE_BOUND_S + SLACK_S
    print(f"{side}: ended {ended.seconds - 4.0:.2f} s after the deadline")
    rig.converges()


@pytest.mark.parametrize(
    ("mode", "then"),
    [("delta", "cut"), ("delta", "reset"), ("delta", "black_hole"), ("snapshot", "cut"), ("snapshot", "black_hole")],
)
def test_an_applied_transaction_is_not_repeated(mode: str, then: str, rig: Rig) -> None:
    """The answer to an EXEC is lost: the run says what it does not know, and whichever it was, nothing is repeated.

    Nearly always it was carried out. But a server that meets the cut as it answers an earlier command reads no further.
    """
    rig.source.retain_history()
    rig.fill(50)
    assert rig.run(direct=True).code == 0
    rig.source.execute("UPDATE t SET value = 'new' WHERE key = 'k7'")
    before = state(rig.client)["as_of"]
    rig.client.config_resetstat()
    data = rig.redis_proxy.on(b"MSET")
    rig.redis_proxy.on(b"EXEC", then=then, after=data)  # type: ignore[arg-type]
    rig.redis = {"timeout": 3.0} if then == "black_hole" else {}
    ended = rig.run(mode)
    assert data.seen.is_set()
    assert ended.code == 6, ended.told
    assert "outcome of the last transaction is unknown" in ended.told
    deadline = time.monotonic() + SLACK_S
    while state(rig.client)["as_of"] == before and time.monotonic() < deadline:
        time.sleep(0.02)
    applied = int(state(rig.client)["as_of"]) > int(before)
    assert applied or then != "black_hole"  # there the server meets no cut at all
    assert (rig.client.get("p:k7") == b"new") == applied
    assert sets(rig.client) == int(applied)
    rig.converges()
    assert sets(rig.client) == 1  # where it was applied, the next run finds nothing left to do


def sets(client: redis.Redis) -> int:
    """How often MSET was carried out."""
    return int(client.info("commandstats").get("cmdstat_mset", {"calls": 0})["calls"])


def test_a_broken_connection_is_not_made_anew(rig: Rig) -> None:
    """After a failure the run makes one new connection at most, to give its lease back; the next run starts at once."""
    rig.limits["lease"] = "1h"
    rig.fill(50)
    data = rig.redis_proxy.on(b"MSETNX")
    rig.redis_proxy.on(b"EXEC", then="cut", after=data)
    assert rig.run().code == 6
    assert rig.redis_proxy.connections <= 3
    assert not rig.client.exists("reconcile:{default}:lease")
    rig.converges()


def test_a_taken_lease_whose_answer_was_lost_is_given_back(rig: Rig) -> None:
    """The connection breaks as the lease is taken: it must not keep the next run waiting for its whole length."""
    rig.limits["lease"] = "1h"
    rig.fill(50)
    rig.redis_proxy.on(b":lease", then="cut")
    assert rig.run().code == 6
    assert not rig.client.exists("reconcile:{default}:lease")
    rig.converges()


@pytest.mark.usefixtures("short_grace")
def test_the_lease_is_renewed_over_nothing(rig: Rig) -> None:
    """A renewal that hangs does not keep a finished run from ending."""
    rig.limits["lease"] = "1s"
    rig.redis = {"timeout": "1h", "connect_timeout": "1h"}
    rig.source.put(a="1")
    assert rig.run(direct=True).code == 0
    rig.redis_proxy.on(b"PEXPIRE", then="black_hole")
    ended = rig.run("run", follow_s=1.5, max_runtime=1.0)
    assert ended.seconds < 1.5 + SHORT_GRACE_S + RELEASE_BOUND_S + SLACK_S
    rig.redis_proxy.heal()
    rig.converges()


def test_a_slow_network_is_no_failure(rig: Rig) -> None:
    """Every packet late on both sides: the same result, later."""
    rig.fill(500)
    rig.source_proxy.delay_s = rig.redis_proxy.delay_s = 0.02
    assert rig.run().code == 0
    rig.in_sync()
    rig.source.put(k1="changed")
    assert rig.run().code == 0
    rig.in_sync()
    assert rig.run("verify").code == 0


def test_a_source_that_falls_silent_while_followed(rig: Rig) -> None:
    """Progress comes every second; without it the run does not follow a dead source to the end of `--for`."""
    rig.source.put(a="1")
    rig.materialize = {"read_timeout": "2s"}
    threading.Timer(2.0, rig.source_proxy.black_hole).start()
    ended = rig.run("run", follow_s=60)
    assert ended.code == 6, ended.told
    assert ended.view.error is not None
    assert ended.view.error.hint
    assert ended.seconds < 2 + 2 + RELEASE_BOUND_S + SLACK_S
    rig.converges()


def test_a_statement_left_behind_in_silence(rig: Rig) -> None:
    """Redis failed, the source has fallen silent too: giving up the statement under way has a bound of its own."""
    rig.fill(30000)
    rig.materialize = {"read_timeout": "1h"}
    rig.source_proxy.down_bytes_per_s = 200_000
    session = sessions.connect(rig.settings().materialize, Stop())
    chunks = session.stream(rig.source.sql)
    assert next(chunks)
    rig.source_proxy.black_hole()
    started = time.monotonic()
    chunks.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 2 * GRACE_S + SLACK_S  # psycopg's cancel request, then ours is the bound
    session.close()


@pytest.mark.parametrize("side", ["source", "redis"])
def test_nobody_listens(side: str, rig: Rig) -> None:
    """Connection refused and connections closed at once: exit 6 without delay, with the server's name."""
    rig.proxy(side).refuse()
    ended = rig.run()
    assert ended.code == 6
    assert ended.seconds < 1 + SLACK_S
    assert ("Materialize" if side == "source" else "Redis") in ended.told
    rig.proxy(side).close()
    assert rig.run().code == 6


@pytest.mark.usefixtures("short_grace")
def test_many_views_end_together(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis falls silent and the deadline comes: one view waits in vain to give its lease back, the others do not."""
    names = [f"v{n}" for n in range(6)]
    patient(rig)
    config = rig.config(direct=False) | {
        "views": [{"name": name, "sql": rig.source.sql, "key_prefix": name} for name in names]
    }
    monkeypatch.setattr(rig, "config", lambda *, direct: config)
    monkeypatch.setattr(connections, "BELIEVED_S", 600.0)
    rig.source.put(a="1")
    released, really = [], base.Base.release
    stop = Stop()

    def release(self: base.Base, owner: bytes) -> None:
        released.append(self.view)
        really(self, owner)

    def fall_silent(_: threading.Event) -> None:
        for name in names:
            state_key = f"reconcile:{{{name}}}:state"
            present = rig.source.present()
            eventually(lambda key=state_key, at=present: int(rig.client.hget(key, "as_of") or 0) > at)  # type: ignore[misc]
        monkeypatch.setattr(base.Base, "release", release)
        rig.redis_proxy.black_hole()
        stop.request("deadline")

    with beside(fall_silent):
        report = execute(rig.settings(), Request(mode="run", follow_s=FOLLOWED_S), stop)
    assert {view.exit_code for view in report.views} <= {0, 4}
    assert len(released) == 1
