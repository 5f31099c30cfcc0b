"""Reading keys and values, from one server or from the primaries of a cluster."""

from __future__ import annotations

import re
from binascii import crc32
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from reconcile.core.ownership import Range
from reconcile.errors import StateError, Unavailable
from reconcile.target.layouts import Layout
from reconcile.target.names import Names
from reconcile.target.nodes import Nodes
from reconcile.target.pace import MEASURED_KEYS, PAGE_KEYS, Pace, cut
from reconcile.target.packing import Alike, Command, Many
from reconcile.target.port import Page
from reconcile.target.translation import checked, of_another_type
from reconcile.target.wire import Ticket, Wire

NAMES_COUNT = 4000
"""Names per SCAN where no values are read: each keeps Redis busy for one or two milliseconds."""


Asked = list[tuple[Sequence[int], Sequence[bytes], Ticket]]
"""What was asked for one page, by node: places in the page, keys, replies to come."""


class Reader:
    """Reads keys of one view. The next page is under way while the caller works on the one before."""

    def __init__(self, nodes: Nodes, names: Names, owned: Range, layout: Layout) -> None:
        self._nodes = nodes
        self._names = names
        self._range = owned
        self.layout = layout
        self._pace = Pace()

    @property
    def _together(self) -> bool:
        """Whether one MGET can read many keys."""
        return self._nodes.count == 1 and not self.layout.one_by_one

    # -- values --------------------------------------------------------------------------------------------------

    def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return framed values, in order."""
        return [value for page in self.pages([keys]) for _, value in page]

    def pages(self, many: Iterable[Sequence[bytes]], *, unknown: bool = False) -> Generator[Page, None, None]:
        """Yield keys with their values, in pages. Each page is asked for before the one before it is handed out."""
        if unknown:
            self._pace = Pace()
        before: tuple[Sequence[bytes], Asked] | None = None
        for keys in many:
            for some in self._paged(keys):
                asked = self._ask(some)
                if before is not None:
                    yield self._page(*before)
                before = (some, asked)
        if before is not None:
            yield self._page(*before)

    def _paged(self, keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
        at = 0
        while at < len(keys):
            if self._pace.measuring:
                some = keys[at : at + MEASURED_KEYS]
                yield from cut(some, self._sizes(some))
            else:
                some = keys[at : at + self._pace.keys]
                yield some
            at += len(some)

    def _ask(self, keys: Sequence[bytes]) -> Asked:
        if self._together:
            return [(range(len(keys)), keys, self._nodes.wire(0).send([("MGET", *keys)]))]
        return self._send(keys, self.layout.ask)

    def _page(self, keys: Sequence[bytes], asked: Asked) -> Page:
        if self._together:
            (values,) = asked[0][2].checked()
        else:
            values = [None] * len(keys)
            for places, some, ticket in asked:
                for place, value in zip(places, self.layout.found(some, ticket.readable()), strict=True):
                    values[place] = value
        self._pace.seen(values)
        return list(zip(keys, values, strict=True))

    def _sizes(self, keys: Sequence[bytes]) -> list[int]:
        return [sum(size for size in sizes if isinstance(size, int)) for sizes in self._each(keys, self.layout.sizes)]

    # -- commands by key -----------------------------------------------------------------------------------------

    def _send(self, keys: Sequence[bytes], commands: Callable[[Sequence[bytes]], list[Many]]) -> Asked:
        """Send each node the commands for its keys."""
        if self._nodes.count == 1:
            return [(range(len(keys)), keys, self._nodes.wire(0).send(commands(keys)))]
        by_node: dict[int, list[int]] = {}
        for place, key in enumerate(keys):
            by_node.setdefault(self._nodes.owner_of(key), []).append(place)
        asked: Asked = []
        for node, places in by_node.items():
            some = [keys[place] for place in places]
            asked.append((places, some, self._nodes.wire(node).send(commands(some))))
        return asked

    def _each(self, keys: Sequence[bytes], commands: Callable[[Sequence[bytes]], list[Many]]) -> list[list[Any]]:
        """Return the replies for each key; errors among them are of keys of another type."""
        found: list[list[Any]] = [[]] * len(keys)
        for places, some, ticket in self._send(keys, commands):
            replies = ticket.readable()
            width = len(replies) // len(some)
            for number, place in enumerate(places):
                found[place] = replies[number * width : (number + 1) * width]
        return found

    def exist(self, keys: Sequence[bytes]) -> list[bool]:
        """Whether each key exists."""
        found: list[bool] = []
        for start in range(0, len(keys), PAGE_KEYS):
            some = keys[start : start + PAGE_KEYS]
            if self._nodes.count == 1:
                (number,) = self._nodes.wire(0).send([("EXISTS", *some)]).checked()
                if number in (0, len(some)):  # nearly always: all exist, or none
                    found += [bool(number)] * len(some)
                    continue
            found += [bool(replies[0]) for replies in self._each(some, _exists)]
        return found

    def remembered(self, keys: Sequence[bytes]) -> list[bool]:
        """Whether each key is in the sets of remembered names."""
        if self._range.ownership != "remembered":
            return [True] * len(keys)
        sets: dict[bytes, list[int]] = {}
        for place, key in enumerate(keys):
            sets.setdefault(self._names.remembered(key), []).append(place)
        home = self._nodes.wire(self._nodes.owner_of(self._names.state))
        commands: list[Command] = [("SMISMEMBER", name, *(keys[n] for n in places)) for name, places in sets.items()]
        found = [False] * len(keys)
        for (name, places), reply in zip(sets.items(), home.send(commands).replies(), strict=True):
            for place, member in zip(places, _of_set(name, reply), strict=True):
                found[place] = bool(member)
        return found

    # -- names ---------------------------------------------------------------------------------------------------

    def names(self) -> Iterator[list[bytes]]:
        """Yield owned keys in pages."""
        return self._owned(None, NAMES_COUNT)

    def rows(self, wanted: Callable[[bytes], bool] | None = None) -> Generator[Page, None, None]:
        """Yield owned and wanted keys with their values, in pages."""
        return self.pages(self._owned(wanted, PAGE_KEYS), unknown=True)

    def _owned(self, wanted: Callable[[bytes], bool] | None, count: int) -> Iterator[list[bytes]]:
        found = self._remembered_names() if self._range.ownership == "remembered" else self._scanned(count)
        shard = self._names.shard
        mask, i = shard.n - 1, shard.i
        for names in found:
            ours = names if not mask else [key for key in names if crc32(key) & mask == i]
            if keys := ours if wanted is None else [key for key in ours if wanted(key)]:
                yield keys

    def _scanned(self, count: int) -> Iterator[list[bytes]]:
        before = self._nodes.identity()
        owns, prefix, suffices = self._range.owns, self._range.prefix, self._range.prefix_suffices
        for node in range(self._nodes.count):
            for found in scan(self._nodes.wire(node), pattern_of(prefix), count):
                if suffices:  # the short way: this runs for every key of every scan
                    yield [key for key in found if key.startswith(prefix)]
                else:
                    yield [key for key in found if owns(key)]
        # A cursor means nothing to another server: half a scan here and half there would miss keys without an error.
        if self._nodes.identity() != before:
            raise Unavailable(
                "Redis was replaced by another server, or slots were moved, during a scan",
                hint="the next run scans again",
            )

    def _remembered_names(self) -> Iterator[list[bytes]]:
        home = self._nodes.wire(self._nodes.owner_of(self._names.state))
        for name in self._names.remembered_sets:
            yield from scan(home, b"", PAGE_KEYS, ("SSCAN", name))


def scan(wire: Wire, pattern: bytes, count: int, verb: Command = ("SCAN",)) -> Iterator[list[bytes]]:
    """Yield pages of names, or with SSCAN of members. The next page is asked for before one is handed out."""
    options: Command = ("MATCH", pattern, "COUNT", count) if pattern else ("COUNT", count)
    ticket: Ticket | None = wire.send([(*verb, b"0", *options)])
    while ticket is not None:
        (reply,) = ticket.replies()
        cursor, found = _of_set(verb[1], reply) if len(verb) > 1 else checked([reply])[0]
        ticket = wire.send([(*verb, cursor, *options)]) if cursor != b"0" else None
        yield found


def _of_set(name: Any, reply: Any) -> Any:
    """Return what a set of remembered names told. Raises StateError if something else is in its place."""
    if of_another_type(reply):
        raise StateError(
            f"{name.decode()} is not a set: something else wrote it, so names of this view's keys are lost",
            hint="delete that key, then run reconcile snapshot --deep: keys whose rows have gone since are nobody's",
        )
    return checked([reply])[0]


def pattern_of(prefix: bytes) -> bytes:
    """Return the MATCH pattern for a prefix; empty without one."""
    return re.sub(rb"([*?\[\]\\])", rb"\\\1", prefix) + b"*" if prefix else b""


def _exists(keys: Sequence[bytes]) -> list[Many]:
    return [Alike(list(keys), (("EXISTS",),))]
