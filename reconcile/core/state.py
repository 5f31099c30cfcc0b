"""A view's state in Redis as a value. docs/format.md describes the stored fields (format 1)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from msgspec import Struct, to_builtins

from reconcile.core import digest
from reconcile.core.records import total_of
from reconcile.core.times import MAX_TIMESTAMP
from reconcile.errors import StateError

FORMAT = 1

_NUMBER = re.compile(r"0|[1-9][0-9]{0,19}")
_DIGEST = re.compile(r"[0-9a-f]{32}")
_SALT = re.compile(r"[0-9a-f]{16}")
_SOURCE_SALT = re.compile(r"([0-9a-f]{32})?")

PendingKind = Literal["snapshot", "delta", "withheld"]


class Identity(Struct, frozen=True):
    """The source and the mapping that a checkpoint belongs to.

    source: environment, ids of the objects read, query and plan; a delta needs all of it unchanged. mapping: columns,
    key, layout and prefix; manifest and fingerprints stay comparable while it is unchanged.
    """

    source: str
    mapping: str


class Pending(Struct, frozen=True):
    """A change that is not complete: Redis is between two times. core/pending.py has all transitions.

    delta: the changes of (as_of, until] are being applied. snapshot: the content at `until` is being applied. withheld:
    Redis holds the content at `until`, plus keys whose deletes wait for consent. clean: the change began from an
    undoubted state, or into nothing, so all leftovers in its buckets are the view's own. anew: it began under another
    mapping than the content before, or over keys of unknown origin, so equal keys may have an expiry and are put too.
    deleted: how many keys the view lacks have gone since the checkpoint.
    """

    kind: PendingKind
    until: int
    clean: bool = False
    anew: bool = False
    deleted: int = 0

    def __str__(self) -> str:
        """For people."""
        if self.kind == "withheld":
            return "deletes are withheld until somebody decides: Redis holds keys that the view lacks"
        return f"a {self.kind} is under way, or was cut short: the next run completes it"


class Peak(Struct, frozen=True):
    """The largest number of keys in the last hour or so, in two windows: the current one and the previous one."""

    since_ms: int = 0
    keys: int = 0
    before: int = 0


class Turn(Struct, frozen=True):
    """The rolling compare: one turn covers all slices i of n. Times in milliseconds by Redis' clock.

    began_ms: start of the turn under way. done_ms: end of the last whole turn, 0 if there was none. spent_ms, ran_ms:
    the ledger: the cost of compares, out of this much run time.
    """

    i: int = 0
    n: int = 1
    first: int = 0
    """Buckets of slice i before this one have been looked at, by a snapshot that was cut short."""
    began_ms: int = 0
    done_ms: int = 0
    slice_cost_ms: int = 0
    spent_ms: int = 0
    ran_ms: int = 0
    hint_ms: int = 0
    """When a hint last bought a slice."""
    run_id: str = ""
    evicted: int = 0
    expired: int = 0
    looked_ms: int = 0
    """Redis' process, its evicted_keys and expired_keys when a run last looked and noted it, and when that was."""


class State(Struct, frozen=True):
    """Stored state of one view. as_of: None before anything was completed."""

    token: int = 0
    commit: str = ""
    """Id of the transaction that wrote this; new with every one."""
    as_of: int | None = None
    identity: Identity | None = None
    earlier: tuple[tuple[str, int], ...] = ()
    """The last identities before this one, newest first: (source, milliseconds when it was replaced)."""
    buckets: int = 0
    keys: int = 0
    """At as_of."""
    digest: str = ""
    """Sum over the manifest, to detect a manifest that does not match this state."""
    surplus: int = 0
    """Number of keys beyond the manifest that wait for consent (:surplus has them by bucket)."""
    surplus_names: tuple[bytes, ...] = ()
    """Some of those keys."""
    pending: Pending | None = None
    salt: int = 0
    """Digest salt."""
    source_salt: str = ""
    """Salt of fingerprints computed on demand."""
    fingerprint_salt: str = ""
    """Salt of the stored fingerprints: source_salt, or the companion view's own."""
    companion: str = ""
    """Identity of the companion view that was checked against the query."""
    claim: str = ""
    """The range this view has claimed (see ownership.Range)."""
    peak: Peak = Peak()
    removed: tuple[tuple[int, int], ...] = ()
    """(milliseconds, number) of unexplained keys deleted in the last 24 hours."""
    turn: Turn = Turn()
    updated_at_ms: int = 0

    @property
    def counted(self) -> int:
        """Number of keys that the manifest counts. While a snapshot is not finished these are not those at as_of."""
        return digest.count(total_of(self.digest))


def identity_hash(parts: Iterable[str]) -> str:
    """Return a short, stable hash of a sequence of strings."""
    framed = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(framed.encode()).hexdigest()[:32]


def encode(state: State) -> dict[str, str]:
    """Return the fields of the state hash. Every field is present, so writing replaces all."""
    pending = state.pending
    return {
        "format": str(FORMAT),
        "token": str(state.token),
        "commit": state.commit,
        "as_of": "" if state.as_of is None else str(state.as_of),
        "source": state.identity.source if state.identity else "",
        "mapping": state.identity.mapping if state.identity else "",
        "earlier": json.dumps(state.earlier),
        "buckets": str(state.buckets),
        "keys": str(state.keys),
        "digest": state.digest,
        "surplus": str(state.surplus),
        "surplus_names": json.dumps([name.decode("latin-1") for name in state.surplus_names]),
        "pending": _pending_text(pending) if pending else "",
        "salt": f"{state.salt:016x}",
        "source_salt": state.source_salt,
        "fingerprint_salt": state.fingerprint_salt,
        "companion": state.companion,
        "claim": state.claim,
        "peak": json.dumps(to_builtins(state.peak)),
        "removed": json.dumps(state.removed),
        "turn": json.dumps(to_builtins(state.turn)),
        "updated_at_ms": str(state.updated_at_ms),
    }


def decode(fields: Mapping[str, str], view: str) -> State | None:
    """Return the state, or None if at most a token was ever stored.

    Raises StateError if it is corrupt or has a newer format.
    """
    if not fields.get("format"):
        if set(fields) - {"token", "commit"}:
            raise corrupt(view, "it has no format")
        return None
    if not _NUMBER.fullmatch(fields["format"]) or fields["format"] == "0":
        raise corrupt(view, "its format is not a number")
    if int(fields["format"]) > FORMAT:
        raise StateError(
            f"the state of view {view} was written by a newer reconcile (format {fields['format']}, "
            f"this one supports {FORMAT})",
            hint="upgrade reconcile; or start over with: reconcile snapshot --reset-state",
        )
    try:
        return _decode(fields)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise corrupt(view, f"{type(error).__name__} in its fields") from error


def _decode(fields: Mapping[str, str]) -> State:
    buckets = _number(fields["buckets"])
    as_of = _number(fields["as_of"]) if fields["as_of"] else None
    if buckets & (buckets - 1) or buckets > digest.MAX_BUCKETS:
        raise ValueError("buckets")
    if as_of is not None and not (as_of <= MAX_TIMESTAMP and buckets and fields["digest"]):
        raise ValueError("as_of")
    if fields["digest"]:
        _matched(_DIGEST, fields["digest"])
    return State(
        token=_number(fields["token"]),
        commit=fields["commit"],
        as_of=as_of,
        identity=Identity(fields["source"], fields["mapping"]) if fields["source"] else None,
        earlier=tuple((str(source), _whole(at)) for source, at in json.loads(fields["earlier"])),
        buckets=buckets,
        keys=_number(fields["keys"]),
        digest=fields["digest"],
        surplus=_number(fields["surplus"]),
        surplus_names=tuple(str(name).encode("latin-1") for name in json.loads(fields["surplus_names"])),
        pending=_pending(fields["pending"]) if fields["pending"] else None,
        salt=int(_matched(_SALT, fields["salt"]), 16),
        source_salt=_matched(_SOURCE_SALT, fields["source_salt"]),
        fingerprint_salt=fields["fingerprint_salt"],
        companion=fields["companion"],
        claim=fields["claim"],
        peak=Peak(**_wholes(json.loads(fields["peak"]))),
        removed=tuple((_whole(at), _whole(number)) for at, number in json.loads(fields["removed"])),
        turn=_turn(json.loads(fields["turn"])),
        updated_at_ms=_number(fields["updated_at_ms"]),
    )


def _matched(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError("form")
    return text


def _number(text: str) -> int:
    """Parse a number strictly: int() also accepts signs, spaces, underscores and other digits."""
    return int(_matched(_NUMBER, text))


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_TIMESTAMP:
        raise ValueError("number")
    return value


def _wholes(stored: Mapping[str, Any]) -> dict[str, int]:
    return {name: _whole(value) for name, value in stored.items()}


def _turn(stored: dict[str, Any]) -> Turn:
    run_id = stored.pop("run_id")
    turn = Turn(run_id=str(run_id), **_wholes(stored))
    if not 0 <= turn.i < turn.n:
        raise ValueError("turn")
    return turn


def _pending_text(pending: Pending) -> str:
    stored = to_builtins(pending)
    return json.dumps({name: value for name, value in stored.items() if value or name not in ("anew", "deleted")})


def _pending(text: str) -> Pending:
    stored = json.loads(text)
    kind, until, clean, anew = stored["kind"], stored["until"], stored["clean"], stored.get("anew", False)
    if kind not in ("snapshot", "delta", "withheld") or type(clean) is not bool or type(anew) is not bool:
        raise ValueError("pending")
    return Pending(kind, _whole(until), clean, anew, _whole(stored.get("deleted", 0)))


def corrupt(view: str, why: str) -> StateError:
    """Return the error for a state that something else overwrote."""
    return StateError(
        f"the state of view {view} in Redis is corrupt: {why}",
        hint="something else wrote to it; start over with: reconcile snapshot --reset-state",
    )
