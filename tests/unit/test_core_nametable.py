"""The table of names is a set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconcile.core.nametable import NameTable

NAMES = st.lists(st.binary(max_size=3), max_size=200)


@given(NAMES, NAMES, st.integers(0, 2000), st.integers(0, 2**64 - 1))
def test_it_answers_as_a_set_does(added: list[bytes], asked: list[bytes], expected: int, salt: int) -> None:
    """Added once, known for ever; nothing else is."""
    table, true = NameTable(expected, salt), set[bytes]()
    for name in added:
        assert table.add(name) is (name not in true)
        true.add(name)
    assert len(table) == len(true)
    assert [name in table for name in asked] == [name in true for name in asked]


def test_it_grows_past_what_was_expected() -> None:
    """A view that grew since it was counted."""
    table = NameTable(0, 7)
    names = [b"name %d" % n for n in range(20_000)]
    assert all(table.add(name) for name in names)
    assert len(table) == len(names)
    assert all(name in table for name in names)
    assert not any(b"other %d" % n in table for n in range(20_000))
