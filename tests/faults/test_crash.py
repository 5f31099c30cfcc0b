"""Death, torn writes and lost answers at every I/O call of every kind of run; then the next run is right."""

from __future__ import annotations

import contextlib
import json
import threading
from binascii import crc32
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from reconcile.errors import ExitCode
from reconcile.report.run_report import ViewReport
from reconcile.runs import large, work
from reconcile.runs.delta import TooLarge
from reconcile.runs.entry import execute
from reconcile.runs.request import Request
from reconcile.stop import Stop
from tests.faults.io_calls import WRITE, Died, How, Io, forgetful, one_time_a_read, small_pages, vanishing
from tests.faults.rig import FOLLOWED_S
from tests.faults.scene import STATE, Scene
from tests.support.meanwhile import beside
from tests.support.redis_servers import RedisServer
from tests.support.seed import rng
from tests.support.sources import Source

TALLY: Counter[str] = Counter()
ROWS = 40
ROWS_AT_FIRST = (
    f"INSERT INTO t SELECT 'k' || n, 'v' || n FROM generate_series(1, {ROWS}) AS n",
    "INSERT INTO t VALUES ('null', NULL)",
)

EVERY: tuple[How, ...] = ("dies_before", "dies_after", "torn", "times_out")
"""What can happen to a write. Death at a call that writes nothing is death after the last one that did."""
CLEAN_RUNS = 3
ATTEMPTS = 30
"""Ranges that arrive together become one write, so a run may have fewer of them than the one that was counted."""
SPARSE = 5
"""Without --soak every fifth call that writes nothing is lost, and two of the four happen to each write, in turn; which
they are depends on the kind and the seed. Every write must have its turn; the number of another call may be another
call's by then, as runs poll more or less often."""
SOAK_READS: dict[str, tuple[How, ...]] = {"redis.read": ("dies_before", "torn", "times_out")}
SOAK_OTHERWISE: tuple[How, ...] = ("dies_before", "dies_after", "times_out")


def hows_of(call: str | None, turn: int, *, soak: bool) -> tuple[How, ...]:
    """What is to happen to a call. None: there may be no such call. turn: counts calls, from anywhere."""
    if soak:
        return EVERY if call == WRITE else SOAK_READS.get(call or "", SOAK_OTHERWISE)
    if call is None:
        return ("times_out",)
    if call == WRITE:
        return EVERY[turn % 4], EVERY[(turn + 1) % 4]
    return ("times_out",) if call != "redis.read" and turn % SPARSE == 0 else ()


@dataclass(frozen=True)
class Kind:
    """One kind of run. `prepare` leaves Redis as the run finds it; the source does not change after it."""

    name: str
    prepare: Callable[[Scene], None]
    mode: str
    options: tuple[tuple[str, Any], ...] = ()
    memory_max_bytes: int = 32 * 1024 * 1024
    buckets: int = 64
    around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext

    def run(self, scene: Scene) -> ViewReport:
        """The run itself, whatever becomes of it."""
        with self.around():
            return scene.execute(self.mode, **dict(self.options))


def fill(scene: Scene) -> None:
    """A view that remembers an hour."""
    scene.source.retain_history()
    scene.write(*ROWS_AT_FIRST)


def loaded(scene: Scene) -> None:
    """Redis holds the view; then the view changes, at several times: updates, inserts, deletes, a moved key, NULLs."""
    fill(scene)
    scene.ok("snapshot")
    scene.write(
        "UPDATE t SET value = 'one' WHERE key = 'k1'",
        "UPDATE t SET value = 'two' WHERE key IN ('k1', 'k2')",
        "DELETE FROM t WHERE key = 'k3'",
        "INSERT INTO t VALUES ('k3', 'back')",
        "DELETE FROM t WHERE key = 'k4'",
        "UPDATE t SET key = 'moved' WHERE key = 'k5'",
        "UPDATE t SET value = NULL WHERE key = 'k6'",
        "UPDATE t SET value = 'now' WHERE key = 'null'",
        "INSERT INTO t VALUES ('new', ''), ('newer', 'x')",
    )


def no_fingerprints(scene: Scene) -> None:
    """As `loaded`; nothing is known of the source's buckets."""
    loaded(scene)
    scene.client.delete(STATE + "fingerprints")


def drifted(scene: Scene) -> None:
    """As `loaded`; someone has changed Redis as well."""
    loaded(scene)
    owned = scene.prefix
    scene.ignored_as_of = scene.see().as_of
    scene.client.set(owned + b"k10", "edited")
    scene.client.delete(owned + b"k11")
    if owned:
        scene.client.set(owned + b"stray", "x")
        scene.client.rpush(owned + b"k12!", "a list")


def cut_short(mode: str, *, to_the_past: bool = False, undone: bool = False) -> Callable[[Scene], None]:
    """As `loaded`; an earlier run died half way through applying, or half way back to where Redis was before.

    undone: since then the source has come back to what it was at the checkpoint.
    """

    def prepare(scene: Scene) -> None:
        loaded(scene)
        options: dict[str, Any] = {}
        if to_the_past:
            options["as_of"] = scene.see().as_of
            scene.ok("run")
        scene.save()
        for n in range(1, 1000):
            scene.restore()
            io = Io(scene.look, n, "dies_before")
            with io.installed(), contextlib.suppress(Died):
                scene.execute(mode, **options)
            assert io.fired, "no run leaves a pending mark and half the data"
            seen = scene.see()
            if not seen.state["pending"]:
                continue
            until = json.loads(seen.state["pending"])["until"]
            if seen.data not in (scene.content_at(seen.as_of), scene.content_at(until)):
                break
        scene.expire_lease()
        if undone:
            scene.write("DELETE FROM t", *ROWS_AT_FIRST)

    return prepare


KINDS = [
    Kind("load", fill, "run"),
    Kind("fingerprints", loaded, "snapshot"),
    Kind("full", no_fingerprints, "snapshot"),
    Kind("deep", drifted, "snapshot", (("deep", True),)),
    Kind("delta", loaded, "delta"),
    Kind("delta time by time", loaded, "delta", around=one_time_a_read),
    Kind("run", loaded, "run"),
    Kind("run without history", loaded, "run", around=forgetful),
    Kind("run that follows", loaded, "run", (("follow_s", 0.05),), around=forgetful),
    Kind("slices", loaded, "delta", memory_max_bytes=700, buckets=4),
]
BIG_ONLY = [
    Kind("repeat", cut_short("delta"), "delta"),
    Kind("repeat time by time", cut_short("delta"), "delta", around=one_time_a_read),
    Kind("repeat in slices", cut_short("delta"), "delta", memory_max_bytes=450),
    Kind("deep after delta", cut_short("delta"), "run", around=forgetful),
    Kind("deep after undone delta", cut_short("delta", undone=True), "run", around=forgetful),
    Kind("repeat of undone delta", cut_short("delta", undone=True), "run"),
    Kind("history gone at the last moment", cut_short("delta", undone=True), "run", around=vanishing),
    Kind("deep after snapshot", cut_short("snapshot"), "run"),
    Kind("deep after going back", cut_short("snapshot", to_the_past=True), "run"),
]
IN_CI = {
    50_000: ("load", "fingerprints", "delta", "delta time by time", "run that follows"),
    2: tuple(kind.name for kind in [*KINDS, *BIG_ONLY] if kind.name != "repeat in slices"),
}
REMEMBERED_IN_CI = ("fingerprints", "delta")
CASES = [
    *(pytest.param(kind, size, b"p:", id=f"{kind.name}, {size}, prefix") for kind in KINDS for size in (50_000, 2)),
    *(pytest.param(kind, 2, b"p:", id=f"{kind.name}, 2, prefix") for kind in BIG_ONLY),
    *(pytest.param(kind, 2, b"", id=f"{kind.name}, 2, remembered") for kind in [*KINDS, *BIG_ONLY]),
]


@pytest.fixture(scope="module", autouse=True)
def tally() -> Iterator[None]:
    """Pages are small, and at the end it is said what was tried."""
    with small_pages():
        yield
    print("\ncrash points:", dict(TALLY))


def make_scene(source: Source, server: RedisServer, kind: Kind, size: int, prefix: bytes) -> Scene:
    scene = Scene(source, server, prefix=prefix, batch_max_keys=size, buckets=kind.buckets)
    kind.prepare(scene)
    scene.memory_max_bytes = kind.memory_max_bytes
    scene.save()
    return scene


@pytest.mark.parametrize(("kind", "size", "prefix"), CASES)
def test_every_io_call(
    kind: Kind, size: int, prefix: bytes, source: Source, redis_server: RedisServer, request: pytest.FixtureRequest
) -> None:
    """Whatever call is the last one, the next run converges, and no reader ever saw a dishonest checkpoint."""
    soak = request.config.getoption("--soak")
    if not soak and kind.name not in (IN_CI[size] if prefix else REMEMBERED_IN_CI):
        pytest.skip("only with --soak")
    scene = make_scene(source, redis_server, kind, size, prefix)
    calls = fewest_calls(scene, kind)
    TALLY["runs"] += 1
    first = rng("calls of", kind.name).randrange(4 * SPARSE)
    for n in range(1, calls.count(WRITE) + 1):
        for how in hows_of(WRITE, n + first, soak=soak):
            tried = (crash_at(scene, kind, n, how, soak=soak, among=WRITE) for _ in range(ATTEMPTS))
            assert any(tried), f"there is no write {n}"
    n = 0
    while True:
        n += 1
        call = calls[n - 1] if n <= len(calls) else None
        if call == WRITE:
            continue
        fired = [crash_at(scene, kind, n, how, soak=soak) for how in hows_of(call, n + first, soak=soak)]
        if not any(fired) and call is None:
            break
    TALLY["looks"] += scene.looks


def fewest_calls(scene: Scene, kind: Kind) -> list[str]:
    """The calls of the clean run with the fewest writes: how many there are depends on what arrives together."""
    runs = []
    for _ in range(CLEAN_RUNS):
        runs.append(clean_run(scene, kind))
        scene.restore()
    return min(runs, key=lambda calls: calls.count(WRITE))


def clean_run(scene: Scene, kind: Kind) -> list[str]:
    """One run without any fault: the calls it makes."""
    io = Io(scene.look)
    with io.installed(), contextlib.suppress(Died):
        report = kind.run(scene)
    assert_looked(io)
    assert report.exit_code == 0 or followed(kind, report), report.error
    scene.check()
    return io.calls


def crash_at(scene: Scene, kind: Kind, n: int, how: How, *, soak: bool = False, among: str = "") -> bool:
    """Let call n fail, then run again. False when there was no call n. among: of this kind."""
    scene.restore()
    io = Io(scene.look, n, how, among)
    report = None
    with io.installed(), contextlib.suppress(Died):
        report = kind.run(scene)
    where = f"{how} at {among or 'call'} {n} ({io.calls[-1]})"
    try:
        assert_looked(io)
        if not io.fired:
            assert report is not None
            assert report.exit_code == 0 or followed(kind, report), report.error
            scene.check()
            return False
        TALLY[how] += 1
        if report is not None:
            assert report.exit_code in (0, 6) or followed(kind, report), report.error
        scene.expire_lease()
        again(scene, kind, n, soak=soak)
    except BaseException as error:
        error.add_note(where)
        raise
    return True


def again(scene: Scene, kind: Kind, n: int, *, soak: bool) -> None:
    """The same once more, or `run`, or both: it succeeds and leaves everything right."""
    runs: list[Callable[[], ViewReport]] = [lambda: kind.run(scene), lambda: scene.execute("run")]
    # Only a deep run is to notice what somebody else has changed in Redis.
    for run in runs if soak else [runs[n % 2 if scene.ignored_as_of is None else 0]]:
        io = Io(scene.look)
        with io.installed(), contextlib.suppress(Died):
            report = run()
        assert_looked(io)
        assert report.exit_code == 0 or followed(kind, report), report.error
        scene.check()


def followed(kind: Kind, report: ViewReport) -> bool:
    """Whether `--for` was over before the present was reached: incomplete, but right."""
    return report.exit_code == 4 and "follow_s" in dict(kind.options)


def assert_looked(io: Io) -> None:
    """What the reader saw on the way was right."""
    if io.failure is not None:
        raise io.failure


# -- frozen ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "size", "prefix"),
    [
        pytest.param(kind, size, b"p:", id=f"{kind.name}, {size}")
        for kind, size in [
            (KINDS[0], 50_000),
            (KINDS[1], 50_000),
            (KINDS[3], 2),
            (KINDS[4], 50_000),
            (KINDS[4], 2),
            (BIG_ONLY[0], 2),
        ]
    ],
)
def test_frozen_at_every_io_call(
    kind: Kind, size: int, prefix: bytes, source: Source, redis_server: RedisServer, request: pytest.FixtureRequest
) -> None:
    """A run that sleeps past its lease at any call and wakes after another has finished changes nothing at all. Without
    --soak: at every write, and at every fifth of the others."""
    soak = request.config.getoption("--soak")
    scene = make_scene(source, redis_server, kind, size, prefix)
    first = rng("sleeps of", kind.name).randrange(SPARSE)
    codes: Counter[int | None] = Counter()
    calls = fewest_calls(scene, kind)
    for n in range(1, calls.count(WRITE) + 1):
        codes[freeze_at_write(scene, kind, n)] += 1
    for n, call in enumerate(calls, 1):
        if call != WRITE and (soak or (n + first) % SPARSE == 0):
            codes[freeze_at(scene, kind, n)] += 1
    assert codes[6] >= 3, "no run was stopped from writing"
    TALLY["freezes"] += codes.total()


def freeze_at_write(scene: Scene, kind: Kind, n: int) -> int:
    """The sleeper's exit code."""
    tried = (freeze_at(scene, kind, n, among=WRITE) for _ in range(ATTEMPTS))
    code = next((code for code in tried if code is not None), None)
    assert code is not None, f"there is no write {n}"
    return code


def freeze_at(scene: Scene, kind: Kind, n: int, *, among: str = "") -> int | None:
    """The sleeper's exit code; None when there was no call n. among: of this kind."""
    scene.restore()
    io = Io(lambda: None, n, "freezes", among)
    reports: list[ViewReport] = []

    def sleeper() -> None:
        io.thread = threading.get_ident()
        reports.append(kind.run(scene))

    thread = threading.Thread(target=sleeper)
    with io.installed():
        thread.start()
        while thread.is_alive() and not io.frozen.wait(0.005):
            pass
        scene.write(f"UPDATE t SET value = 'later {n}' WHERE key IN ('k1', 'k20')")
        scene.expire_lease()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scene, "memory_max_bytes", 1 << 25)
            scene.ok("run") if scene.ignored_as_of is None else scene.ok("snapshot", deep=True)
        scene.check()
        finished = scene.everything()
        io.thaw.set()
        thread.join(60)
    assert not thread.is_alive()
    if not io.fired:
        return None
    (report,) = reports
    where = f"frozen at call {io.fired_at} of {io.calls}, leased at {io.leased_at}: {report.exit_code} {report.error}"
    if io.fired_at <= io.leased_at:  # it had not begun: now it is its turn
        assert report.exit_code == 0, where
        scene.check()
        return 0
    assert scene.everything() == finished, where
    # 0: overtaken before the lease was its own, or it finds that nothing is left to do.
    assert report.exit_code == 0 or (report.error is not None and report.error.kind == "lease_lost"), where
    return int(report.exit_code)


def test_snapshot_after_a_delta_does_not_trust_what_the_delta_cleared(
    source: Source, redis_server: RedisServer
) -> None:
    """A delta writes a value, then gives up; at the source the value is back to what it was at the run's start. Its
    bucket's fingerprint is that of the start again, but Redis holds the value in between."""
    scene = Scene(source, redis_server, memory_max_bytes=3000)
    loaded(scene)
    scene.ok("run")
    scene.ok("snapshot")
    before = scene.check().data[b"p:k7"].decode()
    both = f"CASE key WHEN 'k7' THEN '{before}' ELSE '{'large' * 1000}' END WHERE key IN ('k7', 'k8')"
    scene.write("UPDATE t SET value = 'for a while' WHERE key = 'k7'", f"UPDATE t SET value = {both}")
    with one_time_a_read():
        report = scene.ok("run")
    assert (report.action, report.reason) == ("snapshot", "more changed at one time than memory_max holds")
    assert not report.deep
    scene.forget_what_was_seen()
    assert scene.check().data[b"p:k7"].decode() == before


@pytest.mark.parametrize("mode", ["delta", "run"])
def test_a_row_too_large_for_memory(mode: str, source: Source, redis_server: RedisServer) -> None:
    """No number of parts makes it smaller: a delta says so at once, though it may have begun; a run takes a snapshot,
    after such a delta too."""
    scene = Scene(source, redis_server, buckets=16)
    loaded(scene)
    scene.ok("delta")
    scene.memory_max_bytes = 4000
    last = max(scene.check().data, key=lambda key: crc32(key) % large.FIRST_PARTS).decode().removeprefix("p:")
    scene.write(f"UPDATE t SET value = CASE key WHEN '{last}' THEN '{'large' * 1000}' ELSE value || ' big' END")
    if mode == "delta":
        report = scene.execute("delta")
        assert report.exit_code == ExitCode.USAGE
        assert report.error is not None
        assert "a few keys alone do not fit" in report.error.message
        assert report.source_statements <= 100, "as many parts as there can be were tried"
        assert '"delta"' in scene.see().state["pending"], "parts before it were not applied"
    report = scene.ok("run")
    assert (report.action, report.reason) == ("snapshot", "more changed at one time than memory_max holds")
    scene.check()


def test_changes_too_large_for_memory_while_following(source: Source, redis_server: RedisServer) -> None:
    """A time too large for memory that comes during `delta --for` is applied in slices, and followed on from."""
    scene = Scene(source, redis_server, buckets=16)
    loaded(scene)
    scene.ok("delta")
    scene.memory_max_bytes = 1500

    stop = Stop()

    def change(_: threading.Event) -> None:
        for statement in ("UPDATE t SET value = 'small' WHERE key = 'k7'", "UPDATE t SET value = value || ' big'",
                          "UPDATE t SET value = 'last' WHERE key = 'k8'"):  # fmt: skip
            scene.await_following()
            source.execute(statement)
        scene.await_following()
        stop.request("deadline")

    with beside(change):
        (report,) = execute(scene.settings, Request(mode="delta", follow_s=FOLLOWED_S), stop).views
    assert report.exit_code == 0, report.error
    scene.write()
    assert "parts" in report.phases_ms
    assert scene.check().data[b"p:k8"] == b"last"


def test_a_part_that_fitted_once(source: Source, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are asked for twice, first for puts and then for deletes: one that seems too large only then, as less of it
    arrives together, is cut further all the same."""
    scene = Scene(source, redis_server, buckets=4)
    loaded(scene)
    really, seen = large._Range._changes, set()

    def changes(self: Any, part: tuple[int, int]) -> Any:
        if part in seen and part[1] == large.FIRST_PARTS:
            raise TooLarge
        found = really(self, part)
        seen.add(part)
        return found

    monkeypatch.setattr(work, "_caught_up", lambda follower: follower.subscription.cancel())
    monkeypatch.setattr(large._Range, "_changes", changes)
    report = scene.ok("delta")
    assert "parts" in report.phases_ms
    assert {parts for _, parts in seen} == {8, 32}
    scene.check()
