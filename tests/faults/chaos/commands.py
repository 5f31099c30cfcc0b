"""What users run, as processes: which there are, what they may print, and how they may end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.faults.chaos import places, views, worlds
from tests.faults.chaos.worlds import World
from tests.support import clocks
from tests.support.forked import Forked

Process = subprocess.Popen[str] | Forked
SECRETS = (places.PASSWORD, worlds.SOURCE_PASSWORD, views.MARK, "Traceback")
LONGEST_S = 120
DOCUMENTED = {0, 2, 3, 4, 5, 6, 7, 8}
EVERY_RUN = {0, 4, 5, 6}
NOT_YET = ("not synchronised yet", "needs a checkpoint, and there is none", "belongs to another mapping")
"""Exit 2: commands that need a run to have come to its end before."""
Draw = Callable[[random.Random, World, str], list[str]]


@dataclass(frozen=True)
class Kind:
    """A kind of command. arguments: for a namespace. ends: how it may end, beside EVERY_RUN."""

    arguments: Draw
    ends: frozenset[int] = frozenset()
    weight: int = 3


def _fixed(*arguments: str) -> Draw:
    return lambda rng, world, namespace: list(arguments)


def _of_a_view(*arguments: str) -> Draw:
    """With the name of a view in place of VIEW, and of one of its keys, perhaps, in place of KEY."""

    def draw(rng: random.Random, world: World, namespace: str) -> list[str]:
        view = rng.choice(world.views_of(namespace))
        key = view.prefix + rng.choice(views.KEYS[view.key_type])
        return [{"VIEW": view.name, "KEY": key}.get(word, word) for word in arguments]

    return draw


KINDS = {
    "run": Kind(_fixed("run"), weight=10),
    "run, one view": Kind(_of_a_view("run", "--view", "VIEW")),
    "run, impatient": Kind(_fixed("run", "--max-runtime", "1s")),
    "run, or fail": Kind(_fixed("run", "--if-leased", "fail"), frozenset({7})),
    "follow": Kind(_fixed("run", "--for", "2s"), weight=8),
    "delta": Kind(_fixed("delta"), frozenset({8}), 5),
    "delta, following": Kind(_fixed("delta", "--for", "1s"), frozenset({8})),
    "delta, until current": Kind(_fixed("delta", "--until-current"), frozenset({8})),
    "snapshot": Kind(_fixed("snapshot"), weight=5),
    "snapshot, waiting": Kind(_fixed("snapshot", "--if-leased", "wait")),
    "snapshot, with consent": Kind(_fixed("snapshot", "--allow-deletes")),
    "snapshot, earlier": Kind(_fixed("snapshot", "--as-of", "-1s"), frozenset({8})),
    "deep": Kind(_fixed("snapshot", "--deep")),
    "dry run": Kind(_fixed("run", "--dry-run", "--detailed-exitcode"), frozenset({3})),
    "verify": Kind(_fixed("verify"), frozenset({3}), 6),
    "verify, fast": Kind(_fixed("verify", "--fast"), frozenset({3})),
    "verify, next": Kind(_fixed("verify", "--subset", "next"), frozenset({3}), 2),
    "status": Kind(_fixed("status"), weight=2),
    "explain": Kind(_of_a_view("explain", "--view", "VIEW", "--", "KEY"), frozenset({2}), 2),
    "doctor": Kind(_fixed("doctor", "--quick"), frozenset({2}), 1),
    "drop": Kind(_of_a_view("drop", "--yes", "--keys", "VIEW"), frozenset({2, 7}), 1),
}
SHARDED = ("run", "snapshot", "delta")
AUDITS = ("verify", "verify, fast", "verify, next")


@dataclass
class Result:
    """What a command printed, and how it ended."""

    code: int
    report: dict[str, Any]
    told: str

    @property
    def errors(self) -> str:
        """Every message, of the whole and of single views."""
        found = [self.report.get("error"), *[view.get("error") for view in self.report.get("views", [])]]
        return "; ".join(error["message"] for error in found if error)

    @property
    def drifting(self) -> list[dict[str, Any]]:
        """Views that an audit has come to a verdict on."""
        return [view for view in self.report["views"] if view["drift"]]

    @property
    def causes(self) -> set[str]:
        """Why there is drift."""
        return {cause for view in self.drifting for cause in view["drift"]["causes"]}

    def __str__(self) -> str:
        return f"exit {self.code} {_summary(self.report)} {self.errors}"


@dataclass
class Started:
    """A command that runs."""

    kind: str
    namespace: str
    arguments: list[str]
    more: tuple[str, ...]
    process: Process
    missed: int
    """How often a view was missing before; one that was missing then is none of these."""
    signals: list[int] = field(default_factory=list)

    def send(self, number: int) -> None:
        self.signals.append(int(number))
        self.process.send_signal(number)

    def put_down(self) -> None:
        """Whatever it does, it ends."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(LONGEST_S)

    def end(self, world: World) -> Result:
        """Wait for it, and judge it."""
        self.process.send_signal(signal.SIGCONT)
        try:
            out, err = self.process.communicate(LONGEST_S)
        except subprocess.TimeoutExpired:
            self.put_down()
            raise AssertionError(f"{self.arguments} does not end") from None
        code = self.process.returncode
        assert code is not None
        told = f"{self.arguments}: exit {code}\n{out}{err}"
        _check_quiet_about(told)
        if code < 0 or code > 128:
            assert abs(code) % 128 in self.signals, told
            return Result(code, {}, told)
        result = Result(code, json.loads(out), told)
        assert result.report["exit_code"] == code, told
        excused = world.missed > self.missed or any(words in result.errors for words in NOT_YET)
        assert code in EVERY_RUN | KINDS[self.kind].ends | ({2} if excused else set()), told
        print(f"{self.kind} {' '.join(map(str, [*self.more, *self.signals]))}: {result}")
        return result


def _check_quiet_about(told: str) -> None:
    for secret in SECRETS:
        assert secret not in told, f"{secret!r} is printed\n{told}"


def _summary(report: dict[str, Any]) -> str:
    listed = []
    for view in report.get("views", []):
        if isinstance(view, dict) and "action" in view:
            drift = (view["drift"] or {}).get("keys") or ""
            reason = f" ({view['reason']})" if view["reason"] else ""
            listed.append(f"{view['view']}: {view['action']}{reason} +{view['puts']} -{view['deletes']} {drift}")
    return "; ".join(listed)


def start(world: World, kind: str, namespace: str, *more: str) -> Started:
    """A command that has just begun: most are forks of a process that has imported everything."""
    drawn = KINDS[kind].arguments(world.rng, world, namespace)
    at = drawn.index("--") if "--" in drawn else len(drawn)
    missed = world.missed - any(not view.exists for view in world.views)
    arguments = [*drawn[:at], *more, "--json", "--config", str(world.configuration(namespace)), *drawn[at:]]
    return Started(kind, namespace, arguments, more, _spawn(world, arguments), missed)


def call(world: World, namespace: str, *arguments: str) -> Result:
    """A command to its end, in peace; its exit code is the caller's business."""
    argv = [*arguments, "--json", "--config", str(world.configuration(namespace))]
    out, err = (process := _spawn(world, argv)).communicate(LONGEST_S)
    code = process.returncode
    told = f"{argv}: exit {code}\n{out}{err}"
    assert code in DOCUMENTED, told
    _check_quiet_about(told)
    result = Result(code, json.loads(out), told)
    print(f"[{' '.join(arguments)}]: {result}")
    return result


def _spawn(world: World, arguments: list[str]) -> Process:
    chance = world.rng.random()
    if chance < 0.85:
        return Forked(["reconcile", *arguments], world.directory, os.environ)
    skew = clocks.ahead(world.directory, world.rng.choice([-3600, 3600, 86400])) if chance > 0.95 else {}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-m", "reconcile", *arguments],
        stdout=pipe, stderr=pipe, text=True, cwd=world.directory, env={**os.environ, **skew},
    )  # fmt: skip
