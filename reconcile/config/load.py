"""load(): flags > environment > file > defaults → one Settings, or one ConfigError that names the place."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Any

from reconcile.config import address, environment, interpolation, layers, ownership, query, schema, secret
from reconcile.config.given import Given, Layer
from reconcile.config.schema import Key
from reconcile.config.settings import (
    LimitSettings,
    LoggingSettings,
    MaterializeSettings,
    MetricsSettings,
    RedisSettings,
    Secret,
    Settings,
    ViewSettings,
)
from reconcile.config.values import Wrong
from reconcile.errors import ConfigError

DEFAULT_FILE = "config.yaml"
DEFAULT_VIEW = "default"

_NO_OVERRIDES: Mapping[str, object] = MappingProxyType({})
_TLS_FILES = ("tls_ca_cert", "tls_cert", "tls_key")
CLASSES: dict[str, Any] = {
    "materialize": MaterializeSettings,
    "redis": RedisSettings,
    "logging": LoggingSettings,
    "limits": LimitSettings,
    "metrics": MetricsSettings,
    "view": ViewSettings,
}


def load(path: str | None, environ: Mapping[str, str], overrides: Mapping[str, object] = _NO_OVERRIDES) -> Settings:
    """The configuration. `path` None: $RECONCILE_CONFIG, else ./config.yaml if there is one, else no file.

    `overrides` are command line flags by dotted name: 'redis.host', 'limits.max_runtime_s', 'view.buckets' (a single
    view) or 'views.orders.buckets'; None values are skipped.
    """
    file = _file(path, environ)
    reader = _Reader(environ, os.path.dirname(file or ""))
    file_layer = layers.of_file(file) if file is not None else layers.FileLayer()
    variables = environment.read(environ)
    flags, named = layers.of_flags(overrides)
    origins: dict[str, str] = {}
    built: dict[str, Any] = {}
    for section in ("materialize", "redis", "logging", "limits", "metrics"):
        merged = file_layer.sections[section] | variables[section] | flags[section]
        built[section] = _section(section, merged, reader, origins, file)
    views = _views(file_layer, {**variables["view"], **flags["view"]}, named, reader, origins, file)
    ownership.check(views, origins, dedicated=built["redis"].dedicated)
    if built["redis"].cluster:
        ownership.check_cluster(built["redis"], views, origins)
    origins = {name: place for name, place in origins.items() if "[" not in name}
    return Settings(**built, views=tuple(views), origins=origins)


def _file(path: str | None, environ: Mapping[str, str]) -> str | None:
    chosen = path or environ.get("RECONCILE_CONFIG")
    if chosen:
        return chosen
    return DEFAULT_FILE if os.path.exists(DEFAULT_FILE) else None


class _Reader:
    """From a Given to its typed value: expand, fetch, parse; every failure becomes a ConfigError with the place."""

    def __init__(self, environ: Mapping[str, str], base: str) -> None:
        self._environ = environ
        self._base = base

    def value(self, key: Key, given: Given) -> Any:
        raw = self._text(key, given)
        try:
            parsed = key.kind.parse(raw)
        except Wrong as error:
            raise given.error(error.problem, error.hint) from None
        except ValueError:
            raise given.error(f"expected {key.kind.expects}{_found(key, given, raw)}", key.kind.hint) from None
        return Secret(str(parsed)) if key.secret and parsed is not None else parsed

    def _text(self, key: Key, given: Given) -> str | bool:
        raw = given.raw
        if isinstance(raw, bool):
            return raw
        if given.layer is Layer.FILE and interpolation.has_reference(raw):
            try:
                raw = interpolation.expand(raw, self._environ)
            except interpolation.Unresolved as error:
                if key.secret and not error.whole:
                    raise given.error(
                        "a ${…} in it has no value",
                        "set the variable it names, or write ${VAR:-default}; $${ stands for a literal ${",
                    ) from None
                raise given.error(error.problem, error.hint) from None
        if given.via == "file":
            return secret.read_file(given, raw, self._base)
        return secret.read_arn(given, raw) if given.via == "arn" else raw


def _found(key: Key, given: Given, raw: str | bool) -> str:
    """What stood there instead; nothing for secrets, nor for text that came out of a variable."""
    if isinstance(raw, bool):
        return f", found {str(raw).lower()}"
    if not raw:
        return ", found an empty text"
    if key.secret or raw != given.raw:
        return ""
    return f", found {raw[:40]!r}{'…' if len(raw) > 40 else ''}"


def _section(section: str, merged: dict[str, Given], reader: _Reader, origins: dict[str, str], file: str | None) -> Any:
    decided: dict[str, tuple[object, str]] = {}
    if section == "materialize":
        decided = _address(section, merged, reader, address.materialize_parts)
    elif section == "redis":
        decided = _address(section, merged, reader, address.redis_parts)
        _refuse_unused_tls(merged, decided, reader)
    if section in ("materialize", "redis") and "host" not in merged and "url" not in merged:
        raise ConfigError(
            f"{file or 'no configuration file'}: {section}.host: missing",
            hint=f"give {section}.host or {section}.url, or set {section.upper()}_URL",
        )
    return _build(section, section, merged, reader, origins, decided)


def _build(
    section: str,
    path: str,
    merged: dict[str, Given],
    reader: _Reader,
    origins: dict[str, str],
    decided: Mapping[str, tuple[object, str]] = MappingProxyType({}),
) -> Any:
    """One settings object; `decided` are values already known, with their origin."""
    found: dict[str, object] = {}
    keys = {key.target: key for key in schema.SECTIONS[section] if not key.view}
    for spec in fields(CLASSES[section]):
        name = spec.name
        if name in decided:
            found[name], origins[f"{path}.{name}"] = decided[name]
        elif name in merged:
            found[name] = reader.value(keys[name], merged[name])
            origins[f"{path}.{name}"] = merged[name].place
        else:
            assert spec.default is not MISSING or spec.default_factory is not MISSING, name
            origins[f"{path}.{name}"] = "default"
    return CLASSES[section](**found)


def _address(
    section: str, merged: dict[str, Given], reader: _Reader, read_parts: Callable[[str], address.Parts]
) -> dict[str, tuple[object, str]]:
    """Let the URL win over parts of lower layers, refuse parts beside or above it that contradict it.

    Removes the losers from `merged` and returns what the URL decides, so that the settings agree with it.
    """
    url = merged.get("url")
    if url is None:
        return {}
    keys = {key.target: key for key in schema.SECTIONS[section]}
    value = reader.value(keys["url"], url)
    try:
        parts = read_parts(value.reveal())
    except Wrong as error:
        raise url.error(error.problem, error.hint) from None
    lower = {"port"} if "host" in parts.names else set()
    if parts.values.get("tls") is False:
        lower |= {*_TLS_FILES}  # they belong to the server that the URL replaces
    for name in sorted(parts.names | lower):
        given = merged.get(name)
        if given is None:
            continue
        if given.layer >= url.layer:
            if name not in parts.names:
                continue
            if name not in parts.values or reader.value(keys[name], given) != parts.values[name]:
                raise given.error(
                    f"{url.path} ({url.place}) says this too", f"give {name} in the URL or beside it, not both"
                )
        del merged[name]
    decided: dict[str, tuple[object, str]] = {name: (part, url.place) for name, part in parts.values.items()}
    return decided | {"url": (value, url.place)}


def _refuse_unused_tls(merged: dict[str, Given], decided: Mapping[str, tuple[object, str]], reader: _Reader) -> None:
    """Whoever names certificates wants TLS: better no connection than one without."""
    if "tls" in decided:
        on = decided["tls"][0]
    else:
        keys = {key.target: key for key in schema.SECTIONS["redis"]}
        on = "tls" in merged and reader.value(keys["tls"], merged["tls"])
    for name in _TLS_FILES:
        if name in merged and not on:
            raise merged[name].error("given, but TLS is off", "tls: true, or rediss:// in place of redis://")


def _views(
    file_layer: layers.FileLayer,
    above: dict[str, Given],
    named: dict[str, dict[str, Given]],
    reader: _Reader,
    origins: dict[str, str],
    file: str | None,
) -> list[ViewSettings]:
    legacy = file_layer.sections["view"]
    entries = [legacy] if file_layer.views is None else file_layer.views
    if file_layer.views is not None and legacy:
        stray = next(iter(legacy.values()))
        raise stray.error(f"given beside views: ({file_layer.views_place})", "move it into an entry of views:")
    if len(entries) > 1 and above:
        stray = next(iter(above.values()))
        raise stray.error(
            f"there are {len(entries)} views, and it does not say which", "change the entry of views: in the file"
        )
    views = []
    for n, entry in enumerate(entries):
        place = file_layer.view_places[n] if file_layer.view_places else file or "no configuration file"
        merged = _override(entry, above)
        name = _view_name(merged, len(entries), place, n, reader)
        merged = _override(merged, named.pop(name, {}))
        origins[f"views[{n}]"] = place
        where = f"{place}: views[{n}].sql" if file_layer.view_places else f"{place}: materialize.sql"
        views.append(_view(name, merged, reader, origins, where))
    for name, flags in named.items():
        known = [view.name for view in views]
        raise next(iter(flags.values())).error(
            f"no view is called {name!r}", schema.suggestion(name, known, otherwise=f"the views are {', '.join(known)}")
        )
    return views


def _override(lower: dict[str, Given], upper: dict[str, Given]) -> dict[str, Given]:
    """`sql` and `relation` are alternatives: a higher layer that gives one replaces either."""
    if "sql" in upper or "relation" in upper:
        lower = {name: given for name, given in lower.items() if name not in ("sql", "relation")}
    return lower | upper


def _view_name(merged: dict[str, Given], count: int, place: str, n: int, reader: _Reader) -> str:
    if "name" in merged:
        key = next(key for key in schema.SECTIONS["view"] if key.name == "name")
        return str(reader.value(key, merged["name"]))
    if count > 1:
        raise ConfigError(f"{place}: views[{n}].name: missing", hint="with several views each needs a name")
    return DEFAULT_VIEW


def _view(name: str, merged: dict[str, Given], reader: _Reader, origins: dict[str, str], where: str) -> ViewSettings:
    sql, relation = merged.get("sql"), merged.get("relation")
    if sql is not None and relation is not None:
        raise relation.error(f"{sql.path} ({sql.place}) is given too", "keep one of sql and relation")
    decided: dict[str, tuple[object, str]] = {"name": (name, merged["name"].place if "name" in merged else "default")}
    if relation is not None:
        keys = {key.name: key for key in schema.SECTIONS["view"]}
        columns = {c: reader.value(keys[c], merged[c]) if c in merged else c for c in ("key", "value")}
        text = query.reading(reader.value(keys["relation"], relation), columns["key"], columns["value"])
        decided["sql"] = (text, relation.place)
    elif sql is None:
        raise ConfigError(f"{where}: missing", hint=_SQL_HINT)
    view: ViewSettings = _build("view", f"views.{name}", merged, reader, origins, decided)
    if view.key == view.value:
        given = merged.get("value") or merged["key"]
        raise given.error(f"key and value are both the column {view.key!r}", "name two different columns")
    return view


_SQL_HINT = (
    'give sql: "SELECT key, value FROM your_view" or relation: database.schema.view (environment: RECONCILE_VIEW__SQL)'
)
