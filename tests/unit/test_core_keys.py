"""Redis keys of several columns: no two rows meet under one, and each says what it was made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.core.keys import KeyShape

# Texts of what may go wrong: separators, the escape, and what escapes look like.
TEXTS = st.text(alphabet="a:%|-/25C3Aé→\n{}", max_size=6)
LITERALS = st.sampled_from([":", "::", "|", "-x-", "/%", "→", "}:", ":%3A"])


@st.composite
def shapes(draw: st.DrawFn) -> KeyShape:
    columns = draw(st.integers(1, 4))
    between = draw(st.lists(LITERALS, min_size=columns - 1, max_size=columns - 1))
    return KeyShape(draw(TEXTS), tuple("abcd"[:columns]), (*between, draw(TEXTS)))


@given(shapes(), st.data())
def test_a_key_says_what_it_was_made_of(shape: KeyShape, data: st.DataObject) -> None:
    """So two rows cannot meet: the columns come back from the key, whatever is in them."""
    values = tuple(data.draw(TEXTS).encode() for _ in shape.columns)
    assert shape.values(shape.key(values)) == values


@given(shapes(), TEXTS)
def test_what_is_no_key_of_the_shape_has_no_columns(shape: KeyShape, text: str) -> None:
    """Whatever is found under a prefix: either it makes the very same key again, or it is nothing."""
    found = shape.values(text.encode())
    assert found is None or shape.key(found) == text.encode()


@pytest.mark.parametrize(
    ("shape", "values", "key"),
    [
        (KeyShape("p:", ("key",), ("",)), [b"a:b%"], b"p:a:b%"),
        (KeyShape("", ("a", "b"), (":", "")), [b"x:y", b"z:%"], b"x%3Ay:z:%"),
        (KeyShape("user:", ("a", "b"), (":", ":profile")), [b"50%", b"7"], b"user:50%25:7:profile"),
        (KeyShape("", ("a", "b"), ("→", "")), ["x→".encode(), b""], "x%E2%86%92→".encode()),
    ],
)
def test_keys(shape: KeyShape, values: list[bytes], key: bytes) -> None:
    """Nothing is escaped in the last column, nor in a single one."""
    assert shape.key(values) == key


@pytest.mark.parametrize(
    ("columns", "literals", "problem"),
    [
        ((), (), "names no column"),
        (("a", "a"), (":", ""), "names column 'a' twice"),
        (("a", "b"), ("", ""), "nothing between column 'a' and the next"),
        (("a", "b"), ("x", ""), "must not begin with a letter"),
        (("a", "b"), ("5", ""), "must not begin with a letter, a digit"),
        (("a", "b"), ("%", ""), "a digit or %"),
        (("a", "b"), (":",), "does not say what follows"),
    ],
)
def test_shapes_that_cannot_be(columns: tuple[str, ...], literals: tuple[str, ...], problem: str) -> None:
    """Rows could meet, or could not be told apart from what an escape looks like."""
    with pytest.raises(ValueError, match=problem):
        KeyShape("p:", columns, literals)
