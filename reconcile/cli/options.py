"""Options, configuration loading and signal handling shared by all commands."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from msgspec import Struct

from reconcile.texts import argument, environment

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from reconcile.config.settings import Settings
    from reconcile.stop import Stop

    Seconds: TypeAlias = click.ParamType[float]
    Text: TypeAlias = click.ParamType[str]
else:
    Seconds = Text = click.ParamType  # a generic type from click 8.4 on


class Duration(Seconds):
    """55, 55s, 5m, 1h → seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from reconcile.core.times import parse_duration

        try:
            return parse_duration(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a duration; write 55s, 5m or 1h", param, ctx)


class Name(Text):
    """Name of a view or key: UTF-8 in every locale, as in the configuration file."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return argument(str(value))


class ViewName(Name):
    """Name of a view, which shells complete from the configuration."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from reconcile.config.load import load
        from reconcile.errors import ReconcileError

        try:
            settings = load(ctx.params.get("config_path"), environment(), {})
        except ReconcileError:  # its place is the command's own output
            return []
        return [CompletionItem(view.name) for view in settings.views if view.name.startswith(incomplete)]


class FileName(Text):
    """Path of a file, which shells complete."""

    name = "file"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


DURATION = Duration()
NAME = Name()
VIEW_NAME = ViewName()
FILE_NAME = FileName()


class Common(Struct, frozen=True):
    """Options of every command that reads the configuration."""

    config_path: str | None
    as_json: bool
    log_level: str | None
    quiet: bool

    def load_settings(self, flags: dict[str, object] | None = None) -> Settings:
        """Return the configuration and set up logging. flags: setting → value; None: not given. Raises ConfigError."""
        from reconcile.config.load import load
        from reconcile.logs import set_up

        settings = load(self.config_path, environment(), {"logging.level": self.log_level, **(flags or {})})
        set_up(settings.logging)
        return settings


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Pass a `Common` to the command as its first argument."""

    @functools.wraps(command)
    def gathered(*, config_path: str | None, as_json: bool, log_level: str | None, quiet: bool, **options: Any) -> Any:
        return command(Common(config_path, as_json, log_level, quiet), **options)

    for option in (
        click.option(
            "--config",
            "config_path",
            type=FILE_NAME,
            metavar="FILE",
            help="Configuration file; default: $RECONCILE_CONFIG, ./config.yaml.",
        ),
        click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, also on failure."),
        click.option("--log-level", metavar="LEVEL", help="debug, info, warning, error."),
        click.option("-q", "--quiet", is_flag=True, help="Print nothing on success."),
    ):
        gathered = option(gathered)
    return gathered


def view_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that work on several views."""
    return click.option(
        "--view", "views", type=VIEW_NAME, multiple=True, metavar="NAME", help="Only this view, or price-*; repeatable."
    )(command)


@contextlib.contextmanager
def ended_in_time(settings: Settings) -> Iterator[Stop]:
    """Yield a Stop that ends at limits.max_runtime or on a signal."""
    from reconcile.stop import Stop

    stop = Stop(settings.limits.max_runtime_s)
    with _ended_by_signals(stop):
        yield stop


@contextlib.contextmanager
def _ended_by_signals(stop: Stop) -> Iterator[None]:
    """End the run at a committed time at SIGTERM, SIGINT or SIGHUP, and at once at a second one."""
    import signal

    received: list[int] = []

    def end(number: int, frame: object) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)  # not stop.requested: a first signal after the deadline must not cut the ending short
        stop.request(signal.Signals(number).name)

    ending = [signal.SIGTERM, signal.SIGINT]
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # nohup ignores it
        ending.append(hangup)
    with _handled_by(end, ending):
        yield


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """Let signals end the process while somebody is asked: no work is under way, and an input would not see a Stop."""
    import signal

    with _handled_by(signal.SIG_DFL, (signal.SIGTERM, signal.SIGINT)):
        yield


@contextlib.contextmanager
def _handled_by(handler: Any, signals: Iterable[int]) -> Iterator[None]:
    import signal

    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
