"""Explain the state of one key in Redis from what was read of it. Pure."""

from __future__ import annotations

import enum

from msgspec import Struct

from reconcile.core.state import PendingKind


class KeyVerdict(enum.Enum):
    """The verdict on one key."""

    IN_SYNC = "in sync"
    LAGS = "lags"
    """Redis matches the checkpoint; the source has changed since. Not drift."""
    MISSING = "missing"
    """The view has it, Redis lost it."""
    CHANGED_OUTSIDE = "changed outside"
    """Redis holds a value that no run of this view wrote."""
    EXTRA = "extra"
    """Redis holds a key of ours that the view does not have."""
    MISSED = "missed updates"
    """Redis matches the manifest, but not the view at the checkpoint: a bug, or the view was replaced."""
    FOREIGN = "not ours"
    """Redis has the key, but it is outside the view's range."""
    EXPIRED = "expired"
    """The view has it, but its expiry time has passed."""
    ABSENT = "not in view"
    """Neither the view nor Redis has it."""
    NOT_SYNCED = "not synchronised"
    """There is no checkpoint yet."""


class Seen(Struct, frozen=True):
    """What was read of one key. Values are framed; None: absent, or a NULL value in the view.

    then: value in the view at the checkpoint's time; meaningful only if `then_known`.
    now: value in the view at present.
    held: value in Redis; None: absent, or not readable in the view's layout.
    held_kind: Redis type, 'none' if absent.
    expired: the row's expiry time has passed, so the key may be absent.
    owned: the key is in the view's range.
    source_moved: the bucket has changed at the source since the checkpoint, or may have.
    redis_as_recorded: the bucket in Redis matches the manifest; None without a manifest.
    gone: rows of the bucket may have expired (drift.gone).
    pending: the kind of change that is not complete, if one is.
    """

    synced: bool
    then_known: bool
    then: bytes | None
    now: bytes | None
    held: bytes | None
    held_kind: str
    owned: bool
    source_moved: bool
    redis_as_recorded: bool | None
    expired: bool = False
    gone: bool = False
    pending: PendingKind | None = None


def explain_key(seen: Seen) -> tuple[KeyVerdict, str]:
    """Return the verdict and a sentence that explains it."""
    if seen.held_kind != "none" and not seen.owned:
        why = "Redis has this key, but it is not one of this view's: runs leave it alone"
        if seen.now is not None:
            why += ". The view has it too: where it is new and differs, runs stop with exit code 5 (snapshot --adopt)"
        return KeyVerdict.FOREIGN, why
    if seen.held is None and seen.held_kind != "none":
        if seen.synced and seen.now is None and seen.then is None:
            return KeyVerdict.EXTRA, f"the view does not have it: something else wrote the {seen.held_kind} in Redis"
        return KeyVerdict.CHANGED_OUTSIDE, f"Redis holds a {seen.held_kind} under this name: something else wrote it"
    if seen.expired:
        return KeyVerdict.EXPIRED, "the time in its row has passed: Redis let it expire, as it should"
    if not seen.synced:
        return _before_first_run(seen)
    if seen.pending is None and seen.then_known:
        return _against(seen.then, seen)
    if seen.held == seen.now:
        return _equal(seen.now)
    if seen.pending in ("delta", "snapshot"):
        return (
            KeyVerdict.LAGS,
            f"a {seen.pending} is under way, or was cut short: until one is complete Redis is between two times, and "
            "what differs may not have been written yet",
        )
    if seen.pending == "withheld" and seen.now is None and seen.redis_as_recorded:
        return KeyVerdict.LAGS, "the view no longer has it, and its deletion is withheld until somebody decides"
    if not seen.source_moved:
        return _against(seen.now, seen)
    return _without_history(seen)


def _before_first_run(seen: Seen) -> tuple[KeyVerdict, str]:
    if seen.held == seen.now:
        what = "view and Redis already agree" if seen.now is not None else "neither the view nor Redis has it"
        return KeyVerdict.NOT_SYNCED, f"not synchronised yet; {what}"
    if seen.now is None:
        return (
            KeyVerdict.NOT_SYNCED,
            "not synchronised yet; nothing shows that this view wrote it, so the first run will leave it alone and end "
            "with exit code 5, unless its deletion is consented to (--allow-deletes, redis.dedicated)",
        )
    return KeyVerdict.NOT_SYNCED, "not synchronised yet; the first run will write it"


def _equal(value: bytes | None) -> tuple[KeyVerdict, str]:
    if value is None:
        return KeyVerdict.ABSENT, "neither the view nor Redis has it"
    return KeyVerdict.IN_SYNC, "Redis holds what the view has"


def _against(then: bytes | None, seen: Seen) -> tuple[KeyVerdict, str]:
    """Judge against the view at the checkpoint."""
    if seen.held == then:
        if then == seen.now:
            return _equal(then)
        what = "was removed" if seen.now is None else ("was added" if then is None else "has changed")
        return KeyVerdict.LAGS, f"it {what} at the source since the checkpoint; the next run brings Redis up to date"
    if seen.redis_as_recorded:
        return (
            KeyVerdict.MISSED,
            "Redis is as the last run left it, but the view already differed then: a deep snapshot repairs it",
        )
    if seen.held is None:
        return KeyVerdict.MISSING, "the last run left it in Redis, and something took it away since"
    if then is None:
        return KeyVerdict.EXTRA, "the view did not have it at the checkpoint: something else wrote it"
    return (
        KeyVerdict.CHANGED_OUTSIDE,
        "Redis holds another value than the view had at the checkpoint: something else wrote it",
    )


def _without_history(seen: Seen) -> tuple[KeyVerdict, str]:
    """Judge a bucket that has changed, or may have, since a checkpoint that can no longer be read."""
    if seen.redis_as_recorded:
        return (
            KeyVerdict.LAGS,
            "its bucket in Redis is as the last run left it, and has changed at the source since; the next run brings "
            "Redis up to date",
        )
    if seen.gone:  # as in drift.judge
        return (
            KeyVerdict.LAGS,
            "its bucket has changed at the source since the checkpoint, and rows of it may have expired; the next run "
            "brings Redis up to date",
        )
    if seen.held is None:
        return (
            KeyVerdict.MISSING,
            "the view has it now and Redis does not; its bucket in Redis is not as the last run left it",
        )
    return (
        KeyVerdict.CHANGED_OUTSIDE if seen.now is not None else KeyVerdict.EXTRA,
        "it differs from the view now, and its bucket in Redis is not as the last run left it: something else wrote it",
    )
