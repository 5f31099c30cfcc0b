"""What the parts of a snapshot come to together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from msgspec import Struct, field

from reconcile.compare.repair import Repaired, TakenOver
from reconcile.compare.surplus import Surplus
from reconcile.core import digest
from reconcile.core.changes import name_of
from reconcile.core.digest import Fingerprints
from reconcile.core.records import Manifest, Records, Waiting, whole_manifest
from reconcile.texts import plural

EXAMPLES = 5
ASSUMED = 20
"""Most names kept of keys that were assumed to be the view's."""


class Total(Struct):
    """The sum over all parts. Digests are added-up."""

    wanted: dict[int, int] = field(default_factory=dict)
    """Bucket → digest, for dirty buckets."""
    fine: list[int] | None = None
    """The same for all rows in finer buckets, if those are to be committed."""
    parts: list[tuple[Repaired, Surplus]] = field(default_factory=list)
    taken: TakenOver = field(default_factory=TakenOver)
    deleted: int = 0
    """Explained keys deleted since the checkpoint, before all parts were done."""
    assumed: list[bytes] = field(default_factory=list)
    """Some of the keys that only a change which was cut short explains."""
    assumed_count: int = 0

    def add(self, part: Repaired, found: Surplus) -> None:
        """Add a part whose rows were put, and what was found beyond them."""
        folded = digest.fold(part.wanted, part.buckets)
        self.wanted |= {bucket: folded[bucket] for bucket in part.chosen}
        if self.fine is not None:
            self.fine = [x + y for x, y in zip(self.fine, part.wanted, strict=True)]
        self.parts.append((part, found))
        self.assumed_count += len(found.assumed)
        self.assumed += found.assumed[: ASSUMED - len(self.assumed)]
        found.assumed = []

    def warnings(self, *, deleted: bool) -> Iterator[str]:
        """Yield warnings for the report. deleted: explained keys are deleted, not withheld."""
        yield from self.taken.warnings()
        if deleted and self.assumed:
            names = ", ".join(map(name_of, self.assumed)) + (", …" if self.assumed_count > len(self.assumed) else "")
            yield (
                f"removed {plural(self.assumed_count, 'key')} in buckets that a change had touched which was cut "
                f"short; nothing else shows that this view wrote them: {names}"
            )

    def explained(self) -> dict[int, int]:
        return {bucket: one for _, found in self.parts for bucket, one in found.explained.items()}

    def unexplained(self) -> dict[int, int]:
        return {bucket: one for _, found in self.parts for bucket, one in found.unexplained.items()}

    @property
    def is_named(self) -> bool:
        """Whether the names of all unexplained keys are held."""
        return not any(found.nameless & found.unexplained.keys() for _, found in self.parts)

    def waiting(self, before: Waiting, now: Fingerprints) -> Waiting:
        """Return what waits after these parts. before: what did; now: fingerprints at the source."""
        explained, unexplained = self.explained(), self.unexplained()
        found = before.outside(self.wanted)
        found.withheld |= {b: digest.added(digest.normal(one)) for b, one in explained.items()}
        found.surplus |= {b: digest.added(digest.normal(one)) for b, one in unexplained.items()}
        found.seen |= {b: now[b] for b in (*explained, *unexplained)}
        return found

    def some_unexplained(self) -> tuple[bytes, ...]:
        """Return some unexplained keys."""
        names = (name for _, found in self.parts for name in found.unexplained_names)
        return tuple(itertools.islice(names, EXAMPLES))

    def manifest(
        self, before: Manifest | None, examined: int, buckets: int, kept: Mapping[int, int]
    ) -> tuple[Records, int]:
        """Return (what to write of the manifest, its total), in so many buckets.

        before: the stored manifest, which holds for buckets that are not dirty; it is changed. examined: number of
        buckets by which rows were examined. kept: bucket → digest of the view's own keys whose deletes are withheld."""
        digests = {bucket: one + kept.get(bucket, 0) for bucket, one in self.wanted.items()}
        if len(digests) < examined:
            assert before is not None
            return before.change(digests), before.total
        if self.fine is not None and len(self.fine) == buckets:
            return whole_manifest(self.fine), sum(self.fine)
        every = digest.fold([digests[bucket] for bucket in range(examined)], min(buckets, examined))
        return whole_manifest(every), sum(every)
