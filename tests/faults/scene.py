"""One view, one Redis, and everything that must be true of them between runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reconcile.config import address
from reconcile.config.settings import LimitSettings, Settings, ViewSettings
from reconcile.core.digest import UNKNOWN, decode_fingerprints
from reconcile.report.run_report import ViewReport
from reconcile.runs.entry import execute
from reconcile.runs.request import Request
from reconcile.source import session as sessions
from reconcile.source.frontiers import parse_explanation
from reconcile.source.reading import open_reading
from reconcile.stop import Stop
from tests.support.mappings import string_mapping
from tests.support.meanwhile import eventually
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import Stored, check_manifest_bytes
from tests.support.sources import Source

STATE = "reconcile:{default}:"
TIME_KEY = b"the:frontier"
FOREIGN = {b"other:1": b"untouched", b"q:\x00\xff": b"\r\n", b"p": b"not under p:"}

_LOOK = """
local data = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
  if redis.call('TYPE', key).ok == 'string' then
    data[#data + 1] = key
    data[#data + 1] = redis.call('GET', key)
  end
end
local owned = {}
for group = 0, tonumber(ARGV[3]) do
  for _, key in ipairs(redis.call('SMEMBERS', ARGV[2] .. 'keys:' .. group)) do owned[#owned + 1] = key end
end
return {redis.call('HGETALL', ARGV[2] .. 'state'), data, redis.call('GET', ARGV[2] .. 'manifest'),
        redis.call('GET', ARGV[2] .. 'fingerprints'), owned}
"""


@dataclass
class Seen:
    """What Redis holds at one moment."""

    state: dict[str, str]
    data: dict[bytes, bytes]
    """Every string key that is neither reconcile's own nor one of the foreign ones."""
    foreign: dict[bytes, bytes]
    manifest: bytes | None
    fingerprints: bytes | None
    remembered: set[bytes]

    @property
    def settled(self) -> bool:
        """Whether the state claims that Redis is the view at as_of."""
        return bool(self.state.get("as_of")) and not self.state["pending"]

    @property
    def as_of(self) -> int:
        return int(self.state["as_of"])


@dataclass
class Scene:
    """A source with retained history and a Redis. prefix b'': ownership is remembered."""

    source: Source
    server: RedisServer
    prefix: bytes = b"p:"
    buckets: int | None = 64
    batch_max_keys: int = 50_000
    memory_max_bytes: int = 32 * 1024 * 1024
    lease_s: float = 900.0
    foreign: dict[bytes, bytes] = field(default_factory=lambda: dict(FOREIGN))
    saved: Stored = field(default_factory=lambda: Stored({}))
    ignored_as_of: int | None = None
    """A checkpoint that need not match: the test has changed Redis behind reconcile's back."""
    _contents: dict[int, dict[bytes, bytes]] = field(default_factory=dict)
    _true_prints: dict[tuple[int, int, str], Sequence[int]] = field(default_factory=dict)
    _still_since: int | None = None
    looks: int = 0

    def __post_init__(self) -> None:
        self.client = self.server.client()
        self._script = self.client.register_script(_LOOK)
        self.plant()

    def plant(self) -> None:
        """Put the foreign keys there."""
        for key, value in self.foreign.items():
            self.client.set(key, value)

    @property
    def settings(self) -> Settings:
        """The configuration of the runs."""
        view = ViewSettings(
            name="default", sql=self.source.sql, key_prefix=self.prefix.decode(), buckets=self.buckets,
            mz_timestamp_key=TIME_KEY.decode(),
        )  # fmt: skip
        return Settings(
            materialize=address.materialize(self.source.url),
            redis=address.redis(self.server.url),
            views=(view,),
            limits=LimitSettings(
                batch_max_keys=self.batch_max_keys, memory_max_bytes=self.memory_max_bytes, lease_s=self.lease_s
            ),
        )

    def execute(self, mode: str, **options: Any) -> ViewReport:
        """One run in this process."""
        (view,) = execute(self.settings, Request(mode=mode, **options), Stop()).views  # type: ignore[arg-type]
        return view

    def ok(self, mode: str, **options: Any) -> ViewReport:
        """One run that must succeed."""
        view = self.execute(mode, **options)
        assert view.exit_code == 0, (view.error, view.warnings)
        assert not view.skipped
        return view

    # -- the source ----------------------------------------------------------------------------------------------

    def write(self, *statements: str) -> None:
        """Change the source, each statement at a time of its own."""
        for statement in statements:
            self.source.execute(statement)
        self._still_since = None

    def content_at(self, as_of: int) -> dict[bytes, bytes]:
        """The view at a time, as Redis should hold it."""
        if self._still_since is None:
            self._still_since = self._present()
        key = min(as_of, self._still_since)
        if key not in self._contents:
            rows = self.source.execute(f"SELECT key, value FROM v WHERE value IS NOT NULL AS OF {key}")
            content = {self.prefix + k.encode(): v.encode() for k, v in rows}
            assert len(content) == len(rows), f"at {key} the view has several rows for one key: no checkpoint can be"
            self._contents[key] = content
        return self._contents[key]

    def _present(self) -> int:
        ((text,),) = self.source.execute("EXPLAIN TIMESTAMP AS JSON FOR SELECT * FROM v")
        return parse_explanation(text).frontiers.now

    def true_fingerprints(self, as_of: int, buckets: int, salt: str) -> Sequence[int]:
        """What the source says of its buckets at a time."""
        assert self._still_since is not None
        key = (min(as_of, self._still_since), buckets, salt)
        if key not in self._true_prints:
            mapping = string_mapping(self.source.sql, self.prefix.decode())
            session = sessions.connect(self.settings.materialize, Stop())
            try:
                with open_reading(session, mapping, key[0]) as reading:
                    found, _ = reading.fingerprints(buckets, salt)
            finally:
                session.close()
            self._true_prints[key] = found
        return self._true_prints[key]

    def forget_what_was_seen(self) -> None:
        """The view was replaced: what it held at any time is not what it holds there now."""
        self._contents.clear()
        self._true_prints.clear()
        self._still_since = None

    # -- Redis ---------------------------------------------------------------------------------------------------

    def see(self, *, fully: bool = True) -> Seen:
        """Everything at one moment; what is remembered only when fully."""
        self.looks += 1
        fields, data, manifest, prints, owned = self._script(args=["*", STATE, 255 if fully else -1])
        texts = [part.decode() for part in fields]
        rows = dict(zip(data[::2], data[1::2], strict=True))
        own = {key for key in rows if key.startswith(b"reconcile:{") or key == TIME_KEY}
        return Seen(
            state=dict(zip(texts[::2], texts[1::2], strict=True)),
            data={k: v for k, v in rows.items() if k not in own and k not in self.foreign},
            foreign={k: v for k, v in rows.items() if k in self.foreign},
            manifest=manifest,
            fingerprints=prints,
            remembered=set(owned),
        )

    def look(self) -> None:
        """What a reader may rely on at any moment."""
        seen = self.see(fully=False)
        assert seen.foreign == self.foreign, "a foreign key was touched"
        if seen.settled and seen.as_of != self.ignored_as_of:
            assert seen.data == self.content_at(seen.as_of), f"Redis is not the view at {seen.as_of}"
            check_manifest_of(seen)

    def check(self) -> Seen:
        """What must be true after a run that succeeded."""
        seen = self.see()
        assert seen.foreign == self.foreign, "a foreign key was touched"
        assert seen.settled, f"nothing settled: {seen.state}"
        assert seen.data == self.content_at(seen.as_of), f"Redis is not the view at {seen.as_of}"
        check_manifest_of(seen)
        self.check_fingerprints(seen)
        assert self.client.get(TIME_KEY) == str(seen.as_of + 1).encode()
        if not self.prefix:
            assert seen.remembered == set(seen.data), "what is remembered is not what is owned"
        return seen

    def check_fingerprints(self, seen: Seen) -> None:
        """Stored fingerprints are the source's at as_of, or unknown."""
        buckets = int(seen.state["buckets"])
        if seen.fingerprints is None or len(seen.fingerprints) != buckets * 8:
            return
        true = self.true_fingerprints(seen.as_of, buckets, seen.state["fingerprint_salt"])
        wrong = [
            bucket
            for bucket, (ours, theirs) in enumerate(zip(decode_fingerprints(seen.fingerprints), true, strict=True))
            if ours not in (UNKNOWN, theirs)
        ]
        assert not wrong, f"fingerprints of buckets {wrong} are not the source's"

    def has_odd_keys(self) -> bool:
        """Whether a key under the prefix holds something else than a string."""
        keys = self.client.scan_iter(self.prefix + b"*", count=1000)
        return any(self.client.type(key) != b"string" for key in keys if not key.startswith(b"reconcile:{"))

    def await_following(self) -> None:
        """Wait until a run that was begun beside has come past the source's present, which only a follower does."""
        present = self._present()
        eventually(lambda: int(self.see(fully=False).state.get("as_of") or 0) > present)

    def expire_lease(self) -> None:
        """As if the holder had been gone for long enough."""
        self.client.delete(STATE + "lease")

    def save(self) -> None:
        """Remember all of Redis for `restore`."""
        self.saved = Stored.of(self.client)

    def restore(self) -> None:
        """Bring Redis back to what `save` saw."""
        self.saved.restore(self.client)

    def everything(self) -> dict[bytes, bytes]:
        """All of Redis but the lease and the counter of tokens."""
        own = [(STATE + "lease").encode(), (STATE + "token").encode()]
        return {key: dump for key, dump in Stored.of(self.client).entries.items() if key not in own}


def check_manifest_of(seen: Seen) -> None:
    """The manifest is what the data adds up to."""
    check_manifest_bytes(seen.manifest, seen.data, seen.state)
