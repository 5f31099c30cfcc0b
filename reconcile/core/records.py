"""Manifest, fingerprints and surplus: fixed-size records, one per bucket. No I/O."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Container, Iterable, Mapping, Sequence

from msgspec import Struct, field

from reconcile.core import digest
from reconcile.core.digest import Fingerprints, Words
from reconcile.core.shards import WHOLE, Shard

REWRITE_FRACTION = 32
"""If more than one of a shard's buckets in this many is wanted or changed, all its records are read or written at once:
a command for one bucket costs both sides as much as some hundred records.
"""


class Records(Struct, frozen=True):
    """Records of one kind to write. whole: those of all buckets, b'' removes them. some: bucket → record."""

    whole: bytes | None = None
    some: Mapping[int, bytes] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.whole is not None or bool(self.some)


NO_RECORDS = Records()
_WITHHELD = 1 << 31

HELD_BYTES = 256 * 1024
"""Memory that a manifest may keep between two commits: a process follows many views."""
SOME_BYTES = 160
"""Memory of a digest in a dict: entry, key, value."""


class Manifest:
    """The stored manifest, known for some buckets or for all.

    total: the digest over all buckets (added-up form) from the state; a manifest read as a whole must add up to it.
    """

    def __init__(self, buckets: int, total: str, shard: Shard = WHOLE) -> None:
        """total: as the state stores it. shard: the only one that has rows, so that few records are its own."""
        self.buckets = buckets
        self._own = buckets // shard.n
        self.total = total_of(total)
        self._some: dict[int, int] = {}
        self._all: Words | None = None
        self.is_new = False
        """Whether it replaces what is stored, if anything is: then all its records are written."""

    def missing(self, wanted: Iterable[int]) -> list[int] | None:
        """Return which of the wanted buckets are still to be read; None: read the whole manifest."""
        if self._all is not None:
            return []
        missing = [bucket for bucket in wanted if bucket not in self._some]
        return None if len(missing) * REWRITE_FRACTION > self._own else missing

    def take(self, records: Mapping[int, bytes] | bytes) -> bool:
        """Add records that were read. Return False if they cannot be the state's; the manifest is unusable then."""
        if isinstance(records, bytes):
            if len(records) != self.buckets * digest.RECORD_BYTES:
                return False
            # Buckets this run has changed and written already are in what was just read.
            self._all = digest.manifest_words(records)
            self._some.clear()
            return digest.total_of_words(self._all) == digest.normal(self.total)
        for bucket, record in records.items():
            if len(record) != digest.RECORD_BYTES:
                return False
            (self._some[bucket],) = digest.decode_manifest(record)
        return True

    def __getitem__(self, bucket: int) -> int:
        """Return a bucket's digest in added-up form. The bucket must have been read."""
        return self._some[bucket] if self._all is None else digest.digest_in_words(self._all, bucket)

    def change(self, changed: Mapping[int, int]) -> Records:
        """Set digests (added-up form) of buckets that were read. Return the records to store."""
        self.add({bucket: new - self[bucket] for bucket, new in changed.items()})
        return self.records(changed)

    def has(self, digests: Mapping[int, int]) -> bool:
        """Whether these buckets, which were read, have these digests (added-up form)."""
        return all(digest.normal(self[bucket]) == digest.normal(one) for bucket, one in digests.items())

    def add(self, more: Mapping[int, int]) -> bool:
        """Add to the digests of buckets that were read. Return False if a count would become negative.

        The manifest is unusable then.
        """
        if self._all is not None:
            fits = digest.add_to_words(self._all, more)
        else:
            sums = {bucket: self._some[bucket] + one for bucket, one in more.items()}
            fits = all(digest.count(one) >= 0 for one in sums.values())
            self._some.update(sums)
        self.total += sum(more.values())
        return fits

    def records(self, changed: Collection[int]) -> Records:
        """Return the records of these buckets as absolute values, so that repeating a transaction changes nothing."""
        if self._all is not None and (self.is_new or len(changed) * REWRITE_FRACTION > self._own):
            return Records(whole=digest.encode_words(self._all))
        return Records(some={b: digest.encode_manifest([self[b]]) for b in sorted(changed)})

    @property
    def size_bytes(self) -> int:
        """Approximate bytes of memory held."""
        whole = 0 if self._all is None else self._all.itemsize * len(self._all)
        return whole + SOME_BYTES * len(self._some)

    def trim(self) -> None:
        """Forget what was read if it is more than HELD_BYTES; all changes must be stored by now."""
        if self.size_bytes > HELD_BYTES:
            self._all = None
            self._some.clear()

    @property
    def keys(self) -> int:
        """Number of keys over all buckets."""
        return digest.count(self.total)


def empty_manifest(buckets: int, shard: Shard = WHOLE) -> Manifest:
    """Return the manifest of a view without keys, which is not stored yet."""
    manifest = Manifest(buckets, "", shard)
    manifest.is_new = True
    manifest.take(bytes(buckets * digest.RECORD_BYTES))
    return manifest


def whole_manifest(digests: Sequence[int]) -> Records:
    """Return all digests, in added-up form."""
    return Records(whole=digest.encode_manifest(digests))


def total_text(total: int) -> str:
    """Return a digest (added-up form) as stored in the state: 32 hexadecimal digits of its normal form."""
    return f"{digest.normal(total):032x}"


def total_of(text: str) -> int:
    """Return the digest (added-up form) that the state stores; it stores nothing for a view without rows."""
    return digest.added(digest.Normal(int(text, 16))) if text else 0


def fingerprint_records(
    new: Fingerprints | None, stored: Fingerprints | None, forgotten: Collection[int] = (), shard: Shard = WHOLE
) -> Records:
    """Return the records that turn the stored fingerprints into `new`. None: all unknown.

    forgotten: buckets whose stored fingerprints may meanwhile have been made unknown, or not.
    """
    if new is None:
        return NO_RECORDS if stored is None else Records(whole=b"")
    if stored is not None and len(stored) == len(new):
        differing = (bucket for bucket, (ours, theirs) in enumerate(zip(new, stored, strict=True)) if ours != theirs)
        changed = sorted({*differing, *forgotten})
        if len(changed) * REWRITE_FRACTION <= len(new) // shard.n:
            return Records(some={b: digest.encode_fingerprints(new[b : b + 1]) for b in changed})
    return Records(whole=digest.encode_fingerprints(new))


def forget(stored: Fingerprints | None, touched: Collection[int], shard: Shard = WHOLE) -> Records:
    """Return the records that make the touched buckets' fingerprints unknown: their rows have changed."""
    if stored is None:
        return NO_RECORDS
    known = [bucket for bucket in touched if stored[bucket] != digest.UNKNOWN]
    if len(known) * REWRITE_FRACTION > len(stored) // shard.n:
        return Records(whole=digest.encode_fingerprints(cleared(stored, known)))
    return Records(some={bucket: bytes(digest.FINGERPRINT_BYTES) for bucket in sorted(known)})


def cleared(stored: Fingerprints, touched: Iterable[int]) -> Fingerprints:
    """Return the fingerprints as `forget` leaves them."""
    left = stored[:]
    for bucket in touched:
        left[bucket] = digest.UNKNOWN
    return left


def of_shard(whole: bytes, size: int, shard: Shard) -> bytes:
    """Return those of all buckets' records that are stored: the shard's own, that of bucket b at b // n.

    size: bytes of a record, a multiple of 8.
    """
    if shard.n == 1:
        return whole
    words, step = array("Q", whole), size // 8
    own = array("Q", bytes(len(whole) // shard.n))
    for word in range(step):
        own[word::step] = words[shard.i * step + word :: shard.n * step]
    return own.tobytes()


def of_all(own: bytes, size: int, shard: Shard, other: bytes) -> bytes:
    """Return the records of all buckets from those of a shard's own. other: what those of other shards are."""
    if shard.n == 1:
        return own
    words, step = array("Q", own), size // 8
    whole = array("Q", other * (len(own) // size * shard.n))
    for word in range(step):
        whole[shard.i * step + word :: shard.n * step] = words[word::step]
    return whole.tobytes()


class Waiting(Struct):
    """Keys that Redis holds and the source lacks, and that stay for now, by bucket. Digests are added-up.

    surplus: unexplained ones, which the manifest does not count. withheld: the view's own, which it counts, until the
    guard has judged those of all buckets. seen: the fingerprint at which both were counted; without it they have to be
    counted anew.
    """

    surplus: dict[int, int] = field(default_factory=dict)
    withheld: dict[int, int] = field(default_factory=dict)
    seen: dict[int, int] = field(default_factory=dict)

    @property
    def buckets(self) -> set[int]:
        return {*self.surplus, *self.withheld}

    def uncounted(self, changed: Container[int]) -> Waiting:
        """Return the same, to be counted anew in these buckets."""
        return Waiting(self.surplus, self.withheld, {b: one for b, one in self.seen.items() if b not in changed})

    def outside(self, done: Container[int]) -> Waiting:
        """Return what waits in other buckets."""
        parts = (self.surplus, self.withheld, self.seen)
        return Waiting(*({b: one for b, one in part.items() if b not in done} for part in parts))


def waiting_records(waiting: Waiting, stored: Waiting) -> Records:
    """Return the records of what waits, if they are not stored already. Always written whole, as few buckets have any:
    4 bytes bucket (_WITHHELD is added if the manifest counts the keys), RECORD_BYTES digest, fingerprint.
    """
    if waiting == stored:
        return NO_RECORDS
    marked = [(b, b, one) for b, one in waiting.surplus.items()]
    marked += [(b | _WITHHELD, b, one) for b, one in waiting.withheld.items()]
    entries = [
        mark.to_bytes(4, "big")
        + digest.encode_manifest([one])
        + waiting.seen.get(b, digest.UNKNOWN).to_bytes(digest.FINGERPRINT_BYTES, "big")
        for mark, b, one in sorted(marked)
    ]
    return Records(whole=b"".join(entries))


def surplus_in(surplus: Mapping[int, int], before: int, buckets: int) -> dict[int, int]:
    """Return the same for another number of buckets (both powers of two). Of more, each that may have such keys is told
    to have them all: which of them it is only a look at their names can show."""
    found: dict[int, int] = {}
    for bucket, one in surplus.items():
        for each in range(bucket, buckets, before) if before < buckets else (bucket & (buckets - 1),):
            found[each] = found.get(each, 0) + one
    return found


def decode_waiting(stored: bytes) -> Waiting:
    """Raises ValueError for a wrong length."""
    size = 4 + digest.RECORD_BYTES + digest.FINGERPRINT_BYTES
    if len(stored) % size:
        raise ValueError("surplus length is not a multiple of its record")
    found = Waiting()
    for at in range(0, len(stored), size):
        mark, record = int.from_bytes(stored[at : at + 4], "big"), stored[at + 4 : at + 4 + digest.RECORD_BYTES]
        bucket = mark & (_WITHHELD - 1)
        (found.withheld if mark & _WITHHELD else found.surplus)[bucket] = digest.decode_manifest(record)[0]
        seen = int.from_bytes(stored[at + 4 + digest.RECORD_BYTES : at + size], "big")
        if seen != digest.UNKNOWN:
            found.seen[bucket] = seen
    return found
