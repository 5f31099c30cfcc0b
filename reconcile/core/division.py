"""Change a view's division: what Redis keeps of the old shards becomes what it keeps of the new ones. Pure.

    joined   states, manifests and fingerprints of all shards → those of the whole view
    split    those of the whole view → those of each shard

In every division a bucket lies in exactly one shard, so its records pass on unchanged (docs/adr/0018).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from reconcile.core import digest, pending
from reconcile.core.digest import Fingerprints
from reconcile.core.records import surplus_in, total_text
from reconcile.core.shards import shard_of, shards_of
from reconcile.core.state import Peak, Pending, State, Turn


def summed(states: Sequence[State | None]) -> State | None:
    """Return one state for the whole view from the states of all its shards: the oldest as_of, the sum of all keys, the
    turn of the shard compared longest ago; what is pending, above all what waits for a human. None: no shard has run.
    """
    known = [state for state in states if state is not None]
    if not known:
        return None
    times = [state.as_of for state in known if state.as_of is not None]
    unfinished = [state.pending for state in known if state.pending is not None]
    return replace(
        known[0],
        as_of=min(times) if len(times) == len(states) else None,
        buckets=max(state.buckets for state in known),
        keys=sum(state.keys for state in known),
        surplus=sum(state.surplus for state in known),
        surplus_names=tuple(name for state in known for name in state.surplus_names),
        pending=min(unfinished, key=lambda one: one.kind != "withheld", default=None),
        turn=min((state.turn for state in known), key=lambda turn: turn.done_ms),
        updated_at_ms=min(state.updated_at_ms for state in known),
    )


class Kept(Struct):
    """What Redis keeps of a shard beside its keys.

    manifest: one added-up digest per bucket; None: unknown. surplus: bucket → digest of the keys that wait for consent.
    """

    state: State | None
    manifest: list[int] | None = None
    fingerprints: Fingerprints | None = None
    surplus: dict[int, int] = field(default_factory=dict)


def joined(parts: Sequence[Kept], blank: State) -> Kept:
    """Return what is kept of the whole view. parts: all shards, in order. blank: the state if nothing can be kept.

    If the shards' times differ, or one is incomplete, the result is an unfinished snapshot: the next run looks at what
    differs from the source, and what the manifests counted stays explained.
    """
    if len(parts) == 1:
        (only,) = parts
        broken = only.state is None or (only.manifest is None and bool(only.state.digest))
        return Kept(blank) if broken else only
    known = [(part, part.state) for part in parts if part.state is not None and part.manifest is not None]
    states = [state for _, state in known]
    if len({_comparable(state) for state in states}) != 1:
        return Kept(blank)
    first = states[0]
    buckets = min(state.buckets for state in states)  # each shard chooses its own number
    folded = [digest.fold(part.manifest or [], buckets) for part, _ in known]
    manifest = [sum(column) for column in zip(*folded, strict=True)]
    content = _content(parts, buckets)
    complete = (
        len(states) == len(parts) and len({(state.as_of, state.pending, state.identity) for state in states}) == 1
    )
    # Of a shard that kept nothing keys may be there whose origin is unknown.
    anew = len(states) < len(parts) or any(pending.began_anew(state) for state in states)
    deleted = sum(pending.deleted_by(state) for state in states)
    together = summed([part.state if part.manifest is not None else None for part in parts])
    assert together is not None
    state = replace(
        together,
        buckets=buckets,
        pending=None
        if complete and first.pending is None
        else Pending("snapshot", together.as_of or 0, anew=anew, deleted=deleted),
        companion=first.companion if len({state.companion for state in states}) == 1 else "",
        removed=tuple(sorted(one for state in states for one in state.removed)),
        turn=Turn(done_ms=together.turn.done_ms),
    )
    surplus: dict[int, int] = {}
    for part, own in known:  # a bucket is one shard's, whatever their number
        surplus |= surplus_in(part.surplus, own.buckets, buckets)
    state = replace(state, peak=_peak([state.peak for state in states]))
    return Kept(_counted(state, manifest, surplus, state.keys), manifest, content, surplus)


def split(whole: Kept, n: int) -> list[Kept]:
    """Return what is kept of each of n shards. whole: what is kept of the whole view, with a state."""
    state, manifest = whole.state, whole.manifest
    assert state is not None
    if n == 1:
        return [whole]
    if manifest is None:
        return [Kept(state) for _ in range(n)]
    found = []
    peak = Peak(state.peak.since_ms, state.peak.keys // n, state.peak.before // n)
    for shard in shards_of(n):
        own = range(shard.i, state.buckets, n)
        digests = [0] * state.buckets
        digests[shard.i :: n] = manifest[shard.i :: n]
        surplus = {bucket: one for bucket, one in whole.surplus.items() if bucket in own}
        fingerprints = whole.fingerprints
        if fingerprints is not None:
            fingerprints = digest.same_fingerprint(state.buckets, digest.fingerprint(0))
            fingerprints[shard.i :: n] = whole.fingerprints[shard.i :: n]  # type: ignore[index]
        names = tuple(name for name in state.surplus_names if shard_of(name, n) == shard)
        mine = replace(state, surplus_names=names, turn=Turn(done_ms=state.turn.done_ms), peak=peak)
        # Of a checkpoint whose successor is not complete no more is known than how many keys it had in all.
        keys = digest.count(sum(digests)) if state.pending is None or state.as_of is None else state.keys // n
        found.append(Kept(_counted(mine, digests, surplus, keys), digests, fingerprints, surplus))
    return found


def _comparable(state: State) -> tuple[object, ...]:
    """Return what has to be equal for manifests to be added up."""
    return state.salt, state.identity.mapping if state.identity is not None else None


def _content(parts: Sequence[Kept], buckets: int) -> Fingerprints | None:
    """Return the view's fingerprints, unknown where a shard has none; None if they were made with several salts."""
    salts = {part.state.fingerprint_salt for part in parts if part.state is not None and part.fingerprints is not None}
    if len(salts) != 1:
        return None
    found = digest.same_fingerprint(buckets, digest.UNKNOWN)
    for i, part in enumerate(parts):
        if part.fingerprints is not None and part.manifest is not None and len(part.fingerprints) == buckets:
            found[i :: len(parts)] = part.fingerprints[i :: len(parts)]
    return found


def _peak(peaks: Sequence[Peak]) -> Peak:
    """Return the whole view's peak: the guard must not forget what was there because it is divided anew."""
    return Peak(
        since_ms=max(peak.since_ms for peak in peaks),
        keys=sum(peak.keys for peak in peaks),
        before=sum(peak.before for peak in peaks),
    )


def _counted(state: State, manifest: list[int], surplus: Mapping[int, int], keys: int) -> State:
    """Return the state with the numbers of its records. keys: those at its checkpoint."""
    waiting = digest.count(sum(surplus.values()))
    return replace(state, keys=keys, digest=total_text(sum(manifest)), surplus=waiting)
