"""Views must not own the same keys: each removes keys it does not know, and would delete the other's."""

from __future__ import annotations

from collections.abc import Sequence

from reconcile.config.settings import RedisSettings, ViewSettings
from reconcile.errors import ConfigError

_STATE = "reconcile:"


def check(views: Sequence[ViewSettings], origins: dict[str, str], redis: RedisSettings) -> None:
    """Refuse views that share a name, a timestamp key or part of the key space. `origins` gives the places."""
    for n, view in enumerate(views):
        _check_state(view, redis.namespace, n, origins)
        for m, earlier in enumerate(views[:n]):
            if earlier.name == view.name:
                raise ConfigError(
                    f"{place_of(view, 'name', n, origins)}: two views are called {view.name!r} "
                    f"(also {place_of(earlier, 'name', m, origins)})",
                    hint="the name keeps their checkpoints apart: give each its own",
                )
            _check_timestamps(view, earlier, place_of(view, "mz_timestamp_key", n, origins))
            _check_prefixes(earlier, view, place_of(view, "key_prefix", n, origins), dedicated=redis.dedicated)


def check_cluster(redis: RedisSettings, views: Sequence[ViewSettings], origins: dict[str, str]) -> None:
    """Refuse what a Redis Cluster does not have: databases, sockets, one node for all remembered keys; and other nodes
    of something that is no cluster. ConfigError."""
    if not redis.cluster:
        if redis.cluster_nodes:
            raise ConfigError(
                f"{origins['redis.cluster_nodes']}: redis.cluster_nodes: this is no Redis Cluster",
                hint="redis.cluster: true, or leave cluster_nodes out",
            )
        return
    cluster = f"redis.cluster ({origins['redis.cluster']})"
    if redis.db:
        raise ConfigError(
            f"{origins['redis.db']}: redis.db: a Redis Cluster has only database 0, found {redis.db}",
            hint=f"leave the database out, or {cluster}",
        )
    if redis.unix_socket_path is not None or redis.sentinel is not None:
        name = "sentinel" if redis.sentinel is not None else "unix_socket_path"
        raise ConfigError(
            f"{origins[f'redis.{name}']}: redis.{name}: a Redis Cluster is reached by host and port",
            hint=f"give the host and port of a node, or leave out {cluster}",
        )
    for n, view in enumerate(views):
        if not view.key_prefix and not redis.dedicated:
            raise ConfigError(
                f"{place_of(view, 'key_prefix', n, origins)}: missing; in a Redis Cluster a view's keys are recognised "
                "by their prefix",
                hint="give the view a key_prefix, or set redis.dedicated: true if no other keys are there",
            )


def place_of(view: ViewSettings, field: str, n: int, origins: dict[str, str]) -> str:
    """Return where a field of the n-th view was written, for messages."""
    place = origins.get(f"views.{view.name}.{field}", "default")
    if place == "default" or field == "name":
        place = origins.get(f"views[{n}]", place)
    return f"{place}: views[{n}].{field}"


def _check_state(view: ViewSettings, namespace: str, n: int, origins: dict[str, str]) -> None:
    """Refuse prefixes and timestamp keys that reach into the state's names: reconcile:{…}, reconcile:ns:{…}."""
    inside = [f"{_STATE}{{"] + ([f"{_STATE}{namespace}:"] if namespace else [])
    if view.key_prefix == _STATE or view.key_prefix.startswith(tuple(inside)):
        raise ConfigError(
            f"{place_of(view, 'key_prefix', n, origins)}: {view.key_prefix!r} covers the keys of reconcile's own state",
            hint="choose a prefix that does not begin with 'reconcile:'",
        )
    if view.mz_timestamp_key is not None and view.mz_timestamp_key.startswith(tuple(inside)):
        raise ConfigError(
            f"{place_of(view, 'mz_timestamp_key', n, origins)}: {view.mz_timestamp_key!r} is reserved for reconcile's "
            "own state",
            hint="choose a key that does not begin with 'reconcile:'",
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
