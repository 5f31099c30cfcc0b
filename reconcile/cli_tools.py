"""Commands beside the daily work: doctor, explain, init. They change nothing.

Drivers are imported inside commands, as in `cli`.
"""

from __future__ import annotations

import json
import sys

import click

from reconcile.cli_options import (
    DURATION,
    common_options,
    ended_by_signals,
    load_settings,
    shown_errors,
    view_options,
)


@click.command()
@click.option("--interval", "interval_s", type=DURATION, help="How often runs are scheduled: history is judged by it.")
@click.option("--quick", is_flag=True, help="Leave out what reads every row of the view or every key in Redis.")
@click.option("--max-runtime", type=DURATION, help="Give up after this long (exit 4).")
@view_options
@common_options
def doctor(
    config_path: str | None,
    as_json: bool,
    log_level: str | None,
    quiet: bool,
    views: tuple[str, ...],
    interval_s: float | None,
    quick: bool,
    max_runtime: float | None,
) -> None:
    """Find what runs would trip over, and what mends it.

    Looks at both servers and changes nothing. Exit 0: nothing to mend (there may be warnings). 2: something has to
    be mended. 6: a server cannot be reached.
    """
    with shown_errors(as_json):
        from reconcile.runs.doctor import examine
        from reconcile.runs.doctor_source import Schedule
        from reconcile.runs.findings import render
        from reconcile.stop import Stop

        settings = load_settings(config_path, log_level, {"limits.max_runtime_s": max_runtime})
        stop = Stop(settings.limits.max_runtime_s)
        with ended_by_signals(stop):
            findings = examine(settings, views, Schedule(interval_s, quick), stop)
        shown = json.dumps(findings.to_dict(), ensure_ascii=False) if as_json else render(findings, quiet=quiet)
        if shown:
            click.echo(shown)
        sys.exit(int(findings.exit_code))


@click.command()
@click.argument("key")
@click.option("--view", "view", metavar="NAME", help="The view the key belongs to, where its prefix does not tell.")
@click.option("--show-values", is_flag=True, help="The values themselves, not only their length and digest.")
@click.option("--max-runtime", type=DURATION, help="Give up after this long (exit 4).")
@common_options
def explain(
    config_path: str | None,
    as_json: bool,
    log_level: str | None,
    quiet: bool,
    key: str,
    view: str | None,
    show_values: bool,
    max_runtime: float | None,
) -> None:
    """Say why one key is as it is.

    Its value in the view and in Redis, at which times, and what follows from that. KEY is the key in Redis; the
    view's prefix may be left out. Changes nothing; exit 0 whatever the verdict.
    """
    with shown_errors(as_json):
        from reconcile.runs.explain import explain_one, render
        from reconcile.stop import Stop

        settings = load_settings(config_path, log_level, {"limits.max_runtime_s": max_runtime})
        stop = Stop(settings.limits.max_runtime_s)
        with ended_by_signals(stop):
            found = explain_one(settings, key, view, stop).to_dict(show_values=show_values)
        click.echo(json.dumps(found, ensure_ascii=False) if as_json else render(found))


@click.command()
@click.option(
    "--digest-view",
    "digest_view",
    is_flag=False,
    flag_value="",
    metavar="[NAME]",
    help="Print the statements of a companion view for the configured query instead.",
)
@click.option("--buckets", type=int, metavar="N", help="Of the companion view; default: what the view has or needs.")
@click.option("--view", "view", metavar="NAME", help="The view the companion is for, where there are several.")
@common_options
def init(
    config_path: str | None,
    as_json: bool,
    log_level: str | None,
    quiet: bool,
    digest_view: str | None,
    buckets: int | None,
    view: str | None,
) -> None:
    """Print a configuration to begin with.

    reconcile init > config.yaml. With --digest-view: connect to Materialize and print the statements that create a
    companion view, which makes runs without history cheap. Nothing is created.
    """
    with shown_errors(as_json):
        if digest_view is None:
            if view is not None or buckets is not None:
                raise click.UsageError("--view and --buckets belong to --digest-view")
            from reconcile.config.starter import STARTER

            click.echo(
                json.dumps({"status": "done", "exit_code": 0, "config": STARTER}) if as_json else STARTER.rstrip()
            )
            return
        _check_buckets(buckets)
        from reconcile.runs.companion_ddl import make_statements
        from reconcile.stop import Stop

        settings = load_settings(config_path, log_level)
        stop = Stop(settings.limits.max_runtime_s)
        with ended_by_signals(stop):
            made = make_statements(settings, view, digest_view or None, buckets, stop)
        click.echo(json.dumps(made.to_dict(), ensure_ascii=False) if as_json else made.render())


def _check_buckets(buckets: int | None) -> None:
    from reconcile.core.digest import MAX_BUCKETS, MIN_BUCKETS

    if buckets is not None and (buckets & (buckets - 1) or not MIN_BUCKETS <= buckets <= MAX_BUCKETS):
        raise click.UsageError(f"--buckets must be a power of two from {MIN_BUCKETS} to {MAX_BUCKETS}")


TOOLS: tuple[click.Command, ...] = (doctor, explain, init)
