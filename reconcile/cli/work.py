"""Commands that work on views and end with a report: run, snapshot, delta, verify."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

import click

from reconcile.cli.options import DURATION, FILE_NAME, Common, common_options, ended_in_time, view_options
from reconcile.cli.output import bug, print_error, print_json, say
from reconcile.errors import ExitCode, ReconcileError
from reconcile.runs.request import OPTIONS, IfLeased, parse

if TYPE_CHECKING:
    from reconcile.report.run_report import RunReport

logger = logging.getLogger(__name__)

FLAGS: dict[str, tuple[str, dict[str, Any]]] = {
    "follow_s": ("--for", {"type": DURATION, "help": "Follow the view until this long after the start."}),
    "until_current": ("--until-current", {"is_flag": True, "help": "Stop once caught up with the present (default)."}),
    "as_of": ("--as-of", {"metavar": "TIME", "help": "now (default), milliseconds, RFC 3339, or -5m."}),
    "deep": ("--deep", {"is_flag": True, "help": "Compare every row with what Redis really holds."}),
    "adopt": (
        "--adopt",
        {"is_flag": True, "help": "Without a key prefix: take over keys of the view that already exist."},
    ),
    "reset_state": (
        "--reset-state",
        {"is_flag": True, "help": "Discard the state of earlier runs, then compare everything."},
    ),
    "dry_run": ("--dry-run", {"is_flag": True, "help": "Same output, no writes."}),
    "allow_deletes": (
        "--allow-deletes",
        {"is_flag": True, "help": "Carry out deletes that need consent."},
    ),
    "if_leased": (
        "--if-leased",
        {
            "type": click.Choice(get_args(IfLeased)),
            "default": "skip",
            "show_default": True,
            "help": "If another run holds the lease: exit 0, wait for it, or exit 7.",
        },
    ),
    "shard": (
        "--shard",
        {"metavar": "I/N", "help": "Only this shard of each view, of 2, 4, 8 or 16; 0/1 makes views whole again."},
    ),
    "fast": ("--fast/--deep", {"help": "Compare fingerprints and manifest only, or every row with Redis (default)."}),
    "subset": (
        "--subset",
        {"metavar": "I/N|next", "help": "Audit one slice of the key space; next: the one after the last audited."},
    ),
    "show_values": ("--show-values", {"is_flag": True, "help": "Include row values in the report."}),
    "max_report": (
        "--max-report",
        {
            "type": click.IntRange(0, 100_000),
            "metavar": "N",
            "default": 20,
            "show_default": True,
            "help": "Name at most N keys.",
        },
    ),
}
"""Field of Request → its flag. `OPTIONS` says which command has it; `views` is --view, as everywhere."""


def _mode(mode: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Decorate a command that makes requests of this mode with the options that `OPTIONS` gives it."""

    def add_options(command: Callable[..., Any]) -> click.Command:
        command = common_options(command)
        command = view_options(command)
        for field in reversed(FLAGS):
            if mode in OPTIONS[field].modes:
                flag, attributes = FLAGS[field]
                command = click.option(flag, field, **attributes)(command)
        for option in (
            click.option("--jobs", type=click.IntRange(1, 64), help="How many views are worked on at the same time."),
            click.option("--max-runtime", type=DURATION, help="Stop after this long (exit 4); progress is kept."),
            click.option(
                "--metrics-file",
                "metrics_path",
                type=FILE_NAME,
                metavar="FILE",
                help="Also write Prometheus metrics to this file, for node_exporter's textfile collector.",
            ),
        ):
            command = option(command)
        return click.command(mode)(command)

    return add_options


_detailed = click.option("--detailed-exitcode", is_flag=True, help="With --dry-run: exit 3 when changes are pending.")


@_mode("run")
@_detailed
def run(common: Common, **options: Any) -> int:
    """Bring Redis up to date: the command for schedulers.

    A delta where the history is still there, else a snapshot of what changed.

    \b
    Examples:
      reconcile run                              # from cron, each minute
      reconcile run --for 55s                    # and follow the view until the next one
      reconcile run --dry-run --detailed-exitcode
    """
    return _work("run", common, **options)


@_mode("snapshot")
@_detailed
def snapshot(common: Common, **options: Any) -> int:
    """Bring Redis to the view's content at one time.

    Only what differs is read and written.

    \b
    Examples:
      reconcile snapshot --deep                  # repair: compare every row with what Redis really holds
      reconcile snapshot --allow-deletes         # consent to deletes that were withheld
      reconcile snapshot --as-of -5m --dry-run
    """
    return _work("snapshot", common, **options)


@_mode("delta")
@_detailed
def delta(common: Common, **options: Any) -> int:
    """Apply the changes since the checkpoint. Exit 8 when their history is lost.

    \b
    Examples:
      reconcile delta                            # until it has caught up with the present
      reconcile delta --for 5m --view prices
    """
    return _work("delta", common, **options)


@_mode("verify")
@click.option("--coverage", is_flag=True, help="Only show when each slice was last compared, and by what.")
@click.option("--html", "html_path", type=FILE_NAME, metavar="FILE", help="Also write an HTML report.")
@click.option(
    "--markdown",
    "markdown_path",
    type=FILE_NAME,
    metavar="FILE",
    help="Also write a Markdown summary, for CI jobs and chat.",
)
def verify(common: Common, *, coverage: bool, **options: Any) -> int:
    """Compare Redis with the view, and change nothing.

    Both sides are compared at the checkpoint's time, so syncing may go on meanwhile. Exit 3: drift.

    \b
    Examples:
      reconcile verify --html audit.html
      reconcile verify --subset next             # a sixteenth per run, in turn
      reconcile verify --coverage
    """
    return _show_coverage(common, options["views"]) if coverage else _work("verify", common, **options)


def _show_coverage(common: Common, views: tuple[str, ...]) -> int:
    """Print coverage as recorded in Redis; nothing is compared."""
    from reconcile.inspect.covered import read_coverage, render

    settings = common.load_settings()
    with ended_in_time(settings) as stop:
        found = read_coverage(settings, views, stop)
    if common.as_json:
        print_json({"status": "done", "exit_code": 0, "views": found})
    else:
        say(render(found))
    return ExitCode.OK


def _work(
    mode: str,
    common: Common,
    *,
    jobs: int | None,
    max_runtime: float | None,
    metrics_path: str | None,
    html_path: str | None = None,
    markdown_path: str | None = None,
    detailed_exitcode: bool = False,
    **given: Any,
) -> int:
    """Parse, load the configuration, run and print. Return the exit code."""
    from reconcile.config.settings import MetricsSettings
    from reconcile.report.files import refuse_unsuitable
    from reconcile.report.run_report import RunReport

    if detailed_exitcode and not given["dry_run"]:
        raise click.UsageError("--detailed-exitcode is for --dry-run: a run that writes leaves no changes pending")
    report: RunReport
    destinations = MetricsSettings(file=metrics_path)
    try:
        request = parse(mode, given, time.time_ns() // 1_000_000, _flag_of)
        refuse_unsuitable("--html", html_path)
        refuse_unsuitable("--markdown", markdown_path)
        flags: dict[str, object] = {
            "limits.jobs": jobs,
            "limits.max_runtime_s": max_runtime,
            "metrics.file": metrics_path,
        }
        settings = common.load_settings(flags)
        refuse_unsuitable("--metrics-file", settings.metrics.file)
        destinations = settings.metrics
        from reconcile.report.watch import watched
        from reconcile.runs.entry import execute

        terminal = sys.stderr.isatty() and not common.quiet
        with ended_in_time(settings) as stop, watched(terminal=terminal) as progress:
            report = execute(settings, request, stop, progress=progress)
        if common.as_json or settings.logging.file:
            _log_summaries(report)
    except ReconcileError as error:
        report = RunReport("", mode, 0)
        report.fail(error)
    code = report.exit_code
    if detailed_exitcode and code == ExitCode.OK:
        code = _pending_changes(report)
    try:
        _write_pages(report, html_path, markdown_path, private=bool(given.get("show_values")))
        if destinations != MetricsSettings():
            from reconcile.report.sinks import publish  # imports ssl

            publish(report, destinations)
        _print_report(report, common)
    except Exception as error:  # a bug in reporting must not change how the run ended
        print_error(bug(error), as_json=False)
    return code


def _log_summaries(report: RunReport) -> None:
    """Log the outcome in words, for when the report itself is JSON or not shown."""
    from reconcile.report import text

    for line in text.summaries(report):
        logger.info("%s", line)


def _flag_of(field: str) -> str:
    return FLAGS[field][0]


def _pending_changes(report: RunReport) -> ExitCode:
    """Set DRIFT for views in which a dry run found changes, and return the run's exit code."""
    for view in report.views:
        if view.dry_run and (view.puts or view.deletes):
            view.exit_code = ExitCode.DRIFT
    return report.exit_code


def _write_pages(report: RunReport, html_path: str | None, markdown_path: str | None, *, private: bool) -> None:
    """Write the report pages. A page that cannot be written is a warning; the exit code stands."""
    if html_path is None and markdown_path is None:
        return
    from reconcile.report import html, markdown
    from reconcile.report.files import write_file

    for path, render in ((html_path, html.render), (markdown_path, markdown.render)):
        try:
            if path is not None:
                write_file(path, render(report), private=private)
        except OSError as error:
            logger.warning("cannot write the report page %s: %s", path, error.strerror or error)


def _print_report(report: RunReport, common: Common) -> None:
    if common.as_json:
        print_json(report.to_dict())
    elif not common.quiet or report.exit_code != ExitCode.OK:
        from reconcile.report import text

        if rendered := text.render(report):
            say(rendered, error=report.error is not None)


COMMANDS: tuple[click.Command, ...] = (run, snapshot, delta, verify)
