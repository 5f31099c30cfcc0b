"""Why is this key as it is? One key in the view, in Redis and in what the last run recorded, at known times."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from xxhash import xxh3_64_intdigest

from reconcile.config.settings import Settings, ViewSettings
from reconcile.core import digest
from reconcile.core.changes import duplicate_keys, name_of
from reconcile.core.digest import UNKNOWN
from reconcile.core.explanation import Seen, Verdict, explain_key
from reconcile.core.state import State
from reconcile.core.times import format_time
from reconcile.errors import HistoryLost, Unavailable, UsageError
from reconcile.report.run_report import ViewReport
from reconcile.runs.context import ViewRun, open_view
from reconcile.runs.doctor_target import read_info
from reconcile.runs.entry import chosen_views
from reconcile.runs.load import Content
from reconcile.runs.look import held_values
from reconcile.runs.request import Request
from reconcile.source.frontiers import Explained
from reconcile.source.query import Mapping
from reconcile.source.reading import Reading, open_reading, rows_of_key
from reconcile.source.session import Session
from reconcile.stop import Stop
from reconcile.target import keyspace as keyspaces
from reconcile.target import store
from reconcile.target.connection import ErrorReply, checked

MAX_LOOKS = 5
LOOK_AGAIN_S = 0.25


@dataclass(frozen=True, slots=True)
class Held:
    """One key in Redis. value: only for a string; ttl_ms: None when it does not expire or does not exist."""

    kind: str
    ttl_ms: int | None
    value: bytes | None


@dataclass(slots=True)
class Explanation:
    """Everything known of one key."""

    view: str
    key: bytes
    seen: Seen
    held: Held
    state: State | None
    now_ms: int
    """The time of the view's present, as read."""
    null_in_view: bool
    bucket: int | None = None
    source_agrees: bool | None = None
    """Whether the bucket's rows in the view add up to the manifest."""
    evicted: int | None = None
    expired: int | None = None

    def to_dict(self, *, show_values: bool) -> dict[str, Any]:
        """What `explain --json` prints."""
        verdict, why = explain_key(self.seen)
        as_of = self.state.as_of if self.state is not None else None
        checkpoint = _shown(self.seen.then, show_values) if self.seen.then_known else None
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
            "source_now": _shown(self.seen.now, show_values),
            "source_now_as_of": self.now_ms,
            "redis": {
                "type": self.held.kind,
                "ttl_ms": self.held.ttl_ms,
                "content": _shown(self.held.value, show_values),
            },
            "bucket": self.bucket,
            "manifest_agrees_with_source": self.source_agrees,
            "manifest_agrees_with_redis": self.seen.redis_as_recorded,
        }

    def _hint(self, verdict: Verdict) -> str | None:
        if verdict is Verdict.MISSING:
            counts = [(self.evicted, "evicted"), (self.expired, "expired")]
            told = " and ".join(f"{count:,} {what}" for count, what in counts if count)
            since = f"Redis has {told} keys since it started or was asked to forget; " if told else ""
            return f"{since}repair: reconcile snapshot --deep --view {self.view}"
        if verdict in (Verdict.CHANGED_OUTSIDE, Verdict.EXTRA, Verdict.MISSED):
            return f"repair: reconcile snapshot --deep --view {self.view}"
        if verdict in (Verdict.LAGS, Verdict.NOT_SYNCED):
            return f"reconcile run --view {self.view}"
        if self.held.ttl_ms is not None:
            return f"it will expire in {self.held.ttl_ms / 1000:.1f} s: something else set a time to live"
        if self.null_in_view:
            return "the view has the key with a NULL value: Redis holds no key for that"
        if self.state is not None and self.state.pending is not None:
            return f"{self.state.pending}; until then Redis is between two times"
        return None


def explain_one(settings: Settings, text: str, name: str | None, stop: Stop) -> Explanation:
    """Look at the key that `text` names, with the view's prefix or without. Raises ReconcileError."""
    key = text.encode("utf-8", "surrogateescape")
    view = _view_of(chosen_views(settings, (name,) if name else ()), key)
    request = Request(mode="verify", views=(view.name,))
    with open_view(settings, view, request, stop, ViewReport(view.name)) as run:
        session = run.open_session()
        mapping = run.describe(session)
        found = [_look(run, session, mapping, candidate) for candidate in _candidates(view, key)]
    # A row's key may itself begin with the prefix: the reading under which there is something wins.
    return next((one for one in found if _anything(one.seen)), found[0])


def _view_of(views: list[ViewSettings], key: bytes) -> ViewSettings:
    """The view whose key this is."""
    if len(views) == 1:
        return views[0]
    fitting = [view for view in views if view.key_prefix and key.startswith(view.key_prefix.encode())]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(view.name for view in views)
    raise UsageError("several views could have this key", hint=f"say which with --view: {names}")


def _candidates(view: ViewSettings, key: bytes) -> list[bytes]:
    prefix = view.key_prefix.encode()
    with_prefix = prefix + key
    return [key, with_prefix] if prefix and key.startswith(prefix) else [with_prefix]


def _anything(seen: Seen) -> bool:
    return seen.held_kind != "none" or seen.now is not None or seen.then is not None


def _look(run: ViewRun, session: Session, mapping: Mapping, key: bytes) -> Explanation:
    """Until no commit comes between looking at the checkpoint and at the key."""
    for _ in range(MAX_LOOKS):
        run.stored = store.read_stored(run.reader, run.keyspace)
        found = _Look(run, session, mapping, key).take()
        if store.read_state(run.reader, run.keyspace) == run.state:
            return found
        run.stop.wait(LOOK_AGAIN_S)
        run.stop.check()
    raise Unavailable("the checkpoint never stood still long enough", hint="try again when no run is following")


class _Look:
    """One look at a key at the source, in Redis and in the stored state, which was read before."""

    def __init__(self, run: ViewRun, session: Session, mapping: Mapping, key: bytes) -> None:
        self._run = run
        self._session = session
        self._mapping = mapping
        self._key = key
        state = run.state
        self._known = state if state is not None and state.as_of is not None else None
        self._bucket = None if self._known is None else digest.bucket_of(key, self._known.buckets)

    def take(self) -> Explanation:
        """Read everything, view first: it is what moves."""
        run, known = self._run, self._known
        then_known = False
        then = None
        rows = _BucketRows()
        with open_reading(self._session, self._mapping, None) as reading:
            now, null = self._source_value(None)
            now_ms = reading.as_of
            readable = known is not None and self._readable(known, reading.explained)
            if not readable:
                self._add_rows(reading, rows)
        if readable and known is not None:
            with contextlib.suppress(HistoryLost), open_reading(self._session, self._mapping, known.as_of) as reading:
                then, _ = self._source_value(known.as_of)
                self._add_rows(reading, rows)
                then_known = True
        held = _held(run, self._key)
        if self._key not in rows.keys_held and held.value is not None:
            rows.redis += digest.row_digest(self._key, held.value)
        recorded = self._recorded()
        moved = not then_known and self._moved(rows)
        as_recorded = None if recorded is None else digest.normal(rows.redis) == digest.normal(recorded)
        if as_recorded is False and moved and held.value != now:
            # Keys that have left the view since are not among its rows now, but may rightly be in Redis still.
            as_recorded = digest.normal(self._scan()) == digest.normal(recorded or 0)
        seen = Seen(
            synced=known is not None,
            then_known=then_known,
            then=then,
            now=now,
            held=held.value,
            held_kind=held.kind,
            owned=self._owned(),
            source_moved=moved,
            redis_as_recorded=as_recorded,
        )
        info = read_info(run.reader)
        return Explanation(
            view=run.view.name,
            key=self._key,
            seen=seen,
            held=held,
            state=known,
            now_ms=now_ms,
            null_in_view=null,
            bucket=self._bucket,
            source_agrees=None if recorded is None else digest.total(rows.content.digests) == digest.normal(recorded),
            evicted=int(info.get("evicted_keys", 0)),
            expired=int(info.get("expired_keys", 0)),
        )

    def _readable(self, known: State, explained: Explained) -> bool:
        """Whether the view can be read as it was at the checkpoint, and is still the same view."""
        if known.identity is None or known.as_of is None:
            return False
        frontiers = explained.frontiers
        same = known.identity == self._run.identity(self._mapping, explained)
        return same and frontiers.since <= known.as_of and (frontiers.upper is None or known.as_of < frontiers.upper)

    def _source_value(self, as_of: int | None) -> tuple[bytes | None, bool]:
        """(value, whether there is a row with a NULL value). Raises DataError for several rows."""
        rows = rows_of_key(self._session, self._mapping, self._key, as_of)
        if len(rows) > 1:
            raise duplicate_keys([self._key])
        value = rows[0][1] if rows else None
        return value, bool(rows) and value is None

    def _add_rows(self, reading: Reading, rows: _BucketRows) -> None:
        """The bucket's rows in the view, and what Redis holds for the same keys."""
        if self._known is None or self._bucket is None:
            return
        for chunk in reading.hashed_rows_of([self._bucket], self._known.buckets):
            rows.content.add(chunk)
            pairs = [(key, value) for key, value, *_ in chunk if key is not None and value is not None]
            for key, _, held in held_values(self._run, pairs):
                rows.keys_held.add(key)
                if held is not None:
                    rows.redis += digest.row_digest(key, held)

    def _recorded(self) -> int | None:
        """The bucket's digest in the stored manifest; None when there is none to be trusted."""
        if self._known is None or self._bucket is None or not self._run.stored.has_manifest:
            return None
        read = store.Manifest(self._run.reader, self._run.keyspace, self._known).read([self._bucket])
        return None if read is None else read[self._bucket]

    def _moved(self, rows: _BucketRows) -> bool:
        before = self._run.stored.fingerprints
        if before is None or self._known is None or self._bucket is None:
            return True
        now = rows.content.fingerprints(self._known.buckets)
        known = before[self._bucket]
        return now is None or known == UNKNOWN or known != now[self._bucket]

    def _scan(self) -> int:
        """The bucket's digest over everything Redis holds."""
        assert self._known is not None
        buckets = self._known.buckets
        total = 0
        for page in keyspaces.scan_rows(
            self._run.reader, self._run.keyspace, lambda key: digest.bucket_of(key, buckets) == self._bucket
        ):
            self._run.stop.check()
            for key, value in dict(page).items():
                total += digest.odd_digest(key) if value is None else digest.row_digest(key, value)
        return total

    def _owned(self) -> bool:
        keyspace = self._run.keyspace
        if keyspace.ownership == "remembered":
            return bool(self._run.reader.call("SISMEMBER", keyspace.remembered(self._key), self._key))
        return keyspace.owns(self._key)


@dataclass(slots=True)
class _BucketRows:
    """One bucket, added up: its rows in the view, and what Redis holds for them (a digest in added-up form)."""

    content: Content = field(default_factory=lambda: Content(hashed=True))
    redis: int = 0
    keys_held: set[bytes] = field(default_factory=set)


def _held(run: ViewRun, key: bytes) -> Held:
    kind, ttl_ms, value = run.reader.pipeline([("TYPE", key), ("PTTL", key), ("GET", key)])
    checked([kind, ttl_ms])
    return Held(
        kind=kind.decode(),
        ttl_ms=ttl_ms if ttl_ms >= 0 else None,
        value=None if isinstance(value, ErrorReply) else value,
    )


def _shown(value: bytes | None, show_values: bool) -> dict[str, Any] | None:
    """A value by digest and length; itself only when asked for."""
    if value is None:
        return None
    shown: dict[str, Any] = {"digest": f"{xxh3_64_intdigest(value):016x}", "bytes": len(value)}
    if show_values:
        shown["value"] = value.decode("utf-8", "backslashreplace")
    return shown


def render(found: dict[str, Any]) -> str:
    """The explanation for people, from its JSON form."""
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
    ttl = "" if redis["ttl_ms"] is None else f", expires in {redis['ttl_ms'] / 1000:.1f} s"
    kind = "" if redis["type"] in ("none", "string") else f"a {redis['type']}"
    yield "Redis", (kind or _fact(redis["content"])) + ttl
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
    value = f"  {content['value']!r}" if "value" in content else ""
    return f"{content['bytes']:,} bytes, digest {content['digest']}{value}"
