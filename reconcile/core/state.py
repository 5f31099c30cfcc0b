"""What a view's state in Redis says, as a value. docs/format.md shows the stored fields (format 1)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from reconcile.core import digest
from reconcile.core.times import MAX_TIMESTAMP
from reconcile.errors import StateError

FORMAT = 1

_NUMBER = re.compile(r"0|[1-9][0-9]{0,19}")
_DIGEST = re.compile(r"[0-9a-f]{32}")

PendingKind = Literal["snapshot", "delta", "withheld"]


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
    withheld: Redis holds the content at `until` and keys that a human has to let go of; manifest and fingerprints say
    exactly what it holds.
    """

    kind: PendingKind
    until: int

    def __str__(self) -> str:
        """For people."""
        if self.kind == "withheld":
            return "deletes are withheld: Redis holds keys that the view lacks, until --allow-deletes lets go of them"
        return f"a {self.kind} is under way, or was cut short: the next run completes it"


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
    if not _NUMBER.fullmatch(fields["format"]) or fields["format"] == "0":
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
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise corrupt(view, f"{type(error).__name__} in its fields") from error


def _decode(fields: Mapping[str, str]) -> State:
    buckets = _number(fields["buckets"])
    as_of = _number(fields["as_of"]) if fields["as_of"] else None
    if buckets & (buckets - 1) or buckets > digest.MAX_BUCKETS:
        raise ValueError("buckets")
    if as_of is not None and not (as_of <= MAX_TIMESTAMP and buckets and fields["digest"]):
        raise ValueError("as_of")
    if fields["digest"] and not _DIGEST.fullmatch(fields["digest"]):
        raise ValueError("digest")
    return State(
        token=_number(fields["token"]),
        as_of=as_of,
        identity=Identity(fields["source"], fields["mapping"]) if fields["source"] else None,
        buckets=buckets,
        keys=_number(fields["keys"]),
        digest=fields["digest"],
        pending=_pending(fields["pending"]) if fields["pending"] else None,
        updated_at_ms=_number(fields["updated_at_ms"]),
        deep_at_ms=_number(fields["deep_at_ms"]),
        companion=fields["companion"],
    )


def _number(text: str) -> int:
    """int() takes more than was ever written: signs, spaces, underscores, other digits."""
    if not _NUMBER.fullmatch(text):
        raise ValueError("number")
    return int(text)


def _pending(text: str) -> Pending:
    stored = json.loads(text)
    kind, until = stored["kind"], stored["until"]
    if kind not in ("snapshot", "delta", "withheld") or type(until) is not int or not 0 <= until <= MAX_TIMESTAMP:
        raise ValueError("pending")
    return Pending(kind, until)


def corrupt(view: str, why: str) -> StateError:
    """The error for a state that was overwritten by something else."""
    return StateError(
        f"the state of view {view} in Redis is corrupt: {why}",
        hint="something else wrote to it; start over from the data with: reconcile snapshot --reset-state",
        view=view,
    )
