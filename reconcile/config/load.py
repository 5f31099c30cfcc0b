"""Merge flags > environment > file > libpq's service > defaults into one Settings, or raise one ConfigError with the
place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from reconcile import texts
from reconcile.config import address, layers, ownership, schema, views
from reconcile.config.layers import Given, Section
from reconcile.config.reader import ValueReader
from reconcile.config.settings import Secret, Settings
from reconcile.config.values import Wrong
from reconcile.errors import ConfigError

DEFAULT_FILE: Final = "config.yaml"
NO_FILE: Final = "no configuration file"

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_TLS: Final = ("tls_verify", "tls_ca_cert", "tls_cert", "tls_key")
_SENTINEL: Final = "redis.sentinel"
Decided = Mapping[str, tuple[object, str]]
"""Field → value and origin, as far as known."""


def load(
    path: str | None, environ: Mapping[str, str] | None = None, overrides: Mapping[str, object] = _NOTHING
) -> Settings:
    """Return the configuration.

    path: None: $RECONCILE_CONFIG, else ./config.yaml if it exists, else no file. environ: None: this process's
    variables. overrides: command line flags by dotted name: 'redis.host', 'limits.max_runtime_s', 'view.buckets' (a
    single view) or 'views.orders.buckets'; None values are skipped. Raises ConfigError.
    """
    environ = texts.environment() if environ is None else environ
    file = path or environ.get("RECONCILE_CONFIG") or (DEFAULT_FILE if os.path.exists(DEFAULT_FILE) else None)
    reader = ValueReader(environ, os.path.dirname(file or ""))
    file_layer = layers.of_file(file) if file is not None else layers.FileLayer()
    variables = layers.of_environment(environ)
    flags, named = layers.of_flags(overrides)
    merged = {name: file_layer.sections[name] | variables[name] | flags[name] for name in schema.SECTIONS}
    origins: dict[str, str] = {}
    file = file or NO_FILE
    built = {
        "materialize": _materialize(merged["materialize"], reader, origins, file),
        "redis": _redis(merged["redis"], merged[_SENTINEL], reader, origins, file),
        **{name: _build(name, name, merged[name], reader, origins) for name in ("logging", "limits", "metrics")},
    }
    above = {**variables[schema.VIEW], **flags[schema.VIEW]}
    found = views.build(file_layer, above, named, reader, origins, file, _build)
    ownership.check(found, origins, built["redis"])
    ownership.check_cluster(built["redis"], found, origins)
    origins = {name: place for name, place in origins.items() if "[" not in name}
    return Settings(**built, views=tuple(found), origins=origins)


def _build(
    section: str,
    path: str,
    merged: Section,
    reader: ValueReader,
    origins: dict[str, str],
    decided: Decided = _NOTHING,
) -> Any:
    """Build one settings object."""
    found: dict[str, object] = {}
    names = {key.field: key for key in schema.SECTIONS[section] if key.field}
    for field in schema.CLASSES[section].__struct_fields__:
        key = names.get(field)
        name = field if key is None else key.name
        if field in decided:
            found[field], origins[f"{path}.{name}"] = decided[field]
        elif key is not None and name in merged:
            found[field] = reader.value(key, merged[name])
            origins[f"{path}.{name}"] = merged[name].place
        else:
            origins[f"{path}.{name}"] = "default"
    return schema.CLASSES[section](**found)


# -- addresses


def _materialize(merged: Section, reader: ValueReader, origins: dict[str, str], file: str) -> Any:
    decided, extra = _of_url("materialize", merged, reader, address.materialize_parts)
    named, place = extra.get("service"), "the URL's service"
    if named is None and (variable := reader.environ.get("PGSERVICE")):
        named, place = Secret(variable), "PGSERVICE"
    if named is not None:
        _fall_back_on_service(named.reveal(), place, merged, reader, decided, extra)
    if "host" not in merged and "host" not in decided:
        raise _no_address("materialize", file)
    decided["extra"] = (extra, "url")
    return _build("materialize", "materialize", merged, reader, origins, decided)


def _fall_back_on_service(
    name: str,
    place: str,
    merged: Section,
    reader: ValueReader,
    decided: dict[str, tuple[object, str]],
    extra: dict[str, Secret],
) -> None:
    """Use libpq's service file for fields that nothing else sets. libpq reads the rest of the file by itself."""
    try:
        if not layers.is_utf8(name):
            raise Wrong("not UTF-8", "set it again as UTF-8")
        parts = address.libpq_parts(address.service(name, reader.environ))
    except Wrong as error:
        where = merged["url"].where if place != "PGSERVICE" and "url" in merged else place
        raise ConfigError(f"{where}: {error.problem}", hint=error.hint) from None
    known = merged.keys() | decided.keys()
    for field in parts.values.keys() - known:
        decided[field] = (parts.values[field], f"service {name}")
    for field in parts.extra.keys() & {"hostaddr", "port"} - extra.keys():
        if ("host" if field == "hostaddr" else "port") not in known:
            extra[field] = parts.extra[field]


def _redis(merged: Section, sentinel: Section, reader: ValueReader, origins: dict[str, str], file: str) -> Any:
    url = merged.get("url")
    decided, _ = _of_url("redis", merged, reader, address.redis_parts)
    if url is None and not sentinel and not {"host", "unix_socket_path"} & merged.keys():
        raise _no_address("redis", file)
    sentinel = _one_address(merged, url, sentinel)
    _refuse_unused_tls(merged, decided, reader)
    if sentinel:
        for name in ("hosts", "master"):
            if name not in sentinel:
                raise ConfigError(
                    f"{next(iter(sentinel.values())).where}: {_SENTINEL}.{name} is missing",
                    hint="give sentinel: {hosts: [host:26379, …], master: name}",
                )
        decided["sentinel"] = (_build(_SENTINEL, _SENTINEL, sentinel, reader, origins), sentinel["hosts"].place)
    return _build("redis", "redis", merged, reader, origins, decided)


def _one_address(merged: Section, url: Given | None, sentinel: Section) -> Section:
    """Choose between URL, host, socket and Sentinel, which exclude each other: the highest layer wins, two in one layer
    are an error.

    Removes the losers from `merged`; returns Sentinel's part, empty if it lost.
    """
    found: dict[str, Given] = {name: merged[name] for name in ("host", "unix_socket_path") if name in merged}
    if url is not None:
        found = {"url": url}
    if sentinel:
        found["sentinel"] = max(sentinel.values(), key=lambda given: given.layer)
    if not found:
        return sentinel
    winner = max(found, key=lambda name: found[name].layer)
    for name, given in found.items():
        if name == winner:
            continue
        if given.layer == found[winner].layer:
            other = found[winner]
            raise given.error(
                f"{other.path} ({other.place}) also gives the address of Redis", f"keep one of {winner} and {name}"
            )
        merged.pop(name, None)
        if name == "host":
            merged.pop("port", None)
    return sentinel if winner == "sentinel" else {}


def _no_address(section: str, file: str) -> ConfigError:
    hint = f"give {section}.host or {section}.url, or set {section.upper()}_URL"
    if file == NO_FILE:
        hint = f"reconcile init > config.yaml writes one to start with; or set {section.upper()}_URL"
    return ConfigError(f"{file}: {section}.host: missing", hint=hint)


def _of_url(
    section: str, merged: Section, reader: ValueReader, read_parts: Callable[[str], address.Parts]
) -> tuple[dict[str, tuple[object, str]], dict[str, Secret]]:
    """Apply the URL over parts of lower layers; refuse parts beside or above it that contradict it.

    Removes the losers from `merged` and returns what the URL sets.
    """
    url = merged.get("url")
    if url is None:
        return {}, {}
    value = reader.value(schema.key_of(section, "url"), url)
    try:
        parts = read_parts(value.reveal())
    except Wrong as error:
        raise url.error(error.problem, error.hint) from None
    said = parts.values
    lower = {"port"} if "host" in said else set()
    if said.get("tls") is False:
        lower |= {*_TLS}  # they belong to the server the URL replaces
    for key in schema.SECTIONS[section]:
        given = merged.get(key.name)
        if given is None or key.field not in said.keys() | lower:
            continue
        if given.layer >= url.layer:
            if key.field not in said:
                continue
            if reader.value(key, given) != said[key.field]:
                raise given.error(
                    f"{url.path} ({url.place}) also gives this", f"give {key.name} in the URL or beside it, not both"
                )
        del merged[key.name]
    return {name: (part, url.place) for name, part in said.items()}, parts.extra


def _refuse_unused_tls(merged: Section, decided: Decided, reader: ValueReader) -> None:
    """Refuse TLS settings while TLS is off: naming certificates means wanting TLS."""
    if "tls" in decided:
        on = decided["tls"][0]
    else:
        on = "tls" in merged and reader.value(schema.key_of("redis", "tls"), merged["tls"])
    for name in _TLS:
        if name in merged and not on:
            raise merged[name].error("given, but TLS is off", "tls: true, or rediss:// instead of redis://")
