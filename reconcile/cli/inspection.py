"""Read-only commands: status, doctor, explain."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from reconcile.cli.options import (
    DURATION,
    FILE_NAME,
    NAME,
    VIEW_NAME,
    Common,
    common_options,
    ended_in_time,
    view_options,
)
from reconcile.cli.output import is_terminal, print_json, say
from reconcile.errors import UsageError

if TYPE_CHECKING:
    from reconcile.config.settings import Settings
    from reconcile.inspect.status import ViewStatus
    from reconcile.stop import Stop

WATCH_EVERY_S = 2.0


@click.command()
@click.option(
    "--max-age", "max_age_s", type=DURATION, metavar="DURATION", help="Health check: exit 3 when a checkpoint is older."
)
@click.option("--watch", is_flag=True, help="Refresh every two seconds until Ctrl-C; needs a terminal.")
@click.option(
    "--html",
    "html_path",
    type=FILE_NAME,
    metavar="FILE",
    help="Write an HTML page of all views instead; it reloads itself.",
)
@view_options
@common_options
def status(common: Common, views: tuple[str, ...], max_age_s: float | None, watch: bool, html_path: str | None) -> int:
    """Show checkpoint, age and health of each view.

    Also lease, rolling compare, claim and last audit. Reads Redis only, with one connection for all views, and changes
    nothing.

    \b
    Examples:
      reconcile status
      reconcile status --max-age 5m --quiet      # exit 3 and a line for each view that is too old
      reconcile status --watch --view 'price-*'
      reconcile status --html /var/www/reconcile.html
    """
    from reconcile.report.files import refuse_unsuitable

    settings = common.load_settings()
    refuse_unsuitable("--html", html_path)
    if watch and (common.as_json or not is_terminal(sys.stdout)):
        raise click.UsageError("--watch needs a terminal; elsewhere, call status repeatedly")
    with ended_in_time(settings) as stop:
        code = _show_status(common, settings, views, max_age_s, html_path, stop)
        while watch and not stop.requested:
            stop.wait(WATCH_EVERY_S)
            if stop.requested:
                break
            click.clear()
            code = _show_status(common, settings, views, max_age_s, html_path, stop)
    return code


def _show_status(
    common: Common,
    settings: Settings,
    views: tuple[str, ...],
    max_age_s: float | None,
    html_path: str | None,
    stop: Stop,
) -> int:
    from reconcile.inspect.status import exit_code, read_status, render

    statuses = read_status(settings, views, max_age_s, stop)
    if html_path is not None:
        _write_page(html_path, statuses)
    elif common.as_json:
        print_json({"status": "done", "exit_code": int(exit_code(statuses)), "views": statuses})
    elif common.quiet:
        for one in statuses:
            if one["problem"]:
                say(f"{one['view']}: {one['problem']}")
    else:
        say(render(statuses))
    return exit_code(statuses)


def _write_page(path: str, statuses: list[ViewStatus]) -> None:
    from reconcile.report import status_page
    from reconcile.report.files import write_file

    try:
        write_file(path, status_page.render(statuses, time.time_ns() // 1_000_000))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


@click.command()
@click.option(
    "--every",
    "every_s",
    type=DURATION,
    metavar="DURATION",
    help="Interval between runs, which retained history has to cover.",
)
@click.option("--quick", is_flag=True, help="Skip checks that read every row of the view or every key name in Redis.")
@click.option("--max-runtime", type=DURATION, help="Give up after this long (exit 4).")
@view_options
@common_options
def doctor(
    common: Common, views: tuple[str, ...], every_s: float | None, quick: bool, max_runtime: float | None
) -> int:
    """Find what would make runs fail, and print the fix.

    Looks at both servers and changes nothing. Exit 0: nothing to fix (there may be warnings). 2: something has to
    be fixed. 6: a server cannot be reached.

    \b
    Examples:
      reconcile doctor --every 1m
      reconcile doctor --quick --quiet           # only warnings and failures
    """
    from reconcile.inspect.doctor import examine
    from reconcile.inspect.doctor_history import Schedule
    from reconcile.inspect.findings import render

    settings = common.load_settings({"limits.max_runtime_s": max_runtime})
    with ended_in_time(settings) as stop:
        findings = examine(settings, views, Schedule(every_s, quick), stop)
    if common.as_json:
        print_json(findings.to_dict())
    elif shown := render(findings, quiet=common.quiet):
        say(shown)
    return findings.exit_code


@click.command()
@click.argument("key", type=NAME)
@click.option("--view", type=VIEW_NAME, metavar="NAME", help="The view the key belongs to, if its prefix does not say.")
@click.option("--show-values", is_flag=True, help="Show values, not only their length and digest.")
@click.option("--max-runtime", type=DURATION, help="Give up after this long (exit 4).")
@common_options
def explain(common: Common, key: str, view: str | None, show_values: bool, max_runtime: float | None) -> None:
    """Explain the state of one key.

    Shows its value in the view and in Redis, and at which times; who may write it and when it was last accessed; and
    the verdict. KEY is the key in Redis, or as redis-cli and reports show it (\\x00); the view's prefix may be omitted.
    Changes nothing. Exit 0 for any verdict.

    \b
    Examples:
      reconcile explain prices:4711
      reconcile explain 4711 --view prices --show-values
    """
    from reconcile.inspect.explain import explain_one
    from reconcile.inspect.explained import render

    settings = common.load_settings({"limits.max_runtime_s": max_runtime})
    with ended_in_time(settings) as stop:
        found = explain_one(settings, key, view, stop).to_dict(show_values=show_values)
    if common.as_json:
        print_json(found)
    else:
        say(render(found))


COMMANDS: tuple[click.Command, ...] = (status, doctor, explain)
