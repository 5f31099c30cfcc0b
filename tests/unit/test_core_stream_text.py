"""The text of COPY (SUBSCRIBE …), as Materialize was recorded to send it (subscribe, subscribe_bounds, copy_text)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.core import digest
from reconcile.core.changes import ENTRY_COST_BYTES
from reconcile.core.stream import UpdateStream, unescape, unhex
from reconcile.errors import DataError, ExitCode, ReconcileError
from tests.support.copy_text import TEXTS, escaped, hexed, line, progress

AS_OF = 1_000
SALT = 0x5EED5A17
BUCKETS = 16


# -- the recorded streams --------------------------------------------------------------------------------------------

T = {f"T{n}": AS_OF + 10 * (n - 1) for n in range(1, 20)}


def recorded(text: str) -> list[bytes]:
    r"""Lines of a transcript: <T1> is AS OF; tabs and \N as recorded."""
    for name in sorted(T, key=len, reverse=True):
        text = text.replace(f"<{name}>", str(T[name]))
    return [(one + "\n").encode() for one in text.splitlines()]


SUBSCRIBE = recorded(
    "<T1>\tt\t\\N\t\\N\t\\N\n"
    "<T2>\tf\t1\tc\t3\n"
    "<T3>\tf\t-1\ta\t1\n"
    "<T3>\tf\t1\ta\t1b\n"
    "<T4>\tf\t-1\tb\t2\n"
    "<T5>\tf\t1\td\t4\n"
    "<T5>\tf\t1\te\t5\n"
    "<T5>\tf\t1\tf\t6\n"
    "<T6>\tf\t1\tc\t3\n"
    "<T7>\tf\t1\tc\t33\n"
    "<T8>\tf\t-2\tc\t3\n"
    "<T8>\tf\t-1\tc\t33\n"
    "<T14>\tt\t\\N\t\\N\t\\N\n"
    "<T15>\tt\t\\N\t\\N\t\\N"
)


def test_the_recorded_subscription() -> None:
    """The transcript `subscribe`, closed at once: duplicates that came and went within the range are no error."""
    stream = UpdateStream(T["T1"], BUCKETS, salt=SALT)
    assert [stream.feed([each]) for each in SUBSCRIBE] == [False] * 12 + [True, True]
    changes = stream.take()
    assert changes.puts == {b"a": b"1b", b"d": b"4", b"e": b"5", b"f": b"6"}
    assert (changes.deletes, sorted(changes.inserts)) == ([b"b"], [b"d", b"e", b"f"])
    assert (stream.frontier, stream.updates) == (T["T15"], 11)


def test_the_recorded_subscription_closed_between_its_duplicates() -> None:
    """Had progress come while the key had two values, the run would have stopped there and named it."""
    stream = UpdateStream(T["T1"], BUCKETS, salt=SALT)
    for each in SUBSCRIBE[:10]:
        stream.feed([each])
    assert stream.feed([progress(T["T7"] + 1)])
    with pytest.raises(DataError, match="one key has several rows: c") as caught:
        stream.take()
    assert caught.value.exit_code == ExitCode.SAFETY_STOP


def test_the_first_progress_row_closes_nothing() -> None:
    """It equals AS OF, is sent before any data and proves nothing: the frontier stays at as_of + 1."""
    stream = UpdateStream(AS_OF, BUCKETS, salt=SALT)
    assert not stream.feed([progress(AS_OF)])
    assert not stream.feed([progress(AS_OF + 1)]), "nothing new is known either"
    assert stream.frontier == AS_OF + 1
    assert stream.feed([progress(AS_OF + 2)])
    assert stream.frontier == AS_OF + 2


def test_progress_closes_what_is_strictly_below_it() -> None:
    """Rows at P may still come after progress P, so rows already there at P are not handed out with it."""
    stream = UpdateStream(AS_OF, BUCKETS, salt=SALT)
    stream.feed([line(AS_OF + 5, 1, (b"k", b"v"))])
    assert not stream.feed([progress(AS_OF + 5)])
    assert stream.feed([progress(AS_OF + 6)])
    assert stream.take().puts == {b"k": b"v"}


def test_only_the_end_proves_the_bound() -> None:
    """With UP TO no progress row comes at the bound: `finish` closes the rest and makes it the frontier."""
    stream = UpdateStream(AS_OF, BUCKETS, salt=SALT)
    stream.feed([progress(AS_OF)])
    assert not stream.feed([line(AS_OF + 3, 1, (b"b", b"2"))])
    assert not stream.take()
    stream.finish(AS_OF + 4)
    assert stream.frontier == AS_OF + 4
    assert stream.take().puts == {b"b": b"2"}


def test_an_empty_bounded_stream_still_moves_the_frontier() -> None:
    """Nothing changed below UP TO: the checkpoint moves nevertheless, or it would age out of the history."""
    stream = UpdateStream(AS_OF, BUCKETS, salt=SALT)
    stream.feed([progress(AS_OF)])
    stream.finish(AS_OF + 1_000)
    assert stream.frontier == AS_OF + 1_000
    assert not stream.take()


def test_an_update_at_as_of_is_refused() -> None:
    """It would mean the server sent the snapshot, or goes back in time: applying it twice would be wrong."""
    stream = UpdateStream(AS_OF, BUCKETS, salt=SALT)
    with pytest.raises(ReconcileError, match="not after AS OF"):
        stream.feed([line(AS_OF, 1, (b"k", b"v"))])


def test_taking_keeps_what_is_open() -> None:
    """Taking a closed range, partly or not at all, loses nothing of the open one."""
    stream = UpdateStream(AS_OF, BUCKETS, salt=SALT)
    stream.feed([line(AS_OF + 1, 1, (b"a", b"1"))])
    stream.feed([progress(AS_OF + 2)])
    stream.feed([line(AS_OF + 2, 1, (b"b", b"2"))])
    assert stream.take().puts == {b"a": b"1"}
    stream.feed([progress(AS_OF + 3)])
    assert stream.take().puts == {b"b": b"2"}


def test_held_bytes_are_counted_and_let_go() -> None:
    """The memory bound sees every row held, and sees it go when it is taken."""
    stream = UpdateStream(AS_OF, BUCKETS, salt=SALT)
    assert stream.size_bytes == 0
    stream.feed([line(AS_OF + 1, 1, (b"a", b"x" * 1000))])
    assert stream.size_bytes >= 1000 + ENTRY_COST_BYTES
    stream.feed([progress(AS_OF + 2)])
    stream.take()
    assert stream.size_bytes == 0


# -- fields ----------------------------------------------------------------------------------------------------------

COPY_TEXT = [
    ("\tempty key", b"", b"empty key"),
    (" spaced \t v ", b" spaced ", b" v "),
    ("backslash\ta\\\\b", b"backslash", b"a\\b"),
    ("cr\ta\\rb", b"cr", b"a\rb"),
    ("empty\t", b"empty", b""),
    ("literal-N\t\\\\N", b"literal-N", b"\\N"),
    ("newline\ta\\nb", b"newline", b"a\nb"),
    ("null\t\\N", b"null", None),
    ("snowman\t☃ é 日本 🎉", b"snowman", "☃ é 日本 🎉".encode()),
    ("tab\ta\\tb", b"tab", b"a\tb"),
    ("\\N\tnull key", None, b"null key"),
]


@pytest.mark.parametrize(("text", "key", "value"), COPY_TEXT)
def test_the_recorded_copy_text(text: str, key: bytes | None, value: bytes | None) -> None:
    """Every line of the transcript `copy_text` means what the same query's SELECT returned."""
    stream = UpdateStream(AS_OF, BUCKETS, salt=SALT)
    stream.feed([f"{AS_OF + 1}\tf\t1\t{text}\n".encode()])
    stream.finish(AS_OF + 2)
    if key is None:
        with pytest.raises(DataError, match="key is NULL"):
            stream.take()
        return
    changes = stream.take()
    assert changes.puts == ({} if value is None else {key: value})
    assert changes.touched == {digest.bucket_of(key, BUCKETS)}


@given(st.one_of(st.none(), st.binary(max_size=20), TEXTS))
def test_escapes_are_undone(value: bytes | None) -> None:
    r"""Unescaping is the inverse of COPY's escapes; only an unescaped \N is NULL."""
    assert unescape(escaped(value)) == value


@given(st.one_of(st.none(), st.binary(max_size=20)))
def test_bytea_is_read_from_its_hexadecimal_form(value: bytes | None) -> None:
    r"""A bytea travels as \x and digits, its backslash escaped like any other."""
    assert unhex(unescape(escaped(hexed(value)))) == value
