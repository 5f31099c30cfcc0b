"""Which of a view's keys are lost, and which names under its prefix are not the view's: names alone, no values.

The manifest says how many keys each bucket has. Counting names by bucket finds most of what differs for the price of
one SCAN; buckets that differ, and all of a small view, are looked at name by name, against the source's names.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

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
from reconcile.target.survey import Survey

MAX_NAMED_KEYS = 20_000
"""Names held at once. A view of no more keys is looked at name by name as a whole."""
MAX_EXAMPLES = 3
EXPIRY_GRACE_MS = 1_000
LOOKS = 3
MAX_ASKED = 200_000
"""Keys whose time to live is asked for."""


@dataclass(slots=True)
class Found:
    """Owned names in Redis against the manifest.

    keys: of the manifest; held: names in Redis. surplus: beyond the manifest and beyond `waiting`, the keys that are
    known to wait for consent. settled: no run committed meanwhile, and none is half done: the numbers can be judged.
    """

    keys: int = 0
    held: int = 0
    lost: int = 0
    surplus: int = 0
    waiting: int = 0
    settled: bool = False
    exact: bool = False
    """Every name was compared with those the source had at the checkpoint; what has expired in time is not lost."""
    lost_names: list[bytes] = field(default_factory=list)
    surplus_names: list[bytes] = field(default_factory=list)
    some_names: list[bytes] = field(default_factory=list)


def look(target: Target, session: Session | None, mapping: Mapping | None, stop: Stop) -> Found:
    """Count until no commit comes in between, a few times at most. Without a session nothing is named."""
    for _ in range(LOOKS):
        stored = target.stored()
        found, counts = _counted(target, stored, stop)
        state = target.state()
        if state is None or stored.state is None or state.commit == stored.state.commit:
            break
    else:
        return found
    known = stored.state
    if known is None or known.as_of is None or stored.manifest_bytes != known.buckets * digest.RECORD_BYTES:
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


def expiring(survey: Survey, target: Target, stop: Stop) -> tuple[int, int, list[bytes]]:
    """(owned keys that have a time to live, owned keys that were asked, examples)."""
    asked, found = 0, 0
    examples: list[bytes] = []
    for page in target.names():
        stop.check()
        some = survey.expiring(page)
        asked, found = asked + len(page), found + len(some)
        examples += some[: MAX_EXAMPLES - len(examples)]
        if asked >= MAX_ASKED:
            break
    return found, asked, examples


def _worth_naming(counts: list[int], expected: list[int]) -> list[int]:
    """Buckets to look at name by name: all of a small view, as the counts agree in one that lost a key and got another;
    else some of those that differ. Together they have no more than MAX_NAMED_KEYS names."""
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
    """Keys per bucket, those that wait for consent included; None for a manifest that is not this state's."""
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


@dataclass(frozen=True, slots=True)
class _Named:
    """Buckets looked at by name. should_have: keys of theirs in the manifest. whole: they are all there are."""

    buckets: list[int]
    should_have: int
    whole: bool
    known: State
    now_ms: int


def _name(found: Found, held: set[bytes], named: _Named, session: Session, mapping: Mapping) -> None:
    """By the names the source had at the checkpoint; where that cannot be read any more, by those it has now, which are
    only examples, and only where they cannot be keys that have come since."""
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
    if as_of is not None and len(source) == named.should_have:  # it is what the manifest was made of
        found.lost, found.surplus = len(lost), max(0, len(surplus) - found.waiting)
        found.exact = named.whole
    found.lost_names = lost if len(lost) == found.lost else []
    found.surplus_names = surplus


def _lives(mapping: Mapping, value: bytes, now_ms: int) -> bool:
    """Whether Redis should hold a row still, by its own clock and a second's grace."""
    at_ms = split_expiry(value)[0] if mapping.form.expires else None
    return at_ms is None or at_ms > now_ms + EXPIRY_GRACE_MS
