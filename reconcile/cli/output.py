"""Output of commands: results to stdout, errors to stderr; with --json one object on stdout in either case."""

from __future__ import annotations

import logging
from typing import TextIO

import click

from reconcile.errors import ReconcileError
from reconcile.texts import printable_lines, to_json

logger = logging.getLogger(__name__)


def say(text: str, *, error: bool = False) -> None:
    """Print lines for people to stdout or stderr, with control characters escaped."""
    click.echo(printable_lines(text), err=error)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal; a stream that the shell has closed is None."""
    return stream is not None and stream.isatty()


def print_json(value: object) -> None:
    """Print one line of JSON to stdout."""
    click.echo(to_json(value))


def print_error(error: ReconcileError, *, as_json: bool) -> None:
    """Print an error that is not part of a report."""
    if as_json:
        body = {"kind": error.kind, "message": error.message, "hint": error.hint}
        print_json({"status": "failed", "exit_code": int(error.exit_code), "error": body})
    else:
        from reconcile.report.text import error_lines

        say("\n".join(error_lines(error.message, error.hint)), error=True)


def bug(error: Exception) -> ReconcileError:
    """Return the error for an unexpected exception: its type only, since its text may quote a row or a secret."""
    logger.debug("unexpected %s", type(error).__name__, exc_info=error)
    return ReconcileError(
        f"unexpected {type(error).__name__}", hint="please report this; --log-level debug shows where"
    )
