"""The settings as `config show` prints them, under the file's names: every value with its origin, secrets masked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from reconcile.config import schema
from reconcile.config.schema import VIEW
from reconcile.config.settings import Secret, Settings
from reconcile.config.values import Key

MASK: Final = "***"


def render(settings: Settings) -> list[tuple[str, str, str]]:
    """Return (dotted path, value as text, origin) of every setting, in the order of the table."""
    return [(path, _text(key, value), settings.origins.get(path, "default")) for path, key, value in _each(settings)]


def to_dict(settings: Settings) -> dict[str, Any]:
    """Return the same for JSON: sections as objects, views as a list, and `origins` by dotted path."""
    shown: dict[str, Any] = {}
    for section, part in _parts(settings):
        *outer, name = section.split(".")
        into = shown
        for one in outer:
            into = into[one]
        into[name] = _object(section, part)
    shown["views"] = [_object(VIEW, view) for view in settings.views]
    shown["origins"] = {path: settings.origins.get(path, "default") for path, _, _ in _each(settings)}
    return shown


def _parts(settings: Settings) -> Iterator[tuple[str, Any]]:
    for section in schema.SECTIONS:
        part: Any = settings
        for name in section.split("."):
            part = getattr(part, name, None)
        if part is not None:
            yield section, part


def _keys(section: str) -> Iterator[Key]:
    return (key for key in schema.SECTIONS[section] if key.field)


def _each(settings: Settings) -> Iterator[tuple[str, Key, object]]:
    parts = [(section, section, part) for section, part in _parts(settings)]
    parts += [(VIEW, f"views.{view.name}", view) for view in settings.views]
    for section, path, part in parts:
        for key in _keys(section):
            yield f"{path}.{key.name}", key, getattr(part, key.field)


def _object(section: str, part: Any) -> dict[str, Any]:
    return {key.name: _plain(key, getattr(part, key.field)) for key in _keys(section)}


def _plain(key: Key, value: Any) -> object:
    if isinstance(value, Secret):
        return MASK
    if value is None or isinstance(value, bool | int):
        return key.kind.write(value) if isinstance(value, int) and key.kind.write is not str else value
    return value if isinstance(value, str) else key.kind.write(value)


def _text(key: Key, value: object) -> str:
    if isinstance(value, Secret):
        return MASK
    if value is None:
        return "off" if key.kind.label.endswith("`off`") else "-"
    return " ".join(key.kind.write(value).split())
