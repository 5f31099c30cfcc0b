"""Build the settings of views: names, queries, keys, columns, and which of them combine."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final

from reconcile.config import keyform, query, schema
from reconcile.config.layers import FileLayer, Given, Section
from reconcile.config.reader import ValueReader
from reconcile.config.schema import VIEW
from reconcile.config.settings import ViewSettings
from reconcile.config.values import NAME_MAX, name_of
from reconcile.errors import ConfigError

DEFAULT_VIEW: Final = "default"
EVERYTHING: Final = ("*",)
_ALTERNATIVES: Final = (
    (frozenset({"sql"}), frozenset({"relation"})),
    (frozenset({"key", "key_prefix", "separator"}), frozenset({"key_template"})),
)
"""Two ways to set the same: a higher layer that uses one replaces the other."""
_SQL_HINT = (
    'give sql: "SELECT key, value FROM your_view" or relation: database.schema.view (environment: RECONCILE_VIEW__SQL)'
)
Build = Callable[..., Any]


def build(
    file_layer: FileLayer,
    above: Section,
    named: dict[str, Section],
    reader: ValueReader,
    origins: dict[str, str],
    file: str,
    build_section: Build,
) -> list[ViewSettings]:
    """Return all views. `above`: environment and flags for a single view; `named`: flags for one of several."""
    legacy = file_layer.sections[VIEW]
    entries = [legacy] if file_layer.views is None else file_layer.views
    if file_layer.views is not None and legacy:
        stray = next(iter(legacy.values()))
        raise stray.error(f"given beside views: ({file_layer.views_place})", "move it into an entry of views:")
    if len(entries) > 1 and above:
        stray = next(iter(above.values()))
        raise stray.error(
            f"there are {len(entries)} views, and it does not name one", "change the entry of views: in the file"
        )
    views = []
    for n, entry in enumerate(entries):
        listed = bool(file_layer.view_places)
        place = file_layer.view_places[n] if listed else file
        merged = _over(_over(file_layer.defaults, entry), above)
        name = _name(merged, len(entries), place, n, reader)
        merged = _over(merged, named.pop(name, {}))
        origins[f"views[{n}]"] = place
        where = f"{place}: views[{n}].sql" if listed else f"{place}: materialize.sql"
        views.append(_view(name, merged, reader, origins, where, build_section))
    for name, flags in named.items():
        known = [view.name for view in views]
        raise next(iter(flags.values())).error(
            f"no view is called {name!r}", schema.suggestion(name, known, otherwise=f"the views are {', '.join(known)}")
        )
    return views


def _over(lower: Section, upper: Section) -> Section:
    for one, other in _ALTERNATIVES:
        for used, replaced in ((one, other), (other, one)):
            if used & upper.keys():
                lower = {name: given for name, given in lower.items() if name not in replaced}
    return lower | upper


def _name(merged: Section, count: int, place: str, n: int, reader: ValueReader) -> str:
    if "name" in merged:
        return str(reader.value(schema.key_of(VIEW, "name"), merged["name"]))
    if "mz_timestamp_key" in merged:
        key = reader.value(schema.key_of(VIEW, "mz_timestamp_key"), merged["mz_timestamp_key"])
        if key is not None:
            return called_after(key)
    if count > 1:
        raise ConfigError(f"{place}: views[{n}].name: missing", hint="with several views each needs a name")
    return DEFAULT_VIEW


def called_after(key: str) -> str:
    """Return the name for a view with this mz_timestamp_key, by which mz-redis-sync kept two files apart."""
    try:
        return name_of(key)
    except ValueError:
        # Keys that differ only in special characters need different names.
        plain = re.sub(r"[^A-Za-z0-9_-]", "-", key)
        return f"{plain[: NAME_MAX - 9]}-{zlib.crc32(key.encode()):08x}"


def _view(
    name: str, merged: Section, reader: ValueReader, origins: dict[str, str], where: str, build_section: Build
) -> ViewSettings:
    for one, other in _ALTERNATIVES:
        used, beside = sorted(one & merged.keys()), sorted(other & merged.keys())
        if used and beside:
            first, second = merged[used[0]], merged[beside[0]]
            raise second.error(f"{first.path} ({first.place}) is given too", f"keep one of {used[0]} and {beside[0]}")
    decided: dict[str, tuple[object, str]] = {"name": (name, merged["name"].place if "name" in merged else "default")}
    _decide_key(merged, reader, decided)
    columns = {field: decided[field][0] for field in ("key_columns",) if field in decided}
    for key in ("key", "value", "expires_at"):
        field = schema.key_of(VIEW, key).field
        if key in merged:
            columns[field] = reader.value(schema.key_of(VIEW, key), merged[key])
    form = ViewSettings(name, "", **columns)  # type: ignore[arg-type]
    if "relation" in merged:
        relation = reader.value(schema.key_of(VIEW, "relation"), merged["relation"])
        wanted = [*form.key_columns, *form.value_columns, *([form.expires_at] if form.expires_at else [])]
        decided["sql"] = (query.reading(relation, wanted), merged["relation"].place)
    elif "sql" not in merged:
        raise ConfigError(f"{where}: missing", hint=_SQL_HINT)
    rest = {key: given for key, given in merged.items() if key not in ("relation", "key_template", "separator")}
    view: ViewSettings = build_section(VIEW, f"views.{name}", rest, reader, origins, MappingProxyType(decided))
    _check_columns(view, merged)
    return view


def _decide_key(merged: Section, reader: ValueReader, decided: dict[str, tuple[object, str]]) -> None:
    """Decide prefix, columns and literals of the key, in whichever way they are given."""
    if "key_template" in merged:
        given = merged["key_template"]
        form = reader.value(schema.key_of(VIEW, "key_template"), given)
        decided["key_prefix"] = (form.prefix, given.place)
    elif "key" in merged:
        given = merged["key"]
        columns = reader.value(schema.key_of(VIEW, "key"), given)
        if any("{" in name and "}" in name for name in columns):
            raise given.error("a template, not a column", "write it as key_template")
        separator = ":"
        if "separator" in merged:
            separator = reader.value(schema.key_of(VIEW, "separator"), merged["separator"])
        form = keyform.joined("", columns, separator)
    else:
        return
    decided["key_columns"] = (form.columns, given.place)
    decided["key_literals"] = (form.literals, given.place)


def _check_columns(view: ViewSettings, merged: Section) -> None:
    def given(*names: str) -> Given:
        return next(merged[name] for name in names if name in merged)

    several = len(view.value_columns) > 1 or view.value_columns == EVERYTHING
    if view.layout == "string":
        if several:
            raise given("layout", "value").error(
                "the layout 'string' holds one column", "layout: json or layout: hash; or name one column as value"
            )
        if view.value_columns[0] in view.key_columns:
            raise given("value", "key", "key_template").error(
                f"key and value are both the column {view.value_columns[0]!r}", "name two different columns"
            )
    if len(view.value_columns) > 1 and "*" in view.value_columns:
        raise given("value").error("'*' beside other columns", 'write value: "*" alone, or name the columns')
    if view.expires_at is not None and view.expires_at in view.key_columns:
        raise given("expires_at").error(
            f"{view.expires_at!r} is a column of the key", "name a column of its own, of type timestamptz"
        )
