"""What a log line may hold."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconcile.config.settings import LoggingSettings
from reconcile.logs import LIBRARIES, TEXT_FORMAT, JsonFormatter, TextFormatter, set_up

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


@pytest.fixture
def loggers() -> Iterator[list[logging.Logger]]:
    """Ours and the libraries', as they were afterwards."""
    found = [logging.getLogger(name) for name in ("reconcile", *LIBRARIES)]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in found]
    yield found
    for logger, (handlers, level, propagate) in zip(found, before, strict=True):
        for handler in logger.handlers:
            handler.close()
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["reconcile debug", "reconcile warning", "psycopg warning", "redis warning"]),
        ("warning", ["reconcile warning", "psycopg warning", "redis warning"]),
        ("error", []),
    ],
)
def test_libraries_write_where_we_write(
    level: str, written: list[str], loggers: list[logging.Logger], tmp_path: Path
) -> None:
    """Every line of a log is in one form; what libraries say below a warning is nobody's business."""
    log = tmp_path / "log"
    set_up(LoggingSettings(level=level, file=str(log)))
    for logger in loggers:
        logger.getChild("connection").debug("%s debug", logger.name)
        logger.getChild("connection").warning("%s warning", logger.name)
    assert [json.loads(line)["message"] for line in log.read_text().splitlines()] == written
