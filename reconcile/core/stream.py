"""The text of COPY (SUBSCRIBE … WITH (PROGRESS)): lines in, closed ranges out. No I/O, no clock.

A line is  mz_timestamp ⇥ mz_progressed ⇥ mz_diff ⇥ key ⇥ value ⏎  with COPY's escapes. Rows are netted by their raw
text; only rows that survive a closed range are split and unescaped.

    progress row P     everything with time < P has arrived; the checkpoint may become P − 1, never P
    first progress row equals AS OF and proves nothing (it is sent before any data)
    end with UP TO U   no progress row comes at the bound; only the end itself proves frontier = U
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from reconcile.errors import ReconcileError

_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_UNESCAPED = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"\\": b"\\", b"b": b"\b", b"f": b"\f", b"v": b"\v"}

ENTRY_COST_BYTES = 120
"""What an update costs in memory beside its own bytes (dict entry, bytes header)."""


def unescape(field_: bytes) -> bytes | None:
    r"""A COPY text field as the bytes it stands for; \N is NULL."""
    if b"\\" not in field_:
        return field_
    if field_ == b"\\N":
        return None
    return _ESCAPE.sub(lambda match: _UNESCAPED.get(match[1], match[1]), field_)


def unhex(value: bytes | None) -> bytes | None:
    r"""A bytea field: \x and hexadecimal digits."""
    return None if value is None else bytes.fromhex(value[2:].decode("ascii"))


@dataclass(slots=True)
class UpdateStream:
    """Collects updates until a progress row closes them.

    frontier: exclusive; every update with a time below it has been handed out by `take` or is held now.
    """

    as_of: int
    key_is_bytes: bool = False
    value_is_bytes: bool = False
    frontier: int = field(init=False)
    size_bytes: int = field(init=False, default=0)
    updates: int = field(init=False, default=0)
    _open: dict[bytes, int] = field(init=False, default_factory=dict)
    _closed: dict[bytes, int] = field(init=False, default_factory=dict)
    _newest: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.frontier = self.as_of + 1

    def feed(self, line: bytes) -> bool:
        """Take one line in. True when it closed a range: `take` it now, or feed on and take more at once."""
        time_text, progressed, diff, row = line.split(b"\t", 3)
        if progressed == b"t":
            return self._progress(int(time_text))
        time = int(time_text)
        if time > self._newest:
            if time <= self.as_of:
                raise ReconcileError(f"Materialize sent an update at {time}, not after AS OF {self.as_of}")
            self._newest = time
        net = self._open
        net[row] = net.get(row, 0) + int(diff)
        self.size_bytes += len(row) + ENTRY_COST_BYTES
        self.updates += 1
        return False

    def _progress(self, frontier: int) -> bool:
        if frontier <= self.frontier or frontier <= self._newest:
            return False
        self._close(frontier)
        return True

    def _close(self, frontier: int) -> None:
        self.frontier = frontier
        closed, self._open = self._open, {}
        if self._closed:
            net = self._closed
            for row, diff in closed.items():
                net[row] = net.get(row, 0) + diff
        else:
            self._closed = closed

    def finish(self, up_to: int) -> None:
        """The stream ended by itself: the only proof that everything below UP TO has arrived."""
        self._close(up_to)

    def take(self) -> Iterator[tuple[bytes | None, bytes | None, int]]:
        """Netted updates (key, value, diff ≠ 0) below the frontier; what came after it is kept."""
        net, self._closed = self._closed, {}
        self.size_bytes = sum(map(len, self._open)) + len(self._open) * ENTRY_COST_BYTES
        while net:  # what was handed out is let go of at once: the caller keeps its own form of it
            row, diff = net.popitem()
            if diff:
                key, value = row.rstrip(b"\n").split(b"\t")
                if b"\\" in row:
                    yield self._key(key), self._value(value), diff
                else:  # neither NULL nor bytea nor anything escaped: most rows
                    yield key, value, diff

    def _key(self, field_: bytes) -> bytes | None:
        key = unescape(field_)
        return unhex(key) if self.key_is_bytes else key

    def _value(self, field_: bytes) -> bytes | None:
        value = unescape(field_)
        return unhex(value) if self.value_is_bytes else value
