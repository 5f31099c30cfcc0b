"""Logging: to stderr as text on a terminal and JSON lines otherwise, or as the configuration says."""

from __future__ import annotations

import json
import logging
import sys

from reconcile.config.settings import LoggingSettings
from reconcile.errors import ConfigError

TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def set_up(settings: LoggingSettings) -> None:
    """Configure the 'reconcile' logger. Raises ConfigError when the log file cannot be opened."""
    handler: logging.Handler
    try:
        handler = logging.FileHandler(settings.file) if settings.file else logging.StreamHandler(sys.stderr)
    except OSError as error:
        raise ConfigError(
            f"cannot write the log file {settings.file}: {error.strerror}", hint="logging.file"
        ) from error
    if settings.format:
        handler.setFormatter(logging.Formatter(settings.format))
    elif settings.file or not sys.stderr.isatty():
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter(TEXT_FORMAT))
    logger = logging.getLogger("reconcile")
    logger.handlers[:] = [handler]
    logger.setLevel(settings.level.upper())
    logger.propagate = False
