"""Rows as one value: what is framed comes back, and nothing else is taken for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.core.framing import RowForm, frame, split_expiry, unframe, with_expiry
from reconcile.core.stream import UpdateStream
from reconcile.errors import DataError
from tests.support.framed import framed

FIELDS = st.none() | st.binary(max_size=6)


ROWS = st.integers(1, 5).flatmap(lambda width: st.lists(st.lists(FIELDS, min_size=width, max_size=width), max_size=6))


@given(ROWS)
def test_columns_come_back(rows: list[list[bytes | None]]) -> None:
    """NULL and empty are two things, and no boundary is lost; a row of nothing but NULLs is none."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    made = [framed(row) for row in rows]
    assert frame(columns) == [one if set(row) != {None} else None for one, row in zip(made, rows, strict=True)]
    assert unframe(made) == columns


@given(st.lists(st.binary(max_size=24), min_size=1, max_size=3))
def test_other_bytes_are_refused(data: list[bytes]) -> None:
    """They either are exactly rows of the same width, or an error."""
    try:
        columns = unframe(data)
    except ValueError:
        return
    assert [framed(row) for row in zip(*columns, strict=True)] == (data if columns else [])
    assert columns or not any(data)


@pytest.mark.parametrize("other", [[b"1"], [b"1", b"2", b"3"], [None, None, None], []])
def test_rows_of_another_width_are_refused(other: list[bytes | None]) -> None:
    """A value would end up in a field of another name."""
    with pytest.raises(ValueError, match="fewer columns"):
        unframe([framed([b"1", b"2"]), framed(other)])


@given(st.binary(max_size=5), st.none() | st.integers(-(10**13), 10**14))
def test_times_come_back(value: bytes, milliseconds: int | None) -> None:
    """A time before 1970 is as past as 1970."""
    expected = None if milliseconds is None else max(0, milliseconds)
    assert split_expiry(with_expiry(value, milliseconds)) == (expected, value)


def test_a_value_without_its_time_is_refused() -> None:
    """Seven bytes are no time."""
    with pytest.raises(ValueError, match="within its time"):
        split_expiry(b"1234567")


TWO = RowForm(b"p:", values=2, several=True, binary=(False, False, False))
TIMED = RowForm(b"", expires=True, binary=(False, False, False))


@pytest.mark.parametrize(
    ("form", "row", "made"),
    [
        (RowForm(b"p:"), (b"a", b"1"), (b"p:a", b"1")),
        (RowForm(), (b"a", None), (b"a", None)),
        (TWO, (b"a", b"1", None), (b"p:a", framed([b"1", None]))),
        (TWO, (b"a", None, None), (b"p:a", None)),
        (TWO, (b"a", b"", None), (b"p:a", framed([b"", None]))),
        (TIMED, (b"a", b"1", b"1000"), (b"a", with_expiry(b"1", 1000))),
        (TIMED, (b"a", b"1", None), (b"a", with_expiry(b"1", None))),
        (TIMED, (b"a", None, b"1000"), (b"a", None)),
    ],
)
def test_a_row_of_a_result_and_of_a_stream(
    form: RowForm, row: tuple[bytes | None, ...], made: tuple[bytes, bytes | None]
) -> None:
    """Both paths make the same of it."""
    assert form.rows([row]) == [made]
    stream = UpdateStream(1, 16, form)
    fields = [b"\\N" if field is None else field for field in row]
    assert stream.feed([b"\t".join([b"5", b"f", b"1", *fields]) + b"\n", b"6\tt\t\\N" + form.width * b"\t\\N" + b"\n"])
    assert list(stream.take().puts.items()) == ([made] if made[1] is not None else [])


def test_bytea_travels_in_two_forms() -> None:
    """Raw in a result, hexadecimal in a stream."""
    form = RowForm(b"p:", values=2, several=True, binary=(True, False, True))
    assert form.rows([(b"\xff", b"t", b"\x00\t")]) == [(b"p:\xff", framed([b"t", b"\x00\t"]))]
    stream = UpdateStream(1, 16, form)
    assert stream.feed([b"5\tf\t1\t\\\\xff\tt\t\\\\x0009\n", b"6\tt\t\\N\t\\N\t\\N\t\\N\n"])
    assert stream.take().puts == {b"p:\xff": framed([b"t", b"\x00\t"])}


@pytest.mark.parametrize("form", [RowForm(b"p:"), RowForm(), TWO, TIMED])
def test_a_row_without_key_is_a_data_error(form: RowForm) -> None:
    """On both paths, whatever else is in it."""
    row = (None, *[b"1"] * (form.width - 1))
    with pytest.raises(DataError):
        form.rows([row])
    stream = UpdateStream(1, 16, form)
    stream.feed([b"5\tf\t1\t\\N" + b"\t1" * (form.width - 1) + b"\n", b"6\tt\t\\N" + form.width * b"\t\\N" + b"\n"])
    with pytest.raises(DataError):
        stream.take()
