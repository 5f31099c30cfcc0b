"""Find lost keys, and names under the prefix that are not the view's. Reads names, not values.

The manifest says how many keys each bucket has. Counting names by bucket finds most differences for the price of one
SCAN; buckets that differ, and all buckets of a small view, are compared name by name with the source.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

from msgspec import Struct, field

from reconcile.compare.counted import count_names, existing_names
from reconcile.core import digest
from reconcile.core.framing import split_expiry
from reconcile.core.records import Manifest
from reconcile.core.state import State
from reconcile.errors import HistoryLost
from reconcile.source.query import Mapping
from reconcile.source.reading import open_reading
from reconcile.source.session import Session
from reconcile.stop import Stop
from reconcile.target.port import Stored, Target

MAX_NAMED_KEYS = 20_000
"""Names held at once. A view with no more keys is compared by name as a whole."""
MAX_EXAMPLES = 3
EXPIRY_GRACE_MS = 1_000
LOOKS = 3
MAX_ASKED = 200_000
"""Keys whose TTL is read."""


class Found(Struct):
    """Owned names in Redis compared with the manifest.

    keys: in the manifest. held: names in Redis. surplus: beyond the manifest and `waiting`, the keys known to wait for
    consent. settled: no run committed meanwhile and no change is incomplete, so the numbers can be judged.
    """

    keys: int = 0
    held: int = 0
    lost: int = 0
    surplus: int = 0
    waiting: int = 0
    settled: bool = False
    exact: bool = False
    """Every name was compared with the source as of the checkpoint; expired keys do not count as lost."""
    lost_names: list[bytes] = field(default_factory=list)
    surplus_names: list[bytes] = field(default_factory=list)
    some_names: list[bytes] = field(default_factory=list)


def examine(target: Target, session: Session | None, mapping: Mapping | None, stop: Stop) -> Found:
    """Count until no commit comes in between, a few times at most. Without a session no names are compared."""
    for _ in range(LOOKS):
        stored = target.stored()
        found, counts = _counted(target, stored, stop)
        state = target.state()
        if state is None or stored.state is None or state.commit == stored.state.commit:
            break
    else:
        return found
    known = stored.state
    if known is None or known.as_of is None or not stored.has_manifest:
        return found
    expected = _expected(target, stored)
    if expected is None:
        return found
    found.settled = known.pending is None or known.pending.kind == "withheld"
    found.waiting = digest.count(sum(stored.surplus.values()))
    named = _worth_naming(counts, expected)
    held = _names_in(target, set(named), known.buckets, stop) if named else set()
    later = Counter(digest.bucket_of(key, known.buckets) for key in held)
    for bucket in named:
        counts[bucket] = later[bucket]  # numbers and names are of one scan
    found.held = sum(counts)
    found.lost = sum(max(0, should - has) for has, should in zip(counts, expected, strict=True))
    found.surplus = sum(max(0, has - should) for has, should in zip(counts, expected, strict=True))
    if named and session is not None and mapping is not None:
        should_have = sum(expected[bucket] for bucket in named) - found.waiting
        whole = len(named) == known.buckets
        _name(found, held, _Named(named, should_have, whole, known, target.now_ms()), session, mapping)
    return found


def expiring(look: Callable[[list[bytes]], list[bytes]], target: Target, stop: Stop) -> tuple[int, int, list[bytes]]:
    """Return (owned keys with a TTL, owned keys examined, examples). look: returns those of a page that have one."""
    asked, found = 0, 0
    examples: list[bytes] = []
    for page in target.names():
        stop.check()
        some = look(page)
        asked, found = asked + len(page), found + len(some)
        examples += some[: MAX_EXAMPLES - len(examples)]
        if asked >= MAX_ASKED:
            break
    return found, asked, examples


def _worth_naming(counts: list[int], expected: list[int]) -> list[int]:
    """Return buckets to compare by name, with at most MAX_NAMED_KEYS names in all.

    All buckets of a small view, as counts also agree if one key was lost and another added; else some that differ.
    """
    sizes = [max(has, should) for has, should in zip(counts, expected, strict=True)]
    if sum(sizes) <= MAX_NAMED_KEYS:
        return list(range(len(sizes)))
    named, total = [], 0
    for bucket, (has, should) in enumerate(zip(counts, expected, strict=True)):
        if has != should and total + sizes[bucket] <= MAX_NAMED_KEYS:
            named.append(bucket)
            total += sizes[bucket]
    return named


def _expected(target: Target, stored: Stored) -> list[int] | None:
    """Return keys per bucket, including those that wait for consent; None if the manifest does not match the state."""
    whole = target.manifest(None)
    assert isinstance(whole, bytes)
    assert stored.state is not None
    if not Manifest(stored.state.buckets, stored.state.digest).take(whole):
        return None
    expected = list(digest.manifest_words(whole)[::2])
    for bucket, waiting in stored.surplus.items():
        expected[bucket] += digest.count(waiting)
    return expected


def _counted(target: Target, stored: Stored, stop: Stop) -> tuple[Found, list[int]]:
    known = stored.state
    buckets = known.buckets if known is not None and known.buckets else digest.MAX_BUCKETS
    found = Found(keys=0 if known is None else known.keys)
    scan = existing_names(target, stop)

    def pages() -> Iterator[list[bytes]]:
        for page in scan():
            if len(found.some_names) < MAX_EXAMPLES:
                found.some_names += page[: MAX_EXAMPLES - len(found.some_names)]
            yield page

    counts = count_names(pages, range(buckets), found.keys, 0 if known is None else known.salt)
    found.held = sum(counts.values())
    return found, [counts[bucket] for bucket in range(buckets)]


def _names_in(target: Target, wanted: set[int], buckets: int, stop: Stop) -> set[bytes]:
    pages = existing_names(target, stop)()
    return {key for page in pages for key in page if digest.bucket_of(key, buckets) in wanted}


class _Named(Struct, frozen=True):
    """Buckets to compare by name. should_have: their keys in the manifest. whole: these are all buckets."""

    buckets: list[int]
    should_have: int
    whole: bool
    known: State
    now_ms: int


def _name(found: Found, held: set[bytes], named: _Named, session: Session, mapping: Mapping) -> None:
    """Compare with the names the source had at the checkpoint.

    If that can no longer be read, with those it has now, which give only examples, and only where they cannot be keys
    added since.
    """
    for as_of in (named.known.as_of, None):
        if as_of is None and not found.lost and not found.surplus:
            return
        source: dict[bytes, bool] = {}
        with contextlib.suppress(HistoryLost), open_reading(session, mapping, as_of) as reading:
            for chunk in reading.rows_of(named.buckets, named.known.buckets):
                source |= {key: _lives(mapping, value, named.now_ms) for key, value in chunk if value is not None}
            break
    lost = sorted(key for key, lives in source.items() if lives and key not in held)
    surplus = sorted(held - source.keys())
    if as_of is not None and len(source) == named.should_have:  # the manifest was made of these
        found.lost, found.surplus = len(lost), max(0, len(surplus) - found.waiting)
        found.exact = named.whole
    found.lost_names = lost if len(lost) == found.lost else []
    found.surplus_names = surplus


def _lives(mapping: Mapping, value: bytes, now_ms: int) -> bool:
    """Whether Redis should still hold a row, by its own clock and a second's grace."""
    at_ms = split_expiry(value)[0] if mapping.form.expires else None
    return at_ms is None or at_ms > now_ms + EXPIRY_GRACE_MS
