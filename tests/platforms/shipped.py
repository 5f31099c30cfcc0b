"""Reading what we ship: paths, durations, crontab lines, unit files, manifests."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CRON = ROOT / "cron"
FUNCTIONS = ROOT / "functions"

# What comes after --max-runtime at worst: a socket that hangs is severed (reconcile.stop.GRACE_S), then the report.
RUN_GRACE_S = 5

_UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """'90', '14m', '15min', '2h' in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(text).strip())
    assert match is not None, f"not a duration: {text!r}"
    return float(match[1]) * _UNITS[match[2]]


def max_runtime_s(arguments: Sequence[str]) -> float:
    """The value of --max-runtime in a command of ours; every scheduled one must have it."""
    words = [part for argument in arguments for part in argument.split("=", 1)]
    assert "--max-runtime" in words, f"no --max-runtime in {arguments}"
    return seconds(words[words.index("--max-runtime") + 1])


@dataclass(frozen=True)
class CronLine:
    """One scheduled line of the crontab."""

    schedule: str
    timeout: tuple[str, ...]
    arguments: tuple[str, ...]


def crontab() -> tuple[dict[str, str], list[CronLine]]:
    """Its variables and its lines."""
    variables: dict[str, str] = {}
    lines = []
    for text in (CRON / "crontab").read_text().splitlines():
        if not text.strip() or text.startswith("#"):
            continue
        if re.match(r"[A-Z_]+=", text):
            name, value = text.split("=", 1)
            variables[name] = value
            continue
        fields = text.split(None, 5)
        assert len(fields) == 6, text
        words = shlex.split(fields[5])
        start = words.index("reconcile")
        lines.append(CronLine(" ".join(fields[:5]), tuple(words[:start]), tuple(words[start + 1 :])))
    return variables, lines


def unit(name: str) -> dict[str, dict[str, list[str]]]:
    """A unit file: section → key → values in order."""
    sections: dict[str, dict[str, list[str]]] = {}
    current: dict[str, list[str]] = {}
    for line in (CRON / "systemd" / name).read_text().splitlines():
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, value = line.split("=", 1)
            current.setdefault(key, []).append(value)
    return sections


def units(pattern: str) -> list[str]:
    """Names of the unit files we ship."""
    return sorted(path.name for path in (CRON / "systemd").glob(pattern))


def documents(path: Path) -> list[dict[str, Any]]:
    """The YAML documents of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def tool(name: str, *, debian: str) -> str:
    """The tool's path. Where it is missing the test is skipped, except in CI: there it must be installed."""
    found = shutil.which(name)
    if found is None:
        message = f"{name} is not installed (Debian package {debian}; tests/platforms/install-tools.sh)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found
