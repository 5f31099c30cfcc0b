"""Counts and sums of hashes per group, and the same kept up to date for a view that is indexed or materialized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reconcile_standin.batches import Batch, Numbers, Values

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from reconcile_standin.plan import Definition, Output

    Ints = NDArray[np.int64]

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MERGE = 256


@dataclass(frozen=True, slots=True)
class Events:
    """Rows that come (+1) and go (-1): when, in which group, and what is summed of them."""

    times: Ints
    slots: Ints
    signs: Ints
    sums: tuple[tuple[NDArray[np.uint64], NDArray[np.bool_]], ...]

    def where(self, flags: NDArray[np.bool_]) -> Events:
        """Some of them."""
        sums = tuple((values[flags], valid[flags]) for values, valid in self.sums)
        return Events(self.times[flags], self.slots[flags], self.signs[flags], sums)


class Totals:
    """Per group: rows, and of each sum how many values were not NULL and their exact total in two halves."""

    def __init__(self, size: int, sums: int) -> None:
        self.counts: Ints = np.zeros(size, dtype=np.int64)
        self.sums: list[tuple[Ints, Ints, Ints]] = [
            (np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64))
            for _ in range(sums)
        ]

    def copy(self) -> Totals:
        """Others that may be changed."""
        twin = Totals(0, 0)
        twin.counts = self.counts.copy()
        twin.sums = [(n.copy(), low.copy(), high.copy()) for n, low, high in self.sums]
        return twin

    def add(self, events: Events, sign: int = 1) -> None:
        """Rows come and go."""
        signs = events.signs * sign
        np.add.at(self.counts, events.slots, signs)
        for (known, low, high), (values, valid) in zip(self.sums, events.sums, strict=True):
            signed = np.where(valid, signs, 0)
            np.add.at(known, events.slots, signed)
            np.add.at(low, events.slots, (values & _LOW).astype(np.int64) * signed)
            np.add.at(high, events.slots, (values >> _HALF).astype(np.int64) * signed)

    def rows(self, outputs: tuple[Output, ...], labels: NDArray[np.uint64] | None, sums: dict[object, int]) -> Batch:
        """A row per group that has rows. The last group is that of the NULL key; without labels keys are places."""
        present = np.flatnonzero(self.counts)
        named = present < len(self.counts) - 1
        everything = np.ones(len(present), dtype=np.bool_)
        columns: list[Values] = []
        for output in outputs:
            if output.kind == "key":
                names = present if labels is None else np.append(labels, np.uint64(0))[present]
                columns.append(Numbers(names, named, decimal=output.decimal))
            elif output.kind == "count":
                columns.append(Numbers(self.counts[present], everything, decimal=False))
            else:
                known, low, high = (part[present] for part in self.sums[sums[output.of]])
                columns.append(Numbers(low, known > 0, high, decimal=True))
        return Batch(columns)


class Groups:
    """The totals of one definition at the latest time known, and what changed after `floor`."""

    def __init__(self, definition: Definition, floor: int) -> None:
        self.definition = definition
        self.floor = floor
        self._latest = Totals(definition.key.by + 1, len(definition.sums))
        self._log: list[Events] = []

    def apply(self, born: Ints, died: Ints, events: Callable[[Definition, Ints, Ints], Events]) -> None:
        """Learn of births and deaths, by the rows' positions."""
        if not len(born) and not len(died):
            return
        found = events(self.definition, born, died)
        self._latest.add(found)
        recent = found.where(found.times > self.floor)
        if len(recent.times):
            self._log.append(recent)
        if len(self._log) > _MERGE:
            self._log = [_merged(self._log)]

    def at(self, t: int) -> Totals:
        """The totals at a time not before the floor."""
        later = [e for e in self._log if np.max(e.times) > t]
        if not later:
            return self._latest
        totals = self._latest.copy()
        for events in later:
            totals.add(events.where(events.times > t), -1)
        return totals

    def forget(self, floor: int) -> None:
        """Nobody will ask for times before this one."""
        if floor > self.floor:
            self.floor = floor
            self._log = [e for e in self._log if np.max(e.times) > floor]


def _merged(log: list[Events]) -> Events:
    sums = tuple(
        (np.concatenate([values for values, _ in parts]), np.concatenate([valid for _, valid in parts]))
        for parts in zip(*(e.sums for e in log), strict=True)
    )
    times, slots, signs = (
        np.concatenate(parts) for parts in zip(*((e.times, e.slots, e.signs) for e in log), strict=True)
    )
    return Events(times, slots, signs, sums)
