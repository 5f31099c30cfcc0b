"""The command that forgets a view: drop."""

from __future__ import annotations

import sys

import click

from reconcile.cli.options import DURATION, NAME, Common, asking, common_options, ended_in_time
from reconcile.cli.output import print_json, say
from reconcile.errors import UsageError


@click.command()
@click.argument("view", type=NAME)
@click.option("--keys", is_flag=True, help="Delete every key in the view's range as well.")
@click.option("--dry-run", is_flag=True, help="Same output, no writes.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation; required without a terminal.")
@click.option("--max-runtime", type=DURATION, help="Give up after this long (exit 4); the next call continues.")
@common_options
def drop(common: Common, view: str, *, keys: bool, dry_run: bool, yes: bool, max_runtime: float | None) -> None:
    """Forget a view and, with --keys, delete its keys.

    Its state and its claim go; without --keys the cached rows stay in Redis, owned by no view. Works for views that
    are no longer configured, too. Exit 7 if a run holds the lease.

    \b
    Examples:
      reconcile drop orders --keys --dry-run     # how many keys would be deleted
      reconcile drop orders --keys
      reconcile drop orders --yes                # from a script
    """
    from reconcile.runs.dropping import Dropped, forget, preview

    def confirm(found: Dropped) -> None:
        if not yes:
            _confirm(f"{view}: forget {found}?")

    settings = common.load_settings({"limits.max_runtime_s": max_runtime})
    with ended_in_time(settings) as stop:
        if dry_run:
            found = preview(settings, view, stop, keys=keys)
        else:
            found = forget(settings, view, stop, keys=keys, confirm=confirm)
    if common.as_json:
        body = {"view": view, "range": str(found.range), "keys_deleted": found.keys, "dry_run": dry_run}
        print_json({"status": "done", "exit_code": 0, **body})
    elif not common.quiet:
        say(f"{view}: {'would forget' if dry_run else 'forgot'} {found}")


def _confirm(question: str) -> None:
    """Raises UsageError unless somebody says yes."""
    if not sys.stdin.isatty():
        raise UsageError("no terminal to confirm this on", hint="check with --dry-run, then pass --yes")
    with asking():
        agreed = click.confirm(question, err=True)
    if not agreed:
        raise UsageError("not confirmed: nothing was dropped")


COMMANDS: tuple[click.Command, ...] = (drop,)
