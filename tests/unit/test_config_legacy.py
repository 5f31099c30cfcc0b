"""A configuration of mz-redis-sync works as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconcile.config.load import load
from reconcile.config.settings import Secret
from tests.support.configuration import LEGACY, URLS, loaded


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_example_of_the_predecessor_is_one_view() -> None:
    """Its config.example.yaml works as it is."""
    config = loaded(LEGACY)
    assert config.materialize.host == "your-mz-host"
    assert (config.materialize.port, config.materialize.user, config.materialize.database) == (
        6875,
        "your-username",
        "your-database",
    )
    assert config.materialize.password == Secret("your-password")
    assert (config.redis.host, config.redis.port, config.redis.db) == ("your-redis-host", 6379, 0)
    (view,) = config.views
    assert (view.name, view.sql) == ("mz_latest_timestamp", "SELECT key, value FROM your_view")
    assert (view.key_columns, view.value_columns, view.key_prefix) == (("key",), ("value",), "")
    assert view.mz_timestamp_key == "mz_latest_timestamp"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("app", "app:"),
        ("'app:'", "app:"),
        ("'app::'", "app:"),
        ("a:b", "a:b:"),
        ("''", ""),
        ("", ""),
        ("7", "7:"),
    ],
)
def test_legacy_prefix_ends_in_one_colon(written: str, expected: str) -> None:
    """As the predecessor: rstrip(':'), then 'prefix:key'."""
    assert loaded(LEGACY + f"  key_prefix: {written}\n").views[0].key_prefix == expected


def test_legacy_logging() -> None:
    """level in any case, a %-style format, a file."""
    config = loaded(LEGACY + "logging: {level: debug, format: '%(asctime)s - %(message)s', file: sync.log}")
    assert (config.logging.level, config.logging.format, config.logging.file) == (
        "DEBUG", "%(asctime)s - %(message)s", "sync.log",
    )  # fmt: skip


@pytest.mark.parametrize("password", ["pa$$word", "$HOME", "a$", "$$", "12345", "0123", "'#:@%/?'", "1.50"])
def test_legacy_password_keeps_its_text(password: str) -> None:
    """Dollars without a brace, and digits, mean themselves."""
    config = loaded(LEGACY.replace("your-password", password))
    assert config.materialize.password == Secret(password.strip("'"))


def test_legacy_dollar_quoted_sql_keeps_its_text() -> None:
    """$$ in SQL is a quote, not an escape."""
    config = loaded(LEGACY.replace("SELECT key, value FROM your_view", "SELECT key, $$a;b$$ AS value FROM v;"))
    assert config.views[0].sql == "SELECT key, $$a;b$$ AS value FROM v"


def test_legacy_quoted_numbers_and_merge_keys() -> None:
    """What psycopg2 and PyYAML accepted is accepted."""
    config = loaded(
        "x-common: &c {host: h, port: '7'}\nmaterialize: {<<: *c, sql: SELECT 1}\nredis: {<<: [*c], db: '3', port: 8}"
    )
    assert (config.materialize.host, config.materialize.port) == ("h", 7)
    assert (config.redis.port, config.redis.db) == (8, 3)


def test_empty_password_is_none() -> None:
    """A local Materialize has none; people write ''."""
    assert loaded(LEGACY.replace("your-password", "''")).materialize.password is None
    assert loaded(LEGACY.replace("your-password", "${NONE:-}")).materialize.password is None


def test_shipped_kubernetes_configuration_loads() -> None:
    """With the variables its secret provides."""
    shipped = Path(__file__).parents[2] / "cron/kubernetes/base/config.yaml"
    assert load(str(shipped), {name: value for name, value in URLS.items() if name.endswith("_URL")}).views
