"""A view, its configuration and its Redis, all of which may change between runs of any kind."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from binascii import crc32
from dataclasses import replace as replaced
from typing import Any

import pytest
import redis
from msgspec.structs import replace

from reconcile.compare import surplus
from reconcile.config import address
from reconcile.config.settings import LimitSettings, Settings, ViewSettings
from reconcile.core import schedule
from reconcile.core.keys import KeyShape
from reconcile.core.shards import Shard
from reconcile.report.run_report import ViewReport
from reconcile.runs import scopes
from reconcile.runs.dropping import forget
from reconcile.runs.entry import execute
from reconcile.runs.request import Request
from reconcile.source import query
from reconcile.source import session as sessions
from reconcile.source.columns import map_columns
from reconcile.stop import Stop
from reconcile.target.base import Base
from tests.faults.history import text
from tests.faults.io_calls import Died, How, Io, forgetful, one_time_a_read, out_of_time, vanishing
from tests.faults.story_view import COLUMNS, FORMS, KINDS, TYPES, Content, SourceView, first
from tests.support.redis_cluster import Cluster, slot_of
from tests.support.redis_servers import RedisServer
from tests.support.redis_state import entries
from tests.support.sources import Source

MINUTE_MS = 60_000
OWN = b"reconcile:{"
TIME_KEY = b"the:time"
PARTS = ["a", "x:y", "5%", "é|3", "", "{t}", "\r\n*"]
VALUES = ["a", "b", "", "tab\tx", "é☃", "\r\n$5\r\n", "1" * 30, "\x01\\x00"]
ROWS = 60
FROZEN_S = 120.0
ROWS_OF_PART = 10
"""When a run may be cut short."""
KEYS_OF_SLICE = 20
"""Of the rolling compare."""


THEIRS: dict[str, tuple[Any, ...]] = {
    "string": ("SET", "theirs"),
    "empty string": ("SET", ""),
    "list": ("RPUSH", "a", "b"),
    "set": ("SADD", "a"),
    "sorted set": ("ZADD", 1, "a"),
    "stream": ("XADD", "*", "value", "a"),
    "hash": ("HSET", "value", "a", "other", "b"),
    "hash of other fields": ("HSET", "other", "b"),
}
"""What others write: by command, without the key."""


class World:
    """Everything that a story is about. What it does is printed, for who reads about a failure."""

    def __init__(
        self, source: Source, place: RedisServer | Cluster, rng: random.Random, patch: pytest.MonkeyPatch
    ) -> None:
        self.source, self.place, self.rng = source, place, rng
        self.is_cluster = isinstance(place, Cluster)
        self.client: Any = (
            redis.RedisCluster(host="127.0.0.1", port=place.nodes[0].port)
            if isinstance(place, Cluster)
            else place.client()
        )
        self.configured = first(rng, clustered=self.is_cluster)
        names = [f"k{n}" for n in range(ROWS)] if rng.random() < 0.5 else self._names_of_few_buckets()
        self._names = ["", *names[1:]]
        self.most_shards = 1
        self.views = [self.configured.view]
        self.began_ms = int(time.time() * 1000)
        self.ahead_ms = 0
        """How far the time is ahead by which rows expire."""
        self.parts: dict[str, str] = {}
        self.foreign: dict[bytes, bytes] = {}
        """In the view's range, and written by others."""
        self.outside = {} if self.configured.ownership == "dedicated" else {b"other:1": b"x", b"zz": b"y", b"p": b"z"}
        """Keys of others outside the view's range."""
        self._companions: dict[Any, str] = {}
        self._past: list[list[tuple[Any, ...]]] = []
        self._moved: dict[bytes, redis.Redis] = {}
        """Keys whose slots were moved, with the nodes they had been on."""
        self._overtaken = False
        """Whether a run goes on that another has overtaken: it may be told that the view is being written."""
        really = Base.now_ms
        patch.setattr(Base, "now_ms", lambda target: really(target) + self.ahead_ms)
        source.execute("CREATE TABLE s (part text, key text, value text, n int, until timestamptz)")
        self._create(self.configured.view)
        patch.setattr(scopes, "PART_ROWS", ROWS_OF_PART)
        patch.setattr(schedule, "SLICE_KEYS", KEYS_OF_SLICE)
        held_names = rng.choice([0, 20, 100_000])
        patch.setattr(surplus, "HELD_NAMES", held_names)
        self.flush()
        if rng.random() < 0.5:
            self.renew_companion()
        print(self.configured, f"names held: {held_names}")

    # -- the source ----------------------------------------------------------------------------------------------

    def _create(self, view: SourceView) -> None:
        self.source.execute(f"CREATE MATERIALIZED VIEW {view.name} AS {view.sql}")
        self.source.execute(f"ALTER MATERIALIZED VIEW {view.name} SET (RETAIN HISTORY FOR '1hr')")

    def swap(self) -> None:
        """Another view takes its place, or an earlier one does again."""
        view = self.rng.choice(self.views)
        if view == self.configured.view or self.rng.random() < 0.7:
            kind = self.rng.choice(list(KINDS)) if self.rng.random() < 0.6 else view.kind
            type_ = self.rng.choice(list(TYPES))
            view = SourceView(len(self.views), kind, type_)
            self._create(view)
            self.views.append(view)
        self.configured = replaced(self.configured, view=view)

    def put(self, count: int) -> bool:
        """Insert or update rows. Whether one that was there, or that came, had expired."""
        names = self.rng.sample(self._names, count)
        gone = self._any_expired(names)
        self._delete(names)
        rows = []
        for name in names:
            value = self.rng.choice([None, *VALUES, *[f"v{self.rng.randrange(1000)}"] * 6])
            part = self.parts.setdefault(name, self.rng.choice(PARTS))
            after = self.rng.choice([None, None, -30, 10, 20, 30, 50, 80, 130, 400])
            until = "NULL" if after is None else text(_stamp(self.began_ms + after * MINUTE_MS)) + "::timestamptz"
            number = self.rng.choice(["NULL", *map(str, range(9))])
            rows.append(f"({text(part)}, {text(name)}, {text(value)}, {number}, {until})")
        self.source.execute("INSERT INTO s VALUES " + ", ".join(rows))
        print(f"put {rows}")
        return gone or self._any_expired(names)

    def clear(self, count: int) -> bool:
        """Values become NULL. Whether one of them was of a row that had expired, as for `remove`."""
        names = self.rng.sample(self._names, count)
        gone = self._any_expired(names)
        self.source.execute(f"UPDATE s SET value = NULL, n = NULL WHERE key IN ({', '.join(map(text, names))})")
        print(f"clear {names}")
        return gone

    def remove(self, count: int) -> bool:
        """Delete rows. Whether one of them had expired, so that Redis cannot tell whose its key was."""
        names = self.rng.sample(self._names, count)
        gone = self._any_expired(names)
        self._delete(names)
        print(f"remove {names}")
        return gone

    def _any_expired(self, names: list[str]) -> bool:
        return self.configured.expires and any(self._expired(row[-1]) for row in self._table() if row[1] in names)

    def _names_of_few_buckets(self) -> list[str]:
        """Names whose keys, in the simplest form, share eight buckets, where rows of all fates meet."""
        near = (f"k{n}" for n in itertools.count() if crc32(f"{self.configured.prefix}k{n}".encode()) % 1024 < 8)
        return list(itertools.islice(near, ROWS))

    def remember(self) -> None:
        """Note the rows that are there now, for `go_back`."""
        self._past.append(self._table())

    def go_back(self) -> bool:
        """The rows are again exactly what they were at some earlier moment. Whether one went that had expired."""
        rows = self.rng.choice(self._past) if self._past else []
        gone = self.configured.expires and any(self._expired(row[-1]) for row in self._table())
        self.source.execute("DELETE FROM s")
        stamps = [None if until is None else _stamp(round(until.timestamp() * 1000)) for *_, until in rows]
        values = [
            f"({text(part)}, {text(key)}, {text(value)}, {'NULL' if n is None else n}, "
            f"{'NULL' if stamp is None else text(stamp)}::timestamptz)"
            for (part, key, value, n, _), stamp in zip(rows, stamps, strict=True)
        ]
        if values:
            self.source.execute("INSERT INTO s VALUES " + ", ".join(values))
        print(f"back to an earlier time, with {len(rows)} rows")
        return gone

    def _delete(self, names: list[str]) -> None:
        self.source.execute(f"DELETE FROM s WHERE key IN ({', '.join(map(text, names))})")

    def _table(self) -> list[tuple[Any, ...]]:
        return self.source.execute(f"SELECT {', '.join(COLUMNS)} FROM s")

    def now_ms(self) -> int:
        return int(time.time() * 1000) + self.ahead_ms

    def _expired(self, until: Any, margin_ms: int = 0) -> bool:
        return until is not None and until.timestamp() * 1000 <= self.now_ms() + margin_ms

    def wanted(self, margin_ms: int = 0, as_of: int | None = None) -> Content:
        """What Redis should hold. margin_ms: without what expires so soon. as_of: what it should have held then."""
        configured, at = self.configured, "" if as_of is None else f" AS OF {as_of}"
        rows = self.source.execute(f"SELECT {', '.join(COLUMNS)} FROM {configured.view.name}{at}")
        kept = [row for row in rows if not (configured.expires and self._expired(row[-1], margin_ms))]
        found = {configured.key_of(row): configured.value_of(row) for row in kept}
        return {key: value for key, value in found.items() if value is not None}

    # -- Redis ---------------------------------------------------------------------------------------------------

    def look(self) -> dict[bytes, Any]:
        """Every key with its value, once those that have expired are gone."""
        found = {}
        nodes = self.place.primaries() if isinstance(self.place, Cluster) else [self.client]
        for node in nodes:
            for key, (value, expires_ms) in entries(node).items():
                if 0 <= expires_ms <= self.now_ms():
                    node.delete(key)
                else:
                    found[key] = value
        return found

    def held(self) -> Content:
        """What stands in the view's range, as `wanted` has it."""
        seen = self.look()
        assert {key: seen.get(key) for key in self.outside} == self.outside, "a key outside the range was touched"
        return {
            key: value if key in self.foreign else self.configured.read(value)
            for key, value in seen.items()
            if not key.startswith(OWN) and key not in self.outside and key != TIME_KEY
        }

    def own_keys(self, kind: str) -> list[bytes]:
        """Names of what runs keep beside the data."""
        return [key for key in self.look() if key.startswith(b"reconcile:{default}:" + kind.encode())]

    def write(self, key: bytes) -> None:
        """Others write a key of some type."""
        kind = self.rng.choice(list(THEIRS))
        self.client.delete(key)
        self.client.execute_command(THEIRS[kind][0], key, *THEIRS[kind][1:])
        print(f"{kind} at {key!r}")

    def flush(self, *, one_node: bool = False) -> None:
        """Redis loses everything. one_node: on one node of the cluster."""
        if isinstance(self.place, Cluster) and one_node:
            self.rng.choice(self.place.primaries()).flushall()
        elif isinstance(self.place, Cluster):
            self.place.flush()
        else:
            self.client.flushall()
        for key, value in self.outside.items():
            self.client.set(key, value)
        there = self.look()
        self.foreign = {key: value for key, value in self.foreign.items() if key in there}

    def move_slot(self) -> None:
        """A slot goes to another node of the cluster. Keys that expire would do so later if they went one by one."""
        keys = sorted(self.look())
        if not isinstance(self.place, Cluster) or not keys or (self.configured.expires and not self.place.migrates()):
            return
        key = self.rng.choice(keys)
        home = self.place.owner(key)
        self._moved.setdefault(key, home)
        target = self.rng.choice([node for node in self.place.primaries() if node is not home])
        together = self.place.migrates() and (self.configured.expires or self.rng.random() < 0.3)
        (self.place.migrate_slot if together else self.place.move_slot)(slot_of(key), home, target)
        print(f"moved the slot of {key!r}, all at one moment: {together}")

    def bring_slots_back(self) -> None:
        """For those who come after."""
        for key, home in reversed(self._moved.items()):
            assert isinstance(self.place, Cluster)
            if (now := self.place.owner(key)) is not home:
                self.place.move_slot(slot_of(key), now, home)

    # -- runs ----------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """The configuration as it is now."""
        now = self.configured
        columns, literals = FORMS[now.form]
        view = ViewSettings(
            name="default", sql=self._sql, key_columns=columns, key_literals=literals, key_prefix=now.prefix,
            layout=now.layout, value_columns=now.value_columns, expires_at="until" if now.expires else None,
            max_delete_fraction=now.fraction, buckets=None if now.companion else now.buckets or None,
            companion=now.companion, compare_every_s=now.compare_every_s,
            mz_timestamp_key=TIME_KEY.decode() if now.timed else None,
        )  # fmt: skip
        place = address.redis(self.place.url)
        return Settings(
            materialize=address.materialize(self.source.url),
            redis=replace(place, cluster=self.is_cluster, dedicated=now.ownership == "dedicated"),
            views=(view,),
            limits=LimitSettings(batch_max_keys=now.batch, memory_max_bytes=now.memory_max, lease_s=900.0, jobs=1),
        )

    @property
    def _sql(self) -> str:
        return f"SELECT {', '.join(self.configured.columns)} FROM {self.source.schema}.{self.configured.view.name}"

    def renew_companion(self) -> None:
        """Name the companion view of what is configured now. Created where there is none."""
        now = self.configured
        what = (now.source, now.buckets or 16)
        if what not in self._companions:
            name = f"{self.source.schema}.companion{len(self._companions)}"
            session = sessions.connect(address.materialize(self.source.url), Stop())
            try:
                (view,) = self.settings.views
                mapping = map_columns(
                    view.sql, session.columns(query.describe(view.sql)),
                    KeyShape(view.key_prefix, view.key_columns, view.key_literals), view.value_columns,
                    layout=view.layout, expires_at=view.expires_at, view="default",
                )  # fmt: skip
            finally:
                session.close()
            for statement in query.companion_ddl(mapping, name, now.buckets or 16, "00c0ffee" * 4).strip().split(";\n"):
                self.source.execute(statement.removesuffix(";"))
            self._companions[what] = name
        self.configured = replaced(now, companion=self._companions[what])

    def every_shard(self) -> list[Shard]:
        count = self.configured.shards
        shards = [Shard(i, count) for i in range(count)]
        self.rng.shuffle(shards)
        self.most_shards = max(self.most_shards, count)
        return shards

    def run(
        self,
        mode: str,
        shard: Shard | None,
        settings: Settings | None = None,
        stop: Stop | None = None,
        **options: Any,
    ) -> ViewReport:
        """One run of a kind in history.MODES, or a few more."""
        name, _, how = mode.partition(" ")
        if name == "deep":
            name, options["deep"] = "snapshot", True
        elif name == "fast":
            name, options["fast"] = "verify", True
        elif name == "follow":
            name, options["follow_s"] = "run", 0.02
        with self._around(how):
            given = settings or self.settings
            if how == "in slices":
                given = replace(given, limits=replace(given.limits, memory_max_bytes=3_000))
            (view,) = execute(given, Request(mode=name, shard=shard, **options), stop or Stop()).views  # type: ignore[arg-type]
        error = "" if view.error is None else f"{view.error.kind}: {view.error.message}"
        drift = "" if view.drift is None else f"drift {view.drift.total}"
        print(f"{mode} {shard} {options}: exit {int(view.exit_code)} {view.action} ({view.reason})", end=" ")
        print(f"deep={view.deep} +{view.puts} -{view.deletes} {drift} {error} {view.warnings}")
        assert view.exit_code not in (1, 2, 7) or "checkpoint" in error or "not synchronised" in error, error
        assert not view.skipped or self._overtaken
        return view

    def _around(self, how: str) -> contextlib.AbstractContextManager[None]:
        if how == "forgetful":
            return forgetful()
        if how == "vanishing":
            return vanishing()
        return one_time_a_read() if how == "time by time" and not self.configured.expires else contextlib.nullcontext()

    def killed(self, mode: str, shard: Shard, **options: Any) -> ViewReport | None:
        """A run to which something happens at one of its calls. None: it died."""
        how: How = self.rng.choice(["dies_before", "dies_after", "torn", "times_out"])
        io = Io(lambda: None, self.rng.randrange(1, 60), how)
        report, settings = None, self.settings
        with io.installed(), contextlib.suppress(Died):
            report = self.run(mode, shard, settings, **options)
        if io.fired:
            print(f"{mode} {shard} {options}: {how} at call {io.fired_at} ({io.calls[io.fired_at - 1]})")
            self.expire_leases()  # an answer that was lost may have been the lease's
        return report

    def short(self, mode: str, shard: Shard, reads: int, **options: Any) -> ViewReport:
        """A run whose time is over when the source is asked for rows once more than so often."""
        stop = Stop(600.0)
        with out_of_time(stop, reads):
            return self.run(mode, shard, stop=stop, **options)

    def falter(self, mode: str, shard: Shard) -> ViewReport | None:
        """A run of which a node of the cluster takes no more, from some write on: it is not what it was."""
        assert isinstance(self.place, Cluster)
        node, after, looks = self.rng.choice(self.place.primaries()), self.rng.randrange(1, 12), 0

        def look() -> None:
            nonlocal looks
            looks += 1
            if looks == after:
                for key in node.scan_iter(b"reconcile:{*}:fence:*"):
                    node.hset(key, "mark", "another")
                print(f"{mode} {shard}: a node is not what it was")

        io, settings = Io(look), self.settings
        with io.installed():
            return self.run(mode, shard, settings)

    def state_of(self, shard: Shard) -> dict[str, str]:
        """Fields of the state of a shard, and those of its records that are there."""
        ending = "" if shard.n == 1 else f":{shard}"
        stored = self.client.hgetall(f"reconcile:{{default}}:state{ending}")
        found = {name.decode(): value.decode() for name, value in stored.items()}
        for kind in ("manifest", "fingerprints"):
            if self.client.exists(f"reconcile:{{default}}:{kind}{ending}"):
                found[kind] = "there"
        return found

    def expire_leases(self) -> None:
        for key in self.own_keys("lease"):
            self.client.delete(key)

    def overlap(self, mode: str, shard: Shard) -> tuple[str, ViewReport]:
        """A run sleeps at some call, past its lease, while another one finishes. If it had begun it changes nothing
        when it wakes; else it is its turn then. Return mode and report of the last one that did anything."""
        io = Io(lambda: None, self.rng.randrange(5, 60), "freezes")
        slept: list[Any] = []
        settings = self.settings

        def sleep() -> None:
            io.thread = threading.get_ident()
            try:
                slept.append(self.run(mode, shard, settings))
            except BaseException as error:
                slept.append(error)

        thread = threading.Thread(target=sleep)
        with io.installed():
            thread.start()
            while thread.is_alive() and not io.frozen.wait(0.005):
                pass
            self.put(2)
            self.expire_leases()
            other = "run", self.run("run", shard)
            before = self._apart_from_leases()
            self._overtaken = True
            io.thaw.set()
            thread.join(FROZEN_S)
            self._overtaken = False
        (sleeper,) = slept
        print(f"the first slept at call {io.fired_at}, leased at {io.leased_at}")
        if isinstance(sleeper, BaseException):
            raise sleeper
        if not io.fired or sleeper.skipped:
            return other
        if not 0 < io.leased_at < io.fired_at:
            return mode, sleeper
        if sleeper.error is None or sleeper.error.kind not in ("lease_lost", "history_lost"):
            return mode, sleeper  # it found nothing to do, or it had only begun to change the number of shards
        now = self._apart_from_leases()
        written = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
        assert not written, f"a run that was overtaken wrote {written}"
        return other

    def _apart_from_leases(self) -> dict[bytes, Any]:
        """Everything that a run may not change by taking the lease alone."""
        found = {}
        for key, value in self.look().items():
            if key.startswith(b"reconcile:{default}:state"):
                pairs = dict(zip(value[::2], value[1::2], strict=True))
                found[key] = {name: pairs[name] for name in pairs.keys() - {b"token", b"commit"}}
            elif not key.startswith(OWN) or not any(part in key for part in (b":lease", b":token", b":fence")):
                found[key] = value
        return found

    def is_known(self) -> bool:
        """Whether the view has claimed its range."""
        return bool(self.client.hexists("reconcile:{claims}", "default"))

    def drop(self, *, keys: bool) -> None:
        """Forget the view."""
        dropped = forget(self.settings, "default", Stop(), keys=keys, confirm=lambda _: None)
        print(f"drop: {dropped}")


def _stamp(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at_ms // 1000)) + f".{at_ms % 1000:03d}Z"
