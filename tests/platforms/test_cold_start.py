"""What a process imports before it does anything: --help and configuration errors must not pay for the drivers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LOOKING = """
import sys
from reconcile.cli import main
try:
    main()
except SystemExit as ended:
    print("MODULES", *sorted(sys.modules), file=sys.stderr)
    raise
"""
# Heavy, and needed by some commands only: each is imported where it is used.
HEAVY = (
    "psycopg",
    "redis",
    "hiredis",
    "asyncio",
    "rich",
    "boto3",
    "importlib.metadata",
    "reconcile_standin",
)


def modules(tmp_path: Path, *arguments: str, code: int) -> set[str]:
    """The modules loaded when `reconcile ARGUMENTS` ends with that exit code."""
    result = subprocess.run(
        [sys.executable, "-c", LOOKING, *arguments],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == code, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("MODULES ")]
    return set(line.split()[1:])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["run", "--help"], 0),
        (["verify", "--help"], 0),
        (["run", "--no-such-option"], 2),
        (["run", "--config", "missing.yaml"], 2),
        (["config", "check", "--config", "missing.yaml"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_help_and_mistakes_import_no_driver(tmp_path: Path, arguments: list[str], code: int) -> None:
    """Neither psycopg nor redis, nor anything else that only a run needs."""
    loaded = modules(tmp_path, *arguments, code=code)
    assert not loaded & set(HEAVY)
