"""The three layers as the same shape: section → field → Given, and the views of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconcile.config import document, environment, schema
from reconcile.config.document import Node
from reconcile.config.given import Given, Layer, put
from reconcile.config.settings import Secret
from reconcile.errors import ConfigError

VIEWS_MAX = 1_000


@dataclass(slots=True)
class FileLayer:
    """`views` is None for a file without a views: list; what mz-redis-sync's keys say is in sections['view']."""

    sections: dict[str, dict[str, Given]] = field(default_factory=lambda: {s: {} for s in schema.SECTIONS})
    views: list[dict[str, Given]] | None = None
    views_place: str = ""
    view_places: list[str] = field(default_factory=list)


def of_file(path: str) -> FileLayer:
    """The file, with its keys known and its values still text."""
    layer = FileLayer()
    root = document.read(path)
    assert isinstance(root.content, dict)
    allowed = [name for name in schema.SECTIONS if name != "view"] + ["views"]
    for name, node in root.content.items():
        if name not in allowed:
            hint = schema.suggestion(name, allowed, otherwise=f"the sections are {', '.join(allowed)}")
            raise ConfigError(f"{node.place}: {document.shown(name)}: unknown section", hint=hint)
        if node.content is None:
            continue
        if name == "views":
            layer.views_place = node.place
            layer.views = _views(node, layer)
        else:
            _section(layer.sections, name, _mapping(node, name), name)
    return layer


def _mapping(node: Node, where: str) -> dict[str, Node]:
    if not isinstance(node.content, dict):
        raise ConfigError(
            f"{node.place}: {where}: expected a mapping, found {node.found}",
            hint=f"write {where}: and below it, indented, key: value",
        )
    return node.content


def _views(node: Node, layer: FileLayer) -> list[dict[str, Given]]:
    if not isinstance(node.content, list):
        raise ConfigError(
            f"{node.place}: views: expected a list, found {node.found}", hint="begin each view with '- name: …'"
        )
    if not 1 <= len(node.content) <= VIEWS_MAX:
        raise ConfigError(
            f"{node.place}: views: expected 1 to {VIEWS_MAX} views", hint="begin each view with '- name: …'"
        )
    found = []
    for n, item in enumerate(node.content):
        layer.view_places.append(item.place)
        sections: dict[str, dict[str, Given]] = {"view": {}}
        _section(sections, "view", _mapping(item, f"views[{n}]"), f"views[{n}]")
        found.append(sections["view"])
    return found


def _section(into: dict[str, dict[str, Given]], section: str, content: dict[str, Node], path: str) -> None:
    known = schema.spellings(section)
    for name, node in content.items():
        where = f"{path}.{document.shown(name)}"
        meaning = known.get(name)
        if meaning is None:
            hint = _elsewhere(section, name) or schema.suggestion(
                name, sorted(known), otherwise=f"known here: {', '.join(sorted(known))}"
            )
            raise ConfigError(f"{node.place}: {where}: unknown key", hint=hint)
        if node.content is None:
            continue
        if isinstance(node.content, dict | list):
            raise ConfigError(
                f"{node.place}: {where}: expected {meaning.expects}, found {node.found}", hint="give a single value"
            )
        given = Given(node.content, where, node.place, Layer.FILE, environment.via(meaning))
        put(into["view" if meaning.key.view else section], meaning.key.target, given)


def _elsewhere(section: str, name: str) -> str | None:
    """A key in the wrong section is likelier than a misspelling of another."""
    for other in schema.SECTIONS:
        if other != section and name in schema.spellings(other):
            return f"it belongs to {'an entry of views' if other == 'view' else other}:"
    return None


def of_flags(overrides: Mapping[str, object]) -> tuple[dict[str, dict[str, Given]], dict[str, dict[str, Given]]]:
    """Flags by section, and those for one named view ('views.orders.buckets'). None stands for a flag not given."""
    sections: dict[str, dict[str, Given]] = {section: {} for section in schema.SECTIONS}
    named: dict[str, dict[str, Given]] = {}
    for path, value in overrides.items():
        if value is None:
            continue
        section, _, name = path.rpartition(".")
        into: dict[str, Given]
        if section.startswith("views."):
            into = named.setdefault(section.removeprefix("views."), {})
            section = "view"
        else:
            into = sections.get(section, {})
        meaning = schema.spellings(section).get(name) if section in schema.SECTIONS else None
        if meaning is None:
            known = [f"{s}.{key.name}" for s, keys in schema.SECTIONS.items() for key in keys]
            raise ConfigError(
                f"flag {path}: unknown setting", hint=schema.suggestion(path, known, otherwise="for example redis.host")
            )
        raw = value if isinstance(value, bool) else value.reveal() if isinstance(value, Secret) else str(value)
        given = Given(raw, path, "flag", Layer.FLAG, environment.via(meaning))
        put(sections["view"] if meaning.key.view else into, meaning.key.target, given)
    return sections, named
