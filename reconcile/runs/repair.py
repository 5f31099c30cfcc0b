"""Make the rows of some buckets equal to the source: read them at T, compare with what Redis holds, put and delete.

Deletes are found without an index of keys: what Redis holds in a bucket (known from the manifest, or from a scan) minus
what was found under the source's keys must be nothing. Where something is left, a scan of the key names finds it.

    residual[b] = held[b] − Σ digest(old value of every key the source has in b)       0 → no key too many
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from xxhash import xxh3_128_digest

from reconcile.core import digest
from reconcile.core.changes import duplicate_keys, name_of, null_key
from reconcile.core.drift import groups_of
from reconcile.core.guard import mass_delete, suspicious
from reconcile.errors import DataError, SafetyStop, Unavailable
from reconcile.runs.context import ViewRun
from reconcile.source.reading import Reading
from reconcile.target import keyspace as keyspaces
from reconcile.target.connection import Command

GROUP_ROWS = 100_000
"""Rows of one group: their keys are held at once, to notice a key with several rows."""
LONG_KEY_BYTES = 64
MGET_KEYS = 1000


class Changer(Protocol):
    """Where puts and deletes go."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None: ...


@dataclass(slots=True)
class Repaired:
    """Result: exact digests (added-up form) of the buckets at T, and buckets that hold keys the source lacks."""

    digests: dict[int, int] = field(default_factory=dict)
    residual: dict[int, int] = field(default_factory=dict)
    """Bucket → number of keys too many (at least 1)."""
    rows: int = 0
    adopted: int = 0


class Repair:
    """Repair of one snapshot. held: what Redis holds per bucket (added-up digests)."""

    def __init__(self, run: ViewRun, reading: Reading, buckets: int, held: dict[int, int] | Sequence[int]) -> None:
        self._run = run
        self._reading = reading
        self._buckets = buckets
        self._held = held
        self._foreign: list[bytes] = []
        self._names: set[bytes] | None = None
        self.result = Repaired()

    def put_rows(self, dirty: Iterable[int], rows_in: Sequence[int], changer: Changer) -> None:
        """First half: every row of the dirty buckets is right afterwards; finds out where keys are left over."""
        groups = list(groups_of(dirty, rows_in, GROUP_ROWS))
        for group in groups:
            self._run.stop.check()
            names = self._put_group(group, changer)
            self._names = names if len(groups) == 1 else None
        if self._foreign:
            raise self._not_ours()

    def _put_group(self, group: list[int], changer: Changer) -> set[bytes]:
        """Put the rows of one group; the (short) names of the keys that Redis is to hold."""
        names: set[bytes] = set()
        absent: set[bytes] = set()
        wanted = dict.fromkeys(group, 0)
        found = dict.fromkeys(group, 0)
        repeated: list[bytes] = []
        for chunk in self._reading.rows_of(group, self._buckets):
            self._run.stop.check()
            rows = self._named(chunk, names, absent, repeated)
            self._compare(rows, wanted, found, changer)
        if repeated:
            raise duplicate_keys(repeated)
        self.result.digests.update(wanted)
        for bucket in group:
            left = self._held[bucket] - found[bucket]
            if digest.normal(left):
                self.result.residual[bucket] = max(1, digest.count(left))
        return names

    def _named(
        self, chunk: list[tuple[bytes | None, ...]], names: set[bytes], absent: set[bytes], repeated: list[bytes]
    ) -> list[tuple[bytes, bytes]]:
        """The chunk's rows that Redis is to hold, after checking their keys. absent: keys whose value is NULL."""
        rows: list[tuple[bytes, bytes]] = []
        self.result.rows += len(chunk)
        for key, value, _ in chunk:
            if key is None:
                raise null_key()
            name = short(key)
            if name in names or name in absent:
                repeated.append(key)
            if value is None:
                absent.add(name)
            else:
                names.add(name)
                rows.append((key, value))
        return rows

    def _compare(
        self, rows: list[tuple[bytes, bytes]], wanted: dict[int, int], found: dict[int, int], changer: Changer
    ) -> None:
        for start in range(0, len(rows), MGET_KEYS):
            page = rows[start : start + MGET_KEYS]
            held = self._run.reader.call("MGET", *(key for key, _ in page))
            ours = self._remembered(page, held)
            for (key, value), old, is_ours in zip(page, held, ours, strict=True):
                bucket = digest.bucket_of(key, self._buckets)
                one = digest.row_digest(key, value)
                wanted[bucket] += one
                if is_ours:
                    if old == value:
                        found[bucket] += one
                        continue
                    if old is not None:
                        found[bucket] += digest.row_digest(key, old)
                elif not self._adopt(key, old == value):
                    continue
                changer.put(key, value)

    def _remembered(self, page: list[tuple[bytes, bytes]], held: list[bytes | None]) -> Iterable[bool]:
        """Whether each key may be written: absent, or known as ours."""
        keyspace = self._run.keyspace
        for key, _ in page:
            if keyspace.conflicts(key):
                raise DataError(
                    f"the view has a key with the name of one of reconcile's own: {name_of(key)}",
                    hint="set redis.key_prefix",
                    view=keyspace.view,
                )
        if keyspace.ownership != "remembered":
            return [True] * len(page)
        commands: list[Command] = [("SISMEMBER", keyspace.remembered(key), key) for key, _ in page]
        ours = self._run.reader.replies(commands)
        exists = self._run.reader.replies([("EXISTS", key) for key, _ in page])
        return [bool(member) or not there for member, there in zip(ours, exists, strict=True)]

    def _adopt(self, key: bytes, equal: bool) -> bool:
        """A key exists that nobody remembers as ours. Equal content, or mz-redis-sync's: it becomes ours."""
        if equal or self._run.request.adopt or self._run.stored.legacy_frontier is not None:
            self.result.adopted += 1
            return True
        self._foreign.append(key)
        return False

    def _not_ours(self) -> SafetyStop:
        names = ", ".join(name_of(key) for key in self._foreign[:5])
        return SafetyStop(
            f"{len(self._foreign)} keys of the view exist in Redis with other content, and nothing says they are "
            f"ours: {names}",
            hint="set redis.key_prefix, or redis.dedicated: true; or take them over with: "
            f"reconcile snapshot --view {self._run.view.name} --adopt",
            view=self._run.view.name,
        )

    # -- second half ---------------------------------------------------------------------------------------------

    @property
    def surplus(self) -> int:
        """Number of keys that Redis holds and the source lacks, as far as digests tell."""
        return sum(self.result.residual.values())

    def guard(self, owned: int) -> SafetyStop | None:
        """The error that withholds the deletes, if there are too many of them."""
        run = self._run
        if run.request.allow_deletes or not suspicious(self.surplus, owned, run.view.max_delete_fraction):
            return None
        return mass_delete(self.surplus, owned, run.view.max_delete_fraction, run.view.name)

    def delete_surplus(self, rows_in: Sequence[int], changer: Changer) -> None:
        """Find by name the keys the source lacks, and remove them."""
        residual = sorted(self.result.residual)
        if self._names is not None:
            self._sweep(set(residual), self._names, changer)
            return
        for group in groups_of(residual, rows_in, GROUP_ROWS):
            names = {
                short(key)
                for chunk in self._reading.rows_of(group, self._buckets)
                for key, value, _ in chunk
                if key and value
            }
            self._sweep(set(group), names, changer)

    def _sweep(self, group: set[int], names: set[bytes], changer: Changer) -> None:
        if not group:
            return
        gone: set[bytes] = set()
        bucket_of, buckets = digest.bucket_of, self._buckets
        for keys in keyspaces.scan_keys(self._run.reader, self._run.keyspace):
            self._run.stop.check()
            for key in keys:
                if bucket_of(key, buckets) in group and short(key) not in names and key not in gone:
                    gone.add(key)
                    changer.delete(key)


def short(key: bytes) -> bytes:
    """The key, or a 128-bit hash where it is long: a set of them stays small."""
    return key if len(key) <= LONG_KEY_BYTES else xxh3_128_digest(key)


def check_same_content(repaired: Repaired, streamed: Sequence[int]) -> None:
    """Two reads at one time must agree; if they do not, nothing may be committed. Raises Unavailable."""
    for bucket, exact in repaired.digests.items():
        if digest.normal(exact) != digest.normal(streamed[bucket]):
            raise Unavailable("Materialize gave two different contents for one time", hint="the next run tries again")


def scan_digests(run: ViewRun, buckets: int, wanted: Callable[[bytes], bool] | None = None) -> list[int]:
    """Digests of what Redis really holds: every owned (and wanted) key and value. Keys that hold no string count as
    odd rows."""
    digests = [0] * buckets
    for page in keyspaces.scan_rows(run.reader, run.keyspace, wanted):
        run.stop.check()
        digest.add_rows(digests, page)
        for key, value in page:
            if value is None:
                digests[digest.bucket_of(key, buckets)] += digest.odd_digest(key)
    return digests
