"""Keys as people copy them from reports and from redis-cli."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.core.changes import name_of
from reconcile.inspect.keynames import keys_named


@given(st.one_of(st.binary(max_size=20), st.text(max_size=10).map(lambda text: text.encode("utf-8", "replace"))))
def test_what_reports_show_can_be_given_back(key: bytes) -> None:
    """Any key without a backslash of its own, which no longer differs from an escape."""
    if b"\\" not in key:
        assert key in keys_named(name_of(key))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (r"p:\x00\xff", b"p:\x00\xff"),
        (r"p:\xc3\xa9\n", "p:é\n".encode()),
        (r"p:\"\\", b'p:"\\'),
    ],
)
def test_what_redis_cli_shows(text: str, key: bytes) -> None:
    """Every \\x.. is a byte there."""
    assert key in keys_named(text)


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_a_key_as_it_is_comes_first(text: str) -> None:
    """A real backslash is not taken away; no text is refused."""
    assert keys_named(text)[0] == text.encode()


def test_text_without_escapes_is_one_key() -> None:
    """Each further candidate costs a look at both servers. Bytes that are not UTF-8 come as surrogates."""
    assert keys_named("p:é\udcff") == ["p:é".encode() + b"\xff"]
    assert keys_named(r"\ud800") == [rb"\ud800"]
