"""Commands for setting up: config check, config show, init. They change nothing."""

from __future__ import annotations

import click

from reconcile.cli.options import NAME, Common, common_options, ended_in_time
from reconcile.cli.output import print_json, say


@click.group()
def config() -> None:
    """Check or show the configuration."""


@config.command("check")
@common_options
def config_check(common: Common) -> None:
    """Say whether the configuration is usable. Connects to nothing."""
    settings = common.load_settings()
    names = [view.name for view in settings.views]
    if common.as_json:
        print_json({"status": "done", "exit_code": 0, "views": names})
    elif not common.quiet:
        say(f"configuration is usable; views: {', '.join(names)}")


@config.command("show")
@common_options
def config_show(common: Common) -> None:
    """Print the merged configuration with the origin of each value; secrets are masked."""
    from reconcile.config import show

    settings = common.load_settings()
    if common.as_json:
        print_json(show.to_dict(settings))
        return
    rows = show.render(settings)
    width = max((len(path) for path, _, _ in rows), default=0)
    for path, value, origin in rows:
        say(f"{path:<{width}}  {value}  ({origin})")


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
@click.option("--view", type=NAME, metavar="NAME", help="The view the companion is for, where there are several.")
@common_options
def init(common: Common, digest_view: str | None, buckets: int | None, view: str | None) -> None:
    """Print a configuration to begin with.

    reconcile init > config.yaml. With --digest-view: connect to Materialize and print the statements that create a
    companion view, which makes runs without history cheap. Nothing is created.
    """
    if digest_view is None:
        if view is not None or buckets is not None:
            raise click.UsageError("--view and --buckets belong to --digest-view")
        _print_starter(common)
        return
    _check_buckets(buckets)
    from reconcile.runs.companion_ddl import make_statements

    settings = common.load_settings()
    with ended_in_time(settings) as stop:
        made = make_statements(settings, view, digest_view or None, buckets, stop)
    if common.as_json:
        print_json(made.to_dict())
    else:
        say(made.render())


def _print_starter(common: Common) -> None:
    from importlib.resources import files

    starter = files("reconcile.config").joinpath("starter.yaml").read_text(encoding="utf-8")
    if common.as_json:
        print_json({"status": "done", "exit_code": 0, "config": starter})
    else:
        say(starter.rstrip())


def _check_buckets(buckets: int | None) -> None:
    from reconcile.core.digest import MAX_BUCKETS, MIN_BUCKETS

    if buckets is not None and (buckets & (buckets - 1) or not MIN_BUCKETS <= buckets <= MAX_BUCKETS):
        raise click.UsageError(f"--buckets must be a power of two from {MIN_BUCKETS} to {MAX_BUCKETS}")


COMMANDS: tuple[click.Command, ...] = (config, init)
