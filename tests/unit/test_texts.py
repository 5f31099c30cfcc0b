"""Text for terminals and for other programs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.texts import argument, environment, printable, printable_lines, to_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain 日本 é 😀", "plain 日本 é 😀"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b[2J\x9b1A\x7f\0", "\\x1b[2J\\x9b1A\\x7f\\x00"),
        ("\u202eabc\u2066\u200b\u2028", "\\u202eabc\\u2066\\u200b\\u2028"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    """Controls of both sets, marks that reorder a line, bytes that are no text; letters of all scripts stay."""
    assert printable(text) == shown


@given(st.text())
def test_a_part_of_a_line_never_ends_it(text: str) -> None:
    """Whatever it holds."""
    assert printable(text).isprintable()


@given(st.text(st.characters()))
def test_lines_keep_their_breaks_and_nothing_else_that_acts(text: str) -> None:
    """A terminal moves on by lines and tabs only."""
    shown = printable_lines(text)
    assert shown.count("\n") == text.count("\n")
    assert all(c.isprintable() or c in "\n\t\r" or ord(c) >= 0xA0 for c in shown)
    assert "\r" not in shown.replace("\r\n", "")


@given(st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.lists(inner)))
def test_json_is_one_printable_line_of_ascii(value: object) -> None:
    """And means the same."""
    text = to_json(value)
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text) == value


def test_environment_and_arguments_are_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are not UTF-8 stay recognisable."""
    monkeypatch.setenv("RECONCILE_X", "é")
    assert environment()["RECONCILE_X"] == "é"
    monkeypatch.setenv("RECONCILE_X", "\udcff")
    assert environment()["RECONCILE_X"] == "\udcff"
    assert argument("é") == "é"
