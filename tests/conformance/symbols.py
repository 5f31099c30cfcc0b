"""Compares recorded text with actual text: equal up to a renaming of times and ids.

A recording has `<T1>` < `<T2>` < … for its times, `<T2+1>` for one millisecond after `<T2>`. A symbol is bound to the
first actual time that stands in its place; from then on it must be that one. At the end the order must be the recorded
one. Object ids (`u43`) are renamed in the same way: gaps between them mean nothing, their identity does.
"""

from __future__ import annotations

import re
from itertools import pairwise

_SYMBOL = re.compile(r'<T(\d+)(\+1)?>|<wall clock>|(?<=\()u\d+(?=, (?:storage|compute)\))|^u\d+$|(?<="User": )\d+')
# When history is let go of depends on the phase of a clock that ticks once a second.
_SINCE = re.compile(r'(?:"since": \{\s*"elements"|"read_frontier"): \[\s*<T(\d+)>')
# A frontier named by two statements may have moved on between them, by a tick or two.
_MOVES_MS = 2100


class Mismatch(AssertionError):  # noqa: N818 - not an error of the tests
    """What came is not what was recorded."""


class Symbols:
    """The renaming of one replay."""

    def __init__(self) -> None:
        self.times: dict[int, int] = {}
        self._ids: dict[str, str] = {}
        self._moving: set[int] = set()

    def text(self, recorded: str) -> str:
        """A statement with its symbols replaced by actual times."""
        return re.sub(r"<T(\d+)(\+1)?>", lambda m: str(self.times[int(m[1])] + (1 if m[2] else 0)), recorded)

    def unbound(self, recorded: str) -> list[int]:
        """The symbols of a statement that have no actual time yet."""
        return [int(n) for n in re.findall(r"<T(\d+)(?:\+1)?>", recorded) if int(n) not in self.times]

    def match(self, recorded: str | None, actual: str | None, *, frontier: bool = False) -> None:
        """Raise unless the texts are equal up to renaming. frontier: these times move on between statements."""
        if recorded is None or actual is None:
            if recorded is not actual:
                raise Mismatch(f"recorded {recorded!r}, got {actual!r}")
            return
        self._moving |= {int(n) for n in _SINCE.findall(recorded)}
        pattern, symbols = self._pattern(recorded)
        found = re.fullmatch(pattern, actual, re.DOTALL)
        if found is None:
            raise Mismatch(f"recorded {recorded!r}, got {actual!r}")
        for symbol, text in zip(symbols, found.groups(), strict=True):
            self._bind(symbol, text, frontier)

    def _pattern(self, recorded: str) -> tuple[str, list[str]]:
        parts, symbols, at = [], [], 0
        for found in _SYMBOL.finditer(recorded):
            parts.append(re.escape(recorded[at : found.start()]))
            bare = r"(\d+)" if found[0].isdigit() else r"(u\d+)"
            parts.append({"<T": r"(\d+)", "<w": r"([^\"]+)"}.get(found[0][:2], bare))
            symbols.append(found[0])
            at = found.end()
        parts.append(re.escape(recorded[at:]))
        return "".join(parts), symbols

    def _bind(self, symbol: str, text: str, frontier: bool) -> None:
        if symbol.isdigit():
            symbol, text = f"u{symbol}", f"u{text}"
        if symbol.startswith("u"):
            if self._ids.setdefault(symbol, text) != text:
                raise Mismatch(f"id {symbol} was {self._ids[symbol]}, is {text}")
            return
        found = re.fullmatch(r"<T(\d+)(\+1)?>", symbol)
        if found is None:
            return
        number, time = int(found[1]), int(text) - (1 if found[2] else 0)
        bound = self.times.setdefault(number, time)
        if bound == time:
            return
        if not (frontier and 0 < time - bound <= _MOVES_MS):
            raise Mismatch(f"<T{number}> was {bound}, is {time}")
        self._moving.add(number)
        self.times[number] = time

    def check_order(self) -> None:
        """Raise unless the times came in the recorded order."""
        bound = sorted((n, t) for n, t in self.times.items() if n not in self._moving)
        for (a, earlier), (b, later) in pairwise(bound):
            if earlier >= later:
                raise Mismatch(f"<T{a}> = {earlier} is not before <T{b}> = {later}")
