"""What the commands share: options, loading the configuration, errors, signals."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from reconcile.errors import ReconcileError

if TYPE_CHECKING:
    from reconcile.config.settings import Settings
    from reconcile.stop import Stop

_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(click.ParamType[float]):
    """55, 55s, 5m, 1h → seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a duration; write 55s, 5m or 1h", param, ctx)
        return float(match[1]) * _UNITS_S[match[2]]


DURATION = Duration()


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that reads the configuration."""
    for option in (
        click.option(
            "--config",
            "config_path",
            metavar="FILE",
            help="Configuration file; default: $RECONCILE_CONFIG, ./config.yaml.",
        ),
        click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, also on failure."),
        click.option("--log-level", metavar="LEVEL", help="debug, info, warning, error."),
        click.option("-q", "--quiet", is_flag=True, help="Print nothing on success."),
    ):
        command = option(command)
    return command


def view_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that works on views."""
    return click.option("--view", "views", multiple=True, metavar="NAME", help="Only this view; repeatable.")(command)


def load_settings(
    config_path: str | None, log_level: str | None, overrides: dict[str, object] | None = None
) -> Settings:
    """The configuration, with logging set up as it says. Raises ConfigError."""
    from reconcile.config.load import load
    from reconcile.logs import set_up

    settings = load(config_path, os.environ, {"logging.level": log_level, **(overrides or {})})
    set_up(settings.logging)
    return settings


@contextlib.contextmanager
def shown_errors(as_json: bool) -> Iterator[None]:
    """Print an expected error the way all commands do, and exit with its code."""
    try:
        yield
    except ReconcileError as error:
        if as_json:
            body = {"kind": error.kind, "message": error.message, "hint": error.hint}
            click.echo(json.dumps({"status": "failed", "exit_code": int(error.exit_code), "error": body}))
        else:
            from reconcile.report.text import error_lines

            click.echo("\n".join(error_lines(error.message, error.hint)), err=True)
        sys.exit(int(error.exit_code))


@contextlib.contextmanager
def ended_by_signals(stop: Stop) -> Iterator[None]:
    """SIGTERM and SIGINT end the run on a committed time; a second one ends it at once."""
    import signal

    received: list[int] = []

    def end(number: int, frame: object) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)  # not stop.requested: a first signal after the deadline must not cut the ending short
        stop.request(signal.Signals(number).name)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
