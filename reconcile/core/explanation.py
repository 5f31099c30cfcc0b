"""Why one key is as it is in Redis: a pure judgement over what was seen of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class KeyVerdict(enum.Enum):
    """What is true of one key."""

    IN_SYNC = "in sync"
    LAGS = "lags"
    """Redis is what the checkpoint says; the source has moved on since. Not drift."""
    MISSING = "missing"
    """The view has it, Redis lost it."""
    CHANGED_OUTSIDE = "changed outside"
    """Redis holds something that no run of ours wrote."""
    EXTRA = "extra"
    """Redis holds a key of ours that the view does not have."""
    MISSED = "missed updates"
    """Redis is what the manifest says, but not what the view was then: a bug, or a view that was replaced."""
    FOREIGN = "not ours"
    """Redis has the key, and it is none that a run of this view wrote or may touch."""
    EXPIRED = "expired"
    """The view has it, but its own time has passed."""
    ABSENT = "not in view"
    """Neither the view nor Redis has it."""
    NOT_SYNCED = "not synchronised"
    """Nothing was synchronised yet."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one key. A value of None: absent (or a NULL value in the view, which is the same).

    then: in the view at the checkpoint's time; meaningful only with `then_known`.
    now: in the view now. held: in Redis, framed; None: absent, or nothing the layout can read. held_kind: its type in
    Redis, 'none' when absent. expired: the row's own time has passed, so Redis rightly let go of it.
    owned: the key is one of this view's by prefix, database or memory.
    source_moved: the bucket has changed at the source since the checkpoint, or that is not known.
    redis_as_recorded: the bucket in Redis is what the manifest says; None without a manifest.
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


def explain_key(seen: Seen) -> tuple[KeyVerdict, str]:
    """The verdict and a sentence that says why."""
    if seen.held_kind != "none" and not seen.owned:
        return KeyVerdict.FOREIGN, "Redis has this key, but it is not one of this view's: runs leave it alone"
    if seen.held is None and seen.held_kind != "none":
        if seen.synced and seen.now is None and seen.then is None:
            return KeyVerdict.EXTRA, f"the view does not have it: something else wrote the {seen.held_kind} in Redis"
        return KeyVerdict.CHANGED_OUTSIDE, f"Redis holds a {seen.held_kind} under this name: something else wrote it"
    if seen.expired:
        return KeyVerdict.EXPIRED, "the time in its row has passed, and Redis let it expire, as it should"
    if not seen.synced:
        return _before_first_run(seen)
    if seen.then_known:
        return _against(seen.then, seen)
    if seen.held == seen.now:
        return _equal(seen.now)
    if not seen.source_moved:
        return _against(seen.now, seen)
    return _without_history(seen)


def _before_first_run(seen: Seen) -> tuple[KeyVerdict, str]:
    if seen.held == seen.now:
        what = "view and Redis agree by themselves" if seen.now is not None else "neither the view nor Redis has it"
        return KeyVerdict.NOT_SYNCED, f"nothing was synchronised yet; {what}"
    will = "remove it" if seen.now is None else "write it"
    return KeyVerdict.NOT_SYNCED, f"nothing was synchronised yet; the first run will {will}"


def _equal(value: bytes | None) -> tuple[KeyVerdict, str]:
    if value is None:
        return KeyVerdict.ABSENT, "neither the view nor Redis has it"
    return KeyVerdict.IN_SYNC, "Redis holds what the view has"


def _against(then: bytes | None, seen: Seen) -> tuple[KeyVerdict, str]:
    """Compare with what the view was at the checkpoint."""
    if seen.held == then:
        if then == seen.now:
            return _equal(then)
        what = "was removed" if seen.now is None else ("was added" if then is None else "has changed")
        return KeyVerdict.LAGS, f"it {what} at the source since the checkpoint; the next run brings Redis there"
    if seen.redis_as_recorded:
        return (
            KeyVerdict.MISSED,
            "Redis is as the last run left it, but the view was otherwise then: a deep snapshot repairs it",
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
    """The view at the checkpoint cannot be read, and its bucket has changed (or may have) since."""
    if seen.redis_as_recorded:
        return (
            KeyVerdict.LAGS,
            "its bucket in Redis is as the last run left it, and has changed at the source since; the next run brings "
            "Redis there",
        )
    if seen.held is None:
        return (
            KeyVerdict.MISSING,
            "the view has it now and Redis does not; its bucket in Redis is not as the last run left it",
        )
    return (
        KeyVerdict.CHANGED_OUTSIDE if seen.now is not None else KeyVerdict.EXTRA,
        "it differs from the view now, and its bucket in Redis is not as the last run left it: something else wrote",
    )
