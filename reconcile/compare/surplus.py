"""Find what Redis holds in some buckets and the source lacks, judge it by the manifest, delete it or leave it.

    find     one scan of the names: candidates, with the digests of what is stored under them
    judge    core.surplus tells which of them the view wrote; the others need consent
    delete   by name: those held in memory, or else by a second scan

Names are held up to HELD_NAMES and HELD_BYTES. Beyond that a bucket's candidates are only counted and added up, and all
of them are explained or none.
"""

from __future__ import annotations

import enum
from binascii import crc32
from collections.abc import Collection, Iterator, Mapping
from itertools import chain

from msgspec import Struct, field

from reconcile.compare.early_scan import HELD_BYTES, HELD_NAMES, EarlyScan, names_within
from reconcile.compare.repair import Repaired
from reconcile.compare.sides import Sides
from reconcile.core import digest
from reconcile.core.nametable import NameTable
from reconcile.core.surplus import explained
from reconcile.target.batch import Applier

FEW = 12
"""Keys of which all subsets are tried in a millisecond."""

_M64 = (1 << 64) - 1


class Rule(enum.Enum):
    """How candidates are judged."""

    CONSENT = "a human, or redis.dedicated, has agreed to delete whatever the source lacks"
    OWN = "nothing else can be there: the view remembers its keys"
    MANIFEST = "the view's own are those that the manifest counts"
    NOTHING = "there is no manifest to tell"


class Candidates(Struct):
    """The candidates of one bucket.

    held: (name, hash) as far as they fit; count and total (Σ hashes mod 2^64): of all.
    """

    count: int = 0
    total: int = 0
    held: list[tuple[bytes, int]] = field(default_factory=list)

    @property
    def digest(self) -> int:
        """Digest of all candidates, in added-up form."""
        return self.count * digest.ONE + self.total


class Surplus(Struct):
    """The judged candidates of one part. explained, unexplained: bucket → digest (added-up)."""

    explained: dict[int, int] = field(default_factory=dict)
    unexplained: dict[int, int] = field(default_factory=dict)
    explained_names: list[bytes] = field(default_factory=list)
    unexplained_names: list[bytes] = field(default_factory=list)
    assumed: list[bytes] = field(default_factory=list)
    """Names among the explained ones (those that are held) which only a change that was cut short explains: nothing
    else shows that the view wrote them."""
    nameless: set[int] = field(default_factory=set)
    """Buckets whose candidates are not held by name: all of them are explained, or none."""

    @property
    def explained_count(self) -> int:
        """Number of explained keys."""
        return digest.count(sum(self.explained.values()))


def find(
    sides: Sides,
    part: Repaired,
    within: set[int],
    beyond: Mapping[int, int],
    rule: Rule,
    own: Collection[int],
    early: EarlyScan | None = None,
) -> Surplus:
    """Find candidates in the buckets `within`, and judge them.

    beyond: bucket → what the manifest counts beyond the source's keys as Redis held them (rule MANIFEST). own: buckets
    in which every candidate is the view's, whatever the rule. early: a scan of the part's buckets that has already
    begun.
    """
    found = Surplus()
    if not within:
        return found
    pages = names_within(sides, part.buckets, within) if early is None else early.pages()
    for bucket, candidates in _gathered(sides, part, within, pages).items():
        if bucket in own:
            found.assumed += _assumed(part, bucket, candidates, beyond.get(bucket), rule)
            _judge(found, bucket, candidates, None)
        else:
            _judge(found, bucket, candidates, _own(part, bucket, candidates, beyond.get(bucket), rule))
    return found


def _gathered(sides: Sides, part: Repaired, within: set[int], pages: Iterator[list[bytes]]) -> dict[int, Candidates]:
    found: dict[int, Candidates] = {}
    seen = NameTable(0, sides.salt)
    names_left, bytes_left = HELD_NAMES, HELD_BYTES
    mask = part.buckets - 1
    for page in pages:
        lacked = _lacked(page, part.names)
        fresh = [name for name in lacked if crc32(name) & mask in within and seen.add(name)]
        if not fresh:
            continue
        for name, value in chain.from_iterable(sides.target.pages(fresh, unknown=True)):
            one = digest.held_digest(name, value, sides.salt) - digest.ONE
            candidates = found.setdefault(digest.bucket_of(name, part.buckets), Candidates())
            candidates.count += 1
            candidates.total = (candidates.total + one) & _M64
            if names_left > 0 and bytes_left > 0:
                candidates.held.append((name, one))
                names_left -= 1
                bytes_left -= len(name)
    return found


def _lacked(page: list[bytes], names: NameTable) -> list[bytes]:
    """Return names that the source lacks, those whose value is NULL among them."""
    return [name for name in page if name not in names]


def _own(part: Repaired, bucket: int, candidates: Candidates, beyond: int | None, rule: Rule) -> set[int] | None:
    """Return the hashes of the view's own candidates; None: all of them."""
    if rule in (Rule.CONSENT, Rule.OWN):
        return None
    if rule is Rule.NOTHING or beyond is None:
        return set()
    if len(candidates.held) < candidates.count:
        nothing_else = digest.normal(beyond) == digest.normal(candidates.digest)
        return None if nothing_else else set()
    if not part.lost_counted and digest.normal(beyond) != digest.normal(candidates.digest):
        return set()
    return explained([one for _, one in candidates.held], part.lost.get(bucket, []), beyond) or set()


def _assumed(part: Repaired, bucket: int, candidates: Candidates, beyond: int | None, rule: Rule) -> list[bytes]:
    """Return the candidates that the manifest, if there is one, does not explain. Where a change was cut short sums
    mostly do not add up, so subsets are tried only where that takes no time."""
    if beyond is None or rule is not Rule.MANIFEST or digest.normal(beyond) == digest.normal(candidates.digest):
        return []
    few = candidates.count + len(part.lost.get(bucket, [])) <= FEW
    shown = _own(part, bucket, candidates, beyond, rule) if few else None
    return [name for name, one in candidates.held if not shown or one not in shown]


def _judge(found: Surplus, bucket: int, candidates: Candidates, own: set[int] | None) -> None:
    if len(candidates.held) < candidates.count:
        found.nameless.add(bucket)
        (found.explained if own is None else found.unexplained)[bucket] = candidates.digest
        names = found.explained_names if own is None else found.unexplained_names
        names += [name for name, _ in candidates.held]
        return
    for name, one in candidates.held:
        is_own = own is None or one in own
        (found.explained_names if is_own else found.unexplained_names).append(name)
        digests = found.explained if is_own else found.unexplained
        digests[bucket] = digests.get(bucket, 0) + digest.ONE + one


def delete(
    sides: Sides, part: Repaired, found: Surplus, applier: Applier, *, explained_too: bool, unexplained_too: bool
) -> None:
    """Delete surplus keys. Names that are not held are found by another scan."""
    if explained_too:
        _delete_names(applier, found.explained_names)
    if unexplained_too:
        _delete_names(applier, found.unexplained_names)
    within = {b for b in found.nameless if (explained_too if b in found.explained else unexplained_too)}
    if not within:
        return
    names = part.names if len(part.names) else _names_of(sides, part, within)
    seen = NameTable(0, sides.salt)  # a page may have been asked for before the deletes of names in it were sent
    for name in (*found.explained_names, *found.unexplained_names):
        seen.add(name)
    for page in names_within(sides, part.buckets, within):
        _delete_names(applier, [name for name in _lacked(page, names) if seen.add(name)])


def _delete_names(applier: Applier, names: list[bytes]) -> None:
    for name in names:
        if not applier.on_the_way(name):
            applier.delete(name)


def _names_of(sides: Sides, part: Repaired, within: set[int]) -> NameTable:
    """Read the names of the source's rows that have a value in these buckets again, as a part's names are dropped
    before the next part."""
    names = NameTable(0, sides.salt)
    for chunk in sides.reading.rows_of(sorted(within), part.buckets):
        sides.stop.check()
        for key, value in chunk:
            if value is not None:
                names.add(key)
    return names
