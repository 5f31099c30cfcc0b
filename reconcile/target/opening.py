"""The way to a target: which kind it is, over which connections, in which layout."""

from __future__ import annotations

import dataclasses

from reconcile.config.settings import RedisSettings, ViewSettings
from reconcile.core.ownership import Range
from reconcile.stop import Stop
from reconcile.target import primaries
from reconcile.target.base import Base
from reconcile.target.cluster import Cluster
from reconcile.target.layouts import Layout
from reconcile.target.layouts.expiring import ExpiringStrings
from reconcile.target.layouts.hashes import Hashes
from reconcile.target.layouts.string import Strings
from reconcile.target.names import Names
from reconcile.target.nodes import Nodes, OneNode
from reconcile.target.port import Target
from reconcile.target.sentinel import dial_primary
from reconcile.target.single import Single
from reconcile.target.wire import Wire, dial


def open_target(
    settings: RedisSettings, view: ViewSettings, stop: Stop, shard: tuple[int, int] | None = None
) -> Target:
    """Connect for one view. Raises AccessError, UsageError, Unavailable, Incomplete. Close it."""
    return make_target(settings, names_of(settings, view, shard), range_of(settings, view), layout_of(view), stop)


def make_target(settings: RedisSettings, names: Names, owned: Range, layout: Layout, stop: Stop) -> Base:
    """The same, for a view that no configuration has."""

    def again(seconds: float) -> Wire:
        brief = dataclasses.replace(settings, connect_timeout_s=seconds, timeout_s=seconds)
        nodes = open_nodes(brief, Stop())
        return nodes.wire(nodes.owner_of(names.state))

    kind = Cluster if settings.cluster else Single
    target = kind(open_nodes(settings, stop), names, owned, layout, again)
    target.bound(stop)
    return target


def open_nodes(settings: RedisSettings, stop: Stop) -> Nodes:
    """Connect to the server, or to one node of the cluster."""
    if settings.cluster:
        return primaries.connect(settings, stop)
    return OneNode(dial_primary(settings, stop) if settings.sentinel is not None else dial(settings, stop))


def names_of(settings: RedisSettings, view: ViewSettings, shard: tuple[int, int] | None = None) -> Names:
    """The names of a view's own keys."""
    return Names(view.name, settings.namespace, shard)


def range_of(settings: RedisSettings, view: ViewSettings) -> Range:
    """The keys a view may write, as configured."""
    prefix, timestamp_key = view.key_prefix.encode(), (view.mz_timestamp_key or "").encode()
    if prefix:
        return Range("prefix", prefix, timestamp_key)
    return Range("dedicated" if settings.dedicated else "remembered", b"", timestamp_key)


def layout_of(view: ViewSettings) -> Layout:
    """How the view's rows are stored. A json row comes as canonical text, and is a string here."""
    if view.layout == "hash":
        return Hashes(view.value_columns, expires=view.expires_at is not None)
    return Strings() if view.expires_at is None else ExpiringStrings()
