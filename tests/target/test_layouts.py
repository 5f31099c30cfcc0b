"""Rows in every layout, on one server and in a cluster: what is written is what is read."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from reconcile.core.framing import with_expiry
from reconcile.core.state import Pending, State
from reconcile.target import lease
from reconcile.target.port import Target, Write
from reconcile.target.reader import Reader
from tests.support.framed import framed
from tests.support.meanwhile import PATIENCE_S, beside, eventually
from tests.target.place import Place
from tests.target.test_writing import write

FAR_MS = 4_102_444_800_000
"""2100."""


@dataclass
class Case:
    """A layout, and values that it can have."""

    place: Place
    layout: str
    expires: bool
    values: list[bytes]

    @contextlib.contextmanager
    def armed(self) -> Iterator[Target]:
        view = replace(
            self.place.view, layout=self.layout, expires_at="until" if self.expires else None, value_columns=("*",)
        )
        with replace(self.place, view=view).target() as target:
            target.use_columns(["a", "b", "ç d"])
            target.acquire(30, owner=lease.new_owner(), reset=False)
            yield target


FRAMES = {
    "string": [b"plain", b"", b"\x00\xff" * 100, b"x" * 70_000],
    "json": [b'{"a":1,"b":null}', b"{}"],
    "hash": [framed(row) for row in ([b"1", b"2", b"3"], [None, b"", None], [b"\xff\x00", None, b"y" * 70_000])],
}
CASES = [(layout, expires) for layout in FRAMES for expires in (False, True)]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}{'-expires' if case[1] else ''}")
def case(request: pytest.FixtureRequest, place: Place) -> Case:
    return case_of(place, *request.param)


@pytest.fixture(params=list(FRAMES))
def expiring(request: pytest.FixtureRequest, place: Place) -> Case:
    return case_of(place, request.param, True)


def case_of(place: Place, layout: str, expires: bool) -> Case:
    values = FRAMES[layout]
    if expires:
        values = [with_expiry(value, at_ms) for value in values for at_ms in (None, FAR_MS, FAR_MS + 1)]
    return Case(place, layout, expires, values)


def test_what_is_written_is_what_is_read(case: Case) -> None:
    """Exactly, one by one and in scans; whatever stood there before leaves nothing behind."""
    rows = {b"p:%d" % n: value for n, value in enumerate(case.values)}
    for key in rows:
        case.place.do("HSET", key, "a", "old", "stale", "field")
        case.place.do("EXPIRE", key, 1000)
    with case.armed() as target:
        assert target.values(list(rows)) == [None] * len(rows)
        write(target, Write(puts=rows, state=State(as_of=None)))
        assert target.values(list(rows)) == list(rows.values())
        assert dict(row for page in target.rows() for row in page) == rows
        turned = dict(zip(rows, reversed(rows.values()), strict=True))
        write(target, Write(puts=turned))
        assert target.values(list(rows)) == list(turned.values())
        write(target, Write(deletes=list(rows)))
        assert target.exist(list(rows)) == [False] * len(rows)


def test_other_things_under_our_names_are_unreadable(case: Case) -> None:
    """A list, a set, and a hash with a field too many or without any of ours: they exist, and have no value."""
    with case.armed() as target:
        write(target, Write(puts={b"p:1": case.values[0]}, state=State()))
        case.place.do("RPUSH", "p:2", "x")
        case.place.do("HSET", "p:3", "other", "x")
        found = [None]
        if case.layout == "hash":
            case.place.do("HSET", "p:1", "more", "x")
        else:
            found = [case.values[0]]
        assert target.values([b"p:1", b"p:2", b"p:3", b"p:4"]) == [*found, None, None, None]
        assert target.exist([b"p:1", b"p:2", b"p:3", b"p:4"]) == [True, True, True, False]


def test_only_new_leaves_what_exists(case: Case) -> None:
    """Whatever it is."""
    case.place.do("RPUSH", "p:7", "foreign")
    with case.armed() as target:
        target.commit(Write(state=State(pending=Pending("snapshot", 1))))
        assert not target.commit(Write(puts={b"p:1": case.values[0], b"p:2": case.values[-1]}, only_new=True)).collided
        assert target.commit(Write(puts={b"p:7": case.values[0]}, only_new=True)).collided
        assert target.values([b"p:1", b"p:2"]) == [case.values[0], case.values[-1]]
    assert case.place.do("TYPE", "p:7") == b"list"


def test_nothing_follows_a_key_that_existed(case: Case) -> None:
    """Not even where the write that met it, and would have marked the state, was not sent at all."""
    case.place.do("RPUSH", "p:7", "foreign")
    with case.armed() as target:
        target.commit(Write(state=State()))
        marked = State(pending=Pending("snapshot", 1))
        target.send(Write(puts={b"p:7": case.values[0]}, only_new=True, state=marked))
        outcome = target.send(Write(puts={b"p:1": case.values[0]}, only_new=True))
        assert outcome is not None
        assert outcome.collided
        assert target.settle() is None
        assert target.values([b"p:1"]) == [None]


def test_a_commit_follows_a_key_that_existed(case: Case) -> None:
    """It is a write of its own, with a state of its own: it is never left out while it seems to be done."""
    case.place.do("RPUSH", "p:7", "foreign")
    with case.armed() as target:
        target.commit(Write(state=State(pending=Pending("snapshot", 1))))
        target.send(Write(puts={b"p:7": case.values[0]}, only_new=True))
        assert not target.commit(Write(puts={b"p:1": case.values[0]}, state=State(digest="1"))).collided
        assert target.values([b"p:1"]) == [case.values[0]]


@pytest.mark.parametrize("expires", [False, True], ids=["lasting", "expiring"])
def test_a_key_that_comes_after_the_look_is_noticed(
    expires: bool, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is replaced, never mixed with the row, and the caller learns of it."""
    case = case_of(place, "hash", expires)
    look = Reader.exist

    def looking(reader: Reader, keys: Sequence[bytes]) -> list[bool]:
        found = look(reader, keys)
        place.do("HSET", "p:2", "foreign", "x")
        return found

    with case.armed() as target:
        target.commit(Write(state=State(pending=Pending("snapshot", 1))))
        rows = {b"p:%d" % n: case.values[0] for n in range(4)}
        with monkeypatch.context() as patched:
            patched.setattr(Reader, "exist", looking)
            assert target.commit(Write(puts=rows, only_new=True)).collided
        assert target.values(list(rows)) == list(rows.values())
        more = {b"p:%d" % n: case.values[0] for n in range(4, 8)}
        assert not target.commit(Write(puts=more, only_new=True)).collided


@pytest.mark.parametrize("width", [1, 3, 100])
def test_any_bytes_in_any_number_of_fields(width: int, place: Place) -> None:
    """Values that look like the protocol or like commands, empty ones, and NULLs in changing places."""
    odd = [b"", b"\r\n", b"\x00", b"$-1\r\n", b"*1\r\n$7\r\nFLUSHDB\r\n", b"EXEC", b"%d%%", b"\xff" * 4, None]
    names = ["f\r\n %d", *(f"{n}%%" for n in range(1, width))]
    columns = [[odd[(row + place * (1 + row % 3)) % len(odd)] for place in range(width)] for row in range(64)]
    rows = {b"p:\r\n%%d %d" % n: framed(row) for n, row in enumerate(columns) if set(row) != {None}}
    with replace(place, view=replace(place.view, layout="hash", value_columns=("*",))).target() as target:
        target.use_columns(names)
        target.acquire(30, owner=lease.new_owner(), reset=False)
        write(target, Write(puts=dict.fromkeys(rows, framed([b"old"] * width)), state=State()))
        write(target, Write(puts=rows))
        assert dict(row for page in target.rows() for row in page) == rows
        assert target.values([*rows, b"p:none"]) == [*rows.values(), None]
    for key, row in zip(rows, (row for row in columns if set(row) != {None}), strict=True):
        held = {name.encode(): value for name, value in zip(names, row, strict=True) if value is not None}
        assert place.client(key).hgetall(key) == held


def test_thousands_of_fields(place: Place) -> None:
    """More than a script can pass on in one command."""
    width = 9_000
    row = framed([b"%d" % n for n in range(width)])
    with replace(place, view=replace(place.view, layout="hash", value_columns=("*",))).target() as target:
        target.use_columns([f"f{n}" for n in range(width)])
        target.acquire(30, owner=lease.new_owner(), reset=False)
        write(target, Write(puts={b"p:1": row, b"p:2": row}, state=State()))
        assert target.values([b"p:1", b"p:2", b"p:3"]) == [row, row, None]
    assert place.do("HLEN", b"p:2") == width


def test_a_row_that_is_past_its_time_is_absent(expiring: Case) -> None:
    """Also one from before 1970; a later time brings it back."""
    value = FRAMES[expiring.layout][0]
    with expiring.armed() as target:
        for length_ms in (200, 2000, 20_000):
            soon = target.now_ms() + length_ms
            past = {b"p:1": with_expiry(value, 0), b"p:2": with_expiry(value, 1000), b"p:3": with_expiry(value, soon)}
            write(target, Write(puts=past, state=State()))
            found = target.values(list(past))
            if target.now_ms() < soon:  # else too much time has passed on the way
                break
        assert found == [None, None, with_expiry(value, soon)]
        eventually(lambda: target.exist(list(past)) == [False] * 3)
        assert target.now_ms() >= soon
        write(target, Write(puts={b"p:1": with_expiry(value, FAR_MS), b"p:2": with_expiry(value, None)}))
        assert target.values([b"p:1", b"p:2"]) == [with_expiry(value, FAR_MS), with_expiry(value, None)]
        assert [expiring.place.do("PTTL", key) > 0 for key in (b"p:1", b"p:2")] == [True, False]


def test_no_reader_sees_half_a_hash(place: Place) -> None:
    """It has the fields of one row, whatever is written meanwhile."""
    rows = [framed([b"x", None, b"x"]), framed([None, b"y", b"y"])]
    case = Case(place, "hash", False, rows)
    seen = set()

    def read(over: threading.Event) -> None:
        while not over.is_set():
            seen.add(frozenset(place.do("HGETALL", "p:1").items()))

    with case.armed() as target:
        write(target, Write(puts={b"p:1": rows[0]}, state=State(pending=Pending("snapshot", 1))))
        with beside(read):
            until, n = time.monotonic() + PATIENCE_S, 0
            while n < 300 or (len(seen) < 2 and time.monotonic() < until):
                n += 1
                target.commit(Write(puts={b"p:1": rows[n % 2]}, state=State(pending=Pending("snapshot", n))))
    assert seen <= {
        frozenset({(b"a", b"x"), ("ç d".encode(), b"x")}),
        frozenset({(b"b", b"y"), ("ç d".encode(), b"y")}),
    }
    assert len(seen) == 2
