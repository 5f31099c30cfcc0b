"""What is measured at one number of rows, in an order in which each step prepares the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psycopg
import redis

from tests.bench.coldstart import measure_cold_start
from tests.bench.latency import measure_latency
from tests.bench.layouts import measure_layouts
from tests.bench.many import measure_views
from tests.bench.measure import BenchError
from tests.bench.parallel import measure_shards
from tests.bench.readers import measure_readers
from tests.bench.world import COMPANION, PLAIN, World, python
from tests.support.mappings import SALT

NAIVE_MAX_ROWS = 1_000_000
DELTA_MAX_CHANGES = 100_000
DELTA_TRANSACTIONS = 10
MASS_CHANGE = 1_000_000
COUNTED = (0, 1, 100)
RETAIN = "ALTER MATERIALIZED VIEW v SET (RETAIN HISTORY FOR '1hr')"
RESET = "ALTER MATERIALIZED VIEW v RESET (RETAIN HISTORY)"


def prepare(world: World) -> None:
    """The view with its rows, the companion view, and a source that has forgotten how it came by them."""
    world.fill()
    world.add_companion()
    world.warm()
    world.forget()


def play(world: World, repeat: int, steps: list[str], done: Callable[[str], None]) -> None:
    """Measure these steps; results are in world.results. done: called after each, with its name.

    A step that fails is kept with its reason, and the next one begins.
    """
    for turn in range(repeat):
        for name, step in STEPS.items():
            if name not in steps or (name in ONCE and turn < repeat - 1):
                continue
            world.progress(f"{name}, {turn + 1} of {repeat}" if name not in ONCE else name)
            try:
                if name != "load":
                    _checkpoints(world)
                step(world, Turn(turn, turn == repeat - 1))
            except (BenchError, psycopg.Error, redis.RedisError, AssertionError, KeyError, OSError) as error:
                world.results.failures[name] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            done(name)


@dataclass(frozen=True)
class Turn:
    """One of the repetitions."""

    number: int
    last: bool

    @property
    def first(self) -> bool:
        return self.number == 0


def _checkpoints(world: World) -> None:
    """Every step but the load begins with both configurations in place, whatever came before."""
    for config in (PLAIN, COMPANION):
        if not world.clients[config].exists(f"reconcile:{{{config}}}:state"):
            world.quietly(config, "run")


def _loads(world: World, turn: Turn) -> None:
    client = world.clients[PLAIN]
    client.flushdb()
    world.measure("load_shell", world.shell_command())
    if client.dbsize() != world.rows and turn.first:
        raise BenchError(f"the shell way loaded {client.dbsize()} keys of {world.rows}")
    client.flushdb()
    if world.rows <= NAIVE_MAX_ROWS:
        world.measure("load_naive", python("naive", world.source.url, world.source.sql, world.redis_urls[PLAIN]))
        client.flushdb()
    world.reconcile("load", PLAIN, "run", action="snapshot", exit_code=0)
    world.bare("mapped", world.mapping.mapped())
    if turn.first:
        world.reconcile("load_companion", COMPANION, "run", action="snapshot", exit_code=0, warnings=[])
    else:
        world.quietly(COMPANION, "run")


def _unchanged(world: World, _: Turn) -> None:
    world.forget()
    world.reconcile("unchanged", PLAIN, "run", action="snapshot", deep=False, puts=0, rows_read=0)
    world.bare("fingerprints", world.mapping.fingerprints(_buckets(world, PLAIN), SALT))
    world.reconcile("unchanged_companion", COMPANION, "run", action="snapshot", deep=False, puts=0, rows_read=0)
    world.bare("companion", f"SELECT bucket, rows, fingerprint FROM {world.companion}")


def _buckets(world: World, config: str) -> int:
    value = world.clients[config].hget(f"reconcile:{{{config}}}:state", "buckets")
    return int(value)  # type: ignore[arg-type]


def _changed(world: World, turn: Turn) -> None:
    world.update_part(1000, turn.number)
    world.forget()
    world.reconcile("changed", PLAIN, "run", action="snapshot", deep=False, deletes=0)
    world.reconcile("changed_companion", COMPANION, "run", action="snapshot", deep=False, deletes=0)
    world.mix(1000, turn.number)
    world.forget()
    world.reconcile("mixed", PLAIN, "run", action="snapshot", deep=False)
    world.reconcile("mixed_companion", COMPANION, "run", action="snapshot", deep=False)


def _deep(world: World, _: Turn) -> None:
    world.reconcile("verify", PLAIN, "verify", exit_code=0)
    world.measure("scan", python("scan", world.redis_urls[PLAIN]))
    world.reconcile("deep", PLAIN, "snapshot", "--deep", deep=True, puts=0, deletes=0)


def _delta(world: World, turn: Turn) -> None:
    """With retained history: what a delta catches up."""
    world.source.execute(RETAIN)
    try:
        checkpoint = world.quietly(PLAIN, "snapshot")["as_of"]
        for part in range(DELTA_TRANSACTIONS):
            number = (turn.number * DELTA_TRANSACTIONS + part) % 100
            world.update_suffix(DELTA_MAX_CHANGES // DELTA_TRANSACTIONS, number)
        times = f"AS OF {checkpoint} UP TO {world.now() + 1}"
        subscribe = world.copy_command(f"SUBSCRIBE ({world.source.sql}) WITH (PROGRESS, SNAPSHOT=false) {times}")
        world.measure("subscribe", subscribe, discard=True)  # before and after: whatever warms up favours neither
        world.reconcile("delta", PLAIN, "delta", action="delta", exit_code=0, as_of_before=checkpoint)
        world.measure("subscribe", subscribe, discard=True)
    finally:
        _forget_all(world)


def _mass(world: World, _: Turn) -> None:
    """A large change at a single time: caught up by a delta, then, for the other configuration, without history."""
    world.source.execute(RETAIN)
    try:
        world.quietly(PLAIN, "snapshot")
        world.quietly(COMPANION, "snapshot")
        world.update_part(max(1, world.rows // MASS_CHANGE), 0)
        world.reconcile("mass_delta", PLAIN, "delta", action="delta", exit_code=0)
    finally:
        world.source.execute(RESET)
    world.forget()
    world.reconcile("mass_snapshot", COMPANION, "run", action="snapshot", exit_code=0)
    world.quietly(PLAIN, "run")


def _forget_all(world: World) -> None:
    world.source.execute(RESET)
    world.forget()
    for config in (PLAIN, COMPANION):
        world.quietly(config, "run")


def _count(world: World, _: Turn) -> None:
    """What a run asks of both sides for so many changed keys."""
    world.results.counters.clear()
    world.add_marked(max(COUNTED))
    for config in (PLAIN, COMPANION):
        world.quietly(config, "snapshot")  # a delta has followed: the buckets it touched have no fingerprint
    for changed in COUNTED:
        world.update_marked(changed)
        world.forget()
        for config in (PLAIN, COMPANION):
            sample = world.reconcile("counted", config, "run", keep=False, action="snapshot", deep=False)
            view = sample.view
            world.results.counters.append(
                {
                    "changed": changed,
                    "config": config,
                    "puts": view["puts"],
                    "rows_read": view["rows_read"],
                    "buckets_read": view["buckets_read"],
                    "source_statements": view["source_statements"],
                    "redis_commands": sample.redis["commands"],
                    "redis_round_trips": view["redis_round_trips"],
                    "redis_bytes_in": sample.redis["bytes_in"],
                    "redis_bytes_out": sample.redis["bytes_out"],
                    "seconds": sample.seconds,
                }
            )


STEPS: dict[str, Callable[[World, Turn], None]] = {
    "load": _loads,
    "unchanged": _unchanged,
    "changed": _changed,
    "deep": _deep,
    "delta": _delta,
    "mass": _mass,
    "latency": lambda world, _: measure_latency(world),
    "counters": _count,
    "cold": lambda world, _: measure_cold_start(world),
    "shards": lambda world, _: measure_shards(world),
    "layouts": lambda world, _: measure_layouts(world),
    "views": lambda world, _: measure_views(world),
    "readers": lambda world, _: measure_readers(world),
}
"""In an order in which each prepares the next."""
ONCE = ("mass", "latency", "counters", "cold", "shards", "layouts", "views", "readers")
"""Steps that are not repeated."""


def described(world: World) -> dict[str, str]:
    """The servers, for the head of the table."""
    ((version,),) = world.source.execute("SELECT mz_version()")
    info = world.clients[PLAIN].info("server")
    assert isinstance(info, dict)
    server = f"valkey {info['valkey_version']}" if "valkey_version" in info else f"redis {info['redis_version']}"
    source = "stand-in" if world.source.is_standin else f"Materialize {version}"
    return {"source": source, "redis": server}
