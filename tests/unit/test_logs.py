"""What a log line may hold."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from reconcile.logs import TEXT_FORMAT, JsonFormatter, TextFormatter

FORGED = "x\n2026 INFO reconcile all is well\x1b[2J\x9b2J\x7f\u202e日本"


def record(message: str) -> logging.LogRecord:
    """A record with an exception whose text is the same."""
    try:
        raise ValueError(message)
    except ValueError:
        return logging.LogRecord("reconcile", logging.INFO, __file__, 1, "%s", (message,), sys.exc_info())


@pytest.mark.parametrize("form", [TEXT_FORMAT, "%(levelname)s - %(message)s"])
def test_text_from_elsewhere_keeps_to_its_line(form: str) -> None:
    """A forged line or an escape sequence in a key is escaped, in a format of the user's too; letters stay."""
    text = TextFormatter(form).format(record(FORGED))
    first, *traceback = text.splitlines()
    assert first.endswith("x\\n2026 INFO reconcile all is well\\x1b[2J\\x9b2J\\x7f\\u202e日本")
    assert traceback[0] == "Traceback (most recent call last):"
    assert not {"\x1b", "\x9b", "\x7f", "\u202e"} & set(text)


def test_json_lines_are_ascii() -> None:
    """Every stream can print them, and a program reads what was meant."""
    text = JsonFormatter().format(record(FORGED))
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text)["message"] == FORGED
