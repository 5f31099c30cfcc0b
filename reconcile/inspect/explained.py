"""The findings of `explain`, as JSON and as text. Values appear only if asked for, else their length and digest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct
from xxhash import xxh3_64_intdigest

from reconcile.core.changes import name_of
from reconcile.core.explanation import KeyVerdict, Seen, explain_key
from reconcile.core.framing import split_expiry, unframe
from reconcile.core.state import State
from reconcile.core.times import format_time, span
from reconcile.target.survey import KeyFacts
from reconcile.texts import plural


class Written(Struct, frozen=True):
    """Who may write the key, and when the view was last written. Times in milliseconds by Redis' clock.

    claim: the view whose claim covers the key; None: no view's, or unknown.
    """

    claim: str | None
    claimed_by_other: bool
    holder: str | None
    """Who holds the view's lease now."""
    last_commit_ms: int | None
    since_commit_ms: int | None
    """Before the key was looked at."""


class Explanation(Struct):
    """Everything known about one key."""

    view: str
    key: bytes
    seen: Seen
    facts: KeyFacts
    state: State | None
    now_ms: int
    """The as_of at which `seen.now` was read."""
    null_in_view: bool
    several: bool
    """Values are framed columns (layout hash)."""
    expires: bool
    """Framed values begin with their expiry time."""
    written: Written
    bucket: int | None = None
    source_agrees: bool | None = None
    """Whether the bucket's rows in the view add up to the manifest."""
    evicted: int | None = None
    expired: int | None = None

    def to_dict(self, *, show_values: bool) -> dict[str, Any]:
        """Return what `explain --json` prints."""
        verdict, why = explain_key(self.seen)
        as_of = self.state.as_of if self.state is not None else None
        checkpoint = self._shown(self.seen.then, show_values) if self.seen.then_known else None
        return {
            "status": "done",
            "exit_code": 0,
            "view": self.view,
            "key": name_of(self.key),
            "verdict": verdict.value,
            "why": why,
            "hint": self._hint(verdict),
            "as_of": as_of,
            "as_of_text": None if as_of is None else format_time(as_of),
            "source_at_checkpoint": checkpoint,
            "source_at_checkpoint_readable": self.seen.then_known,
            "source_now": self._shown(self.seen.now, show_values),
            "source_now_as_of": self.now_ms,
            "redis": {
                "type": self.facts.kind,
                "ttl_ms": self.facts.ttl_ms,
                "idle_s": self.facts.idle_s,
                "memory_bytes": self.facts.bytes,
                "content": self._shown(self.seen.held, show_values),
            },
            "claim": self.written.claim,
            "last_commit_ms": self.written.last_commit_ms,
            "touched_since_commit": self._touched(),
            "lease": self.written.holder,
            "bucket": self.bucket,
            "manifest_agrees_with_source": self.source_agrees,
            "manifest_agrees_with_redis": self.seen.redis_as_recorded,
        }

    def _touched(self) -> bool | None:
        """Whether anything, a reader included, has accessed the key since the last commit; None: unknown."""
        idle_s, since_ms = self.facts.idle_s, self.written.since_commit_ms
        return None if idle_s is None or since_ms is None else (idle_s + 1) * 1000 < since_ms

    def _shown(self, value: bytes | None, show_values: bool) -> dict[str, Any] | None:
        if value is None:
            return None
        shown: dict[str, Any] = {}
        if self.expires:
            expires_ms, value = split_expiry(value)
            shown["expires_at"] = None if expires_ms is None else format_time(expires_ms)
        shown |= {"digest": f"{xxh3_64_intdigest(value):016x}", "bytes": len(value)}
        if show_values:
            columns = [column[0] for column in unframe([value])] if self.several else [value]
            texts = [None if one is None else one.decode("utf-8", "backslashreplace") for one in columns]
            shown["value"] = texts if self.several else texts[0]
        return shown

    def _hint(self, verdict: KeyVerdict) -> str | None:
        repair = f"repair: reconcile snapshot --deep --view {self.view}"
        if verdict is KeyVerdict.MISSING:
            counts = [(self.evicted, "evicted"), (self.expired, "expired")]
            counted = " and ".join(f"{plural(count, 'key')} {what}" for count, what in counts if count)
            since = f"Redis counts {counted} since it started or its statistics were reset; " if counted else ""
            return since + repair
        if self.written.claimed_by_other:
            return f"it is in the range of keys that view {self.written.claim} has claimed"
        if verdict is KeyVerdict.EXTRA and self.state is not None and self.state.surplus:
            return f"keys wait for consent; if they may go: reconcile snapshot --allow-deletes --view {self.view}"
        if verdict in (KeyVerdict.CHANGED_OUTSIDE, KeyVerdict.EXTRA, KeyVerdict.MISSED):
            return repair
        if verdict is KeyVerdict.LAGS and self.seen.pending == "withheld":
            return f"if the view is right: reconcile snapshot --allow-deletes --view {self.view}"
        if verdict in (KeyVerdict.LAGS, KeyVerdict.NOT_SYNCED):
            return f"reconcile run --view {self.view}"
        if self.facts.ttl_ms is not None and not self.expires:
            return f"it will expire in {span(self.facts.ttl_ms)}: something else set a TTL"
        if self.null_in_view:
            return "the view's value for it is NULL: Redis holds no such key"
        if self.state is not None and self.state.pending is not None:
            return f"{self.state.pending}; until then Redis is between two times"
        return None


def render(found: dict[str, Any]) -> str:
    """Return the explanation as text, from its JSON form."""
    lines = [f"{found['view']}: {found['key']}: {found['verdict']}", f"  {found['why']}"]
    if found["hint"]:
        lines.append(f"  hint: {found['hint']}")
    lines += [f"  {name:<22}{text}" for name, text in _facts(found)]
    return "\n".join(lines)


def _facts(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if found["as_of"] is None:
        yield "checkpoint", "none"
    else:
        yield "checkpoint", f"{found['as_of']} ({found['as_of_text']})"
        readable = found["source_at_checkpoint_readable"]
        yield "view at checkpoint", _fact(found["source_at_checkpoint"]) if readable else "can no longer be read"
    yield "view now", _fact(found["source_now"])
    redis = found["redis"]
    ttl = "" if redis["ttl_ms"] is None else f", expires in {span(redis['ttl_ms'])}"
    absent = redis["type"] != "none" and redis["content"] is None
    yield "Redis", (f"a {redis['type']}" if absent else _fact(redis["content"])) + ttl
    if redis["idle_s"] is not None:
        touched = {
            True: "since the last run wrote (verify and explain read too)",
            False: "not since the last run wrote",
            None: "",
        }
        since = touched[found["touched_since_commit"]]
        yield "last read or written", f"{redis['idle_s']:,} s ago" + (f", {since}" if since else "")
    if found["last_commit_ms"] is not None:
        by = f"; {found['lease']} is writing now" if found["lease"] else ""
        yield "last run wrote", f"{format_time(found['last_commit_ms'])}{by}"
    if found["claim"] is not None:
        yield "claimed by", found["claim"]
    if found["bucket"] is not None:
        agrees = {True: "yes", False: "no", None: "not known"}
        source, held = found["manifest_agrees_with_source"], found["manifest_agrees_with_redis"]
        yield (
            f"bucket {found['bucket']}",
            f"manifest agrees with the view: {agrees[source]}, with Redis: {agrees[held]}",
        )


def _fact(content: dict[str, Any] | None) -> str:
    if content is None:
        return "absent"
    expires = f"  expires {content['expires_at'] or 'never'}" if "expires_at" in content else ""
    value = f"  {content['value']!r}" if "value" in content else ""
    return f"{plural(content['bytes'], 'byte')}, digest {content['digest']}{expires}{value}"
