"""The same bytes as a string, as JSON and as a hash of two fields: what a layout costs in time and in Redis' memory."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.measure import Sample
from tests.bench.world import PLAIN, World

LAYOUTS: dict[str, dict[str, object]] = {
    "string": {"value": "value"},
    "json": {"value": ["a", "b"], "layout": "json"},
    "hash": {"value": ["a", "b"], "layout": "hash"},
}
TURNS = 3


def measure_layouts(world: World) -> None:
    """First loads in turn, each into nothing."""
    plain = world.command(PLAIN, "run")
    commands = {name: _configured(plain, name, world.source.relation, keys) for name, keys in LAYOUTS.items()}
    samples: dict[str, list[Sample]] = {name: [] for name in LAYOUTS}
    sizes: dict[str, float] = {}
    for _ in range(TURNS):
        for name, command in commands.items():
            world.clients[PLAIN].execute_command("FLUSHDB", "SYNC")
            before = _used_bytes(world)
            samples[name].append(world.launcher.run(command))
            sizes[name] = (_used_bytes(world) - before) / world.rows
    world.clients[PLAIN].execute_command("FLUSHDB", "SYNC")
    for name, some in samples.items():
        world.results.layouts[f"{name}_s"] = median(one.seconds for one in some)
        world.results.layouts[f"{name}_user_s"] = median(one.user_s for one in some)
        world.results.layouts[f"{name}_bytes"] = sizes[name]


def _configured(command: list[str], name: str, relation: str, keys: dict[str, object]) -> list[str]:
    place = command.index("--config") + 1
    settings = json.loads(Path(command[place]).read_text())
    settings["views"][0] |= keys
    if name != "string":
        settings["views"][0]["sql"] = f"SELECT key, substr(value, 1, 50) AS a, substr(value, 51) AS b FROM {relation}"
    path = Path(command[place]).with_name(f"{name}.json")
    path.write_text(json.dumps(settings))
    return [*command[:place], str(path), *command[place + 1 :]]


def _used_bytes(world: World) -> int:
    info: Any = world.clients[PLAIN].info("memory")
    return int(info["used_memory"])
