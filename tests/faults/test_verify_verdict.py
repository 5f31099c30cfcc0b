"""What verify has found it says: beside a follower, when its time is over, when a server goes away, when it cannot be
noted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from reconcile.compare import contents
from reconcile.core import digest
from reconcile.errors import Unavailable
from reconcile.report.run_report import RunReport, ViewReport
from reconcile.report.text import render
from reconcile.runs import audit_fast
from reconcile.runs import verify as audits
from reconcile.runs.entry import execute
from reconcile.runs.request import Request
from reconcile.stop import Stop
from tests.faults.history import FILLED_ROWS, History
from tests.faults.io_calls import WRITE, Died, Io
from tests.faults.rig import Rig
from tests.faults.scene import Scene
from tests.faults.test_swaps import at_present
from tests.support.meanwhile import eventually
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import owned
from tests.support.sources import Source

LOST = b"p:k7"

pytestmark = pytest.mark.usefixtures("small")


def told(report: ViewReport) -> str:
    """All warnings."""
    return "\n".join(report.warnings)


def elsewhere(names: Iterable[str]) -> list[str]:
    """Those that are not in the bucket of the lost key."""
    return [one for one in names if digest.bucket_of(b"p:" + one.encode(), 16) != digest.bucket_of(LOST, 16)]


def beside(history: History, monkeypatch: pytest.MonkeyPatch, work: Callable[[int], None]) -> None:
    """Something happens before each close look; there are few of them."""
    looks = 0
    really = contents.compare

    def compare(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        work(looks)
        return really(*arguments)

    monkeypatch.setattr(audits, "MAX_LOOKS", 5)
    monkeypatch.setattr(audits, "LOOK_AGAIN_S", 0.001)
    monkeypatch.setattr(contents, "compare", compare)


def follows(history: History) -> Callable[[int], None]:
    """The source changes everywhere but in the bucket of the lost key, and a run follows."""
    names = ", ".join(f"'{name}'" for name in elsewhere(f"k{n}" for n in range(1, FILLED_ROWS + 1)))

    def change(n: int) -> None:
        history.scene.write(f"UPDATE t SET value = 'at {n}' WHERE key IN ({names})")
        history.scene.ok("run")

    return change


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("history", [b"p:"], indirect=True, ids=["prefix"])
def test_beside_a_follower_that_never_rests(lost: bool, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets that keep changing stay suspicions after a bounded number of looks: the audit is incomplete, and says how
    much it did not judge. What is lost in a bucket that does not change is drift all the same."""
    change = follows(history)
    if lost:
        history.scene.client.delete(LOST)
    history.scene.write("UPDATE t SET value = 'before' WHERE key <> 'k7'")
    really = audits._Audit._suspects

    def suspects(*arguments: Any) -> Any:
        found = really(*arguments)
        change(0)
        return list(range(16)), found[1]

    monkeypatch.setattr(audits._Audit, "_suspects", suspects)
    beside(history, monkeypatch, change)
    report = history.scene.execute("verify")
    assert report.exit_code == (3 if lost else 4), report.error
    assert "kept changing; verify again" in told(report)
    assert report.drift is not None
    assert (report.drift.missing, report.drift.total) == (int(lost), int(lost))
    restless = {digest.bucket_of(b"p:" + name.encode(), 16) for name in elsewhere(f"k{n}" for n in range(1, 100))}
    assert 0 < report.drift.unjudged_buckets <= len(restless)
    assert 0 < report.drift.unjudged_keys < FILLED_ROWS
    text = render(RunReport("id", "verify", 0, [report]))
    assert "in sync" not in text
    assert lost or f"{report.drift.unjudged_buckets} of 16 buckets" in text
    audit = history.scene.execute("verify").audit
    assert audit is not None
    assert audit.history[0].verdict == ("drift" if lost else "incomplete")


@pytest.mark.parametrize("history", [b"p:"], indirect=True, ids=["prefix"])
@pytest.mark.parametrize("fast", [False, True])
def test_drift_that_was_found_before_time_ran_out(
    fast: bool, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some buckets are judged when the deadline comes: exit 3, and what was left is said."""
    scene, stop = history.scene, Stop(600.0)
    scene.client.delete(LOST)
    change = follows(history)

    def work(n: int) -> None:
        change(n)
        if n == 3:
            stop.request("deadline")

    if fast:
        names, restless = audit_fast._names, b"p:" + elsewhere(["k1", "k2", "k3"])[0].encode()

        def count(*arguments: Any) -> Any:
            found = names(*arguments)
            change(100)
            found[digest.bucket_of(restless, 16)] += 100
            return found

        monkeypatch.setattr(audit_fast, "LOOK_AGAIN_S", 0.001)
        monkeypatch.setattr(audit_fast, "_names", count)
    else:
        really = audits._Audit._suspects
        monkeypatch.setattr(audits._Audit, "_suspects", lambda *arguments: (list(range(16)), really(*arguments)[1]))
    beside(history, monkeypatch, work)
    (report,) = execute(scene.settings, Request(mode="verify", fast=fast), stop).views
    assert report.exit_code == 3, (report.error, report.warnings)
    assert report.drift is not None
    assert report.drift.missing == 1
    assert "not everything was compared" in told(report) or "kept changing" in told(report)


@pytest.mark.parametrize("side", ["source", "redis"])
@pytest.mark.parametrize("history", [b"p:"], indirect=True, ids=["prefix"])
def test_drift_that_was_found_before_a_server_went_away(
    side: str, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3 says more than exit 6."""
    history.scene.client.delete(LOST)
    really = audits._Audit._suspects
    monkeypatch.setattr(audits._Audit, "_suspects", lambda *arguments: (list(range(16)), really(*arguments)[1]))
    change = follows(history)

    def work(n: int) -> None:
        change(n)
        if n == 3:
            raise Unavailable(f"{side} is not available")

    beside(history, monkeypatch, work)
    report = history.scene.execute("verify")
    assert report.exit_code == 3, report.error
    assert "is not available" in told(report)
    assert report.drift is not None
    assert report.drift.missing == 1


@pytest.mark.parametrize("marker", [b"TIME", b"HGETALL", b"HSET"])
def test_the_connection_breaks_as_the_verdict_is_noted(
    marker: bytes, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was reached by then."""
    rig.source.retain_history()
    rig.fill(30)
    assert rig.run().code == 0
    rig.client.delete("p:k7")
    really = audits._Audit.remember

    def remember(self: audits._Audit) -> None:
        rig.redis_proxy.on(marker, then="cut")
        really(self)

    monkeypatch.setattr(audits._Audit, "remember", remember)
    ended = rig.run("verify")
    assert ended.code == 3, ended.told
    assert ended.view.drift is not None
    assert ended.view.drift.missing == 1


@pytest.mark.parametrize("buckets", [(16, 64), (64, 16), (None, 16)], ids=["more", "fewer", "first"])
def test_beside_a_run_that_keeps_the_view_otherwise(
    buckets: tuple[int | None, int], source: Source, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records are of other buckets by the time that the suspects are looked at, or the first there are. What a run
    has written since is no drift."""
    before, after = buckets
    scene = Scene(source, redis_server, buckets=before)
    scene.write("INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, 200) AS n")
    if before is not None:
        scene.ok("run")
    monkeypatch.setattr(audits._Audit, "_reading", at_present)
    really = audits._Audit._suspects

    def suspects(*arguments: Any) -> Any:
        found = really(*arguments)
        scene.buckets = after
        scene.write("UPDATE t SET value = 'later'")
        scene.ok("snapshot")
        return list(range(found[1])), found[1]

    monkeypatch.setattr(audits._Audit, "_suspects", suspects)
    report = scene.execute("verify")
    assert (report.exit_code, report.drift) == (6, None), report.error
    assert report.error is not None
    assert "verify again" in str(report.error.hint)
    monkeypatch.undo()
    scene.ok("verify")


def test_a_first_load_that_was_cut_short(source: Source, redis_server: RedisServer) -> None:
    """What has not come yet is not missing: the audit is incomplete, and says what is to be done."""
    scene = Scene(source, redis_server, batch_max_keys=50, lease_s=1)
    scene.write("INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, 200) AS n")
    with Io(scene.look, at=5, among=WRITE).installed() as io, pytest.raises(Died):
        scene.execute("run")
    assert io.failure is None
    assert 0 < len(owned(scene.client)) < 200
    eventually(lambda: not scene.client.exists("reconcile:{default}:lease"))
    report = scene.execute("verify")
    assert report.exit_code == 4, report.drift
    assert report.error is not None
    assert "then verify again" in str(report.error.hint)
    scene.ok("run")
    scene.ok("verify")
