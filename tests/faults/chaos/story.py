"""Rounds of actions, each followed by a quiet phase in which everything has to come right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.faults.chaos import actions, commands, oracle
from tests.faults.chaos.actions import ACTIONS
from tests.faults.chaos.commands import Result, Started
from tests.faults.chaos.worlds import World

ATTEMPTS = 12
"""Runs until one says 0: leases have to expire, and consent has to be given."""
WAIT = ("--if-leased", "wait")
ALL = ("--max-report", "100000")


class Story:
    """One world's."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.running: list[Started] = []

    def tell(self, rounds: int, steps: int) -> None:
        """To its end, or to the first thing that is wrong."""
        try:
            for number in range(rounds):
                print(f"-- round {number}")
                for _ in range(steps):
                    (action,) = self.world.rng.choices(list(ACTIONS), list(ACTIONS.values()))
                    action(self.world, self.running)
                print("-- quiet")
                self.quiet()
        finally:
            for one in self.running:
                one.put_down()

    def quiet(self) -> None:
        """Nothing happens any more but runs: all of Redis becomes right, and verify says what the oracle says."""
        world = self.world
        self._calm()
        for namespace, shard in self._units():
            self._settle(namespace, "run", *shard)
        self._agree(clean=not world.tampered)
        for namespace in world.namespaces:
            self._settle(namespace, "snapshot", "--deep")
        self._agree(clean=True)
        world.tampered = world.bereft = world.remade = False
        for view in world.views:
            view.put(world.execute, world.rng, 3)
            view.settle_times(world.execute)
        for namespace, shard in self._units():
            self._settle(namespace, "run", *shard)
        self._agree(clean=True)

    def _calm(self) -> None:
        world = self.world
        while self.running:
            if len(self.running) == 1:
                actions.heal(world, self.running)
            actions.finish(world, self.running)
        actions.heal(world, self.running)
        actions.create_views(world, self.running)
        for view in world.views:
            view.settle_times(world.execute)

    def _units(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """What is run by itself: each namespace, each shard."""
        world = self.world
        for namespace in world.namespaces:
            if not world.sharded:
                yield namespace, ()
            for i in range(world.shards if world.sharded else 0):
                yield namespace, ("--shard", f"{i}/{world.shards}")

    def _settle(self, namespace: str, *arguments: str) -> None:
        """Until it ends with 0; whoever is asked gives consent."""
        for _ in range(ATTEMPTS):
            result = commands.call(self.world, namespace, *arguments, *WAIT)
            if result.code == 0 and not any(view["skipped"] for view in result.report["views"]):
                return
            assert result.code in (0, 4, 5, 6), result.told
            if result.code == 5:
                self._consent(namespace, result)
        raise AssertionError(f"{arguments} never ends with 0\n{result.told}")

    def _consent(self, namespace: str, result: Result) -> None:
        adopts = any(view.ownership == "remembered" for view in self.world.views_of(namespace))
        resets = any(words in result.errors for words in ("two configurations", "is corrupt"))
        assert "is corrupt" not in result.errors or self.world.tampered or self.world.bereft, result.told
        assert "unexplained" not in result.errors or self.world.unclear, result.told
        options = ["--allow-deletes", *(["--adopt"] if adopts else []), *(["--reset-state"] if resets else [])]
        commands.call(self.world, namespace, "snapshot", *options, *WAIT)

    def _agree(self, *, clean: bool) -> None:
        """verify and the oracle, in both directions. clean: there must be no drift."""
        world = self.world
        found = oracle.compare(world)
        oracle.check_outside(world)
        oracle.check_timestamp_keys(world)
        wrong = "\n".join(f"{name}: {difference}" for name, difference in found.items() if difference)
        assert not (clean and wrong), f"Redis is not the view\n{wrong}"
        for namespace in world.namespaces:
            told = self._audit(namespace, *ALL)
            for view in told.report["views"]:
                drift: dict[str, Any] = view["drift"] or {}
                counted = tuple(drift.get(kind, 0) for kind in ("missing", "stale", "extra"))
                assert counted == found[view["view"]].counts, f"the oracle: {found[view['view']]}\n{told.told}"
            expected = 3 if any(found[view.name] for view in world.views_of(namespace)) else 0
            assert told.code == expected, told.told
            if not expected:
                fast = self._audit(namespace, "--fast")
                assert fast.code == 0, fast.told

    def _audit(self, namespace: str, *options: str) -> Result:
        """Once it comes to an end: it may have been too impatient."""
        for _ in range(ATTEMPTS):
            result = commands.call(self.world, namespace, "verify", *options)
            if result.code not in (4, 6):
                break
        return result
