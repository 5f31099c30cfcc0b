"""Examine the claims in Redis: which contradict each other, and which are orphaned. Pure.

A claim is orphaned if it has no state: its view was renamed, its first run never got beyond claiming, or its state was
lost. It still keeps every other view off its keys.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations

from reconcile.core.ownership import Range, overlap, owner_of


@dataclass(frozen=True, slots=True)
class Claims:
    """The hash of claims. Tags name views: `view` or `namespace.view`."""

    ranges: dict[str, Range]
    unreadable: list[str]
    """Tags with a range that reconcile did not write."""

    @classmethod
    def read(cls, stored: Mapping[str, str]) -> Claims:
        """Parse tag → range as stored."""
        ranges, unreadable = {}, []
        for tag, text in sorted(stored.items()):
            try:
                ranges[tag] = Range.decode(text)
            except ValueError:
                unreadable.append(tag)
        return cls(ranges, unreadable)

    def overlapping(self) -> list[tuple[str, str]]:
        """Pairs of tags that may write the same keys (core.ownership.overlap), without comparing all pairs."""
        pairs = {_pair(one, two) for one in self._dedicated() for two in self.ranges if one != two}
        by_prefix = sorted((owned.prefix, tag) for tag, owned in self.ranges.items() if owned.ownership == "prefix")
        for at, (prefix, one) in enumerate(by_prefix):
            for place in range(at + 1, len(by_prefix)):
                other, two = by_prefix[place]
                if not other.startswith(prefix):
                    break
                pairs.add(_pair(one, two))
        by_timestamp: dict[bytes, list[str]] = {}
        for tag, owned in self.ranges.items():
            if owned.timestamp_key:
                by_timestamp.setdefault(owned.timestamp_key, []).append(tag)
        pairs |= {_pair(one, two) for tags in by_timestamp.values() for one, two in combinations(tags, 2)}
        return sorted(pairs)

    def _dedicated(self) -> list[str]:
        return [tag for tag, owned in self.ranges.items() if owned.ownership == "dedicated"]

    def contested(self, tag: str) -> list[str]:
        """Return the other tags that may write keys of this one."""
        ours = self.ranges.get(tag)
        others = self.ranges.items()
        return [] if ours is None else [other for other, theirs in others if other != tag and overlap(ours, theirs)]

    def orphaned(self, states: Collection[str], configured: Collection[str]) -> list[str]:
        """Return tags with neither a state nor a view in this configuration."""
        return [tag for tag in self.ranges if tag not in states and tag not in configured]

    def owner_of(self, key: bytes) -> str | None:
        """Return the tag whose range contains a key by its name, longest prefix first; None: no tag's, or only
        remembered.
        """
        return owner_of(key, self.ranges)


def _pair(one: str, two: str) -> tuple[str, str]:
    return (one, two) if one < two else (two, one)
