"""Select the configured views that a command works on."""

from __future__ import annotations

import fnmatch

from msgspec.structs import replace

from reconcile.config.ownership import place_of
from reconcile.config.settings import Settings, ViewSettings
from reconcile.core.shards import Shard
from reconcile.errors import ConfigError, UsageError


def chosen_views(settings: Settings, names: tuple[str, ...]) -> list[ViewSettings]:
    """Return the views with these names or matching these patterns (price-*), in that order, each once. No names: all.

    Raises UsageError, also for a pattern without a match.
    """
    known = {view.name: view for view in settings.views}
    if not known:
        raise UsageError("no view is configured", hint="materialize.sql, or a list of views; see docs/configuration.md")
    chosen: dict[str, ViewSettings] = {} if names else known
    for name in names:
        found = [name] if name in known else [one for one in known if fnmatch.fnmatchcase(one, name)]
        if not found:
            raise UsageError(f"no view is named {name!r}", hint=f"configured: {', '.join(known)}")
        chosen |= {one: known[one] for one in found}
    return list(chosen.values())


def restricted(settings: Settings, views: list[ViewSettings], shard: Shard) -> list[ViewSettings]:
    """Return this shard of each view. Raises ConfigError for a view with a timestamp key."""
    for view in views:
        if view.mz_timestamp_key and shard.n > 1:
            place = place_of(view, "mz_timestamp_key", settings.views.index(view), settings.origins)
            raise ConfigError(
                f"{place}: shards of view {view.name} reach different times, which one key cannot hold",
                hint="leave out mz_timestamp_key or --shard",
            )
    return [replace(view, shard=shard) for view in views]
