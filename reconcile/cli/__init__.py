"""The command line: one module per group of commands, and one entry point.

Results go to stdout, logs to stderr; the exit code is an interface (README). Drivers are imported inside commands, so
that `--help`, usage errors and configuration errors are quick.
"""

from reconcile.cli.entry import cli, main

__all__ = ["cli", "main"]
