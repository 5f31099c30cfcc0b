"""Loading a configuration out of a text, and seeing it refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from reconcile.config.load import load
from reconcile.config.settings import Settings
from reconcile.errors import ConfigError, ExitCode

LEGACY = """
materialize:
  host: your-mz-host
  port: 6875
  user: your-username
  password: your-password
  database: your-database
  sql: "SELECT key, value FROM your_view"

redis:
  host: your-redis-host
  port: 6379
  db: 0
  mz_timestamp_key: mz_latest_timestamp
"""
BASE = "materialize: {host: m}\nredis: {host: r}\n"
URLS = {"MATERIALIZE_URL": "postgresql://u@m/d", "REDIS_URL": "redis://r/0", "RECONCILE_VIEW__SQL": "SELECT 1"}


def loaded(
    text: str, environ: Mapping[str, str] | None = None, overrides: Mapping[str, object] | None = None
) -> Settings:
    Path("config.yaml").write_text(text)
    return load(None, environ or {}, overrides or {})


def refused(
    text: str, environ: Mapping[str, str] | None = None, overrides: Mapping[str, object] | None = None
) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        loaded(text, environ, overrides)
    error = caught.value
    assert error.exit_code == ExitCode.USAGE == 2
    assert "\n" not in error.message
    assert error.hint
    return error


def views(*entries: str, redis: str = "host: r") -> str:
    return f"materialize: {{host: m}}\nredis: {{{redis}}}\nviews:\n" + "".join(
        f"- {{sql: SELECT 1, {e}}}\n" for e in entries
    )
