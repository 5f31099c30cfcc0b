"""Fixtures of the platform tests: built artifacts, a configuration on disk, ways to look at the result."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import shipped

PREFIX = "p:"


@pytest.fixture(scope="session")
def lambda_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The deployable zip, built by the command users run, for the Python the tests run on."""
    out = tmp_path_factory.mktemp("dist")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = [sys.executable, "-m", "functions.build", "aws-lambda", "--python", python, "--out", str(out)]
    subprocess.run(command, cwd=shipped.ROOT, timeout=240, check=True)
    return out / "reconcile-aws-lambda.zip"


@pytest.fixture(scope="session")
def lambda_task(lambda_zip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip as Lambda unpacks it into /var/task: sources and .pyc, file times of the zip."""
    task = tmp_path_factory.mktemp("task")
    with zipfile.ZipFile(lambda_zip) as archive:
        archive.extractall(task)
    return task


@dataclass(frozen=True)
class Deployment:
    """One configured view between the test's source and target."""

    source: Any
    redis: Any
    env: dict[str, str]

    def view(self) -> dict[bytes, bytes]:
        """What the view holds now, by the keys it should have in Redis."""
        rows = self.source.execute(f"SELECT key, value FROM {self.source.relation}")
        return {f"{PREFIX}{key}".encode(): str(value).encode() for key, value in rows}

    def stored(self) -> dict[bytes, bytes]:
        """What Redis holds under the view's prefix."""
        client = self.redis.client()
        try:
            keys = sorted(client.scan_iter(match=f"{PREFIX}*", count=1000))
            return dict(zip(map(_bytes, keys), map(_bytes, client.mget(keys) if keys else []), strict=True))
        finally:
            client.close()

    def put(self, rows: dict[str, str]) -> None:
        """Insert or replace rows of the view, at one Materialize timestamp each for removal and insertion."""
        self.delete(list(rows))
        values = ", ".join(f"('{key}', '{value}')" for key, value in rows.items())
        self.source.execute(f"INSERT INTO {self.source.relation} (key, value) VALUES {values}")

    def delete(self, keys: list[str]) -> None:
        """Delete rows of the view."""
        listed = ", ".join(f"'{key}'" for key in keys)
        self.source.execute(f"DELETE FROM {self.source.relation} WHERE key IN ({listed})")

    @property
    def prefix(self) -> str:
        return PREFIX


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture
def deployment(source: Any, redis_server: Any, tmp_path: Path) -> Deployment:
    """The environment a platform gives a function: configuration as a file, addresses as variables."""
    config = tmp_path / "config.yaml"
    config.write_text(
        f"views:\n  - name: orders\n    sql: SELECT key, value FROM {source.relation}\n    key_prefix: '{PREFIX}'\n"
    )
    env = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "RECONCILE_CONFIG": str(config),
        "MATERIALIZE_URL": source.url,
        "REDIS_URL": redis_server.url,
    }
    return Deployment(source, redis_server, env)


@pytest.fixture
def in_process(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Deployment]:
    """The deployment as this process's own environment, with nothing cached from another test."""
    from functions import event as events

    for name in ("RECONCILE_CONFIG", "MATERIALIZE_URL", "REDIS_URL"):
        monkeypatch.setenv(name, deployment.env[name])
    events.settings.cache_clear()
    return lambda: deployment
