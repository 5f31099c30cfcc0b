"""What a view's state in Redis says, as a value. docs/format.md shows the stored fields (format 1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from reconcile.core import digest
from reconcile.core.times import MAX_TIMESTAMP
from reconcile.errors import StateError

FORMAT = 1

PendingKind = Literal["snapshot", "delta"]


@dataclass(frozen=True, slots=True)
class Identity:
    """What a checkpoint is a time of. If `source` differs a delta would be silently wrong.

    source: environment, ids of the objects read, query and plan: continuing by delta needs all of it unchanged.
    mapping: key and value types, prefix, layout: manifest and fingerprints stay comparable as long as this holds.
    """

    source: str
    mapping: str


@dataclass(frozen=True, slots=True)
class Pending:
    """A change too large for one transaction is being applied; until it is done Redis is between two times.

    delta: the changes of (as_of, until]; snapshot: the content at `until`.
    """

    kind: PendingKind
    until: int


@dataclass(frozen=True, slots=True)
class State:
    """Stored state of one view. as_of None: nothing was ever completed."""

    token: int = 0
    as_of: int | None = None
    identity: Identity | None = None
    buckets: int = 0
    keys: int = 0
    digest: str = ""
    """Sum over the manifest, to notice a manifest that is not this state's."""
    pending: Pending | None = None
    updated_at_ms: int = 0
    deep_at_ms: int = 0
    companion: str = ""
    """Identity of the companion view that was checked against the query."""


def identity_hash(parts: Iterable[str]) -> str:
    """Short stable hash of a sequence of strings."""
    framed = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(framed.encode()).hexdigest()[:32]


def encode(state: State) -> dict[str, str]:
    """Fields of the state hash; every field is always present, so writing replaces all."""
    pending = state.pending
    return {
        "format": str(FORMAT),
        "token": str(state.token),
        "as_of": "" if state.as_of is None else str(state.as_of),
        "source": state.identity.source if state.identity else "",
        "mapping": state.identity.mapping if state.identity else "",
        "buckets": str(state.buckets),
        "keys": str(state.keys),
        "digest": state.digest,
        "pending": json.dumps({"kind": pending.kind, "until": pending.until}) if pending else "",
        "updated_at_ms": str(state.updated_at_ms),
        "deep_at_ms": str(state.deep_at_ms),
        "companion": state.companion,
    }


def decode(fields: Mapping[str, str], view: str) -> State | None:
    """The state, or None when nothing but a token was ever stored. Raises StateError: corrupt, or a newer format."""
    if not fields.get("format"):
        if set(fields) - {"token"}:
            raise corrupt(view, "it has no format")
        return None
    if not fields["format"].isdigit():
        raise corrupt(view, "its format is not a number")
    if int(fields["format"]) > FORMAT:
        raise StateError(
            f"the state of view {view} was written by a newer reconcile (format {fields['format']}, "
            f"this one knows {FORMAT})",
            hint="upgrade reconcile; or start over with: reconcile snapshot --reset-state",
            view=view,
        )
    try:
        return _decode(fields)
    except (KeyError, ValueError, TypeError) as error:
        raise corrupt(view, f"{type(error).__name__} in its fields") from error


def _decode(fields: Mapping[str, str]) -> State:
    pending = json.loads(fields["pending"]) if fields["pending"] else None
    buckets = int(fields["buckets"])
    as_of = int(fields["as_of"]) if fields["as_of"] else None
    if buckets & (buckets - 1) or not 0 <= buckets <= digest.MAX_BUCKETS:
        raise ValueError("buckets")
    if as_of is not None and not (0 <= as_of <= MAX_TIMESTAMP and buckets):
        raise ValueError("as_of")
    if pending is not None and pending["kind"] not in ("snapshot", "delta"):
        raise ValueError("pending")
    return State(
        token=int(fields["token"]),
        as_of=as_of,
        identity=Identity(fields["source"], fields["mapping"]) if fields["source"] else None,
        buckets=buckets,
        keys=int(fields["keys"]),
        digest=fields["digest"],
        pending=Pending(pending["kind"], int(pending["until"])) if pending else None,
        updated_at_ms=int(fields["updated_at_ms"]),
        deep_at_ms=int(fields["deep_at_ms"]),
        companion=fields["companion"],
    )


def corrupt(view: str, why: str) -> StateError:
    """The error for a state that was overwritten by something else."""
    return StateError(
        f"the state of view {view} in Redis is corrupt: {why}",
        hint="something else wrote to it; start over from the data with: reconcile snapshot --reset-state",
        view=view,
    )
