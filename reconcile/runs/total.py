"""What the parts of a snapshot come to together."""

from __future__ import annotations

import itertools

from msgspec import Struct, field

from reconcile.compare.repair import Repaired, TakenOver
from reconcile.compare.surplus import Surplus

EXAMPLES = 5


class Total(Struct):
    """The sum over all parts. Digests are added-up."""

    wanted: dict[int, int] = field(default_factory=dict)
    """Bucket → digest, for dirty buckets."""
    fine: list[int] | None = None
    """The same for all rows in finer buckets, if those are to be committed."""
    parts: list[tuple[Repaired, Surplus]] = field(default_factory=list)
    taken: TakenOver = field(default_factory=TakenOver)
    deleted: int = 0
    """Explained keys deleted before all parts were done."""

    def explained(self) -> dict[int, int]:
        return {bucket: one for _, found in self.parts for bucket, one in found.explained.items()}

    def unexplained(self) -> dict[int, int]:
        return {bucket: one for _, found in self.parts for bucket, one in found.unexplained.items()}

    def some_unexplained(self) -> tuple[bytes, ...]:
        """Return some unexplained keys."""
        names = (name for _, found in self.parts for name in found.unexplained_names)
        return tuple(itertools.islice(names, EXAMPLES))
