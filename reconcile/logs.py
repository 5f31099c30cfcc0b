"""Logging: to stderr as text on a terminal and JSON lines otherwise, or as the configuration says."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import sys

from reconcile.config.settings import LoggingSettings
from reconcile.errors import ConfigError
from reconcile.texts import printable, printable_lines, to_json

TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
LIBRARIES = ("psycopg", "redis")
"""Their warnings appear among ours, in the same form. Without a handler Python would print them to stderr as text."""


class TextFormatter(logging.Formatter):
    """Format messages as single lines: line breaks and control characters in them are escaped."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:  # noqa: N802
        return printable_lines(super().formatException(ei))  # type: ignore[arg-type]


class JsonFormatter(logging.Formatter):
    """One JSON object per line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return to_json(entry)


class _FileHandler(logging.FileHandler):
    """Report a log that cannot be written once, on stderr; never end or flood the run."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not self._told:
            self._told = True
            why = getattr(sys.exc_info()[1], "strerror", None) or "it cannot be written"
            with contextlib.suppress(OSError):
                sys.stderr.write(f"warning: the log {self.baseFilename} is incomplete: {why}\n")


def set_up(settings: LoggingSettings) -> None:
    """Configure the loggers of reconcile and LIBRARIES. Raises ConfigError for settings that cannot be applied."""
    handler = _open(settings.file) if settings.file else logging.StreamHandler(sys.stderr)
    if settings.format:
        handler.setFormatter(_formatter(settings.format))
    elif settings.file or not sys.stderr.isatty():
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter(TEXT_FORMAT))
    level = logging.getLevelName(settings.level.upper())
    for name in ("reconcile", *LIBRARIES):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level if name == "reconcile" else max(level, logging.WARNING))
        logger.propagate = False


def _open(path: str) -> logging.Handler:
    try:
        if os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # opening it as logging does would wait for a reader
        return _FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        why = "nobody reads this pipe" if error.errno == errno.ENXIO else error.strerror
        raise ConfigError(f"cannot write the log file {path}: {why}", hint="logging.file") from error


def _formatter(text: str) -> logging.Formatter:
    formatter = TextFormatter(text)
    record = logging.LogRecord("reconcile", logging.INFO, __file__, 1, "message", None, None)
    try:
        formatter.format(record)
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            f"logging.format does not fit a log record: {type(error).__name__} {error}",
            hint="fields are those of Python's logging, such as %(asctime)s %(levelname)s %(message)s",
        ) from None
    return formatter
