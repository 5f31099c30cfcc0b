"""The engine's own aggregates in Python, and its order of decimals."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

from reconcile_standin import jsonb, values

_NUMERIC = Context(prec=39, rounding=ROUND_HALF_EVEN)


class _Sum:
    """sum() of anything that may leave 64 bits; exact."""

    def __init__(self) -> None:
        self.total: Decimal | int | None = None

    def step(self, value: Any) -> None:
        if value is None:
            return
        number: Decimal | int = value if isinstance(value, int) else Decimal(value)
        if isinstance(number, Decimal) and number == number.to_integral_value():
            number = int(number)
        if self.total is None:
            self.total = number
        elif isinstance(self.total, int) and isinstance(number, int):
            self.total += number
        else:
            self.total = _NUMERIC.add(Decimal(self.total), Decimal(number))

    def finalize(self) -> str | None:
        return None if self.total is None else jsonb.decimal_text(Decimal(self.total))


class _Extreme:
    """min() or max() of decimals."""

    sign = 1

    def __init__(self) -> None:
        self.best: Decimal | None = None

    def step(self, value: Any) -> None:
        if value is not None and (self.best is None or (Decimal(value) - self.best) * self.sign > 0):
            self.best = Decimal(value)

    def finalize(self) -> str | None:
        return None if self.best is None else jsonb.decimal_text(self.best)


class _Least(_Extreme):
    sign = -1


class _Average(_Sum):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def step(self, value: Any) -> None:
        super().step(value)
        self.count += value is not None

    def finalize(self) -> str | None:
        if self.total is None:
            return None
        return jsonb.decimal_text(_NUMERIC.divide(Decimal(self.total), Decimal(self.count)))


class _Collect:
    """jsonb_agg, array_agg, list_agg; sorted, because input order means nothing."""

    def __init__(self) -> None:
        self.items: list[str | None] = []

    def step(self, value: str | None) -> None:
        self.items.append(value)


class _JsonAgg(_Collect):
    def finalize(self) -> str | None:
        loaded = [None if i is None else jsonb.loads(i) for i in sorted(self.items, key=lambda i: (i is None, i or ""))]
        return jsonb.dumps(loaded) if loaded else None


class _ArrayAgg(_Collect):
    def finalize(self) -> str | None:
        items = sorted(self.items, key=lambda i: (i is None, i or ""))
        return values.format_elements(items) if items else None


AGGREGATES: dict[str, tuple[int, type]] = {
    "mz_sum": (1, _Sum),
    "mz_avg": (1, _Average),
    "mz_max": (1, _Extreme),
    "mz_min": (1, _Least),
    "mz_json_agg": (1, _JsonAgg),
    "mz_array_agg": (1, _ArrayAgg),
}


def collate_decimal(a: str, b: str) -> int:
    """Order of decimal texts."""
    left, right = Decimal(a), Decimal(b)
    return (left > right) - (left < right)
