"""The settings for people (`config show`) and for --json: every value with its origin, secrets masked."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from reconcile.config import address
from reconcile.config.settings import Secret, Settings
from reconcile.config.values import Wrong

MASK = "***"
# What a URL may show beside its host. All else is masked: a password can hide in any parameter.
_PLAIN = frozenset(
    {"host", "port", "user", "dbname", "sslmode", "sslrootcert", "connect_timeout", "db", "ssl_cert_reqs"}
)
_OFF = frozenset({"max_runtime_s", "deep_every_s"})
_SECTIONS = ("materialize", "redis", "logging", "limits", "metrics")


def render(settings: Settings) -> list[tuple[str, str, str]]:
    """(dotted path, value as text, origin) of every setting, in the order of the settings."""
    rows: list[tuple[str, str, str]] = []
    for path, value in _each(settings):
        name = path.rpartition(".")[2]
        rows.append((path, _text(name, _masked(name, value)), settings.origins.get(path, "default")))
    return rows


def to_dict(settings: Settings) -> dict[str, Any]:
    """The same for JSON: sections as objects, views as a list, and `origins` by dotted path."""
    shown: dict[str, Any] = {section: _object(getattr(settings, section)) for section in _SECTIONS}
    shown["views"] = [_object(view) for view in settings.views]
    shown["origins"] = {path: settings.origins.get(path, "default") for path, _ in _each(settings)}
    return shown


def _each(settings: Settings) -> list[tuple[str, object]]:
    parts = [(section, getattr(settings, section)) for section in _SECTIONS]
    parts += [(f"views.{view.name}", view) for view in settings.views]
    return [(f"{path}.{spec.name}", getattr(part, spec.name)) for path, part in parts for spec in fields(part)]


def _object(part: Any) -> dict[str, Any]:
    return {spec.name: _masked(spec.name, getattr(part, spec.name)) for spec in fields(part)}


def _masked(name: str, value: object) -> object:
    if not isinstance(value, Secret):
        return value
    return masked_url(value.reveal()) if name == "url" else MASK


def _text(name: str, value: object) -> str:
    if value is None:
        return "off" if name in _OFF else "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if value < 1e6 else str(int(value))
    return " ".join(str(value).split()) if isinstance(value, str) else str(value)


def masked_url(text: str) -> str:
    """A URL or libpq connection string without its password; anything else is masked as a whole."""
    match = re.fullmatch(r"([a-z]+)://(?:([^/?#@:]*)(:[^/?]*)?@)?([^?#@]*)(?:\?(.*))?", text)
    if match is not None:
        scheme, user, password, rest, query = match.groups()
        login = "" if user is None else f"{user}{':' + MASK if password else ''}@"
        return f"{scheme}://{login}{rest}" + (f"?{_masked_pairs(query.split('&'), '&')}" if query else "")
    if re.match(r"\s*[a-z_]+\s*=", text):
        try:
            pairs = address.conninfo_pairs(text)
        except Wrong:
            return MASK
        return _masked_pairs([f"{name}={value}" for name, value in pairs], " ")
    return MASK


def _masked_pairs(pairs: list[str], separator: str) -> str:
    return separator.join(pair if pair.partition("=")[0] in _PLAIN else MASK for pair in pairs)
