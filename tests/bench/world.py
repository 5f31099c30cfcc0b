"""The source with its rows, the Redis server, and the programs to measure between them."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import redis
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from reconcile.core.digest import choose_buckets
from tests.bench.measure import BenchError, Launcher, Results, Sample
from tests.support.command import PROGRAM
from tests.support.mappings import SALT, string_mapping
from tests.support.redis_servers import RedisServer
from tests.support.sources import Source

TEXT = 25
INSERT_ROWS = 1_000_000
PATIENCE_S = 120
SMALL_ROWS = 10_000
"""With fewer rows the bench itself is tried out: of everything as little as gives each figure."""
COMPACTED_PER_S = 100_000
MARKED = 5 * 10**18
PLAIN, COMPANION = "plain", "companion"

_ROW = (
    "'k' || lpad(n::text, 19, '0'), "
    "md5(n::text) || md5((n + 1)::text) || md5((n + 2)::text) || substr(md5((n + 3)::text), 1, 4)"
)
"""20 bytes of key, 100 bytes of value."""
_KEY_CHARS = 20
_NEW_VALUE = "md5(value) || substr(value, 33)"

_AWK = r"""{k="p:"$1; printf "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", length(k), k, length($2), $2}"""


class World:
    """One view of so many rows. Two configurations for it, each with a database of its own in one Redis server."""

    def __init__(self, source: Source, server: RedisServer, launcher: Launcher, directory: Path, rows: int) -> None:
        self.source = source
        self.launcher = launcher
        self.rows = rows
        self.results = Results(rows)
        self.mapping = string_mapping(source.sql, "p:")
        self.companion = f"{source.schema}.v_companion"
        base = server.url.rsplit("/", 1)[0]
        self.redis_urls = {PLAIN: f"{base}/0", COMPANION: f"{base}/1"}
        self.clients = {name: redis.Redis.from_url(url) for name, url in self.redis_urls.items()}
        self._configs = {name: directory / f"{name}.json" for name in self.redis_urls}
        self._inserted = 0
        self._dead = 0
        self._unit: Sample | None = None
        self._begun = time.monotonic()
        for client in self.clients.values():
            client.flushdb()
        self.configure(PLAIN, source.url, self.redis_urls[PLAIN])
        self.configure(COMPANION, source.url, self.redis_urls[COMPANION])

    def few(self, many: int, least: int = 1) -> int:
        """How many turns, samples, seconds or views: as many as a figure needs to be worth something, or the least."""
        return many if self.rows >= SMALL_ROWS else least

    def progress(self, what: str) -> None:
        """What is being done, on stderr."""
        print(f"[{time.monotonic() - self._begun:4.0f} s] {self.rows:,} rows: {what}", file=sys.stderr, flush=True)

    # -- configurations ------------------------------------------------------------------------------------------

    def configure(self, name: str, source_url: str, redis_url: str) -> str:
        """Write a configuration file (JSON is YAML); its path."""
        view: dict[str, Any] = {"name": name, "sql": self.source.sql, "key_prefix": "p"}
        if name == COMPANION:
            view["companion"] = self.companion
        path = self._configs.setdefault(name, self._configs[PLAIN].with_name(f"{name}.json"))
        path.write_text(json.dumps({"materialize": {"url": source_url}, "redis": {"url": redis_url}, "views": [view]}))
        return str(path)

    def command(self, name: str, *arguments: str) -> list[str]:
        """The reconcile process as a user runs it."""
        return [PROGRAM, *arguments, "--config", str(self._configs[name]), "--json"]

    # -- content -------------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Insert all rows."""
        for first in range(1, self.rows + 1, INSERT_ROWS):
            last = min(self.rows, first + INSERT_ROWS - 1)
            self.source.execute(f"INSERT INTO t SELECT {_ROW} FROM generate_series({first}, {last}) AS n")
        self._inserted = self.rows

    def add_companion(self) -> None:
        """Create the companion view with the statements reconcile prints for it."""
        told = self.launcher.run(self.command(PLAIN, "init", "--companion", self.companion))
        for statement in json.loads(told.out)["ddl"].split(";\n"):
            if statement.strip():
                self.source.execute(statement)

    def warm(self) -> None:
        """The stand-in computes a row's hashes once and remembers them; that is not to be measured."""
        fingerprints = self.mapping.fingerprints(choose_buckets(self.rows), SALT)
        for statement in (self.mapping.mapped(), fingerprints, f"SELECT * FROM {self.companion}"):
            self.launcher.run(python("stream", self.source.url, statement))

    def _changed(self, statement: str, rows: int) -> None:
        self.source.execute(statement)
        self._dead += rows
        self._unit = None

    def update_part(self, one_in: int, part: int) -> None:
        """New values for a random one in so many rows, in one transaction. Random: independent of the buckets."""
        where = f"crc32(value || key) % {one_in}::uint4 = {part}::uint4" if one_in > 1 else "true"
        self._changed(f"UPDATE t SET value = {_NEW_VALUE} WHERE {where}", self.rows // one_in)

    def update_suffix(self, at_most: int, part: int) -> None:
        """New values for a hundredth of the rows, or as few of them as at_most; other parts are other keys."""
        digits = max(2, len(str(self.rows // at_most - 1)))
        where = f"substr(key, {_KEY_CHARS + 1 - digits}) = '{part:0{digits}d}'"
        self._changed(f"UPDATE t SET value = {_NEW_VALUE} WHERE {where}", self.rows // 10**digits)

    def add_marked(self, count: int) -> None:
        """Rows that nothing but update_marked changes."""
        self._changed(f"INSERT INTO t SELECT {_ROW} FROM generate_series({MARKED + 1}, {MARKED + count}) AS n", 0)

    def update_marked(self, count: int) -> None:
        """New values for exactly so many rows."""
        if count:
            keys = ", ".join(f"'k{MARKED + n:019d}'" for n in range(1, count + 1))
            self._changed(f"UPDATE t SET value = {_NEW_VALUE} WHERE key IN ({keys})", count)

    def mix(self, one_in: int, part: int) -> None:
        """A third each of updates, inserts and deletes, together a random one in so many rows.

        Not the part that update_part has just emptied: what it chose has other values, so other hashes, now.
        """
        part = (part + one_in // 2) % one_in
        self.update_part(3 * one_in, part)
        gone = f"crc32(value || key) % {3 * one_in}::uint4 = {part + one_in}::uint4"
        count = max(1, self.rows // (3 * one_in))
        self._changed(f"DELETE FROM t WHERE {gone}", count)
        first, last = self._inserted + 1, self._inserted + count
        self._changed(f"INSERT INTO t SELECT {_ROW} FROM generate_series({first}, {last}) AS n", 0)
        self._inserted = last

    # -- history -------------------------------------------------------------------------------------------------

    def now(self) -> int:
        """The source's present."""
        return self._since_and_now()[1]

    def forget(self) -> None:
        """Wait until the source has forgotten the present, and has had time to clear what it forgot."""
        now = self.now()
        deadline = time.monotonic() + PATIENCE_S
        while self._since_and_now()[0] <= now:
            if time.monotonic() > deadline:
                raise BenchError("the source does not forget its history; is RETAIN HISTORY set?")
            time.sleep(0.1)
        if self._dead:
            time.sleep(1.0 + self._dead / COMPACTED_PER_S)
            self._dead = 0

    def _since_and_now(self) -> tuple[int, int]:
        ((text,),) = self.source.execute(f"EXPLAIN TIMESTAMP AS JSON FOR {self.source.sql}")
        found = json.loads(text)["determination"]
        return int(found["since"]["elements"][0]), int(found["timestamp_context"]["TimelineTimestamp"]["chosen_ts"])

    # -- measuring -----------------------------------------------------------------------------------------------

    def copy_command(self, statement: str) -> list[str]:
        """`psql COPY statement > /dev/null`; a small Python program where there is no psql."""
        copy = f"COPY ({statement}) TO STDOUT"
        if shutil.which("psql"):
            return ["psql", self.source.url, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", copy]
        return python("copy", self.source.url, copy)

    def shell_command(self) -> list[str]:
        """The first load as a shell script would do it."""
        copy = " ".join(_quoted(part) for part in self.copy_command(self.source.sql))
        url = self.redis_urls[PLAIN]
        put = f"redis-cli -u {url} --pipe" if shutil.which("redis-cli") else " ".join(python("pipe", url))
        awk = f"LC_ALL=C awk -F '\\t' {_quoted(_AWK)}"
        return ["bash", "-c", f"set -o pipefail; {copy} | {awk} | {put}"]

    def measure(self, name: str, command: list[str], *, discard: bool = False, keep: bool = True) -> Sample:
        """Run it with the unit just before and just after; what Redis counted meanwhile."""
        before = self._unit or self.unit()
        counted = self.redis_counters()
        sample = self.launcher.run(command, discard=discard)
        sample.redis = {key: value - counted[key] for key, value in self.redis_counters().items()}
        own = self._own_counters()
        sample.redis = {key: value - own[key] for key, value in sample.redis.items()}
        after = self._unit = self.unit()
        sample.unit_s = (before.seconds + after.seconds) / 2
        if keep:
            self.results.add(name, sample)
        return sample

    def unit(self) -> Sample:
        """What a shell script would pay just to look."""
        sample = self.launcher.run(self.copy_command(self.source.sql), discard=True)
        sample.unit_s = sample.seconds
        self.results.add("unit", sample)
        return sample

    def reconcile(self, name: str, config: str, *arguments: str, keep: bool = True, **expected: Any) -> Sample:
        """Measure a run. Raises BenchError unless its report says what was expected."""
        sample = self.measure(name, self.command(config, *arguments), keep=keep)
        (sample.view,) = json.loads(sample.out)["views"]
        told = {field: sample.view[field] for field in expected}
        if told != expected:
            raise BenchError(f"{name}: expected {expected}, the report says {told}: {sample.out[:2000]}")
        sample.out = ""
        return sample

    def quietly(self, config: str, *arguments: str) -> dict[str, Any]:
        """A run that is not measured; its report."""
        (view,) = json.loads(self.launcher.run(self.command(config, *arguments)).out)["views"]
        assert isinstance(view, dict)
        return view

    def bare(self, name: str, statement: str) -> None:
        """Seconds of a statement alone, read by a program that does nothing with the rows."""
        sample = self.launcher.run(python("stream", self.source.url, statement))
        self.results.bare.setdefault(name, []).append(float(sample.out))

    def redis_counters(self) -> dict[str, int]:
        """What the server has counted so far."""
        client = self.clients[PLAIN]
        commands: Any = client.info("commandstats")
        stats: Any = client.info("stats")
        return {
            "commands": sum(one["calls"] for one in commands.values()),
            "bytes_in": stats["total_net_input_bytes"],
            "bytes_out": stats["total_net_output_bytes"],
        }

    def _own_counters(self) -> dict[str, int]:
        """What asking for the counters itself adds to them."""
        first, second = self.redis_counters(), self.redis_counters()
        return {key: second[key] - first[key] for key in first}


def python(name: str, *arguments: str) -> list[str]:
    """One of our own programs as a command."""
    return [sys.executable, "-m", "tests.bench.programs", name, *arguments]


def conninfo_port(url: str) -> str:
    """The port in a Redis URL."""
    return url.rsplit(":", 1)[1].split("/")[0]


def with_port(url: str, port: int) -> str:
    """The source's address through a listener of ours on this machine."""
    return make_conninfo("", **{**conninfo_to_dict(url), "host": "127.0.0.1", "port": port})


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
