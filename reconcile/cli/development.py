"""`demo` and `emulator`: commands that the stand-in for Materialize, a separate distribution, provides.

They are entry points, looked up only when called by name: reading the installed metadata takes longer than the rest of
`reconcile --help`.
"""

from __future__ import annotations

import click

ENTRY_POINTS = "reconcile.commands"
COMMANDS = {
    "demo": "See it work: the stand-in, a real Redis server, the whole story.",
    "emulator": "Serve the stand-in for Materialize on a port.",
}
INSTALL = "pip install ./tests/standin, from a checkout of reconcile's repository"


class Commands(click.Group):
    """The product's commands, plus those of the stand-in if it is installed."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name. Without the stand-in, its commands print how to install it."""
        found = super().get_command(ctx, cmd_name)
        return _development_command(cmd_name) if found is None and cmd_name in COMMANDS else found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands in two sections, without checking whether the stand-in is installed."""
        super().format_commands(ctx, formatter)
        with formatter.section("Development (pip install ./tests/standin)"):
            formatter.write_dl(list(COMMANDS.items()))


def _development_command(name: str) -> click.Command:
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS, name=name):
        command = entry.load()
        assert isinstance(command, click.Command)
        return command
    return click.Command(
        name,
        callback=_missing,
        help=f"{COMMANDS[name]} Not installed: {INSTALL}.",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


def _missing() -> None:
    raise click.UsageError(f"the stand-in for Materialize is not installed: {INSTALL}")
