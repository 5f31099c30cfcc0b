"""The command line: one module per group of commands, and one entry point.

Results go to stdout, logs to stderr; the exit code is an interface (README). Drivers are imported inside commands, so
that `--help`, usage errors and configuration errors are quick.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from reconcile import collector
from reconcile.errors import INTERRUPTED


def main() -> NoReturn:
    """The `reconcile` command."""
    collector.calm()  # before anything else is imported
    try:
        from reconcile.cli import entry

        entry.main()
    except KeyboardInterrupt:  # during the imports, most of what a start takes: entry sees to those that come later
        sys.exit(INTERRUPTED)
    finally:
        collector.leave_out()
