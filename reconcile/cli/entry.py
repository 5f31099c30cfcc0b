"""`main`, the entry point. The process always ends with a documented exit code and at most a line or two on stderr."""

from __future__ import annotations

import io
import sys
from typing import Any, NoReturn

import click

from reconcile import __version__
from reconcile.cli import inspection, removal, setup, streams, work
from reconcile.cli.development import Commands
from reconcile.cli.output import bug, print_error, say
from reconcile.errors import INTERRUPTED, ExitCode, ReconcileError, UsageError


class _Guarded(Commands):
    """Turns unexpected exceptions into ordinary errors."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, ReconcileError):
            raise
        except Exception as error:
            # Here, not in main: click would take a broken pipe to a server for one on stdout.
            raise bug(error) from error


@click.group(cls=_Guarded, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="reconcile")
def cli() -> None:
    """Keep a Redis cache equal to a Materialize view, from runs that start, do their work and exit.

    \b
    Exit codes: 0 done   2 usage or configuration   3 drift found   4 incomplete, progress saved
                5 safety stop, a human decides   6 Materialize or Redis unavailable
                7 lease held (--if-leased fail)   8 history lost (delta, snapshot --as-of)   1 bug
    """


for command in (*work.COMMANDS, *inspection.COMMANDS, *removal.COMMANDS, *setup.COMMANDS):
    cli.add_command(command)


def main() -> NoReturn:
    """Entry point of the `reconcile` command."""
    streams.guard()
    sys.exit(_carry_out(sys.argv[1:]))


def _carry_out(arguments: list[str]) -> int:
    """Run the command and return the exit code."""
    as_json = "--json" in arguments  # not from click: the arguments may be invalid
    try:
        result = cli.main(arguments, prog_name="reconcile", standalone_mode=False)
    except click.ClickException as error:
        if as_json:
            print_error(UsageError(error.format_message(), hint=_help_of(error)), as_json=True)
        else:
            say(_usage(error), error=True)
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        say("error: interrupted", error=True)
        return INTERRUPTED
    except ReconcileError as error:
        print_error(error, as_json=as_json)
        return error.exit_code
    except Exception as error:
        print_error(bug(error), as_json=as_json)
        return ExitCode.BUG
    return result if isinstance(result, int) else ExitCode.OK


def _help_of(error: click.ClickException) -> str | None:
    ctx = getattr(error, "ctx", None)
    return f"see: {ctx.command_path} --help" if ctx is not None else None


def _usage(error: click.ClickException) -> str:
    """Return click's text for a usage error; for a group without a command, its help."""
    shown = io.StringIO()
    error.show(shown)
    return shown.getvalue().rstrip("\n")
