"""Open a target: the kind, connections and layout that the settings ask for; no others are imported."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from reconcile.config.settings import RedisSettings, ViewSettings
from reconcile.core.ownership import Range
from reconcile.core.shards import WHOLE
from reconcile.stop import Stop
from reconcile.target.base import Base
from reconcile.target.layouts import Layout
from reconcile.target.names import Names
from reconcile.target.nodes import Nodes, OneNode
from reconcile.target.port import Target
from reconcile.target.wire import Wire, dial


def open_target(
    settings: RedisSettings,
    view: ViewSettings,
    stop: Stop,
    nodes: Nodes | None = None,
) -> Target:
    """Connect for one view, over `nodes` where given. The caller closes the target.

    Raises AccessError, UsageError, Unavailable, Incomplete.
    """
    names, owned = names_of(settings, view), range_of(settings, view)
    return make_target(settings, names, owned, layout_of(view), stop, nodes)


def make_target(
    settings: RedisSettings, names: Names, owned: Range, layout: Layout, stop: Stop, nodes: Nodes | None = None
) -> Base:
    """Like `open_target`, for a view that need not be configured."""

    def again(seconds: float) -> Wire:
        brief = replace(settings, connect_timeout_s=seconds, timeout_s=seconds)
        nodes = open_nodes(brief, Stop())
        return nodes.wire(nodes.owner_of(names.state))

    target = _kind_of(settings)(nodes or open_nodes(settings, stop), names, owned, layout, again)
    target.bound(stop)
    return target


def open_nodes(settings: RedisSettings, stop: Stop) -> Nodes:
    """Connect to the server, or to one node of the cluster. Raises AccessError, UsageError, Unavailable, Incomplete."""
    if settings.cluster:
        from reconcile.target import primaries

        return primaries.connect(settings, stop)
    if settings.sentinel is not None:
        from reconcile.target.sentinel import dial_primary

        return OneNode(dial_primary(settings, stop))
    return OneNode(dial(settings, stop))


def _kind_of(settings: RedisSettings) -> type[Base]:
    if settings.cluster:
        from reconcile.target.cluster import Cluster

        return Cluster
    from reconcile.target.single import Single

    return Single


def last_written(nodes: Nodes, settings: RedisSettings, views: Sequence[ViewSettings]) -> list[int]:
    """Return when each view's state was last written, in milliseconds since 1970; 0: never, or unreadable."""
    keys = [names_of(settings, view).state for view in views]
    owners = [nodes.owner_of(key) for key in keys]
    tickets = {
        node: nodes.wire(node).send(
            [("HGET", key, "updated_at_ms") for key, owner in zip(keys, owners, strict=True) if owner == node]
        )
        for node in sorted(set(owners))
    }
    replies = {node: iter(ticket.replies()) for node, ticket in tickets.items()}
    found = [next(replies[owner]) for owner in owners]
    return [int(reply) if isinstance(reply, bytes) and reply.isdigit() else 0 for reply in found]


def names_of(settings: RedisSettings, view: ViewSettings) -> Names:
    """Return the names of the keys kept for a view, or for its shard."""
    return Names(view.name, settings.namespace, view.shard or WHOLE)


def range_of(settings: RedisSettings, view: ViewSettings) -> Range:
    """Return the keys a view may write, as configured."""
    prefix, timestamp_key = view.key_prefix.encode(), (view.mz_timestamp_key or "").encode()
    if prefix:
        return Range("prefix", prefix, timestamp_key)
    return Range("dedicated" if settings.dedicated else "remembered", b"", timestamp_key)


def layout_of(view: ViewSettings) -> Layout:
    """Return how the view's rows are stored. A json row arrives as canonical text, so Redis stores it as a string."""
    if view.layout == "hash":
        from reconcile.target.layouts.hashes import Hashes

        return Hashes(view.value_columns, expires=view.expires_at is not None)
    if view.expires_at is not None:
        from reconcile.target.layouts.expiring import ExpiringStrings

        return ExpiringStrings()
    from reconcile.target.layouts.string import Strings

    return Strings()
