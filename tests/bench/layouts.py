"""The same bytes as a string, as JSON and as a hash of two fields: what a layout costs in time and in Redis' memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.bench.world import PLAIN, World

LAYOUTS: dict[str, dict[str, object]] = {
    "string": {"value": "value"},
    "json": {"value": ["a", "b"], "layout": "json"},
    "hash": {"value": ["a", "b"], "layout": "hash"},
}


def measure_layouts(world: World) -> None:
    """A first load of each into nothing."""
    plain = world.command(PLAIN, "run")
    commands = {name: _configured(plain, name, world.source.relation, keys) for name, keys in LAYOUTS.items()}
    for name, command in commands.items():
        world.clients[PLAIN].execute_command("FLUSHDB", "SYNC")
        before = _used_bytes(world)
        sample = world.launcher.run(command)
        world.results.layouts[f"{name}_s"] = sample.seconds
        world.results.layouts[f"{name}_user_s"] = sample.user_s
        world.results.layouts[f"{name}_bytes"] = (_used_bytes(world) - before) / world.rows
    world.clients[PLAIN].execute_command("FLUSHDB", "SYNC")


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
