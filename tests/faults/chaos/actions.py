"""What happens in a round: the table, and the actions themselves."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

from tests.faults.chaos import commands, oracle
from tests.faults.chaos.commands import KINDS, SHARDED, Started
from tests.faults.chaos.views import KEYS, View
from tests.faults.chaos.worlds import LEASE_S, World
from tests.faults.proxy import Fault, Proxy

AT_ONCE = 4
"""Commands that run side by side."""
STARTS_S = 0.4
"""By then most have done their work."""
Running = list[Started]


# -- the source --------------------------------------------------------------------------------------------------


def put(world: World, running: Running) -> None:
    _some(world).put(world.execute, world.rng, world.rng.choice([1, 1, 3, 10, 60]))


def remove(world: World, running: Running) -> None:
    view = _some(world)
    names = KEYS[view.key_type]
    view.remove(world.execute, world.rng.sample(names, world.rng.choice([1, 2, 5, 12, len(names) // 2])))


def change_many(world: World, running: Running) -> None:
    view = _some(world)
    world.rng.choice([view.fill, view.fill, view.change_all, view.thin])(world.execute)


def replace_view(world: World, running: Running) -> None:
    """Another view under the same name, with a column more or less."""
    drop_view(world, running)
    create_views(world, running)


def drop_view(world: World, running: Running) -> None:
    view = _some(world)
    if view.exists:
        world.missed += 1
        world.remade = True
        view.drop(world.execute)
        view.generation += 1


def create_views(world: World, running: Running) -> None:
    for view in world.views:
        if not view.exists:
            view.create(world.execute)


def change_history(world: World, running: Running) -> None:
    view = _some(world)
    view.history = world.rng.choice(["1s", "5s", "1hr"])
    if view.exists:
        view.retain(world.execute)


def make_companion(world: World, running: Running) -> None:
    """By the statements that the product prints; where there is one already, it is made anew."""
    view = _some(world)
    if not view.companion or not view.exists:
        return
    arguments = ("init", "--companion", view.companion_name, "--view", view.name)
    made = commands.call(world, view.namespace, *arguments)
    if made.code == 0:
        lose_companion_of(world, view)
        for statement in made.report["ddl"].strip().split(";\n"):
            world.execute(statement.removesuffix(";"))
        view.named = True


def lose_companion(world: World, running: Running) -> None:
    """It is dropped, and may stay configured."""
    view = _some(world)
    lose_companion_of(world, view)
    view.named &= world.rng.random() < 0.7


def lose_companion_of(world: World, view: View) -> None:
    world.execute(f"DROP VIEW IF EXISTS {view.companion_name} CASCADE")


def restart_source(world: World, running: Running) -> None:
    world.restart_source()


# -- commands ----------------------------------------------------------------------------------------------------


def start(world: World, running: Running) -> None:
    """Any kind; where the number of shards may change, some are of one shard."""
    if len(running) == AT_ONCE:
        finish(world, running)
    rng = world.rng
    (kind,) = rng.choices(list(KINDS), [one.weight for one in KINDS.values()])
    world.remade |= kind == "drop"  # it may be cut short
    more = []
    if world.sharded and KINDS[kind].arguments(rng, world, world.namespaces[0])[0] in SHARDED and rng.random() < 0.8:
        more = ["--shard", f"{rng.randrange(world.shards)}/{world.shards}"]
    running.append(commands.start(world, kind, rng.choice(world.namespaces), *more))


def finish(world: World, running: Running) -> None:
    """The one that has run for longest."""
    if not running:
        return
    ended = running.pop(0)
    result = ended.end(world)
    if ended.kind in commands.AUDITS and result.code == 3 and not (world.tampered or world.bereft):
        assert result.causes <= _excused(world, result), f"a false alarm\n{result.told}"


def _excused(world: World, result: commands.Result) -> set[str]:
    """Causes of drift that there may be though nobody but runs has written."""
    if not world.unclear:
        return {"no checkpoint"}
    # What waits for consent may expire: then it is not what waited any more.
    only_extra = not any(view["drift"]["missing"] + view["drift"]["stale"] for view in result.drifting)
    return {"no checkpoint", "waits for consent"} | ({"changed outside"} if only_extra else set())


def signalled(number: int) -> Callable[[World, Running], None]:
    """Sends it to one that runs, which may just have begun: most are quick."""

    def send(world: World, running: Running) -> None:
        _caught(world, running).send(number)

    return send


def wake(world: World, running: Running) -> None:
    for one in running:
        one.send(signal.SIGCONT)


def oversleep(world: World, running: Running) -> None:
    """One sleeps past its lease, and wakes up once another has run."""
    sleeper = _caught(world, running)
    sleeper.send(signal.SIGSTOP)
    put(world, running)
    time.sleep(LEASE_S * 1.2)
    commands.start(world, "run", sleeper.namespace).end(world)
    sleeper.send(signal.SIGCONT)


def reshard(world: World, running: Running) -> None:
    if world.sharded:
        world.shards = world.rng.choice([1, 2, 4])


def rest(world: World, running: Running) -> None:
    time.sleep(world.rng.random() / 4)


# -- networks ----------------------------------------------------------------------------------------------------


def cut(world: World, running: Running) -> None:
    _wire(world).cut(reset=world.rng.random() < 0.5)


def black_hole(world: World, running: Running) -> None:
    _wire(world).black_hole()


def fault_later(world: World, running: Running) -> None:
    rng = world.rng
    action: Any = rng.choice(["cut", "reset", "half_close", "black_hole"])
    _wire(world).arm(Fault(rng.choice(["up", "down"]), rng.randrange(20_000), action))


def slow(world: World, running: Running) -> None:
    _wire(world).delay_s = 0.02


def heal(world: World, running: Running) -> None:
    for wire in _wires(world):
        wire.heal()


# -- Redis -------------------------------------------------------------------------------------------------------


def befall(world: World, running: Running) -> None:
    what = world.rng.choice(sorted(world.place.befalls))
    print(f"Redis: {what}")
    world.befall(what)


def relapse(world: World, running: Running) -> None:
    """What runs have just written is lost, with all that is recorded beside it."""
    rng = world.rng
    world.place.relapse.begin()
    for _ in range(rng.choice([1, 1, 3])):
        rng.choice([put, put, remove, change_many])(world, running)
        start(world, running)
    if rng.random() < 0.7:
        commands.start(world, "run", rng.choice(world.namespaces)).end(world)
    else:
        time.sleep(rng.random() * 2 * STARTS_S)
    print("Redis: what was written last is lost")
    world.relapse()


def plant(world: World, running: Running) -> None:
    """Others write beside the keys of a view."""
    view, rng = _some(world), world.rng
    for _ in range(rng.choice([1, 3, 12])):
        key = f"{view.prefix}foreign{rng.randrange(10**6)}".encode()
        world.place.client(key).set(key, b"theirs")
        world.foreign[key] = b"theirs"
    world.tampered = True


def overwrite(world: World, running: Running) -> None:
    """Others change, remove, or let expire what a view holds."""
    view, rng = _some(world), world.rng
    held = sorted(view.wanted(world.execute)) if view.exists else []
    for key in rng.sample(held, min(len(held), rng.choice([1, 3, 15]))):
        client = world.place.client(key)
        edits: list[Callable[[], Any]] = [
            lambda client=client, key=key: client.delete(key),
            lambda client=client, key=key: client.set(key, b"edited"),
            lambda client=client, key=key: client.pexpire(key, 10**8),
            lambda client=client, key=key: client.persist(key),
        ]  # fmt: skip
        rng.choice(edits)()
    world.tampered = True


def look(world: World, running: Running) -> None:
    """As a reader does, at any moment."""
    oracle.check_cut(world)


# -- the table ---------------------------------------------------------------------------------------------------

ACTIONS: dict[Callable[[World, Running], None], int] = {
    put: 20,
    remove: 8,
    change_many: 2,
    replace_view: 1,
    drop_view: 1,
    create_views: 6,
    change_history: 1,
    make_companion: 2,
    lose_companion: 1,
    restart_source: 1,
    start: 45,
    finish: 15,
    signalled(signal.SIGKILL): 6,
    signalled(signal.SIGTERM): 4,
    signalled(signal.SIGHUP): 1,
    signalled(signal.SIGSTOP): 3,
    wake: 8,
    oversleep: 3,
    reshard: 1,
    rest: 15,
    look: 10,
    cut: 3,
    black_hole: 1,
    fault_later: 3,
    slow: 1,
    heal: 8,
    befall: 6,
    relapse: 3,
    plant: 1,
    overwrite: 1,
}
"""Action → how often it comes, against the others."""


def _caught(world: World, running: Running) -> Started:
    """A command in the middle of what it does."""
    alive = [one for one in running if one.process.poll() is None]
    if not alive or world.rng.random() < 0.5:
        start(world, running)
        time.sleep(world.rng.random() * STARTS_S)
        return running[-1]
    return world.rng.choice(alive)


def _some(world: World) -> View:
    return world.rng.choice(world.views)


def _wires(world: World) -> list[Proxy]:
    return [world.source_proxy, *([world.place.proxy] if world.place.proxy is not None else [])]


def _wire(world: World) -> Proxy:
    return world.rng.choice(_wires(world))
