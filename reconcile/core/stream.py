"""Parse the text of COPY (SUBSCRIBE … WITH (PROGRESS)): lines in, closed ranges out. No I/O, no clock.

A line is  mz_timestamp ⇥ mz_progressed ⇥ mz_diff ⇥ key ⇥ value ⇥ … ⏎  with COPY's escapes, also of tabs and
line ends: so many lines can be cut into fields at once.

    progress row P     everything with time < P has arrived; the checkpoint may become P − 1, never P
    first progress row equals AS OF and proves nothing (it is sent before any data)
    end with UP TO U   no progress row comes at the bound; only the end itself proves frontier = U
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from reconcile.core.changes import Changes, Net
from reconcile.core.framing import RowForm
from reconcile.core.times import Frontier
from reconcile.errors import ReconcileError

_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_UNESCAPED = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"\\": b"\\", b"b": b"\b", b"f": b"\f", b"v": b"\v"}

_PLAIN = RowForm()
_BEFORE_KEY = 3
"""Number of fields before the row's columns."""


def unescape(field_: bytes) -> bytes | None:
    r"""Decode a COPY text field to bytes; \N is NULL."""
    if b"\\" not in field_:
        return field_
    if field_ == b"\\N":
        return None
    return _ESCAPE.sub(lambda match: _UNESCAPED.get(match[1], match[1]), field_)


def unhex(value: bytes | None) -> bytes | None:
    r"""Decode a bytea field: \x and hexadecimal digits."""
    return None if value is None else bytes.fromhex(value[2:].decode("ascii"))


class UpdateStream:
    """Updates, collected until a progress row closes them.

    frontier: exclusive; every update with a lower time has been returned by `take` or is held.
    """

    __slots__ = ("_closed", "_newest", "_open", "as_of", "buckets", "form", "frontier", "salt", "updates")

    def __init__(self, as_of: int, buckets: int, form: RowForm = _PLAIN, salt: int = 0) -> None:
        """salt: of digests."""
        self.as_of, self.buckets, self.form, self.salt = as_of, buckets, form, salt
        self.frontier = Frontier(as_of + 1)
        self.updates = self._newest = 0
        self._open, self._closed = Net(buckets, salt), Net(buckets, salt)

    @property
    def size_bytes(self) -> int:
        """Bytes of memory held."""
        return self._open.size_bytes + self._closed.size_bytes

    @property
    def largest_bytes(self) -> int:
        """Bytes of memory that the largest row to write takes alone."""
        return max(self._open.largest_bytes, self._closed.largest_bytes)

    @property
    def has_changes(self) -> bool:
        """Whether `take` would return more than a later frontier."""
        return bool(self._closed)

    @property
    def settled(self) -> bool:
        """Whether `take` would not raise: below the frontier no key is NULL or has several rows."""
        return self._closed.settled

    def feed(self, lines: Sequence[bytes | memoryview]) -> bool:
        """Add lines. Return True if they closed a range: `take` it now, or feed on and take more at once."""
        text = b"".join(lines)
        fields = text.replace(b"\n", b"\t").split(b"\t")
        width = _BEFORE_KEY + self.form.width
        count, rest = divmod(len(fields) - 1, width)
        if rest:
            raise ReconcileError("Materialize sent a line in an unexpected format")
        escaped = b"\\" in text
        progressed = fields[1::width]
        closed = False
        start = 0
        while start < count:
            end = progressed.index(b"t", start) if b"t" in progressed[start:] else count
            if end > start:
                self._update(fields[width * start : width * end], escaped=escaped)
            if end < count:
                closed |= self._progress(Frontier(int(fields[width * end])))
            start = end + 1
        return closed

    def _update(self, fields: list[bytes], *, escaped: bool) -> None:
        """Add the rows between two progress rows."""
        form, width = self.form, _BEFORE_KEY + self.form.width
        times = [int(text) for text in set(fields[::width])]
        if min(times) <= self.as_of:
            raise ReconcileError(f"Materialize sent an update at {min(times)}, not after AS OF {self.as_of}")
        self._newest = max(self._newest, *times)
        columns: list[Sequence[bytes | None]] = [fields[i::width] for i in range(_BEFORE_KEY, width)]
        if escaped:
            columns = [
                _unescaped(fields[i::width], is_bytes=form.binary[i - _BEFORE_KEY]) for i in range(_BEFORE_KEY, width)
            ]
        keys = columns[0]
        if form.prefix:
            keys = [key if key is None else form.prefix + key for key in keys]
        self._open.update(keys, form.framed(columns[1:]), fields[2::width])
        self.updates += len(keys)

    def _progress(self, frontier: Frontier) -> bool:
        if frontier <= self.frontier or frontier <= self._newest:
            return False
        self._close(frontier)
        return True

    def _close(self, frontier: Frontier) -> None:
        self.frontier = frontier
        if not self._closed:
            self._open, self._closed = self._closed, self._open
        elif self._open:
            self._closed.merge(self._open)
            self._open = Net(self.buckets, self.salt)

    def finish(self, up_to: Frontier) -> None:
        """Note that the stream ended by itself, the only proof that everything below UP TO has arrived."""
        self._close(up_to)

    def drop(self) -> None:
        """Forget what is held: it is too much, and another way is taken, which needs the memory."""
        self._open, self._closed = Net(self.buckets, self.salt), Net(self.buckets, self.salt)

    def take(self) -> Changes:
        """Return the net changes below the frontier; later updates are kept. Raises DataError."""
        closed, self._closed = self._closed, Net(self.buckets, self.salt)
        return closed.changes()


def _unescaped(fields: list[bytes], *, is_bytes: bool) -> list[bytes | None]:
    """Decode fields to bytes. A bytea field always contains a backslash, as does NULL."""
    plain = [unescape(field_) if b"\\" in field_ else field_ for field_ in fields]
    return [unhex(field_) for field_ in plain] if is_bytes else plain
