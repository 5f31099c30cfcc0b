"""Runs end when told to: by signals, deadlines, --for, --until-current, in every phase, at a committed time."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reconcile.runs import scopes
from reconcile.stop import GRACE_S, Stop
from reconcile.target.layouts.string import Strings
from tests.faults.proxy import Trigger
from tests.faults.rig import SLACK_S, Rig, Scenario
from tests.support.command import Command
from tests.support.meanwhile import beside, eventually
from tests.support.redis_state import Stored, owned, prefixed, state

STOP_S = 1.0
"""A run ends within this after a signal or its deadline, plus one batch; tests allow SLACK_S more."""
ROWS = 30_000
ENDING = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
SHORT_RUNS_MAX = 60
"""Five to ten are enough; on a machine that others load a run gets less done."""
TIMES = Path(os.environ.get("RECONCILE_TEST_TIMES", os.devnull))
"""Measured stop times are appended to this file."""


def note(what: str, seconds: float) -> None:
    """Keep a measured time."""
    print(f"{what}: {seconds:.2f} s")
    with TIMES.open("a") as file:
        file.write(f"{what}: {seconds:.2f} s\n")


@dataclass
class Phase:
    """A phase of a run that lasts for seconds, because one proxy is slow. `begun` is set when it has begun."""

    scenario: Scenario
    arguments: list[str]
    begun: Trigger


PHASES = ["load", "fingerprints", "repair", "scan", "catch-up", "following", "verify", "verify: scan"]


@pytest.fixture(autouse=True)
def hangups() -> Iterator[Callable[[Any], None]]:
    """What becomes of SIGHUP in commands that are started: by default it ends them, even if we run under nohup."""
    before = signal.getsignal(signal.SIGHUP)

    def become(handler: Any) -> None:
        signal.signal(signal.SIGHUP, handler)

    become(signal.SIG_DFL)
    yield become
    become(before)


def prepare(rig: Rig, name: str) -> Phase:
    """A world in which the phase lasts for at least two seconds."""
    source = rig.source
    rows = 300 if name == "following" else ROWS
    rig.view = {"buckets": 32768} if name == "fingerprints" else {}
    rig.fill(rows, 40)
    if name == "load":
        rig.source_proxy.down_bytes_per_s = 700_000
        return Phase(Scenario(name, "run", {}, Stored({})), ["run"], rig.redis_proxy.on(b"MSETNX"))
    source.retain_history()
    assert rig.run(direct=True).code == 0
    if name == "catch-up":
        source.execute("UPDATE t SET value = value || '!'")
        rig.source_proxy.down_bytes_per_s = 700_000
        return Phase(Scenario(name, "delta", {}, Stored({})), ["delta"], rig.source_proxy.on(b"SUBSCRIBE"))
    if name == "following":
        scenario = Scenario(name, "run", {"follow_s": 60.0}, Stored({}))
        return Phase(scenario, ["run", "--for", "60s"], rig.source_proxy.on(b"SUBSCRIBE"))
    if name == "scan":
        rig.redis_proxy.down_bytes_per_s = 400_000
        scenario = Scenario(name, "snapshot", {"deep": True}, Stored({}))
        return Phase(scenario, ["snapshot", "--deep"], rig.redis_proxy.on(b"SCAN"))
    if name.startswith("verify"):
        if name == "verify":
            rig.source_proxy.down_bytes_per_s = 700_000
            begun = rig.source_proxy.on(b"AS value FROM (")
        else:
            rig.redis_proxy.down_bytes_per_s = 400_000
            begun = rig.redis_proxy.on(b"SCAN")
        return Phase(Scenario(name, "verify", {}, Stored({})), ["verify"], begun)
    source.execute("UPDATE t SET value = value || '!' WHERE key LIKE 'k1%'")
    rig.source_proxy.down_bytes_per_s = 600_000
    marker = b"GROUP BY 1" if name == "fingerprints" else b"AS value FROM ("
    if name == "repair":
        rig.source_proxy.down_bytes_per_s = 1_500_000
    return Phase(Scenario(name, "snapshot", {}, Stored({})), ["snapshot"], rig.source_proxy.on(marker))


def command_of(rig: Rig) -> Command:
    """The installed command with the rig's configuration."""
    command = Command(rig.directory, "", "", "")
    command.config = json.loads(json.dumps(rig.config(direct=False)))
    return command


def settled(rig: Rig, phase: Phase, as_of_before: str) -> None:
    """Ended in the middle: nothing false is claimed, the lease is free, and the next run finishes the work."""
    assert not rig.client.exists("reconcile:{default}:lease")
    rig.honest()
    assert state(rig.client).get("as_of", "") >= as_of_before
    rig.source_proxy.heal()
    rig.redis_proxy.heal()
    ended = rig.run(direct=True)
    assert ended.code == 0, ended.told
    rig.in_sync()


@pytest.mark.parametrize("name", PHASES)
def test_signal(name: str, rig: Rig) -> None:
    """A signal in a phase: exit 4 within a second plus one batch, progress committed, the lease given back."""
    number = ENDING[PHASES.index(name) % len(ENDING)]
    phase = prepare(rig, name)
    before = state(rig.client).get("as_of", "")
    rig.limits["lease"] = "1h"
    process = command_of(rig).start(*phase.arguments)
    assert phase.begun.seen.wait(30)
    time.sleep(1.5 if name == "following" else 0.3)
    assert process.poll() is None
    process.send_signal(number)
    started = time.monotonic()
    out, err = process.communicate(timeout=60)
    seconds = time.monotonic() - started
    note(f"{number.name} during {name}", seconds)
    assert process.returncode == 4, out + err
    assert seconds < STOP_S + SLACK_S
    (view,) = json.loads(out)["views"]
    assert view["status"] == "partial"
    assert number.name in out
    settled(rig, phase, before)


@pytest.mark.parametrize("name", PHASES)
def test_deadline(name: str, rig: Rig, request: pytest.FixtureRequest) -> None:
    """--max-runtime in a phase: exit 4 as quickly; while following there is nothing left to do, so exit 0."""
    if PHASES.index(name) % 2 and not request.config.getoption("--soak"):
        pytest.skip("a signal takes the same path: every other phase here, all with --soak")
    phase = prepare(rig, name)
    before = state(rig.client).get("as_of", "")
    rig.limits["lease"] = "1h"
    limit_s = 5.0 if name == "following" else 1.2  # there it is to come to the present before
    ended = phase.scenario.run(rig, max_runtime=limit_s)
    note(f"deadline during {name}", ended.seconds - limit_s)
    assert ended.code == (0 if name == "following" else 4), ended.told
    assert ended.seconds < limit_s + STOP_S + SLACK_S
    settled(rig, phase, before)


@pytest.mark.parametrize("number", ENDING)
def test_a_second_signal_ends_at_once(number: signal.Signals, rig: Rig) -> None:
    """Whatever the run waits for: the second signal does not wait for it."""
    rig.fill(3000)
    begun = rig.source_proxy.on(b"AS value FROM (", then="black_hole")
    process = command_of(rig).start("run")
    assert begun.seen.wait(30)
    ends(rig, lambda: process.send_signal(number))
    assert process.poll() is None  # the first one is being patient with the source
    process.send_signal(number)
    started = time.monotonic()
    process.communicate(timeout=60)
    note(f"second {number.name}", time.monotonic() - started)
    assert time.monotonic() - started < STOP_S + SLACK_S
    assert process.returncode == 128 + number


def ends(rig: Rig, tell: Callable[[], None]) -> None:
    """Tell a run that it should end, and wait until it gives up the statement under way: by another connection."""
    before = rig.source_proxy.connections
    tell()
    eventually(lambda: rig.source_proxy.connections > before)


def test_a_hangup_that_is_ignored(rig: Rig, hangups: Callable[[Any], None]) -> None:
    """Under nohup a run outlives its terminal."""
    rig.fill(3000)
    begun = rig.source_proxy.on(b"AS value FROM (", then="black_hole")
    hangups(signal.SIG_IGN)
    process = command_of(rig).start("run")
    assert begun.seen.wait(30)
    time.sleep(0.3)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4, out + err
    assert "SIGTERM" in out


def test_a_signal_with_a_dead_source(rig: Rig) -> None:
    """The source answers neither the read nor the cancel request: severed after the grace, exit 4."""
    rig.fill(3000)
    begun = rig.source_proxy.on(b"AS value FROM (", then="black_hole")
    process = command_of(rig).start("run")
    assert begun.seen.wait(30)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    out, err = process.communicate(timeout=60)
    note("SIGTERM, source dead", time.monotonic() - started)
    assert process.returncode == 4, out + err
    assert time.monotonic() - started < GRACE_S + STOP_S + SLACK_S
    assert not rig.client.exists("reconcile:{default}:lease")


def test_a_first_signal_after_the_deadline(rig: Rig) -> None:
    """Kubernetes asks a run to end that is ending already: that is no second signal, the lease is still given back."""
    rig.fill(3000)
    begun = rig.source_proxy.on(b"AS value FROM (", then="black_hole")
    process = command_of(rig).start("run", "--max-runtime", "5s")
    assert begun.seen.wait(30)
    ends(rig, lambda: None)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4, out + err
    assert not rig.client.exists("reconcile:{default}:lease")


def test_waiting_for_a_lease_ends_too(rig: Rig) -> None:
    """--if-leased wait: a signal ends the waiting, the other's lease stays."""
    rig.source.put(a="1")
    rig.client.set("reconcile:{default}:lease", "somebody", px=60_000)
    looked = rig.redis_proxy.on(b":lease")
    process = command_of(rig).start("run", "--if-leased", "wait")
    assert looked.seen.wait(30)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    out, err = process.communicate(timeout=60)
    note("SIGTERM, waiting for a lease", time.monotonic() - started)
    assert process.returncode == 4, out + err
    assert time.monotonic() - started < STOP_S + SLACK_S
    assert rig.client.get("reconcile:{default}:lease") == b"somebody"


def test_for_ends_on_time(rig: Rig) -> None:
    """--for counts from the start of the invocation, whatever was done in it."""
    rig.source.retain_history()
    rig.fill(300)
    for mode in ("run", "run", "delta"):
        codes: list[int] = []
        while 0 not in codes:  # 4: over before the present was reached
            ended = rig.run(mode, follow_s=2.0)
            codes.append(int(ended.code))
            assert codes.count(4) == len(codes) - codes.count(0) < 5, ended.told
            note(f"{mode} --for 2s took", ended.seconds)
            assert 1.9 < ended.seconds < 2.0 + STOP_S + SLACK_S
    rig.in_sync()


def test_for_that_is_too_short(rig: Rig) -> None:
    """--for ends before the present was reached: exit 4, at a committed time, and the next run goes on."""
    phase = prepare(rig, "catch-up")
    before = state(rig.client)["as_of"]
    ended = rig.run("delta", follow_s=3.0)  # enough to subscribe
    assert ended.code == 4, ended.told
    assert ended.seconds < 3.0 + STOP_S + SLACK_S
    assert any("--for" in warning for warning in ended.view.warnings)
    settled(rig, phase, before)


def test_until_current_is_quick(rig: Rig) -> None:
    """It waits for nothing but what was there when it began, though the source goes on changing."""
    rig.source.retain_history()
    rig.fill(300)
    assert rig.run().code == 0
    rig.source.put(k1="a", k2="b")

    def change(over: threading.Event) -> None:
        n = 0
        while not over.is_set():
            n += 1
            rig.source.put(k3=str(n))

    with beside(change):
        ended = rig.run("delta", until_current=True)
    assert ended.code == 0, ended.told
    note("delta --until-current took", ended.seconds)
    assert ended.seconds < 2.0 + SLACK_S
    assert (rig.client.get("p:k1"), rig.client.get("p:k2")) == (b"a", b"b")
    rig.converges("delta", until_current=True)


def test_a_load_in_short_runs(rig: Rig) -> None:
    """A first load that never has the time it needs: each run goes on where the last stopped and repeats nothing."""
    rows = 16_000
    rig.source.retain_history()
    rig.fill(rows, 400)
    rig.limits["batch_max_bytes"] = "512KB"
    rig.redis_proxy.up_bytes_per_s = 1_000_000
    client = rig.client
    changes = int(client.info("persistence")["rdb_changes_since_last_save"])
    there = [0]
    codes, took = [], []
    for _ in range(SHORT_RUNS_MAX):
        stop, until = Stop(600.0), rig.redis_proxy.passed["up"] + 1_400_000

        def end(over: threading.Event, stop: Stop = stop, until: int = until) -> None:
            """When two batches must be there, however fast or slow the machine is."""
            while rig.redis_proxy.passed["up"] < until and not over.wait(0.02):
                pass
            stop.request("deadline")

        with beside(end):
            ended = rig.run(stop=stop)
        codes.append(int(ended.code))
        took.append(round(ended.seconds, 1))
        there.append(len(owned(client)))
        if ended.code != 4:
            break
        assert there[-1] > there[-2], f"no progress: {there}"
        assert not state(client).get("as_of")
    print(codes, there, took)
    assert max(took) < 1.5 + STOP_S + 2.0 + SLACK_S  # what is under way takes a while on this line
    assert codes[-1] == 0, ended.told
    assert codes.count(4) >= 2, "the machine is too fast for this test: it proves nothing"
    writes = int(client.info("persistence")["rdb_changes_since_last_save"]) - changes
    note(f"{rows} rows in {len(codes)} runs cost this many writes, all keys of the state included", writes)
    pieces = rows // Strings.piece_keys  # each writes a commit id
    assert writes < rows + pieces + 60 * len(codes)
    rig.in_sync()


def test_a_load_in_runs_too_short_to_read_the_view(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run has the time to read the view once: what a run has finished is not read again by the next."""
    monkeypatch.setattr(scopes, "PART_ROWS", 1000)
    rows = 12_000
    rig.source.retain_history()
    rig.fill(rows, 400)
    rig.source_proxy.down_bytes_per_s = 1_500_000  # 6 MB: four seconds
    codes, read = [], []
    for _ in range(SHORT_RUNS_MAX):
        ended = rig.run(max_runtime=2.2)
        codes.append(int(ended.code))
        read.append(ended.view.rows_read)
        if ended.code != 4:
            break
    print(codes, read)
    assert codes[-1] == 0, ended.told
    assert codes.count(4) >= 2, "the machine is too fast for this test: it proves nothing"
    assert max(read) < rows
    rig.in_sync()
    assert rig.run().code == 0


def looked_up(rig: Rig) -> int:
    """How many pages of values Redis was asked for."""
    return int(rig.client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"])


def cut_in_repair(rig: Rig) -> None:
    """A snapshot that is stopped after it has compared some rows and before it has compared all."""
    rig.source_proxy.down_bytes_per_s = 1_500_000
    reading = rig.source_proxy.on(b"AS value FROM (")
    comparing = rig.redis_proxy.on(b"MGET", after=reading)
    stop = Stop()

    def end() -> None:
        comparing.seen.wait(60)
        eventually(lambda: looked_up(rig) > before + 3)
        stop.request("SIGTERM")

    before = looked_up(rig)
    threading.Thread(target=end, daemon=True).start()
    ended = rig.run("snapshot", stop=stop)
    assert ended.code == 4, ended.told
    assert comparing.seen.is_set()
    rig.source_proxy.heal()
    rig.redis_proxy.heal()


def test_a_comparison_cut_short_is_not_lost(rig: Rig) -> None:
    """Redis is between two times anyway: what was found missing is written before the run ends, full batch or not."""
    rig.fill(ROWS, 100)
    content = prefixed(rig.source.content())
    rig.client.mset({key: content[key] for key in sorted(content)[: ROWS // 2]})
    cut_in_repair(rig)
    there = len(owned(rig.client))
    assert ROWS // 2 < there < ROWS
    ended = rig.run(direct=True)
    assert (ended.code, ended.view.puts) == (0, ROWS)  # it is first contact still: keys of others may have an expiry
    rig.in_sync()


def test_a_clean_checkpoint_is_not_given_up_for_progress(rig: Rig) -> None:
    """A snapshot that one transaction could have held is all or nothing: stopped before it, Redis stays at its time."""
    rig.source.retain_history()
    rig.fill(ROWS, 100)
    assert rig.run(direct=True).code == 0
    rig.source.execute("UPDATE t SET value = value || '!'")
    before, content = state(rig.client), owned(rig.client)
    cut_in_repair(rig)
    after = state(rig.client)
    assert (after["as_of"], after["pending"]) == (before["as_of"], "")
    assert owned(rig.client) == content
    rig.converges()


def test_several_views_share_the_time(rig: Rig) -> None:
    """What the deadline leaves no time for is incomplete, not failed and not forgotten."""
    from reconcile.config.load import load as read_configuration
    from reconcile.runs.entry import execute
    from reconcile.runs.request import Request

    rig.source.put(a="1")
    config: dict[str, Any] = rig.config(direct=False)
    config["limits"] = {**rig.limits, "jobs": 1}
    config["views"] = [{"name": name, "sql": rig.source.sql, "key_prefix": name} for name in ("one", "two", "three")]
    path = rig.directory / "several.yaml"
    path.write_text(json.dumps(config))
    stop = Stop()
    rig.redis_proxy.on(b"{two}:lease", tell=lambda: stop.request("SIGTERM"))  # its state is looked at before any begins
    report = execute(read_configuration(str(path), {}), Request(mode="run"), stop)
    assert [int(view.exit_code) for view in report.views] == [0, 4, 4]
    assert report.exit_code == 4
    assert owned(rig.client, b"one:") == prefixed(rig.source.content(), b"one:")
    rig.redis_proxy.heal()
    report = execute(read_configuration(str(path), {}), Request(mode="run"), Stop())
    assert report.exit_code == 0
