"""Rows held by columns: what a million rows have in common need not be done a million times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconcile_standin.engine import Row

Rows = Sequence[tuple[Any, ...]]


class Numbers:
    """A column of numbers that are not negative: values, or values + high * 2^32. decimal: rows hold their text."""

    __slots__ = ("decimal", "high", "valid", "values")

    def __init__(
        self, values: NDArray[Any], valid: NDArray[np.bool_], high: NDArray[Any] | None = None, *, decimal: bool
    ) -> None:
        self.values = values
        self.valid = valid
        self.high = high
        self.decimal = decimal

    def __len__(self) -> int:
        return len(self.values)

    def part(self, where: slice) -> Numbers:
        """Some of them."""
        high = None if self.high is None else self.high[where]
        return Numbers(self.values[where], self.valid[where], high, decimal=self.decimal)

    def list(self) -> list[Any]:
        """As the engine holds them."""
        numbers = self.values.tolist()
        if self.high is not None:
            numbers = [low + (high << 32) for low, high in zip(numbers, self.high.tolist(), strict=True)]
        if self.decimal:
            numbers = [b"%d" % n for n in numbers]
        if self.valid.all():
            return numbers  # type: ignore[no-any-return]
        return [n if ok else None for n, ok in zip(numbers, self.valid.tolist(), strict=True)]


Values = Sequence[Any] | Numbers


class Batch(Sequence[tuple[Any, ...]]):
    """Some rows, by columns; at least one column."""

    def __init__(self, columns: list[Values]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __iter__(self) -> Iterator[Row]:
        return zip(*(c.list() if isinstance(c, Numbers) else c for c in self.columns), strict=True)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Batch: ...
    def __getitem__(self, index: int | slice) -> Row | Batch:
        if isinstance(index, int):
            return next(iter(self[index : index + 1 or None]))
        return Batch([c.part(index) if isinstance(c, Numbers) else c[index] for c in self.columns])

    def pieces(self, size: int) -> Iterator[Batch]:
        """The same rows, some at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


def by_columns(rows: Rows) -> list[Values]:
    """The columns of any rows; there is at least one row."""
    return rows.columns if isinstance(rows, Batch) else transposed(rows)


def transposed(rows: Iterable[Row]) -> list[Values]:
    """The columns of rows at hand."""
    return list(zip(*rows, strict=True))
