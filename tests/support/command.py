"""The installed `reconcile` command, as a process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.forked import Forked, suits

PROGRAM = str(Path(sys.executable).parent / "reconcile")


@dataclass
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """The JSON object on stdout."""
        parsed: dict[str, Any] = json.loads(self.out)
        return parsed

    @property
    def view(self) -> dict[str, Any]:
        """The report of the only view."""
        (view,) = self.report["views"]
        assert isinstance(view, dict)
        return view


class Command:
    """Runs `reconcile` with a configuration for one source and one Redis: a fork of one that is ready (`forked`)."""

    def __init__(self, directory: Path, source_url: str, redis_url: str, query: str) -> None:
        self.directory = directory
        self.config: dict[str, Any] = {
            "materialize": {"url": source_url, "sql": query},
            "redis": {"url": redis_url, "key_prefix": "p"},
        }

    @property
    def config_path(self) -> Path:
        return self.directory / "config.yaml"

    def __call__(self, *arguments: str, expect: int | None = 0, timeout_s: float = 120, **env: str) -> Result:
        """Run `reconcile ARGUMENTS --json` to its end; fails the test when it exits otherwise than expected."""
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=timeout_s)
        result = Result(process.returncode, out, err)
        if expect is not None:
            assert result.code == expect, f"exit {result.code}, expected {expect}\n{out}\n{err}"
        return result

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str] | Forked:
        """Start it and return at once."""
        self.write_config()
        args = [PROGRAM, *arguments, "--config", str(self.config_path), "--json"]
        own = {**os.environ, **env}
        if suits(own):
            return Forked(args, self.directory, own)
        pipe = subprocess.PIPE
        return subprocess.Popen(args, stdout=pipe, stderr=pipe, text=True, cwd=self.directory, env=own)

    @contextlib.contextmanager
    def following(self, *arguments: str, **env: str) -> Iterator[None]:
        """`reconcile ARGUMENTS` that follows beside the block, and is told to stop at its end: exit 4."""
        process = self.start(*arguments, "--for", "600s", **env)
        try:
            yield
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        except BaseException:
            process.kill()
            raise
        assert process.returncode == 4, out + err

    def write_config(self) -> None:
        """Write the configuration file (JSON is YAML); a command that was started before may be about to read it."""
        made = self.config_path.with_suffix(".new")
        made.write_text(json.dumps(self.config))
        made.replace(self.config_path)
