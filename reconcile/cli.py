"""The command line. Results go to stdout, logs to stderr; the exit code is an interface (README).

Drivers are imported inside commands: `--help`, usage and configuration errors must be quick.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import click

from reconcile import __version__
from reconcile.cli_development import Commands
from reconcile.cli_options import (
    DURATION,
    common_options,
    ended_by_signals,
    load_settings,
    shown_errors,
    view_options,
)
from reconcile.cli_tools import TOOLS
from reconcile.errors import ExitCode, ReconcileError

if TYPE_CHECKING:
    from reconcile.report.run_report import RunReport

logger = logging.getLogger("reconcile.cli")


def _reporting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of commands that end with a report."""
    return click.option(
        "--metrics-file",
        "metrics_path",
        metavar="FILE",
        help="Also keep Prometheus metrics there, for node_exporter's textfile collector.",
    )(command)


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


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
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
@_reporting
@view_options
@common_options
def run(**options: Any) -> None:
    """What schedulers call: delta where history allows, else a snapshot of what changed."""
    _work("run", **options)


@cli.command()
@click.option("--as-of", default="now", show_default=True, help="now, milliseconds, RFC 3339, or -5m.")
@click.option("--deep", is_flag=True, help="Compare every row with what Redis really holds.")
@click.option("--adopt", is_flag=True, help="Without prefix: take over keys of the view that exist already.")
@click.option("--reset-state", is_flag=True, help="Forget what is stored of earlier runs, then compare everything.")
@_writing
@_reporting
@view_options
@common_options
def snapshot(**options: Any) -> None:
    """Bring Redis to the view's content at one time, touching only what differs."""
    _work("snapshot", **options)


@cli.command()
@click.option("--for", "follow_s", type=DURATION, metavar="DURATION", help="Follow for this long.")
@click.option("--until-current", is_flag=True, help="Stop once caught up with the present (default).")
@_writing
@_reporting
@view_options
@common_options
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
@_reporting
@view_options
@common_options
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
    metrics_path: str | None = None,
    **request_options: Any,
) -> NoReturn:
    """Load the configuration, run, print, exit."""
    from reconcile.config.settings import MetricsSettings
    from reconcile.report.run_report import RunReport
    from reconcile.report.sinks import publish
    from reconcile.report.watch import watched
    from reconcile.runs.entry import execute
    from reconcile.runs.request import parse
    from reconcile.stop import Stop

    report: RunReport
    destinations = MetricsSettings(file=metrics_path)
    try:
        flags: dict[str, object] = {"limits.max_runtime_s": max_runtime, "metrics.file": metrics_path}
        settings = load_settings(config_path, log_level, flags)
        destinations = settings.metrics
        given = {"views": views, **request_options}
        request = parse(mode, given, time.time_ns() // 1_000_000, lambda field: f"--{field}".replace("_", "-"))
        stop = Stop(settings.limits.max_runtime_s)
        with ended_by_signals(stop), watched(terminal=sys.stderr.isatty() and not quiet) as progress:
            report = execute(settings, request, stop, progress=progress)
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
        _write_page(report, html_path)
    publish(report, destinations)
    _print_report(report, as_json=as_json, quiet=quiet)
    sys.exit(int(code))


def _write_page(report: RunReport, path: str) -> None:
    """A file that cannot be written is a warning: what the run did, and its exit code, stand."""
    from reconcile.report.html import write_page

    try:
        write_page(report, path)
    except OSError as error:
        logger.warning("cannot write the report page %s: %s", path, error.strerror)


def _print_report(report: RunReport, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.to_dict(), ensure_ascii=False))
    elif not quiet or report.exit_code != ExitCode.OK:
        from reconcile.report import text

        rendered = text.render(report)
        if rendered:
            click.echo(rendered, err=report.error is not None)


@cli.command()
@view_options
@common_options
def status(config_path: str | None, as_json: bool, log_level: str | None, quiet: bool, views: tuple[str, ...]) -> None:
    """Checkpoint, age, lag, lease and last audit of each view. Reads Redis only."""
    with shown_errors(as_json):
        from reconcile.runs.status import read_status, render

        statuses = read_status(load_settings(config_path, log_level), views)
        click.echo(json.dumps({"views": statuses}, ensure_ascii=False) if as_json else render(statuses))


@cli.group()
def config() -> None:
    """Check or show the configuration."""


@config.command("check")
@common_options
def config_check(config_path: str | None, as_json: bool, log_level: str | None, quiet: bool) -> None:
    """Say whether the configuration is usable. Connects to nothing."""
    with shown_errors(as_json):
        settings = load_settings(config_path, log_level)
        names = [view.name for view in settings.views]
        if as_json:
            click.echo(json.dumps({"status": "done", "exit_code": 0, "views": names}))
        elif not quiet:
            click.echo(f"configuration is usable; views: {', '.join(names)}")


@config.command("show")
@common_options
def config_show(config_path: str | None, as_json: bool, log_level: str | None, quiet: bool) -> None:
    """Print the merged configuration with the origin of each value; secrets are masked."""
    with shown_errors(as_json):
        from reconcile.config import show

        settings = load_settings(config_path, log_level)
        if as_json:
            click.echo(json.dumps(show.to_dict(settings), ensure_ascii=False))
            return
        rows = show.render(settings)
        width = max((len(path) for path, _, _ in rows), default=0)
        for path, value, origin in rows:
            click.echo(f"{path:<{width}}  {value}  ({origin})")


for tool in TOOLS:
    cli.add_command(tool)


def main() -> None:
    """Entry point of the `reconcile` command."""
    cli(prog_name="reconcile")


if __name__ == "__main__":
    main()
