"""Commands for setting up: config check, config show, init, completion. They change nothing."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click
from click import shell_completion
from msgspec.structs import replace

from reconcile.cli.options import FILE_NAME, NAME, VIEW_NAME, Common, asking, common_options, ended_in_time
from reconcile.cli.output import is_terminal, print_json, say
from reconcile.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from reconcile.config.settings import Settings


@click.group()
def config() -> None:
    """Check or show the configuration."""


@config.command("check")
@common_options
def config_check(common: Common) -> None:
    """Check whether the configuration is usable, without connecting."""
    settings = common.load_settings()
    names = [view.name for view in settings.views]
    if common.as_json:
        print_json({"status": "done", "exit_code": 0, "views": names})
    elif not common.quiet:
        say(f"configuration is valid; views: {', '.join(names)}")


@config.command("show")
@common_options
def config_show(common: Common) -> None:
    """Print every setting and where it comes from; secrets are masked."""
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
    "--relation",
    "relations",
    type=NAME,
    multiple=True,
    metavar="NAME",
    help="Configure this view or table of Materialize; repeatable.",
)
@click.option(
    "--from",
    "old_path",
    type=FILE_NAME,
    metavar="FILE",
    help="Convert a configuration of mz-redis-sync, and list what changes.",
)
@click.option(
    "--companion",
    is_flag=False,
    flag_value="",
    metavar="[NAME]",
    help="Print the statements of a companion view for the configured query instead.",
)
@click.option(
    "--buckets",
    type=int,
    metavar="N",
    help="Buckets of the companion view; default: the view's own, else by row count.",
)
@click.option("--view", type=VIEW_NAME, metavar="NAME", help="The view to make a companion for, if there are several.")
@common_options
def init(
    common: Common,
    relations: tuple[str, ...],
    old_path: str | None,
    companion: str | None,
    buckets: int | None,
    view: str | None,
) -> None:
    """Print a configuration, or the SQL of a companion view.

    Creates nothing. On a terminal, if MATERIALIZE_URL or a configuration file gives Materialize's address, asks which
    of its views to configure.

    \b
    Examples:
      reconcile init > config.yaml
      MATERIALIZE_URL=postgresql://… reconcile init --relation prices --relation orders > config.yaml
      reconcile init --from mz-redis-sync.yaml > config.yaml
      reconcile init --companion --view prices | psql
    """
    if companion is None and (view is not None or buckets is not None):
        raise click.UsageError("--view and --buckets need --companion")
    if sum((bool(relations), old_path is not None, companion is not None)) > 1:
        raise click.UsageError("--relation, --from and --companion exclude each other")
    if companion is not None:
        _print_companion(common, companion, buckets, view)
    elif old_path is not None:
        _print_migrated(common, old_path)
    else:
        _print_config(common, relations)


def _print_companion(common: Common, companion: str, buckets: int | None, view: str | None) -> None:
    _check_buckets(buckets)
    from reconcile.inspect.companion_ddl import make_statements

    settings = common.load_settings()
    with ended_in_time(settings) as stop:
        made = make_statements(settings, view, companion or None, buckets, stop)
    if common.as_json:
        print_json(made.to_dict())
    else:
        say(made.render())


def _print_migrated(common: Common, old_path: str) -> None:
    from reconcile.inspect.migration import render

    if common.config_path is not None:
        raise click.UsageError("--from and --config exclude each other: --from names the file to convert")
    if not os.path.exists(old_path):
        raise click.UsageError(f"--from: {old_path}: no such file")
    settings = replace(common, config_path=old_path).load_settings()
    _print_yaml(common, render(settings, old_path))


def _print_config(common: Common, relations: tuple[str, ...]) -> None:
    """Print a configuration for the named or chosen relations, else the starter."""
    asked = not relations and is_terminal(sys.stdin) and is_terminal(sys.stderr) and not common.as_json
    settings = _source_settings(common, needed=bool(relations)) if relations or asked else None
    if settings is None:
        from importlib.resources import files

        _print_yaml(common, files("reconcile.config").joinpath("starter.yaml").read_text(encoding="utf-8"))
        return
    from reconcile.inspect.proposal import make

    with ended_in_time(settings) as stop:
        _print_yaml(common, make(settings, relations, _choose, stop))


def _source_settings(common: Common, *, needed: bool) -> Settings | None:
    """Return settings that give Materialize's address, even if no view is configured yet; None if they do not.

    needed: raises UsageError instead.
    """
    settings = _load_as_far_as_given(common)
    given = any(settings.origins.get(f"materialize.{name}", "default") != "default" for name in ("host", "url"))
    if not given and needed:
        raise UsageError(
            "the address of Materialize is not configured", hint="MATERIALIZE_URL, or materialize.host in the file"
        )
    return settings if given else None


def _load_as_far_as_given(common: Common) -> Settings:
    """Load the configuration even if views and Redis are missing. Raises ConfigError for other faults."""
    lacking: dict[str, object] = {}
    for name, stand_in in (("view.sql", "SELECT key, value FROM your_view"), ("redis.host", "your-redis-host")):
        try:
            return common.load_settings(lacking)
        except ConfigError:
            lacking[name] = stand_in
    return common.load_settings(lacking)


def _choose(relations: list[tuple[str, str]]) -> tuple[str, ...]:
    """Ask on the terminal which of these (name, kind) to configure."""
    if not relations:
        raise UsageError("this Materialize has no views yet")
    for number, (name, kind) in enumerate(relations, 1):
        say(f"{number:>4}  {name}  ({kind})", error=True)
    while True:
        with asking():
            answer = click.prompt("Which ones? Numbers, separated by spaces", err=True, type=str)
        words = answer.replace(",", " ").split()
        if words and all(word.isdigit() and 1 <= int(word) <= len(relations) for word in words):
            return tuple(relations[int(word) - 1][0] for word in dict.fromkeys(words))
        say(f"numbers from 1 to {len(relations)}, please", error=True)


def _print_yaml(common: Common, text: str) -> None:
    if common.as_json:
        print_json({"status": "done", "exit_code": 0, "config": text})
    else:
        say(text.rstrip())


def _check_buckets(buckets: int | None) -> None:
    from reconcile.core.digest import MAX_BUCKETS, MIN_BUCKETS

    if buckets is not None and (buckets & (buckets - 1) or not MIN_BUCKETS <= buckets <= MAX_BUCKETS):
        raise click.UsageError(f"--buckets must be a power of two from {MIN_BUCKETS} to {MAX_BUCKETS}")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands in a shell.

    \b
    Examples:
      reconcile completion bash > /etc/bash_completion.d/reconcile
      source <(reconcile completion zsh)
    """
    found = shell_completion.get_completion_class(shell)
    assert found is not None
    say(found(ctx.find_root().command, {}, "reconcile", "_RECONCILE_COMPLETE").source())


COMMANDS: tuple[click.Command, ...] = (config, init, completion)
