"""Changes of a closed range: which are refused, and what their errors say."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from reconcile.core.changes import MAX_EXAMPLES, Changes, Net, duplicate_keys, name_of
from reconcile.core.digest import bucket_of
from reconcile.errors import DataError

SALT = 0x5EED5A17
BUCKETS = 16


def consolidated(updates: Sequence[tuple[bytes | None, bytes | None, int]]) -> Changes:
    keys, values, diffs = zip(*updates, strict=True)
    net = Net(BUCKETS, SALT)
    net.update(keys, values, [b"%d" % diff for diff in diffs])
    return net.changes()


@pytest.mark.parametrize(
    ("updates", "past"),
    [
        ([(b"k", b"1", 1), (b"k", b"2", 1)], False),
        ([(b"k", b"1", 2)], False),
        ([(b"k", b"1", -2)], True),
        ([(b"k", b"1", 1), (b"k", None, 1)], False),
        ([(b"k", b"1", -1), (b"k", b"2", -1), (b"k", b"3", 1)], True),
        ([(b"k", b"1", -1), (b"k", b"2", -1), (b"k", b"3", 1), (b"k", b"4", 1)], False),
        ([(b"k", b"1", -2), (b"l", b"3", 2)], False),
    ],
)
def test_a_key_with_several_rows_is_refused(updates: list[tuple[bytes, bytes, int]], past: bool) -> None:
    """Silently picking one value would be a wrong cache: the error names the key and exits 5. If it had them before,
    and has one at most now, a snapshot may settle it."""
    with pytest.raises(DataError, match=r"several rows.*: k") as refused:
        consolidated(updates)
    assert refused.value.past == past


@pytest.mark.parametrize("diff", [1, -1])
def test_a_null_key_is_refused(diff: int) -> None:
    """A row without key cannot be stored: exit 5 with a hint how to filter it."""
    with pytest.raises(DataError, match="key is NULL") as caught:
        consolidated([(None, b"v", diff)])
    assert "IS NOT NULL" in (caught.value.hint or "")


def test_the_error_names_a_few_examples() -> None:
    """Of thousands of duplicate keys a handful is named, once each, and the rest counted."""
    message = duplicate_keys([b"k%d" % (n % 8) for n in range(100)]).message
    assert message == "keys with several rows: " + ", ".join(f"k{n}" for n in range(MAX_EXAMPLES)) + " and 3 more"


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (b"user:1", "user:1"),
        ("é日本".encode(), "é日本"),
        (b"\xff\x00", "\\\\xff\\x00"),
        (b"a\nb", "a\\nb"),
        (b"x" * 200, "x" * 117 + "..."),
        (b"\x1b[31mred", "\\x1b[31mred"),
    ],
)
def test_keys_are_shown_without_harm(key: bytes, shown: str) -> None:
    """Control characters cannot reach a terminal or log line; long keys are cut."""
    assert name_of(key) == shown


def test_rows_without_a_value_count_as_changed() -> None:
    """Equal here, they may differ at the source, in when they expire: its fingerprint is another one then."""
    updates: list[tuple[bytes | None, bytes | None, int]] = [(b"k", None, -1), (b"k", None, 1)]
    assert consolidated(updates).touched == {bucket_of(b"k", BUCKETS)}
    net, later = Net(BUCKETS, SALT), Net(BUCKETS, SALT)
    later.update([b"k", b"k"], [None, None], [b"-1", b"1"])
    net.merge(later)
    assert net
    assert net.changes().touched == {bucket_of(b"k", BUCKETS)}


def test_the_size_of_changes_is_that_of_what_is_written() -> None:
    """Keys and values of puts, keys of deletes."""
    changes = consolidated([(b"abc", b"12345", 1), (b"gone", b"x", -1)])
    assert changes.size_bytes == 3 + 5 + 4
