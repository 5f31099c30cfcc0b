"""Fixtures of the platform tests: built artifacts, a configuration on disk, ways to look at the result."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.platforms import shipped

if TYPE_CHECKING:
    from tests.support.redis_servers import RedisServer
    from tests.support.sources import Source

PREFIX = "p:"


@pytest.fixture(scope="session")
def lambda_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The deployable zip, built by the command users run, for the Python the tests run on."""
    out = tmp_path_factory.mktemp("dist")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = [sys.executable, "-m", "functions.build", "aws-lambda", "--python", python, "--out", str(out)]
    subprocess.run(command, cwd=shipped.ROOT, timeout=800, check=True)
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

    source: Source
    redis: RedisServer
    env: dict[str, str]

    def view(self) -> dict[bytes, bytes]:
        """What the view holds now, by the keys it should have in Redis."""
        return {PREFIX.encode() + key: value for key, value in self.source.content().items()}

    def stored(self) -> dict[bytes, bytes]:
        """What Redis holds under the view's prefix."""
        with self.redis.client() as client:
            keys = sorted(client.scan_iter(match=f"{PREFIX}*", count=1000))
            values = client.mget(keys) if keys else []
            return {key: value for key, value in zip(keys, values, strict=True) if value is not None}

    def tamper(self, key: str) -> None:
        """Somebody else writes one of the view's keys."""
        with self.redis.client() as client:
            assert client.set(f"{PREFIX}{key}", "tampered", xx=True)

    def put(self, rows: dict[str, str]) -> None:
        """Insert or replace rows."""
        self.delete(list(rows))
        values = ", ".join(f"('{key}', '{value}')" for key, value in rows.items())
        self.source.execute(f"INSERT INTO t VALUES {values}")

    def delete(self, keys: list[str]) -> None:
        """Delete rows."""
        listed = ", ".join(f"'{key}'" for key in keys)
        self.source.execute(f"DELETE FROM t WHERE key IN ({listed})")

    @property
    def prefix(self) -> str:
        return PREFIX


@pytest.fixture
def deployment(source: Source, redis_server: RedisServer, tmp_path: Path) -> Deployment:
    """The environment a platform gives a function: configuration as a file, addresses as variables."""
    config = tmp_path / "config.yaml"
    config.write_text(f"views:\n  - name: orders\n    sql: {source.sql}\n    key_prefix: '{PREFIX}'\n")
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
