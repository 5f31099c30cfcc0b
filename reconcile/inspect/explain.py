"""Examine one key in the view, in Redis and in the last run's records, at known times."""

from __future__ import annotations

import contextlib

from msgspec import Struct, field
from msgspec.structs import replace

from reconcile.compare.described import Described, describe
from reconcile.config.choice import chosen_views
from reconcile.config.settings import Settings, ViewSettings
from reconcile.core import digest, drift
from reconcile.core.changes import duplicate_keys
from reconcile.core.digest import UNKNOWN
from reconcile.core.explanation import Seen
from reconcile.core.framing import EXPIRY_TOLERANCE_MS, split_expiry
from reconcile.core.records import Manifest
from reconcile.core.shards import shard_of
from reconcile.core.state import State
from reconcile.errors import HistoryLost, Unavailable, UsageError
from reconcile.inspect.claims import ClaimTable
from reconcile.inspect.explained import Explanation, Written
from reconcile.inspect.keynames import keys_named
from reconcile.report.run_report import ViewReport
from reconcile.source import session as sessions
from reconcile.source.frontiers import Explained
from reconcile.source.reading import Reading, open_reading, rows_of_key
from reconcile.source.session import Session
from reconcile.stop import Stop
from reconcile.target.opening import names_of, open_target
from reconcile.target.port import Stored, Target
from reconcile.target.survey import Survey, open_survey

MAX_LOOKS = 5
LOOK_AGAIN_S = 0.25


def explain_one(settings: Settings, text: str, name: str | None, stop: Stop) -> Explanation:
    """Examine the key that `text` names, with or without the view's prefix. Raises ReconcileError."""
    keys = keys_named(text)
    whole = _view_of(chosen_views(settings, (name,) if name else ()), keys)
    found = []
    with contextlib.ExitStack() as closing:
        survey = open_survey(settings.redis, stop)
        closing.callback(survey.close)
        session = sessions.connect(settings.materialize, stop)
        closing.callback(session.close)
        (n,) = survey.divisions([names_of(settings.redis, whole)])
        for candidate in [one for key in keys for one in _candidates(whole, key)]:
            view = replace(whole, shard=shard_of(candidate, n))
            target = open_target(settings.redis, view, stop)
            closing.callback(target.close)
            described = describe(session, view, target, ViewReport(view.name))
            found.append(_look(_Scene(settings, view, target, survey, session, described, stop), candidate))
    # A row's key may itself begin with the prefix: the interpretation that finds something wins.
    return next((one for one in found if _anything(one.seen)), found[0])


def _view_of(views: list[ViewSettings], keys: list[bytes]) -> ViewSettings:
    """Return the view to which one of these keys belongs."""
    if len(views) == 1:
        return views[0]
    prefixed = [view for view in views if view.key_prefix]
    fitting = [view for view in prefixed if any(key.startswith(view.key_prefix.encode()) for key in keys)]
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


class _Scene(Struct, frozen=True):
    """What an examination needs."""

    settings: Settings
    view: ViewSettings
    target: Target
    survey: Survey
    session: Session
    described: Described
    stop: Stop


def _look(scene: _Scene, key: bytes) -> Explanation:
    """Repeat until no commit comes between reading the checkpoint and reading the key."""
    for _ in range(MAX_LOOKS):
        stored = scene.target.stored()
        found = _KeyExamination(scene, key, stored).take()
        state = scene.target.state()
        if (state is None) == (stored.state is None) and (state is None or state == stored.state):
            return found
        scene.stop.wait(LOOK_AGAIN_S)
        scene.stop.check()
    raise Unavailable("the checkpoint kept moving meanwhile", hint="try again when no run is following")


class _BucketRows(Struct):
    """One bucket's digests (added-up form): its rows in the view, and what Redis holds for them."""

    source: int = 0
    redis: int = 0
    keys_held: set[bytes] = field(default_factory=set)


class _KeyExamination:
    """One examination of a key at the source, in Redis and in the state, which was read before."""

    def __init__(self, scene: _Scene, key: bytes, stored: Stored) -> None:
        self._scene = scene
        self._key = key
        self._stored = stored
        state = stored.state
        self._known = state if state is not None and state.as_of is not None else None
        self._bucket = None if self._known is None else digest.bucket_of(key, self._known.buckets)

    def take(self) -> Explanation:
        """Read everything, the view first, since it moves."""
        scene, known = self._scene, self._known
        # First: reading the key resets its idle time, and reading the view takes its own.
        looked_ms, facts = scene.target.now_ms(), scene.survey.key(self._key)
        then_known, then = False, None
        rows = _BucketRows()
        pending = None if known is None or known.pending is None else known.pending.kind
        with open_reading(scene.session, scene.described.mapping, None) as reading:
            now, null = self._source_value(None)
            now_ms = reading.as_of
            readable = known is not None and self._readable(known, reading.explained)
            exact = readable and pending is None  # else Redis' content is later than the checkpoint
            if not exact:
                self._add_rows(reading, rows)
        if readable and known is not None:
            mapping = scene.described.mapping
            with contextlib.suppress(HistoryLost), open_reading(scene.session, mapping, known.as_of) as reading:
                then, _ = self._source_value(known.as_of)
                if exact:
                    self._add_rows(reading, rows)
                then_known = True
        (held,) = scene.target.values([self._key])
        if self._key not in rows.keys_held and facts.kind != "none" and known is not None:
            rows.redis += digest.held_digest(self._key, held, known.salt)
        recorded = self._recorded()
        moved = not (exact and then_known) and self._moved()
        as_recorded, gone = self._as_recorded(rows, recorded, all_of_it=moved and held != now)
        seen = Seen(
            synced=known is not None,
            then_known=then_known,
            then=then,
            now=now,
            held=held,
            held_kind=facts.kind,
            owned=self._owned(),
            source_moved=moved,
            redis_as_recorded=as_recorded,
            expired=facts.kind == "none" and self._expired(then if then_known else now),
            gone=gone,
            pending=pending,
        )
        counters = scene.target.counters()
        return Explanation(
            view=scene.view.name,
            key=self._key,
            seen=seen,
            facts=facts,
            state=known,
            now_ms=now_ms,
            null_in_view=null,
            several=scene.described.mapping.form.several,
            expires=scene.described.mapping.form.expires,
            written=self._written(looked_ms),
            bucket=self._bucket,
            source_agrees=None if recorded is None else digest.normal(rows.source) == digest.normal(recorded),
            evicted=counters.evicted,
            expired=counters.expired,
        )

    def _as_recorded(self, rows: _BucketRows, recorded: int | None, *, all_of_it: bool) -> tuple[bool | None, bool]:
        """Return whether the bucket in Redis matches the manifest, and whether rows of it may have expired. all_of_it:
        keys that have left the view since are not among its rows now, but may rightly still be in Redis."""
        if recorded is None:
            return None, False
        if digest.normal(rows.redis) == digest.normal(recorded) or not all_of_it:
            return digest.normal(rows.redis) == digest.normal(recorded), False
        there = self._scan()
        gone = drift.gone(digest.count(there), recorded, expires=self._scene.described.mapping.form.expires)
        return digest.normal(there) == digest.normal(recorded), gone

    def _readable(self, known: State, explained: Explained) -> bool:
        """Whether the view can be read as of the checkpoint, and is still the same view."""
        if known.identity is None or known.as_of is None:
            return False
        same = known.identity == self._scene.described.identity(explained)
        return same and explained.frontiers.readable(known.as_of)

    def _source_value(self, as_of: int | None) -> tuple[bytes | None, bool]:
        """Return (framed value, whether a row with a NULL value exists). Raises DataError for several rows."""
        rows = rows_of_key(self._scene.session, self._scene.described.mapping, self._key, as_of)
        if len(rows) > 1:
            raise duplicate_keys([self._key])
        value = rows[0][1] if rows else None
        return value, bool(rows) and value is None

    def _add_rows(self, reading: Reading, rows: _BucketRows) -> None:
        """Add up the bucket's rows in the view, and what Redis holds for the same keys."""
        known = self._known
        if known is None or self._bucket is None:
            return
        for chunk in reading.rows_of([self._bucket], known.buckets):
            pairs = [(key, value) for key, value in chunk if value is not None]
            rows.source += sum(digest.row_digest(key, value, known.salt) for key, value in pairs)
            keys = [key for key, _ in pairs]
            rows.keys_held.update(keys)
            for (key, value), held in zip(pairs, self._scene.target.values(keys), strict=True):
                counted = value if held is None and self._expired(value) else held  # expired rows count as held
                if counted is not None:
                    rows.redis += digest.row_digest(key, counted, known.salt)

    def _recorded(self) -> int | None:
        """Return the bucket's digest in the manifest (added-up form); None if there is no valid one."""
        known = self._known
        if known is None or self._bucket is None or not self._stored.has_manifest:
            return None
        records = self._scene.target.manifest([self._bucket])
        assert isinstance(records, dict)
        manifest = Manifest(known.buckets, known.digest)
        return manifest[self._bucket] if manifest.take(records) else None

    def _moved(self) -> bool:
        """Whether the bucket may have changed at the source since the checkpoint, by its fingerprint."""
        before, known = self._stored.fingerprints, self._known
        if before is None or known is None or self._bucket is None or before[self._bucket] == UNKNOWN:
            return True
        mapping = self._scene.described.mapping
        with open_reading(self._scene.session, mapping, None) as reading:
            return reading.fingerprint_of(self._bucket, known.buckets, known.fingerprint_salt) != before[self._bucket]

    def _scan(self) -> int:
        """Return the bucket's digest over everything Redis holds."""
        assert self._known is not None
        buckets, salt, total = self._known.buckets, self._known.salt, 0
        with contextlib.closing(
            self._scene.target.rows(lambda key: digest.bucket_of(key, buckets) == self._bucket)
        ) as pages:
            for page in pages:
                self._scene.stop.check()
                total += sum(digest.held_digest(key, value, salt) for key, value in dict(page).items())
        return total

    def _owned(self) -> bool:
        target = self._scene.target
        if target.range.ownership == "remembered":
            return target.remembered([self._key])[0]
        return target.range.owns(self._key)

    def _expired(self, value: bytes | None) -> bool:
        """Whether the row's expiry time has passed by Redis' clock."""
        if value is None or not self._scene.described.mapping.form.expires:
            return False
        at_ms, _ = split_expiry(value)
        return at_ms is not None and at_ms <= self._scene.target.now_ms() + EXPIRY_TOLERANCE_MS

    def _written(self, looked_ms: int) -> Written:
        """Return who may write the key, and when runs last did. looked_ms: when the key was looked at."""
        stored = self._scene.survey.claims()
        names = names_of(self._scene.settings.redis, self._scene.view)
        owner = None if stored is None else ClaimTable.parse(stored).owner_of(self._key)
        holder = self._scene.target.holder()
        state = self._known
        since_ms = None if state is None else max(0, looked_ms - state.updated_at_ms)
        return Written(
            claim=owner,
            claimed_by_other=owner is not None and owner != names.tag,
            holder=None if holder is None else holder[0],
            last_commit_ms=None if state is None else state.updated_at_ms,
            since_commit_ms=since_ms,
        )
