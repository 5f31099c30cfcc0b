"""Commands, and the bytes in which they travel. Pure.

A command is a tuple. Thousands that differ in some arguments only are an Alike: those arguments by column, and one
template into which each row is put. hiredis, which packs any command, takes three times as long for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from operator import itemgetter
from typing import Any

from hiredis import pack_command
from msgspec import Struct

Arg = bytes | str | int
Command = tuple[Arg, ...]
Shape = tuple[Arg | list[bytes], ...]
"""A command without its key: the name, and arguments. A list has one for each key, anything else is the same for all.
"""

JOIN_BYTES = 16_384
"""Commands that are sent together share buffers of up to this size, one record of TLS. A larger one is not copied."""
JOIN_ROWS = 64
"""So many rows of commands that are alike are joined at once, if they are small."""


class Alike(Struct, frozen=True):
    """For each key one command of each shape, key by key. All lists have the same length."""

    keys: list[bytes]
    shapes: tuple[Shape, ...]

    def _full(self) -> list[Shape]:
        return [(shape[0], self.keys, *shape[1:]) for shape in self.shapes]

    def __iter__(self) -> Iterator[Command]:
        """Yield each command by itself."""
        columns = [[one if isinstance(one, list) else repeat(one) for one in shape] for shape in self._full()]
        return chain.from_iterable(zip(*(zip(*some, strict=False) for some in columns), strict=True))

    @property
    def kinds(self) -> Mapping[Arg, int]:
        """How many commands there are of each name."""
        names: list[Any] = [shape[0] for shape in self.shapes]
        return {name: times * len(self.keys) for name, times in Counter(names).items()}

    def named(self) -> Iterable[Arg]:
        """Return the key of each command."""
        return chain.from_iterable(zip(*repeat(self.keys, len(self.shapes)), strict=True))

    def buffers(self) -> Iterator[bytes]:
        """Yield the packed commands, small ones joined."""
        shapes = self._full()
        lists = [one for shape in shapes for one in shape if isinstance(one, list)]
        arguments = zip(*chain.from_iterable((map(len, one), one) for one in lists), strict=True)
        rows = map(b"".join(map(_template, shapes)).__mod__, arguments)
        while some := list(islice(rows, JOIN_ROWS)):
            if sum(map(len, some)) <= JOIN_BYTES:
                yield b"".join(some)
            else:
                yield from some


class Packed(Struct, frozen=True):
    """Commands packed ahead; sent like any others."""

    kinds: Mapping[Arg, int]
    keys: list[Arg]
    data: list[bytes]

    def named(self) -> Iterable[Arg]:
        """Return the key of each command."""
        return self.keys

    def buffers(self) -> Iterable[bytes]:
        """Return the packed commands."""
        return self.data


Many = Command | Alike
Some = Many | Packed
"""One command, or many."""


def pack(commands: Sequence[Some]) -> Packed:
    """Pack commands that each have a key."""
    return Packed(kinds_of(commands), list(keys_of(commands)), list(_each(commands)))


def packed(commands: Iterable[Some]) -> Iterator[bytes]:
    """Yield commands as bytes, in buffers of up to JOIN_BYTES or of one larger command."""
    waiting: list[bytes] = []
    size = 0
    for one in _each(commands):
        if waiting and size + len(one) > JOIN_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
        waiting.append(one)
        size += len(one)
    if waiting:
        yield b"".join(waiting)


def _each(commands: Iterable[Some]) -> Iterator[bytes]:
    for some in commands:
        if isinstance(some, tuple):
            yield pack_command(some)  # type: ignore[arg-type]
        else:
            yield from some.buffers()


def kinds_of(commands: Sequence[Some]) -> Counter[Arg]:
    """Return how many commands there are of each name."""
    kinds: Counter[Arg] = Counter(map(itemgetter(0), [one for one in commands if isinstance(one, tuple)]))
    for some in commands:
        if not isinstance(some, tuple):
            kinds.update(some.kinds)
    return kinds


def keys_of(commands: Iterable[Some]) -> Iterator[Arg]:
    """Yield the first key of each command."""
    for some in commands:
        if isinstance(some, tuple):
            yield some[1]
        else:
            yield from some.named()


def tuples(commands: Iterable[Command | Alike]) -> Iterator[Command]:
    """Yield each command by itself."""
    for some in commands:
        if isinstance(some, tuple):
            yield some
        else:
            yield from some


def _template(shape: Shape) -> bytes:
    """Return a command's bytes, with places for a length and bytes where an argument is a list."""
    parts = [b"*%d\r\n" % len(shape)]
    for one in shape:
        if isinstance(one, list):
            parts.append(b"$%d\r\n%b\r\n")
        else:
            text = one if isinstance(one, bytes) else str(one).encode()
            parts.append((b"$%d\r\n%b\r\n" % (len(text), text)).replace(b"%", b"%%"))
    return b"".join(parts)
