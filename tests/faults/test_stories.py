"""Everything at once: the view, the configuration, Redis and who writes to it change at random between runs of every
kind, which die or sleep at any call. What histories vary one by one meets here: layouts, expiry, forms of keys, shards,
companion views, replaced views, a cluster, drop."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from reconcile.core.guard import HANDFUL
from reconcile.core.shards import Shard
from reconcile.errors import UsageError
from reconcile.report.run_report import ViewReport
from tests.faults.stories import MINUTE_MS, TIME_KEY, World
from tests.faults.story_oracle import Oracle, in_shard, pending_of
from tests.faults.story_view import CHOICES, changed
from tests.support.redis_cluster import Cluster
from tests.support.redis_servers import RedisServer
from tests.support.seed import rng
from tests.support.sources import Source

STEPS = 25
NUMBERS = {"test_story": (6, 400), "test_story_in_a_cluster": (2, 100)}
"""How many stories are told: in CI, with --soak."""
MODES = (
    "run", "run", "snapshot", "deep", "delta", "follow", "run forgetful", "snapshot forgetful", "delta time by time",
    "delta in slices", "run vanishing", "run time by time", "snapshot in slices",
)  # fmt: skip
Reports = Sequence[ViewReport | None]
FATES = ("dies", "is short", "falters")
"""What may happen to a run on its way."""
MOST_SHORT_RUNS = 40


class Story:
    """What may be expected of the next run."""

    def __init__(self, world: World) -> None:
        self.world, self.rng = world, world.rng
        self.tampered = False
        """Somebody else has changed Redis since every row was last compared."""
        self.remade = False
        """All values may be others than those of the checkpoint: deletes may need consent."""
        self.unclear = False
        """Rows went that had expired: whose their keys were cannot be shown."""
        self.settled = False
        """Redis is the view at the checkpoint, and the configuration is the checkpoint's."""
        self.oracle = Oracle()
        self.promised: tuple[bytes, Any] | None = None
        """The timestamp key, and what was configured when it was set."""

    # -- steps ---------------------------------------------------------------------------------------------------

    def step(self) -> None:
        steps = {
            self.put: 18, self.remove: 10, self.clear: 6, self.goes_back: 8, self.time_passes: 5, self.plant: 5,
            self.edit: 4, self.lose_state: 4, self.flush: 1, self.configure: 16, self.replace_view: 8,
            self.change_companion: 3, self.claim_other: 1, self.claim_all: 1, self.dies: 8, self.is_short: 7,
            self.falters: 4, self.gets_there: 3, self.sleeps: 4, self.consents: 5, self.audits: 6, self.drop: 2,
            self.runs: 20, self.world.move_slot: 2,
        }  # fmt: skip
        (step,) = self.rng.choices(list(steps), list(steps.values()))
        step()

    def put(self) -> None:
        self.unclear |= self.world.put(self.rng.choice([1, 1, 2, 5, 20]))

    def remove(self) -> None:
        self.unclear |= self.world.remove(self.rng.choice([1, 2, 5, 12, 40]))

    def clear(self) -> None:
        """Rows keep their keys, and lose their values."""
        self.unclear |= self.world.clear(self.rng.choice([1, 5, 20, 60]))

    def goes_back(self) -> None:
        """Whoever takes what came back for what had never gone is wrong."""
        self.unclear |= self.world.go_back()

    def time_passes(self) -> None:
        self.world.ahead_ms += self.rng.choice([10, 20, 50, 500, 1500]) * MINUTE_MS
        print(f"it is {self.world.ahead_ms // MINUTE_MS} minutes later")

    def plant(self) -> None:
        """Others write under the view's prefix."""
        world = self.world
        for n in range(self.rng.choice([1, 3, 12])):
            key = f"{world.configured.prefix}foreign{self.rng.randrange(10**6)}_{n}".encode()
            world.write(key)
            world.foreign[key] = world.look()[key]
        self.tamper()
        print(f"{len(world.foreign)} keys of others")

    def edit(self) -> None:
        """Others change or evict rows."""
        rows = sorted(self.world.held().keys() - self.world.foreign.keys())
        for key in self.rng.sample(rows, min(len(rows), self.rng.choice([1, 3, 15]))):
            self.world.client.delete(key)
            if self.rng.random() < 0.5:
                self.world.write(key)
            print(f"edited {key!r}")
        self.tamper()

    def lose_state(self) -> None:
        kind = self.rng.choice(["manifest", "fingerprints", "state", "surplus", "token", "shards", "audit"])
        keys = sorted(self.world.own_keys(kind))
        for key in keys if self.rng.random() < 0.5 else keys[:1]:
            self.world.client.delete(key)
            self.tamper()
            print(f"lost {key!r}")
        if kind in ("manifest", "fingerprints") and self.rng.random() < 0.5:
            self.plant()
            self.is_short()

    def flush(self) -> None:
        self.world.flush(one_node=self.rng.random() < 0.5)
        self.tamper()
        print("flushed")

    def tamper(self) -> None:
        """Something else has changed Redis."""
        self.tampered, self.promised = True, None
        self.oracle.forget()

    def configure(self) -> None:
        """Whoever has a companion view may forget to make it anew."""
        what = self.rng.choice(list(CHOICES))
        self._now(changed(self.world.configured, what, self.rng))
        self.unclear |= what == "expires"

    def replace_view(self) -> None:
        self.world.swap()
        self._now(self.world.configured)

    def change_companion(self) -> None:
        if self.world.configured.companion and self.rng.random() < 0.5:
            self.world.configured = replace(self.world.configured, companion=None)
        else:
            self.world.renew_companion()
        self._now(self.world.configured)

    def _now(self, configured: Any) -> None:
        self.world.configured = configured
        if configured.companion and self.rng.random() < 0.4:
            self.world.renew_companion()
        self.remade = self.remade or any(
            part.source != configured.source or part.mapping != configured.mapping
            for part in self.oracle.parts.values()
        )
        self.settled = False
        print(configured)

    def claim_other(self) -> None:
        """Another range is refused before anything is touched."""
        world, configured = self.world, self.world.configured
        if not world.is_known() or configured.ownership == "remembered":
            return
        other: dict[str, Any] = {"ownership": "dedicated" if configured.ownership == "prefix" else "prefix"}
        if configured.ownership == "prefix" and self.rng.random() < 0.5:
            other = {"range": self.rng.choice([configured.range + "k", configured.range[:-1], "elsewhere:"])}
        before, world.configured = world.look(), replace(configured, **other)
        found = world.run(self.rng.choice(MODES), world.every_shard()[0])
        world.configured = configured
        assert found.exit_code == 5, found.error
        assert "has claimed" in str(found.error), found.error
        assert world.look() == before, "a refused run wrote"

    def claim_all(self) -> None:
        """A view that remembered its keys gets the whole database: what others have there is in its range now."""
        world, configured = self.world, self.world.configured
        if configured.ownership == "remembered" and self.rng.random() < 0.3:
            world.foreign |= world.outside
            world.outside.clear()
            self.tamper()
            self._now(replace(configured, ownership="dedicated"))

    def dies(self) -> None:
        self.cycle(self.rng.choice(MODES), fate="dies")

    def is_short(self) -> None:
        """It is cut short by its deadline, perhaps."""
        mode = self.rng.choice(MODES)
        self.judge(mode, self.cycle(mode, fate="is short"), short=True)

    def falters(self) -> None:
        if self.world.is_cluster:
            self.cycle(self.rng.choice(MODES), fate="falters")

    def gets_there(self) -> None:
        """However short runs are, after some of them all is done, or but for what waits for a human."""
        for number in range(MOST_SHORT_RUNS):
            reports = self.cycle("run forgetful", fate="is short")
            unfinished = {pending_of(self.world.state_of(shard)) for shard in self.oracle.parts}
            if all(report is not None and report.exit_code != 4 for report in reports) and "snapshot" not in unfinished:
                break
            if number < MOST_SHORT_RUNS / 3 and self.rng.random() < 0.5:
                self.world.put(1)
        else:
            raise AssertionError("no progress")
        self.judge("run forgetful", reports)
        held, wanted = self.world.held(), self.world.wanted()
        late = [key for key, value in wanted.items() if held.get(key) != value]
        assert not late or self.tampered, f"rows did not come: {late[:5]}"

    def runs(self) -> None:
        mode = self.rng.choice(MODES)
        self.judge(mode, self.cycle(mode))

    def consents(self) -> None:
        mode = self.rng.choice(["run", "snapshot", "deep"])
        self.judge(mode, self.cycle(mode, allow_deletes=True))

    def sleeps(self) -> None:
        if self.world.configured.shards == 1:
            self.settled, self.promised = False, None
            (shard,) = self.world.every_shard()
            self.oracle.divide([shard], self.world.state_of)
            before = self.world.state_of(shard)
            self.oracle.begins(shard, before, self.world.held(), self.world.configured)
            mode, overlapped = self.world.overlap(self.rng.choice(MODES), shard)
            self._ended(shard, overlapped)
            self.world.foreign = {key: value for key, value in self.world.foreign.items() if key in self.world.look()}
            self.judge(mode, [overlapped])

    def audits(self) -> None:
        """An audit changes nothing; what is right it finds right."""
        before = self.world.held()
        how = self.rng.choice(["verify", "verify", "verify forgetful", "fast", "verify vanishing"])
        options: dict[str, Any] = (
            {"subset": self.rng.choice(["next", (0, 2), (1, 4)])} if self.rng.random() < 0.3 else {}
        )
        drift = self._drift()
        found = self.world.run(how, None, **options)
        assert self.world.held() == before, "an audit wrote"
        assert found.exit_code == 0 or self.tampered or not self.settled, (found.exit_code, found.drift)
        if drift is not None and how == "verify" and not options:
            told = 0 if found.drift is None else found.drift.total
            assert told == len(drift), f"{told} keys have drifted, really {drift}"
            assert found.exit_code in ((3,) if drift else (0, 5)), found.error

    def _drift(self) -> list[bytes] | None:
        """Which keys differ from the view at the checkpoint; None if that is not a question."""
        world, configured = self.world, self.world.configured
        (part, *others), state = self.oracle.parts.values(), world.state_of(Shard(0, 1))
        simple = (
            not others and configured.shards == 1 and not configured.expires and configured.ownership != "remembered"
        )
        if not simple or pending_of(state) or not state.get("as_of") or "manifest" not in state:
            return None
        if part.checkpoint != configured.source:
            return None
        held, wanted = world.held(), world.wanted(as_of=int(state["as_of"]))
        return sorted(key for key in held.keys() | wanted.keys() if held.get(key) != wanted.get(key))

    def drop(self) -> None:
        """The view is forgotten, and run again."""
        world = self.world
        keys = world.configured.ownership == "remembered" or self.rng.random() < 0.7
        if not world.is_known():
            with pytest.raises(UsageError, match="has no claim"):
                world.drop(keys=keys)
            return
        world.drop(keys=keys)
        self.settled, self.promised = False, None
        self.oracle = Oracle()
        if not keys:
            self.tampered = True
            return
        left = world.held()
        if world.configured.ownership != "remembered":
            assert not left, left
            world.foreign.clear()
        else:
            assert self.tampered or left == world.foreign, left

    # -- runs ----------------------------------------------------------------------------------------------------

    def cycle(self, mode: str, *, fate: str = "", **options: bool) -> Reports:
        """A run of every shard. What was right stays; keys go by the rules. fate: of FATES."""
        world = self.world
        world.remember()
        shards = world.every_shard()
        self.oracle.divide(shards, world.state_of)
        before, wanted = world.held(), world.wanted(1000)
        right = {key for key, value in wanted.items() if before.get(key) == value}
        promise = world.client.get(TIME_KEY)
        reports = [self._run(mode, shard, fate, options) for shard in shards]
        after, still = world.held(), world.wanted(1000)
        lost = sorted(key for key in right & still.keys() if after.get(key) != still[key])
        ended = not fate and all(report is not None and report.exit_code == 0 for report in reports)
        halfway = mode.endswith("time by time") and not ended  # when a row was away that came back as it was
        assert halfway or not lost, f"rows that were right are not any more: {lost[:5]}"
        self.settled = False
        if world.configured.timed and not halfway:
            self._check_promise(promise, after)
        return reports

    def _run(self, mode: str, shard: Shard, fate: str, options: dict[str, Any]) -> ViewReport | None:
        world, oracle = self.world, self.oracle
        before, state = world.held(), world.state_of(shard)
        continues = oracle.begins(shard, state, before, world.configured)
        happens = self.rng.random() < 0.7
        if fate == "dies" and happens:
            report = world.killed(mode, shard, **options)
        elif fate == "is short" and (happens or mode == "run forgetful"):
            report = world.short(mode, shard, self.rng.choice([3, 4, 6]), **options)
        elif fate == "falters" and happens:
            report = world.falter(mode, shard)
        else:
            report = world.run(mode, shard, **options)
        after = world.held()
        foreign = world.foreign
        gone = [key for key in foreign if key not in after]
        assert all(after[key] == value for key, value in foreign.items() if key in after), "a key of others was changed"
        for key in gone:
            del foreign[key]
        if not options:
            if world.configured.ownership == "remembered":
                assert not gone, f"without a prefix keys of others were removed: {gone}"
            elif world.configured.ownership == "prefix":
                told = "" if report is None else " ".join(report.warnings)
                oracle.check_foreign(shard, gone, told, continues, world.now_ms())
            oracle.check_own(shard, after, world.configured, world.now_ms())
            self._check_stop(mode, shard, report, before)
        self._ended(shard, report)
        return report

    def _ended(self, shard: Shard, report: ViewReport | None) -> None:
        world, done = self.world, report is not None and report.exit_code == 0 and not report.skipped
        held = {key: value for key, value in world.held().items() if key not in world.foreign}
        self.oracle.ends(shard, world.state_of(shard), held, world.configured, world.now_ms(), done=done)

    def _check_stop(self, mode: str, shard: Shard, report: ViewReport | None, before: dict[bytes, Any]) -> None:
        """A snapshot withholds deletes only if there are many."""
        if report is None or report.error is None or report.action != "snapshot":
            return
        if self.tampered or self.unclear or self.world.configured.expires:
            return
        if "would be deleted" in report.error.message:
            lacked = [key for key in before.keys() - self.world.wanted().keys() if in_shard(key, shard)]
            assert len(lacked) > HANDFUL, f"{report.error.message}: {lacked}"

    def _check_promise(self, before: bytes | None, held: dict[bytes, Any]) -> None:
        """Everything below the timestamp key's frontier has been written."""
        world = self.world
        promise = world.client.get(TIME_KEY)
        if promise is not None and promise != before:
            self.promised = promise, world.configured.source
        if promise is None or self.tampered or self.promised != (promise, world.configured.source):
            return
        then, now = world.wanted(1000, as_of=int(promise) - 1), world.wanted(1000)
        late = [key for key, value in then.items() if now.get(key) == value != held.get(key)]
        assert not late, f"{late[:5]} have other values than at the time that the timestamp key promises"

    def judge(self, mode: str, reports: Reports, *, short: bool = False) -> None:
        """What runs of a kind may come to; after success Redis is the view."""
        for report in reports:
            if report is not None and report.exit_code != 0:
                self._excuse(mode, report, short=short)
        if any(report is None or report.exit_code != 0 for report in reports):
            return
        if self.tampered and not all(report is not None and report.deep for report in reports):
            return
        self.in_sync()
        self.tampered = self.remade = False
        self.settled = True
        if self.rng.random() < 0.3:
            self.verified()

    def _excuse(self, mode: str, report: ViewReport, *, short: bool) -> None:
        code, told = report.exit_code, report.error.message if report.error else ""
        allowed = (
            (code == 4 and (short or mode == "follow"))
            or (code == 8 and mode.startswith("delta"))
            or (code == 5 and (self.tampered or self.remade))
            or (code == 5 and re.search("would be deleted|deletes are withheld|two configurations|delta alone", told))
            or (code == 5 and self.unclear and re.search("unexplained|nothing shows", told))
        )
        assert allowed, f"exit {code}: {told}"

    def in_sync(self) -> None:
        """Redis is the view. Keys of others may be there only where the view remembers its own."""
        held, wanted = self.world.held(), self.world.wanted()
        if self.world.configured.ownership == "remembered":
            held = {key: value for key, value in held.items() if key not in self.world.foreign}
        assert held == wanted

    def verified(self) -> None:
        for how in ("verify", "verify forgetful", "fast"):
            found = self.world.run(how, None)
            assert found.exit_code == 0, (how, found.drift, found.error)

    def end(self) -> None:
        """A deep snapshot with consent makes everything right, whatever was before; and it stays right."""
        print("the end")
        reports = self.cycle("deep", allow_deletes=True)
        if any(report and report.error and "two configurations" in report.error.message for report in reports):
            reports = self.cycle("deep", allow_deletes=True, reset_state=True)
        assert [report and report.exit_code for report in reports] == [0] * len(reports)
        self.in_sync()
        self.verified()
        self.tampered = self.remade = self.unclear = False
        for mode in ("delta", "run", "run forgetful"):
            self.world.put(2)
            reports = self.cycle(mode)
            self.judge(mode, reports)
            assert mode == "delta" or all(report and report.exit_code == 0 for report in reports)


@pytest.fixture(scope="module", autouse=True)
def pages(small: None) -> None:
    """Everything in several pages."""


def tell(source: Source, place: RedisServer | Cluster, number: int, request: pytest.FixtureRequest) -> None:
    """A story of random steps, to its end. Without --soak always the same few; with it, others each time."""
    what = request.function.__name__, number
    with pytest.MonkeyPatch.context() as patch:
        chosen = rng(*what) if request.config.getoption("--soak") else random.Random(repr(what))
        story = Story(World(source, place, chosen, patch))
        try:
            story.world.put(story.rng.choice([1, 3, 30, 60]))
            for _ in range(STEPS):
                story.step()
            story.end()
        finally:
            story.world.bring_slots_back()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Number the stories."""
    few, many = NUMBERS[metafunc.function.__name__]
    metafunc.parametrize("number", range(many if metafunc.config.getoption("--soak") else few))


def test_story(number: int, source: Source, redis_server: RedisServer, request: pytest.FixtureRequest) -> None:
    """On a single server."""
    tell(source, redis_server, number, request)


def test_story_in_a_cluster(number: int, source: Source, cluster: Cluster, request: pytest.FixtureRequest) -> None:
    """On three primaries; one of them may lose what it has."""
    tell(source, cluster, number, request)
