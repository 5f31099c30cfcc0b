"""Commands beside the daily work: doctor, explain, init. They change nothing.

Drivers are imported inside commands, as in `cli`.
"""

from __future__ import annotations

import click

TOOLS: tuple[click.Command, ...] = ()
