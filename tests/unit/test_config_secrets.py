# ruff: noqa: E501 - tables of messages
"""No secret is ever shown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reconcile.config import show
from reconcile.config.settings import Secret, Settings
from reconcile.errors import ConfigError
from tests.support.configuration import LEGACY, loaded


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


PASSWORDS = st.builds(
    lambda a, b: f"{a}S3CR3T{b}",
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
    | st.text("$:@/?#%'\"{}[]&=* \n\\,x1-", max_size=8),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
    | st.text("$:@/?#%'\"{}[]&=* \n\\,x1-", max_size=8),
).filter(lambda text: re.search(r"\$\{\w*S3CR3T", text) is None)


def everything(text: str, environ: Mapping[str, str]) -> str:
    """All that can be seen of loading this: an error, or what show makes of the settings."""
    try:
        config = loaded(text, environ)
    except ConfigError as error:
        return f"{error!r} {error} {error.hint}"
    return f"{config!r} {config} {show.render(config)} {json.dumps(show.to_dict(config))}"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(password=PASSWORDS, broken=st.booleans())
@example(password="@@S3CR3T", broken=False)
def test_no_password_is_ever_shown(password: str, broken: bool) -> None:
    """Not from any place it can be given in, properly quoted or not, in settings, errors or `config show`."""
    quoted = json.dumps(password)
    bare = " ".join(password.splitlines())  # what stands on a line of its own is a key, not a password
    wrong = "\nredis: {port: x}" if broken else ""
    places: list[tuple[str, dict[str, str]]] = [
        (LEGACY.replace("your-password", quoted) + wrong, {}),
        (LEGACY.replace("your-password", bare), {}),
        (LEGACY.replace("port: 6379", f"password: {bare}"), {}),
        (LEGACY.replace("your-mz-host", json.dumps(f"postgres://u:{password}@h")), {}),
        (f"materialize: {{host: m, sql: SELECT 1, password: {quoted}}}\nredis: {{url: {json.dumps(f'redis://:{password}@h')}}}", {}),
        (f"materialize: {{url: {json.dumps(f'host=h password={password}')}, sql: SELECT 1}}\nredis: {{host: h}}", {}),
        ("materialize: {host: m, sql: SELECT 1, url: 'postgres://u:${P}@h'}\nredis: {host: r, port: '${P}'}", {"P": password}),
        (LEGACY, {"MATERIALIZE_PASSWORD": password, "REDIS_URL": f"redis://{password}:x@h" if broken else f"redis://:{password}@h"}),
        (LEGACY, {"RECONCILE_REDIS__PASSWORD": password, "MATERIALIZE_URL": f"postgresql://u:{password}@h:1/d?sslmode=require"}),
        (LEGACY, {"MATERIALIZE_URL": f"postgresql://h/d?password={password}", "REDIS_URL": f"redis://h?password={password}"}),
        (LEGACY, {"REDIS_PASSWORD_FILE": password, "MATERIALIZE_PASSWORD_ARN": password}),
    ]  # fmt: skip
    for number, (text, environ) in enumerate(places):
        if number == 7 and broken:
            continue
        assert "S3CR3T" not in everything(text, environ), number


def test_a_secret_has_no_text() -> None:
    """Not by str, repr or format."""
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]} {Settings(origins={})!r}"
    assert secret.reveal() == "hunter2"


def test_show_lists_every_setting_with_its_origin() -> None:
    """As text and for JSON."""
    config = loaded(LEGACY, {"REDIS_URL": "redis://:p@h/1"})
    rows = {path: (value, origin) for path, value, origin in show.render(config)}
    assert rows["materialize.password"] == ("***", "config.yaml:6")
    assert rows["redis.password"] == ("***", "env REDIS_URL")
    assert rows["redis.db"] == ("1", "env REDIS_URL")
    assert rows["redis.tls"] == ("false", "env REDIS_URL")
    assert rows["limits.max_runtime"] == ("off", "default")
    assert rows["materialize.cluster"] == ("-", "default")
    assert rows["views.mz_latest_timestamp.compare_every"] == ("1d", "default")
    assert rows["views.mz_latest_timestamp.sql"] == ("SELECT key, value FROM your_view", "config.yaml:8")
    assert set(rows) <= set(config.origins)
    shown = json.loads(json.dumps(show.to_dict(config)))
    assert shown["views"][0]["mz_timestamp_key"] == "mz_latest_timestamp"
    assert shown["redis"]["password"] == "***"
    assert shown["limits"]["lease"] == "15s"
    assert shown["origins"]["redis.host"] == "env REDIS_URL"
