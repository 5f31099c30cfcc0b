"""Commands that look and change nothing: status, doctor, explain."""

from __future__ import annotations

import time

import click

from reconcile.cli.options import DURATION, NAME, Common, common_options, ended_in_time, view_options
from reconcile.cli.output import print_json, say
from reconcile.errors import UsageError


@click.command()
@click.option("--html", "html_path", metavar="FILE", help="Write a page of all views, to be left open, instead.")
@view_options
@common_options
def status(common: Common, views: tuple[str, ...], html_path: str | None) -> None:
    """Checkpoint, age, lag, lease and last audit of each view. Reads Redis only."""
    from reconcile.report import status_page
    from reconcile.report.files import refuse_unsuitable, write_file
    from reconcile.runs.status import read_status, render

    refuse_unsuitable("--html", html_path)
    statuses = read_status(common.load_settings(), views)
    if html_path is not None:
        try:
            write_file(html_path, status_page.render(statuses, time.time_ns() // 1_000_000))
        except OSError as error:
            raise UsageError(f"cannot write {html_path}: {error.strerror or error}") from error
    elif common.as_json:
        print_json({"views": statuses})
    else:
        say(render(statuses))


@click.command()
@click.option("--interval", "interval_s", type=DURATION, help="How often runs are scheduled: history is judged by it.")
@click.option("--quick", is_flag=True, help="Leave out what reads every row of the view or every key in Redis.")
@click.option("--max-runtime", type=DURATION, help="Give up after this long (exit 4).")
@view_options
@common_options
def doctor(
    common: Common, views: tuple[str, ...], interval_s: float | None, quick: bool, max_runtime: float | None
) -> int:
    """Find what runs would trip over, and what mends it.

    Looks at both servers and changes nothing. Exit 0: nothing to mend (there may be warnings). 2: something has to
    be mended. 6: a server cannot be reached.
    """
    from reconcile.runs.doctor import examine
    from reconcile.runs.doctor_source import Schedule
    from reconcile.runs.findings import render

    settings = common.load_settings({"limits.max_runtime_s": max_runtime})
    with ended_in_time(settings) as stop:
        findings = examine(settings, views, Schedule(interval_s, quick), stop)
    if common.as_json:
        print_json(findings.to_dict())
    elif shown := render(findings, quiet=common.quiet):
        say(shown)
    return findings.exit_code


@click.command()
@click.argument("key", type=NAME)
@click.option("--view", type=NAME, metavar="NAME", help="The view the key belongs to, where its prefix does not tell.")
@click.option("--show-values", is_flag=True, help="The values themselves, not only their length and digest.")
@click.option("--max-runtime", type=DURATION, help="Give up after this long (exit 4).")
@common_options
def explain(common: Common, key: str, view: str | None, show_values: bool, max_runtime: float | None) -> None:
    """Say why one key is as it is.

    Its value in the view and in Redis, at which times, and what follows from that. KEY is the key in Redis; the
    view's prefix may be left out. Changes nothing; exit 0 whatever the verdict.
    """
    from reconcile.runs.explain import explain_one, render

    settings = common.load_settings({"limits.max_runtime_s": max_runtime})
    with ended_in_time(settings) as stop:
        found = explain_one(settings, key, view, stop).to_dict(show_values=show_values)
    if common.as_json:
        print_json(found)
    else:
        say(render(found))


COMMANDS: tuple[click.Command, ...] = (status, doctor, explain)
