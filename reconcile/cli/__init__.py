"""The command line: one module per group of commands, and one way in.

Results go to stdout, logs to stderr; the exit code is an interface (README). Drivers are imported inside commands:
`--help`, usage and configuration errors must be quick.
"""

from reconcile.cli.entry import cli, main

__all__ = ["cli", "main"]
