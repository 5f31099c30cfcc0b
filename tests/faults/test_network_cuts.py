"""Connections cut, reset and half-closed after exactly N bytes, in every kind of run: bounded, reported, repaired."""

from __future__ import annotations

import pytest

from tests.faults.proxy import Action, Direction, Fault
from tests.faults.rig import SCENARIOS, SLACK_S, TAMPERED, Rig, Scenario, prepare
from tests.support.seed import rng

POSITIONS = 4
SOAK_POSITIONS = 300
ACTIONS: list[Action] = ["cut", "reset", "half_close"]
BOUND_S = 8.0


def positions(total: int, count: int, *seed: object) -> list[int]:
    """Byte positions: both ends, and a spread between them."""
    random = rng(*seed)
    if total <= count:
        return list(range(total + 1))
    inner = [1 + (total - 2) * i // (count - 2) + random.randrange(max(1, total // count)) for i in range(count - 2)]
    return [0, *(min(total, position) for position in inner), total]


@pytest.mark.parametrize("name", SCENARIOS)
def test_cut_anywhere(name: str, rig: Rig, request: pytest.FixtureRequest) -> None:
    """A connection that breaks after N bytes ends the run with exit 6 at once, and the next one converges."""
    cut_anywhere(name, rig, SOAK_POSITIONS if request.config.getoption("--soak") else POSITIONS)


def cut_anywhere(name: str, rig: Rig, count: int) -> None:
    """Break a scenario's connections at that many positions of each side and direction."""
    scenario = prepare(rig, name)
    scenario.run_whole(rig)
    totals = {side: dict(rig.proxy(side).passed) for side in ("source", "redis")}
    tried = fired = 0
    random = rng(name, "actions")
    for side in ("source", "redis"):
        directions: list[Direction] = ["up", "down"]
        for direction in directions:
            for position in positions(totals[side][direction], count, name, side, direction):
                action = random.choice(ACTIONS)
                fired += _try(rig, scenario, side, Fault(direction, position, action))
                tried += 1
    print(f"{name}: {tried} positions, {fired} runs cut")
    assert fired > tried / 2


def _try(rig: Rig, scenario: Scenario, side: str, fault: Fault) -> bool:
    scenario.start(rig)
    rig.source_proxy.heal()
    rig.redis_proxy.heal()
    rig.proxy(side).arm(fault)
    ended = scenario.run(rig)
    case = f"{scenario.name} {side} {fault}: exit {ended.code} after {ended.seconds:.1f} s: {ended.told}"
    print(case)
    hit = rig.proxy(side).fired
    ends = {0, 3} | ({4} if "follow_s" in scenario.options else set())  # --for was over before the present was reached
    assert ended.code in (ends | {6} if hit else ends), case
    assert ended.seconds < BOUND_S + SLACK_S, case
    if ended.code == 6:
        assert ended.view.error is not None
        assert ended.view.error.kind in ("unavailable", "lease_lost"), case
        assert ended.view.error.hint, case
    if scenario.name not in TAMPERED:
        rig.honest()
    if scenario.name in TAMPERED:
        rig.converges(
            "snapshot", deep=True
        )  # a deep run that was cut before it wrote leaves nothing for `run` to notice
    else:
        rig.converges()
    return ended.code == 6
