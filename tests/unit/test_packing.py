"""Commands as bytes: however they are packed, Redis receives the same."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hiredis import pack_command
from hypothesis import given
from hypothesis import strategies as st

from reconcile.target.packing import (
    JOIN_BYTES,
    JOIN_ROWS,
    Alike,
    Command,
    Many,
    Shape,
    keys_of,
    kinds_of,
    pack,
    packed,
    tuples,
)

ODD = [b"", b"\r\n", b"$3\r\n", b"*1\r\n$7\r\nFLUSHDB\r\n", b"%d", b"%%b", b"\x00"]
TEXTS = st.binary(max_size=6) | st.sampled_from(ODD)
PLAIN: list[Command] = [("UNLINK", b"a", b"b"), ("SETRANGE", b"c", 12, b"\r\n")]


@st.composite
def alikes(draw: st.DrawFn) -> Alike:
    """Commands of one to three shapes for up to five keys."""
    keys = draw(st.lists(TEXTS, max_size=5))
    same = TEXTS | st.text(max_size=3) | st.integers(0, 99)
    one = same | st.lists(TEXTS, min_size=len(keys), max_size=len(keys))
    shape = st.tuples(st.sampled_from(["HSET", "GET", "X%d"]), st.lists(one, max_size=4))
    shapes: list[Shape] = [(name, *arguments) for name, arguments in draw(st.lists(shape, min_size=1, max_size=3))]
    return Alike(keys, tuple(shapes))


def one_by_one(commands: list[Many]) -> list[Command]:
    """Every command, made without a template."""
    made: list[Command] = []
    for some in commands:
        if isinstance(some, tuple):
            made.append(some)
            continue
        for n, key in enumerate(some.keys):
            for name, *arguments in some.shapes:
                assert isinstance(name, str)
                made.append((name, key, *(one[n] if isinstance(one, list) else one for one in arguments)))
    return made


@given(st.lists(alikes() | st.sampled_from(PLAIN), max_size=3))
def test_templates_make_the_same_bytes(commands: list[Many]) -> None:
    """Whatever is in the values or in the names of fields; packed ahead or while they are sent, or each by itself."""
    expected = one_by_one(commands)
    sent = b"".join(pack_command(command) for command in expected)  # type: ignore[arg-type]
    ahead = pack(commands)
    assert b"".join(packed(commands)) == sent
    assert b"".join(packed([ahead])) == sent
    assert list(tuples(commands)) == expected
    for some in (commands, [ahead]):
        assert list(keys_of(some)) == [command[1] for command in expected]
        assert +kinds_of(some) == Counter(command[0] for command in expected)


@pytest.mark.parametrize("size", [1, JOIN_BYTES // JOIN_ROWS, 3000, JOIN_BYTES + 1])
def test_buffers_are_bounded(size: int) -> None:
    """Small commands are joined, so that few packets travel; a large one is not copied once more."""
    values = [b"v" * size] * 200
    buffers = list(packed([("MULTI",), Alike([b"k"] * 200, (("HSET", b"f", values),)), ("EXEC",)]))
    sizes = list(map(len, buffers))
    assert max(sizes) <= max(JOIN_BYTES, size + 100)
    assert all(one + other > JOIN_BYTES for one, other in itertools.pairwise(sizes))
