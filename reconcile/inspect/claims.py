"""Examine the claims in Redis: which contradict each other, and which are orphaned. Pure.

A claim is orphaned if it has no state: its view was renamed, its first run never got beyond claiming, or its state was
lost. It still keeps every other view off its keys.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct

from reconcile.core.ownership import Range, overlap, owner_of

_PREFIX, _KEY = 0, 1
"""A name that others begin with, or that of one key; prefixes come first among equal names."""


class ClaimTable(Struct, frozen=True):
    """The claims in Redis. Tags name views: `view` or `namespace.view`."""

    ranges: dict[str, Range]
    unreadable: list[str]
    """Tags with a range that reconcile did not write."""

    @classmethod
    def parse(cls, stored: Mapping[str, str]) -> ClaimTable:
        """Parse tag → range as stored."""
        ranges, unreadable = {}, []
        for tag, text in sorted(stored.items()):
            try:
                ranges[tag] = Range.decode(text)
            except ValueError:
                unreadable.append(tag)
        return cls(ranges, unreadable)

    def overlapping(self) -> list[tuple[str, str]]:
        """Return pairs of tags that may write the same keys (core.ownership.overlap), without comparing all pairs."""
        pairs = {_pair(one, two) for one in self._dedicated() for two in self.ranges if one != two}
        names = [(owned.prefix, _PREFIX, tag) for tag, owned in self.ranges.items() if owned.ownership == "prefix"]
        names += [(owned.timestamp_key, _KEY, tag) for tag, owned in self.ranges.items() if owned.timestamp_key]
        names.sort()
        for at, (name, kind, one) in enumerate(names):
            for place in range(at + 1, len(names)):
                other, _, two = names[place]
                if not (other.startswith(name) if kind == _PREFIX else other == name):
                    break
                if one != two:
                    pairs.add(_pair(one, two))
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
        """Return the tag whose range contains a key by name, longest prefix first; None: none, or it is remembered."""
        return owner_of(key, self.ranges)


def _pair(one: str, two: str) -> tuple[str, str]:
    return (one, two) if one < two else (two, one)
