"""Views must not own the same keys: each removes what it does not know, so one would delete the other's."""

from __future__ import annotations

from collections.abc import Sequence

from reconcile.config.settings import RedisSettings, ViewSettings
from reconcile.errors import ConfigError

_STATE = "reconcile:"


def check(views: Sequence[ViewSettings], origins: dict[str, str], *, dedicated: bool) -> None:
    """Refuse views that share a name, a timestamp key or part of the key space. `origins` gives the places."""
    for n, view in enumerate(views):
        _check_state(view, _place(view, "key_prefix", n, origins))
        for m, earlier in enumerate(views[:n]):
            if earlier.name == view.name:
                raise ConfigError(
                    f"{_place(view, 'name', n, origins)}: two views are called {view.name!r} "
                    f"(also {_place(earlier, 'name', m, origins)})",
                    hint="the name keeps their checkpoints apart: give each its own",
                )
            _check_timestamps(view, earlier, _place(view, "mz_timestamp_key", n, origins))
            _check_prefixes(earlier, view, _place(view, "key_prefix", n, origins), dedicated=dedicated)


def check_cluster(redis: RedisSettings, views: Sequence[ViewSettings], origins: dict[str, str]) -> None:
    """Refuse what a Redis Cluster does not have: databases, sockets, and one place to remember all keys in."""
    cluster = f"redis.cluster ({origins['redis.cluster']})"
    if redis.db:
        raise ConfigError(
            f"{origins['redis.db']}: redis.db: a Redis Cluster has only database 0, found {redis.db}",
            hint=f"leave the database out, or {cluster}",
        )
    if redis.url is not None and redis.url.reveal().startswith("unix:"):
        raise ConfigError(
            f"{origins['redis.url']}: redis.url: a Redis Cluster is reached by host and port",
            hint=f"give redis://host:port, or leave out {cluster}",
        )
    for n, view in enumerate(views):
        if not view.key_prefix and not redis.dedicated:
            raise ConfigError(
                f"{_place(view, 'key_prefix', n, origins)}: missing; in a Redis Cluster the keys of a view are told by "
                "their prefix",
                hint="give the view a key_prefix, or set redis.dedicated: true if no other keys are there",
            )


def _place(view: ViewSettings, field: str, n: int, origins: dict[str, str]) -> str:
    place = origins.get(f"views.{view.name}.{field}", "default")
    if place == "default" or field == "name":
        place = origins.get(f"views[{n}]", place)
    return f"{place}: views[{n}].{field}"


def _check_state(view: ViewSettings, place: str) -> None:
    if view.key_prefix.startswith(_STATE) and (view.key_prefix == _STATE or view.key_prefix[len(_STATE)] == "{"):
        raise ConfigError(
            f"{place}: {view.key_prefix!r} covers the keys reconcile keeps its own state under",
            hint="choose a prefix that does not begin with 'reconcile:'",
        )


def _check_timestamps(view: ViewSettings, earlier: ViewSettings, place: str) -> None:
    key, other = view.mz_timestamp_key, earlier.mz_timestamp_key
    if key is not None and key == other:
        raise ConfigError(
            f"{place}: views {earlier.name!r} and {view.name!r} share the timestamp key {key!r}: "
            "each would overwrite the other's time",
            hint="give each view its own mz_timestamp_key, or none",
        )
    for owner, owned, name in ((view, other, earlier.name), (earlier, key, view.name)):
        if owned is not None and owner.key_prefix and owned.startswith(owner.key_prefix):
            raise ConfigError(
                f"{place}: the timestamp key {owned!r} of view {name!r} lies under the prefix {owner.key_prefix!r} "
                f"of view {owner.name!r}, which would delete it",
                hint="choose a timestamp key outside the other views' prefixes",
            )


def _check_prefixes(one: ViewSettings, two: ViewSettings, place: str, *, dedicated: bool) -> None:
    a, b = sorted((one, two), key=lambda view: len(view.key_prefix))
    if not b.key_prefix.startswith(a.key_prefix):
        return
    if not b.key_prefix:
        why = "have no key_prefix" + (" and share the dedicated database" if dedicated else "")
        what = f"views {one.name!r} and {two.name!r} {why}: each would delete or overwrite the other's keys"
    elif a.key_prefix == b.key_prefix:
        what = (
            f"views {one.name!r} and {two.name!r} share the prefix {a.key_prefix!r}: each would delete the other's keys"
        )
    elif not a.key_prefix:
        whole = "owns the whole dedicated database" if dedicated else "has no key_prefix"
        what = f"view {a.name!r} {whole}, so it can write and delete keys of view {b.name!r} under {b.key_prefix!r}"
    else:
        what = (
            f"prefix {b.key_prefix!r} of view {b.name!r} lies under {a.key_prefix!r} of view {a.name!r}, "
            "which would delete its keys"
        )
    raise ConfigError(
        f"{place}: {what}", hint="give each view a key_prefix that no other view's key_prefix begins with"
    )
