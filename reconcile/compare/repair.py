"""Make the rows of some buckets equal to the source: read them at T, compare them with Redis, put what differs.

One statement reads them all, however many buckets there are. What Redis holds there beyond the source is left to
`surplus`, which gets from here all that can be known without listing names:

    beyond[b] = manifest[b] − Σ digest(old value of every key the source has in b)
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from msgspec import Struct, field

from reconcile.compare.sides import Rows, Sides
from reconcile.core import digest
from reconcile.core.changes import MAX_EXAMPLES, duplicate_keys, name_of
from reconcile.core.framing import Row
from reconcile.core.nametable import NameTable
from reconcile.errors import SafetyStop
from reconcile.target.batch import Applier
from reconcile.texts import plural

COMPARE_ROWS = 1000
COMPARE_BYTES = 1 << 20
"""Most bytes of rows that are compared with Redis together (or one larger row)."""
MAX_LOST = 1 << 18
"""Lost keys remembered by hash; beyond this many they count as new."""
MAX_NAMED = 1000


class Permission(enum.Enum):
    """What may be done with a key of the source."""

    DIFFERENT = "write it where Redis holds something else"
    ANEW = "write it even if Redis holds the same, to remove any expiry"
    REFUSED = "it exists and is not the view's"


class Terms(Struct, frozen=True):
    """Which keys are put although Redis holds the same, or somebody else's.

    anew: existing keys are taken over, equal ones included. again: the view's own equal ones too, as they may have an
    expiry from another mapping. adopt: existing keys that nothing remembers as the view's are taken over as well.
    """

    anew: bool
    again: bool
    adopt: bool


class TakenOver(Struct):
    """Keys of the view that existed at first contact, whoever wrote them."""

    adopted: int = 0
    """Number of keys that the view remembers from now on, as it has no prefix."""
    overwritten: int = 0
    """Number of keys that had other content."""
    names: list[bytes] = field(default_factory=list)
    """Some of those."""

    def warnings(self) -> Iterator[str]:
        """Yield warnings for the report."""
        if self.overwritten:
            names = ", ".join(name_of(name) for name in self.names)
            more = ", …" if self.overwritten > len(self.names) else ""
            keys = plural(self.overwritten, "key")
            yield f"{keys} of the view already existed with other content, overwritten: {names}{more}"
        if self.adopted:
            keys = "1 existing key now belongs" if self.adopted == 1 else f"{self.adopted:,} existing keys now belong"
            yield (
                f"{keys} to this view; all others in this database are left alone, "
                "even if an earlier tool wrote them for this view. With redis.key_prefix or redis.dedicated they "
                "could be told apart, and the view would not have to remember its keys"
            )


class Repaired(Struct):
    """The buckets of one part after their rows were put. Digests are added-up."""

    buckets: int
    chosen: list[int]
    wanted: list[int]
    """Digests of the source's rows, per bucket of the finest granularity asked for."""
    found: dict[int, int]
    """Bucket → Σ digest of what Redis held under the source's keys."""
    lost: dict[int, list[int]]
    """Bucket → hashes of the source's rows that Redis did not hold."""
    names: NameTable
    """The source's keys that have a value."""
    nulls: NameTable
    """The source's keys without a value, which Redis must not hold."""
    lost_counted: bool = True
    """False: too many keys were lost to remember them."""
    lost_count: int = 0
    repeated: list[bytes] = field(default_factory=list)
    foreign: list[bytes] = field(default_factory=list)
    foreign_count: int = 0


def put_rows(
    sides: Sides,
    applier: Applier,
    buckets: int,
    chosen: list[int],
    grain: int,
    expected_rows: int,
    terms: Terms,
    *,
    meanwhile: AbstractContextManager[object],
    taken: TakenOver,
) -> Repaired:
    """Put what is missing or stale in the chosen buckets. Afterwards Redis holds every row of the source there.

    buckets: number of buckets of the manifest; grain: of `Repaired.wanted`. taken: records what is taken over.
    meanwhile: entered while the source works on its answer, and left before Redis is asked for anything. Raises
    DataError for a key with several rows, SafetyStop for foreign keys.
    """
    names, nulls = NameTable(expected_rows, sides.salt), NameTable(0, sides.salt)
    part = Repaired(buckets, chosen, [0] * grain, dict.fromkeys(chosen, 0), {}, names, nulls)
    everything = len(chosen) == buckets
    chunks = sides.reading.rows() if everything else sides.reading.rows_of(chosen, buckets)
    for rows in _groups(sides, _begun(chunks, meanwhile)):
        _compare(sides, applier, part, rows, taken, terms)
    if part.repeated:
        raise duplicate_keys(part.repeated)
    if part.foreign_count:
        raise _not_ours(part, sides.target.view)
    return part


def _begun(chunks: Iterator[Rows], meanwhile: AbstractContextManager[object]) -> Iterator[Rows]:
    with meanwhile:
        first = next(chunks, None)
    if first is not None:
        yield first
        yield from chunks


def _groups(sides: Sides, chunks: Iterator[Rows]) -> Iterator[list[Row]]:
    """Split rows into groups of at most COMPARE_ROWS and about COMPARE_BYTES."""
    rows: list[Row] = []
    size = 0
    for chunk in chunks:
        sides.stop.check()
        sides.report.advance(len(chunk))
        rows += chunk
        size += sum([len(value) for _, value in chunk if value is not None])
        if len(rows) >= COMPARE_ROWS or size >= COMPARE_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _compare(sides: Sides, applier: Applier, part: Repaired, rows: list[Row], taken: TakenOver, terms: Terms) -> None:
    """Compare rows with what Redis holds under their keys; what differs goes to the applier."""
    part.repeated += _repeated(part, rows)[: MAX_NAMED - len(part.repeated)]
    for some, held in sides.held([row for row in rows if row[1] is not None]):
        _compare_page(sides, applier, part, some, held, taken, terms)


def _compare_page(
    sides: Sides,
    applier: Applier,
    part: Repaired,
    rows: Rows,
    held: list[bytes | None],
    taken: TakenOver,
    terms: Terms,
) -> None:
    salt = sides.salt
    allowed = _allowed(sides, part, rows, held, taken, terms)
    if terms.anew or terms.adopt:  # before the puts: a batch may be written in between
        _note_overwritten(sides, rows, held, allowed, taken)
    row_digest, fine = digest.row_digest, len(part.wanted) - 1
    coarse, wanted, found = part.buckets - 1, part.wanted, part.found
    for (key, value), old, may_write in zip(rows, held, allowed, strict=True):
        assert value is not None
        one = row_digest(key, value, salt)
        bucket = digest.bucket_of(key, fine + 1)
        wanted[bucket] += one
        if may_write is Permission.REFUSED:
            continue
        if old is None:
            _note_lost(part, bucket & coarse, one)
        else:
            found[bucket & coarse] += one if old == value else row_digest(key, old, salt)
        if old != value or terms.again or may_write is Permission.ANEW:
            applier.put(key, value)


def _note_overwritten(
    sides: Sides, rows: Rows, held: Sequence[bytes | None], allowed: list[Permission], taken: TakenOver
) -> None:
    """Note what others had stored under keys of the view, even in forms that this layout cannot read."""
    anew = [
        (key, old)
        for (key, value), old, may in zip(rows, held, allowed, strict=True)
        if may is Permission.ANEW and old != value
    ]
    absent = [key for key, old in anew if old is None]
    there = {key for key, exists in zip(absent, sides.target.exist(absent), strict=True) if exists} if absent else set()
    names = [key for key, old in anew if old is not None or key in there]
    taken.overwritten += len(names)
    taken.names += names[: MAX_EXAMPLES - len(taken.names)]


def _repeated(part: Repaired, rows: Rows) -> list[bytes]:
    """Return the keys seen before."""
    names, nulls = part.names, part.nulls
    repeated = [key for key, value in rows if not (names if value is not None else nulls).add(key)]
    if len(nulls):
        repeated += [key for key, value in rows if key in (nulls if value is not None else names)]
    return repeated


def _note_lost(part: Repaired, bucket: int, one: int) -> None:
    """Count rows that Redis does not hold, or holds in another layout: lost, new at the source, or overwritten."""
    if not part.lost_counted:
        return
    part.lost.setdefault(bucket, []).append(one - digest.ONE)
    part.lost_count += 1
    if part.lost_count > MAX_LOST:
        part.lost_counted = False
        part.lost.clear()


def _allowed(
    sides: Sides,
    part: Repaired,
    rows: Rows,
    held: Sequence[bytes | None],
    taken: TakenOver,
    terms: Terms,
) -> list[Permission]:
    """Return what may be done with each key."""
    target = sides.target
    if target.range.ownership != "remembered":
        return [Permission.ANEW if terms.anew else Permission.DIFFERENT] * len(rows)
    target.admit({key: value for key, value in rows if value is not None})  # its own keys are nobody's to take over
    keys = [key for key, _ in rows]
    ours = target.remembered(keys)
    there = target.exist(keys)
    found: list[Permission] = []
    for (key, value), old, is_ours, exists in zip(rows, held, ours, there, strict=True):
        if is_ours or not exists:
            found.append(Permission.DIFFERENT)
        elif terms.adopt or old == value:
            taken.adopted += 1
            found.append(Permission.ANEW)
        else:
            part.foreign_count += 1
            if len(part.foreign) < MAX_NAMED:
                part.foreign.append(key)
            found.append(Permission.REFUSED)
    return found


def _not_ours(part: Repaired, view: str) -> SafetyStop:
    names = ", ".join(name_of(key) for key in sorted(part.foreign)[:5])
    return SafetyStop(
        f"keys of the view exist already in Redis with other content ({part.foreign_count:,}), and nothing shows that "
        f"the view wrote them: {names}",
        hint="set redis.key_prefix, or redis.dedicated: true; or take them over with: "
        f"reconcile snapshot --view {view} --adopt",
    )
