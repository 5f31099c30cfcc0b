"""The stored manifest, read as far as needed."""

from __future__ import annotations

from collections.abc import Iterable

from reconcile.core.records import Manifest
from reconcile.core.shards import WHOLE, Shard
from reconcile.core.state import State
from reconcile.target.port import Stored, Target


def manifest_of(state: State, shard: Shard = WHOLE) -> Manifest:
    """Return the state's manifest, with nothing read yet."""
    return Manifest(state.buckets, state.digest, shard)


def load(target: Target, manifest: Manifest, wanted: Iterable[int]) -> bool:
    """Read the digests of the wanted buckets. Return False if the stored manifest does not match the state."""
    missing = manifest.missing(wanted)
    return missing == [] or manifest.take(target.manifest(missing))


def is_there(stored: Stored) -> bool:
    """Whether a manifest is stored that can belong to the state."""
    state = stored.state
    return state is not None and bool(state.digest) and stored.has_manifest
