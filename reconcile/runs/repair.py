"""Make the rows of some buckets equal to the source: read them at T, compare with what Redis holds, put and delete.

One statement reads all of them, however many there are, so the cost grows with the rows and not with their square.
Deletes are found without an index of keys: what Redis holds in a bucket (known from the manifest, or from a scan) minus
what was found under the source's keys must be nothing. Where something is left, a scan of the key names finds it.

    residual[b] = held[b] − Σ digest(old value of every key the source has in b)       0 → no key too many

A key the source gives twice leaves a residual as well (its old value was subtracted twice), or is met while its first
row is still on the way to Redis. So keys need not be held to notice it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from reconcile.core import digest
from reconcile.core.changes import duplicate_keys, name_of, null_key
from reconcile.core.guard import mass_delete, suspicious
from reconcile.errors import DataError, SafetyStop, Unavailable
from reconcile.runs.context import ViewRun
from reconcile.runs.sweep import GROUP_ROWS, Changer, Sweep, short
from reconcile.source.reading import Reading
from reconcile.target.connection import Command

MGET_KEYS = 1000

Row = tuple[bytes, bytes | None]
"""(Redis key, value); None: Redis is not to hold the key."""


class Repair:
    """Repair of one snapshot. held: what Redis holds per bucket (added-up digests)."""

    def __init__(self, run: ViewRun, reading: Reading, buckets: int, held: dict[int, int] | Sequence[int]) -> None:
        self._run = run
        self._reading = reading
        self._buckets = buckets
        self._held = held
        self._wanted = [0] * buckets
        """Exact digests (added-up form) at T of the buckets that were put. A list: of many buckets a dict is larger."""
        self._residual: dict[int, int] = {}
        """Bucket → digest (added-up form) of what Redis holds there beyond the source's keys; not nothing."""
        self.adopted = 0
        self._foreign: list[bytes] = []
        self._repeated: list[bytes] = []
        self._absent: set[bytes] = set()
        """(Short) names of keys whose value is NULL, as far as they can be held."""
        self._unwanted: dict[bytes, int] = {}
        """Keys that Redis holds and whose value at the source is NULL, with the digest of what it holds."""
        self._names: set[bytes] | None = set()
        """(Short) names of the keys that Redis is to hold; None when they are too many to be held."""

    def put_rows(self, dirty: list[int], changer: Changer) -> None:
        """First half: every row of the dirty buckets is right afterwards; finds out where keys are left over.

        May be called again for other buckets.
        """
        residual = [0] * self._buckets
        for bucket in dirty:
            residual[bucket] = self._held[bucket]
        rows: list[Row] = []
        for chunk in self._reading.rows_of(dirty, self._buckets):
            self._run.stop.check()
            rows += self._checked(chunk)
            if len(rows) >= MGET_KEYS:
                self._compare(rows, residual, changer)
                rows = []
        self._compare(rows, residual, changer)
        if self._repeated:
            raise duplicate_keys(self._repeated)
        if self._foreign:
            raise self._not_ours()
        self._residual |= {bucket: residual[bucket] for bucket in dirty if digest.normal(residual[bucket])}

    def _checked(self, chunk: Sequence[tuple[bytes | None, ...]]) -> list[Row]:
        """The chunk's rows, after looking for keys that were met before, as far as names can be held."""
        rows: list[Row] = []
        names, absent = self._names, self._absent
        for key, value in chunk:
            if key is None:
                raise null_key()
            rows.append((key, value))
            if names is None and not absent and value is not None:
                continue
            name = short(key)
            if name in absent or (names is not None and name in names):
                self._repeated.append(key)
            if value is None:
                if len(absent) < GROUP_ROWS:
                    absent.add(name)
            elif names is not None:
                names.add(name)
        if names is not None and len(names) > GROUP_ROWS:
            self._names = None
        return rows

    def _compare(self, rows: list[Row], residual: list[int], changer: Changer) -> None:
        """Compare rows with what Redis holds under their keys; what differs goes to the changer."""
        if not rows:
            return
        held = self._run.reader.call("MGET", *(key for key, _ in rows))
        self._repeated += _met_before(rows, held, changer)
        ours = self._remembered(rows, held)
        wanted = self._wanted
        bucket_of, row_digest, buckets = digest.bucket_of, digest.row_digest, self._buckets
        for (key, value), old, is_ours in zip(rows, held, ours, strict=True):
            bucket = bucket_of(key, buckets)
            if value is None:
                if old is not None and is_ours and len(self._unwanted) < GROUP_ROWS:  # more: left to the sweep
                    self._unwanted[key] = row_digest(key, old)
                    residual[bucket] -= self._unwanted[key]
                continue
            one = row_digest(key, value)
            wanted[bucket] += one
            if is_ours:
                if old == value:
                    residual[bucket] -= one
                    continue
                if old is not None:
                    residual[bucket] -= row_digest(key, old)
            elif not self._adopt(key, old == value):
                continue
            changer.put(key, value)

    def _remembered(self, page: list[Row], held: list[bytes | None]) -> Iterable[bool]:
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
            self.adopted += 1
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

    def digests_of(self, dirty: Iterable[int]) -> dict[int, int]:
        """Exact digests (added-up form) of buckets at T, after `put_rows` of them."""
        return {bucket: self._wanted[bucket] for bucket in dirty}

    def check(self, dirty: list[int], streamed: Sequence[int]) -> None:
        """Two reads at one time must agree; if they do not, nothing may be committed. Raises Unavailable."""
        if digest.differing([self._wanted[b] for b in dirty], [streamed[b] for b in dirty]):
            raise Unavailable("Materialize gave two different contents for one time", hint="the next run tries again")

    # -- second half ---------------------------------------------------------------------------------------------

    def _surplus_in(self, bucket: int) -> int:
        """Number of keys too many in a bucket that has a residual: at least 1."""
        return max(1, digest.count(self._residual[bucket]))

    @property
    def surplus(self) -> int:
        """Number of keys that Redis holds and the source lacks, as far as digests tell."""
        return len(self._unwanted) + sum(map(self._surplus_in, self._residual))

    def guard(self, owned: int) -> SafetyStop | None:
        """The error that withholds the deletes, if there are too many of them."""
        run = self._run
        if run.request.allow_deletes or not suspicious(self.surplus, owned, run.view.max_delete_fraction):
            return None
        return mass_delete(self.surplus, owned, run.view.max_delete_fraction, run.view.name)

    def delete_surplus(self, rows_in: Sequence[int], changer: Changer) -> None:
        """Remove the keys the source lacks: those it gives a NULL value by name, others by sweeping through Redis."""
        for key in self._unwanted:
            changer.delete(key)
        left = {bucket: self._surplus_in(bucket) for bucket in self._residual}
        Sweep(self._run, self._reading, self._buckets, rows_in, changer).remove(left, self._names)

    def surplus_digests(self) -> dict[int, int]:
        """Bucket → digest of all that Redis holds there beyond the source, when nothing is deleted."""
        surplus = dict(self._residual)
        for key, more in self._unwanted.items():
            bucket = digest.bucket_of(key, self._buckets)
            surplus[bucket] = surplus.get(bucket, 0) + more
        return surplus


def _met_before(rows: list[Row], held: list[bytes | None], changer: Changer) -> list[bytes]:
    """Keys that come twice in these rows, or whose first row was on its way to Redis when they were looked up."""
    again = [key for (key, _), old in zip(rows, held, strict=True) if old is None and changer.on_the_way(key)]
    if len({key for key, _ in rows}) < len(rows):
        again += [key for key, times in Counter(key for key, _ in rows).items() if times > 1]
    return again
