# ruff: noqa: E501 - tables of messages
"""The configuration: what is accepted, what is refused and where, and that no secret is ever shown."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconcile.config import interpolation, query, schema, show
from reconcile.config.load import CLASSES, load
from reconcile.config.settings import LimitSettings, Secret, Settings
from reconcile.config.values import Wrong
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


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


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


# --- mz-redis-sync's file


def test_example_of_the_predecessor_is_one_view_called_default() -> None:
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
    assert (view.name, view.sql) == ("default", "SELECT key, value FROM your_view")
    assert (view.key, view.value, view.key_prefix) == ("key", "value", "")
    assert view.mz_timestamp_key == "mz_latest_timestamp"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("app", "app:"),
        ("'app:'", "app:"),
        ("'app::'", "app:"),
        ("a:b", "a:b:"),
        ("''", ""),
        ("':'", ""),
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


# --- where values come from


def test_flags_win_over_environment_over_file_over_defaults() -> None:
    """And origins says so."""
    config = loaded(
        BASE + "limits: {lease: 20s, max_runtime: 1m, memory_max: 64MB}\nviews: [{name: v, sql: SELECT 1}]",
        {"RECONCILE_LIMITS__LEASE": "30", "RECONCILE_LIMITS__MAX_RUNTIME": "2m"},
        {"limits.max_runtime_s": 55, "redis.host": None},
    )
    assert config.limits == LimitSettings(memory_max_bytes=64 << 20, max_runtime_s=55.0, lease_s=30.0)
    assert config.redis.host == "r"
    assert {name: place for name, place in config.origins.items() if name.startswith("limits.")} == {
        "limits.memory_max_bytes": "config.yaml:3",
        "limits.batch_max_bytes": "default",
        "limits.batch_max_keys": "default",
        "limits.max_runtime_s": "flag",
        "limits.lease_s": "env RECONCILE_LIMITS__LEASE",
    }
    assert config.origins["views.v.sql"] == "config.yaml:4"


def test_environment_alone_is_enough() -> None:
    """Cloud functions have no file."""
    config = load(None, URLS)
    assert (config.materialize.host, config.materialize.user, config.materialize.database) == ("m", "u", "d")
    assert config.origins["materialize.host"] == "env MATERIALIZE_URL"
    assert config.views[0].name == "default"


def test_file_by_variable_and_by_argument(folder: Path) -> None:
    """The argument wins over RECONCILE_CONFIG, which wins over ./config.yaml."""
    for name in ("config.yaml", "a.yaml", "b.yaml"):
        (folder / name).write_text(f"materialize: {{host: {name}, sql: SELECT 1}}\nredis: {{host: r}}")
    assert load(None, {}).materialize.host == "config.yaml"
    assert load(None, {"RECONCILE_CONFIG": "a.yaml"}).materialize.host == "a.yaml"
    assert load("b.yaml", {"RECONCILE_CONFIG": "a.yaml"}).materialize.host == "b.yaml"


def test_empty_variables_and_nulls_count_as_not_given() -> None:
    """Kubernetes and compose files pass empty variables on."""
    config = loaded(LEGACY + "  username:\nlogging:\n", {"REDIS_PASSWORD": "", "RECONCILE_REDIS__HOST": ""})
    assert (config.redis.host, config.redis.password, config.redis.username) == ("your-redis-host", None, None)


def test_sql_of_a_higher_layer_replaces_a_relation() -> None:
    """They are alternatives."""
    text = BASE + "views: [{relation: v}]"
    assert loaded(text).views[0].sql == 'SELECT "key", "value" FROM "v"'
    assert loaded(text, {"RECONCILE_VIEW__SQL": "SELECT 2"}).views[0].sql == "SELECT 2"
    assert loaded(text, overrides={"materialize.sql": "SELECT 3"}).views[0].sql == "SELECT 3"


def test_flags_for_one_of_several_views() -> None:
    """views.<name>.<key>; a name that does not exist is an error."""
    text = BASE + "views: [{name: a, sql: SELECT 1, key_prefix: a}, {name: b, sql: SELECT 1, key_prefix: b}]"
    config = loaded(text, overrides={"views.b.max_delete_fraction": 1, "views.a.deep_every": "off"})
    assert [(v.max_delete_fraction, v.deep_every_s) for v in config.views] == [(0.3, None), (1.0, 86_400.0)]
    assert refused(text, overrides={"views.bb.buckets": 16}).hint == "did you mean b?"


def test_secrets_from_files(folder: Path) -> None:
    """One trailing newline goes; paths in the file are relative to it; a loser's file is never read."""
    (folder / "deep").mkdir()
    (folder / "deep/pw").write_text("a\n\n")
    (folder / "url").write_text("redis://r:7/2\n")
    (folder / "deep/c.yaml").write_text(
        "materialize: {host: m, sql: SELECT 1, password_file: pw}\nredis: {host: r, password_file: none}"
    )
    config = load("deep/c.yaml", {"REDIS_URL_FILE": "url", "REDIS_PASSWORD": "direct"})
    assert config.materialize.password == Secret("a\n")
    assert config.redis.url == Secret("redis://r:7/2")
    assert (config.redis.port, config.redis.db, config.redis.password) == (7, 2, Secret("direct"))
    assert config.origins["redis.url"] == "env REDIS_URL_FILE"
    error = refused(BASE + "views: [{sql: SELECT 1}]", {"REDIS_PASSWORD_FILE": str(folder / "gone")})
    assert error.message == f"REDIS_PASSWORD_FILE: '{folder}/gone': no such file or directory"


def test_secrets_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 is asked only when an ARN is given; a JSON key picks one member."""
    arn = "arn:aws:secretsmanager:eu-west-1:123:secret:name-AbC"
    asked: list[tuple[str, str]] = []

    def client(_service: str, region_name: str) -> Any:
        def get_secret_value(SecretId: str) -> dict[str, str]:  # noqa: N803
            asked.append((region_name, SecretId))
            return {"SecretString": '{"pw": "s", "n": {}}'}

        return types.SimpleNamespace(get_secret_value=get_secret_value)

    monkeypatch.setitem(sys.modules, "boto3", types.SimpleNamespace(client=client))
    assert load(None, {**URLS, "REDIS_PASSWORD_ARN": arn + ":pw"}).redis.password == Secret("s")
    assert load(None, {**URLS, "RECONCILE_REDIS__PASSWORD_ARN": arn}).redis.password == Secret('{"pw": "s", "n": {}}')
    assert asked == [("eu-west-1", arn)] * 2
    for bad in (arn + ":n", arn + ":none", "arn:aws:s3:::x"):
        with pytest.raises(ConfigError, match=r"^REDIS_PASSWORD_ARN: "):
            load(None, {**URLS, "REDIS_PASSWORD_ARN": bad})
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigError, match=r"^REDIS_PASSWORD_ARN: needs boto3, which is not installed$"):
        load(None, {**URLS, "REDIS_PASSWORD_ARN": arn})


@pytest.mark.parametrize(
    "name",
    ["RECONCILE_TEST_MZ", "RECONCILE_SERVICE_HOST", "RECONCILE_REDIS_SERVICE_PORT", "RECONCILE_PORT_80_TCP_ADDR"],
)
def test_variables_of_others_are_left_alone(name: str) -> None:
    """Tests' own, and the links Kubernetes makes for a Service called reconcile."""
    load(None, {**URLS, name: "x", "RECONCILE_REDIS_PORT": "tcp://10.0.0.1:80", "OTHER": "x"})


@pytest.mark.parametrize(
    ("environ", "message", "hint"),
    [
        ({"RECONCILE_REDIS__HOTS": "x"}, "RECONCILE_REDIS__HOTS: unknown environment variable", "RECONCILE_REDIS__HOST?"),
        ({"RECONCILE_REDIS_HOST": "x"}, "RECONCILE_REDIS_HOST: unknown environment variable", "RECONCILE_REDIS__HOST?"),
        ({"RECONCILE_MZ__HOST": "x"}, "RECONCILE_MZ__HOST: unknown environment variable", "RECONCILE_MATERIALIZE__HOST?"),
        ({"RECONCILE_X": "x"}, "RECONCILE_X: unknown environment variable", "RECONCILE_<SECTION>__<KEY>"),
        ({"RECONCILE_REDIS_PORT": "80"}, "RECONCILE_REDIS_PORT: unknown environment variable", "RECONCILE_REDIS__PORT?"),
        ({"RECONCILE_REDIS__PORT": "x"}, "RECONCILE_REDIS__PORT: expected a whole number from 1 to 65535, found 'x'", "1000"),
        ({"REDIS_PASSWORD": "s", "REDIS_PASSWORD_FILE": "f"}, "REDIS_PASSWORD_FILE: REDIS_PASSWORD gives the same value", "keep one"),
        ({"REDIS_URL": "redis://r", "RECONCILE_REDIS__URL": "redis://r"}, "REDIS_URL: RECONCILE_REDIS__URL gives the same", "keep one"),
        ({"RECONCILE_CONFIG": "gone.yaml"}, "gone.yaml: no such file or directory", "RECONCILE_CONFIG"),
        ({"RECONCILE_REDIS__DEDICATED": "maybe"}, "RECONCILE_REDIS__DEDICATED: expected true or false, found 'maybe'", "true"),
        ({"REDIS_PASSWORD_FILE": "gone"}, "REDIS_PASSWORD_FILE: no such file or directory", "may read"),
    ],
)  # fmt: skip
def test_bad_environment(environ: dict[str, str], message: str, hint: str) -> None:
    """The message begins with the variable."""
    error = refused(LEGACY, environ)
    assert error.message.startswith(message)
    assert hint in str(error.hint)


def test_bad_flags() -> None:
    """They are named by their dotted path."""
    assert refused(LEGACY, overrides={"redis.prot": 1}).message == "flag redis.prot: unknown setting"
    assert refused(LEGACY, overrides={"redis.port": 0}).message == (
        "flag redis.port: expected a whole number from 1 to 65535, found '0'"
    )
    assert loaded(LEGACY, overrides={"redis.password": Secret("x")}).redis.password == Secret("x")


# --- what a file may not be


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("a: [1", "config.yaml:2:1: not YAML: did not find expected ',' or ']'", "indentation"),
        ("a: b: c", "config.yaml:1:5: not YAML: mapping values are not allowed in this context", "colons"),
        ("a: *hunter2", "config.yaml:1:4: not YAML: found undefined alias", "indentation"),
        ("a: 1\n---\nb: 2", "config.yaml:2:1: not YAML:", "indentation"),
        ("a: \0", "config.yaml: not YAML: a character that is not allowed", "quotes"),
        ("- a", "config.yaml:1: expected a mapping, found a list", "materialize:"),
        ("word", "config.yaml:1: expected a mapping, found a single value", "materialize:"),
        ("", "config.yaml: materialize.host: missing", "MATERIALIZE_URL"),
        ("materialize: {host: m}", "config.yaml: redis.host: missing", "REDIS_URL"),
        (BASE, "config.yaml: materialize.sql: missing", "RECONCILE_VIEW__SQL"),
        ("materialise: {}", "config.yaml:1: materialise: unknown section", "did you mean materialize?"),
        ("\nmaterialize:\n  hots: x", "config.yaml:3: materialize.hots: unknown key", "did you mean host?"),
        ("redis: {sslmode: x}", "config.yaml:1: redis.sslmode: unknown key", "belongs to materialize:"),
        ("redis: {digest_view: x}", "config.yaml:1: redis.digest_view: unknown key", "an entry of views:"),
        ("redis: {passwordhunter2:x: 1}", "config.yaml:1: redis.(unreadable key): unknown key", "did you mean password"),
        ("redis: x", "config.yaml:1: redis: expected a mapping, found a single value", "key: value"),
        ("redis:\n  port: [1]", "config.yaml:2: redis.port: expected a whole number from 1 to 65535, found a list", "single"),
        ("redis:\n  host: a\n  host: b", "config.yaml:3: redis.host: given twice", "config.yaml:2"),
        ("redis: {}\nredis: {}", "config.yaml:2: redis: given twice", "config.yaml:1"),
        ("redis: {[a]: b}", "config.yaml:1: a key is not plain text", "key: value"),
        ("redis: !x {a: b}", "config.yaml:1: redis: unsupported YAML tag", "tag"),
        ("redis: {host: !x b}", "config.yaml:1: redis.host: unsupported YAML tag", "tag"),
        ("redis: {host: {a: {b: {c: d}}}}", "config.yaml:1: redis.host.a: nested too deeply", "three levels"),
        ("a: &a\n  <<: *a", "config.yaml:2: '<<' does not merge a mapping", "anchor"),
        ("redis: {<<: x}", "config.yaml:1: '<<' does not merge a mapping", "anchor"),
        ("redis: {password: a, password_file: b}", "config.yaml:1: redis.password_file: config.yaml:1: redis.password gives", "keep"),
        ("limits: {lease: 1, lease_s: 2}", "config.yaml:1: limits.lease_s: config.yaml:1: limits.lease gives", "keep one"),
        ("views: {}", "config.yaml:1: views: expected a list, found a mapping", "- name"),
        ("views: []", "config.yaml:1: views: expected 1 to 1000 views", "- name"),
        ("views: [x]", "config.yaml:1: views[0]: expected a mapping, found a single value", "key: value"),
    ],
)  # fmt: skip
def test_bad_files(text: str, message: str, hint: str) -> None:
    """File, line, one sentence, and what to do."""
    error = refused(text)
    assert error.message.startswith(message)
    assert "hunter2" not in error.message
    assert hint in str(error.hint)


def test_unreadable_files(folder: Path) -> None:
    """Folders, wrong encodings and huge files are named."""
    (folder / "config.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"^config.yaml: is a directory$"):
        load(None, {})
    (folder / "latin.yaml").write_bytes(b"a: 1\nb: \xe9")
    with pytest.raises(ConfigError, match=r"^latin.yaml:2: not UTF-8$"):
        load("latin.yaml", {})
    (folder / "big.yaml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(ConfigError, match=r"^big.yaml: larger than 1 MB$"):
        load("big.yaml", {})
    (folder / "deep.yaml").write_text("[" * 50_000)
    with pytest.raises(ConfigError, match=r"^deep.yaml"):
        load("deep.yaml", {})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("redis.port", "abc", "expected a whole number from 1 to 65535, found 'abc'"),
        ("redis.port", "0", "expected a whole number from 1 to 65535, found '0'"),
        ("redis.port", "65536", "expected a whole number from 1 to 65535, found '65536'"),
        ("redis.port", "22:22", "expected a whole number from 1 to 65535, found '22:22'"),
        ("redis.port", "true", "expected a whole number from 1 to 65535, found true"),
        ("redis.db", "-1", "expected a whole number from 0 to 1000000, found '-1'"),
        ("redis.user", "x", "unknown key"),
        ("redis.password", "true", "expected text, found true"),
        ("redis.tls", "2", "expected true or false, found '2'"),
        ("redis.timeout", "fast", "expected a duration from 100ms to 1d, found 'fast'"),
        ("materialize.host", "redis://x:hunter2@y", "not a host name"),
        (
            "materialize.sslmode",
            "on",
            "expected one of disable, allow, prefer, require, verify-ca, verify-full, found true",
        ),
        (
            "logging.level",
            "loud",
            "expected one of DEBUG, INFO, WARNING, ERROR, CRITICAL, WARN, FATAL, NOTSET, found 'loud'",
        ),
        ("logging.format", "plain", "is not a %-style log format"),
        ("limits.memory_max", "32XB", "expected a size from 1MB to 64GB, found '32XB'"),
        ("limits.memory_max", "1KB", "expected a size from 1MB to 64GB, found '1KB'"),
        ("limits.batch_max_keys", "1.5", "expected a whole number from 1 to 10000000, found '1.5'"),
        ("limits.lease", "off", "expected a duration from 1s to 1h, found false"),
        ("view.name", "a b", "expected a name, found 'a b'"),
        ("view.name", "x" * 65, f"expected a name, found '{'x' * 40}'…"),
        ("view.layout", "json", "only the layout 'string' is available"),
        ("view.buckets", "1000", "expected a power of two from 16 to 131072, found '1000'"),
        ("view.buckets", "8", "expected a power of two from 16 to 131072, found '8'"),
        ("view.buckets", "262144", "expected a power of two from 16 to 131072, found '262144'"),
        ("view.max_delete_fraction", "1.01", "expected a number from 0 to 1, found '1.01'"),
        ("view.max_delete_fraction", "30%", "expected a number from 0 to 1, found '30%'"),
        ("view.max_delete_fraction", "nan", "expected a number from 0 to 1, found 'nan'"),
        ("view.deep_every", "daily", "expected a duration from 1s to 365d or off, found 'daily'"),
        ("view.digest_view", "a.b.c.d", "is not the name of a view"),
        ("view.key_prefix", '"a\\nb"', "expected text on one line, found 'a\\nb'"),
        ("view.sql", "' ; '", "is empty"),
        ("view.sql", "SELECT 1; SELECT 2", "holds more than one statement"),
        ("view.sql", "DROP TABLE x", "is not a query"),
        ("view.sql", "SELECT 'a", "has a quote that does not end"),
        ("view.sql", "SELECT /* a", "has a comment that does not end"),
        ("view.sql", "SELECT $a$ b", "has a dollar quote that does not end"),
        ("view.key", "value", "key and value are both the column 'value'"),
        ("view.relation", "v", "views[0].sql (config.yaml:3) is given too"),
    ],
)
def test_bad_values(key: str, value: str, message: str) -> None:
    """The message ends in what was expected and what was found, at the right line."""
    section, name = key.split(".")
    if section == "view":
        other = "" if name == "sql" else "sql: SELECT 1\n  "
        text, path = BASE + f"views:\n- {other}{name}: {value}\n", f"views[0].{name}"
        line = 4 if name == "sql" else 5
        message = message.replace(":3)", ":4)")
    else:
        base = {"materialize": "materialize:\n  sql: SELECT 1\n", "redis": "redis:\n"}
        text, path = base.get(section, f"{section}:\n") + f"  {name}: {value}\n", key
        line = text.count("\n")
        for missing in {"materialize", "redis"} - {section}:
            text += base[missing] + "  host: h\n"
        text = (
            text
            if name == "host" or section == "logging" or section == "limits"
            else text.replace(f"  {name}:", f"  host: h\n  {name}:", 1)
        )
        line += 0 if name == "host" or section in ("logging", "limits") else 1
    error = refused(text)
    assert error.message == f"config.yaml:{line}: {path}: {message}"


@pytest.mark.parametrize(
    ("name", "written", "expected"),
    [
        ("deep_every", "24h", 86_400.0), ("deep_every", "90s", 90.0), ("deep_every", "5m", 300.0), ("deep_every", "off", None),
        ("deep_every", "'off'", None), ("deep_every", "90", 90.0), ("deep_every", "1.5h", 5400.0),
        ("buckets", "16", 16), ("buckets", "131072", 131_072), ("max_delete_fraction", "0", 0.0), ("max_delete_fraction", "1", 1.0),
        ("max_delete_fraction", ".25", 0.25), ("key_prefix", "p", "p:"), ("layout", "string", "string"), ("name", "A_b-9", "A_b-9"),
        ("digest_view", "a.b.c", "a.b.c"),
    ],
)  # fmt: skip
def test_values_of_a_view(name: str, written: str, expected: object) -> None:
    """Durations, sizes and names as people write them."""
    (view,) = loaded(BASE + f"views:\n- sql: SELECT 1\n  {name}: {written}").views
    found = {spec: getattr(view, spec) for spec in view.__slots__}
    assert found.get(name, found.get(name + "_s")) == expected


@pytest.mark.parametrize(
    ("written", "expected"), [("32MB", 32 << 20), ("32 mb", 32 << 20), ("1g", 1 << 30), ("2048K", 2 << 20), ("1MiB", 1 << 20), ("1048576", 1 << 20)]
)  # fmt: skip
def test_sizes(written: str, expected: int) -> None:
    """Powers of 1024 however they are spelled."""
    assert loaded(LEGACY + f"limits: {{memory_max: {written}}}").limits.memory_max_bytes == expected


# --- SQL and names


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (" SELECT 1 ;\n; ", "SELECT 1"),
        ("SELECT 1; -- done", "SELECT 1"),
        ("SELECT 1 -- done", "SELECT 1"),
        ("-- why\nSELECT 1 /* a ; /* b */ */;", "SELECT 1"),
        ("SELECT ';', \";\", E'\\';' FROM v;", "SELECT ';', \";\", E'\\';' FROM v"),
        ("SELECT $x$ ; $$ $x$", "SELECT $x$ ; $$ $x$"),
        ("(select 1)", "(select 1)"),
        ("WITH a AS (SELECT 1) SELECT * FROM a", "WITH a AS (SELECT 1) SELECT * FROM a"),
        ("SELECT a$1, $1", "SELECT a$1, $1"),
    ],
)
def test_sql_is_cut_to_its_statement(sql: str, expected: str) -> None:
    """Without the ';' and comments after it; a ';' inside a string does not count."""
    assert query.cut(sql) == expected


@given(st.text(alphabet="a;'\"$-/*\n \\eE(", max_size=30))
def test_any_sql_is_cut_or_refused(tail: str) -> None:
    """Never another exception, never a ';' or comment at the end; cutting again changes nothing."""
    try:
        text = query.cut("SELECT " + tail)
    except Wrong:
        return
    assert text == text.strip()
    assert query.cut(text) == text
    assert query.cut(text + ";") == text


@pytest.mark.parametrize(
    ("relation", "expected"),
    [
        ("V", '"v"'),
        ("db.public.orders", '"db"."public"."orders"'),
        ('"My View"', '"My View"'),
        ('a."b.c"."d""e"', '"a"."b.c"."d""e"'),
    ],
)
def test_relations_are_quoted(relation: str, expected: str) -> None:
    """Plain names fold to lower case as in SQL; quoted ones stay."""
    assert query.reading(relation, "id", 'x"y') == f'SELECT "id", "x""y" FROM {expected}'


@pytest.mark.parametrize("relation", ["", ".", "a.", ".a", "a..b", "a b", "a;b", 'a"', '"a', "a.b.c.d", "1a", "a-b"])
def test_bad_relations(relation: str) -> None:
    """Nothing that is not a name gets into a statement."""
    with pytest.raises(Wrong):
        query.quoted(relation)


# --- interpolation


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a${A}b", "a1b"), ("${A}${A}", "11"), ("${E}", ""), ("${E:-d}", "d"), ("${U:-}", ""), ("${U:-a b:c}", "a b:c"),
        ("${A:?m}", "1"), ("$${A}", "${A}"), ("$A", "$A"), ("$$", "$$"), ("$$$", "$$$"), ("x$", "x$"), ("${N}", "${A}"),
    ],
)  # fmt: skip
def test_interpolation(text: str, expected: str) -> None:
    """Replaced once, in one pass."""
    assert interpolation.expand(text, {"A": "1", "E": "", "N": "${A}"}) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${U}", "the environment variable U is not set"),
        ("${U:?say\n why}", "${U}: say why"),
        ("${E:?}", "the environment variable E is empty"),
        ("${}", "'${' does not begin a valid reference"),
        ("${A", "'${' does not begin a valid reference"),
        ("${A-b}", "'${' does not begin a valid reference"),
    ],
)
def test_bad_interpolation(text: str, message: str) -> None:
    """With the place of the scalar."""
    error = refused(BASE + f"logging: {{file: {json.dumps(text)}}}\nviews: [{{sql: SELECT 1}}]", {"A": "1", "E": ""})
    assert error.message == f"config.yaml:3: logging.file: {message}"


def test_interpolation_cannot_change_the_structure() -> None:
    """It happens after YAML was parsed; numbers work too."""
    config = loaded(
        "materialize: {host: '${H}', port: '${P}', sql: SELECT 1}\nredis: {host: r, password: '${W}'}",
        {"H": "a}b", "P": "7", "W": "x, db: 5}\n# ${H}"},
    )
    assert (config.materialize.host, config.materialize.port) == ("a}b", 7)
    assert config.redis.password == Secret("x, db: 5}\n# ${H}")
    assert config.redis.db == 0


# --- several views


def views(*entries: str, redis: str = "host: r") -> str:
    return f"materialize: {{host: m}}\nredis: {{{redis}}}\nviews:\n" + "".join(
        f"- {{sql: SELECT 1, {e}}}\n" for e in entries
    )


def test_several_views() -> None:
    """Each with its own prefix."""
    config = loaded(views("name: a, key_prefix: a", "name: b, key_prefix: ab, mz_timestamp_key: t"))
    assert [(v.name, v.key_prefix) for v in config.views] == [("a", "a:"), ("b", "ab:")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (views("name: a, key_prefix: a", "name: a, key_prefix: b"), "5: views[1].name: two views are called 'a' (also config.yaml:4: views[0].name)"),
        (views("name: a, key_prefix: x", "name: b, key_prefix: 'x:'"), "5: views[1].key_prefix: views 'a' and 'b' share the prefix 'x:': each would delete the other's keys"),
        (views("name: a, key_prefix: x", "name: b, key_prefix: 'x:y'"), "5: views[1].key_prefix: prefix 'x:y:' of view 'b' lies under 'x:' of view 'a', which would delete its keys"),
        (views("name: a, key_prefix: 'x:y'", "name: b, key_prefix: x"), "5: views[1].key_prefix: prefix 'x:y:' of view 'a' lies under 'x:' of view 'b', which would delete its keys"),
        (views("name: a", "name: b"), "5: views[1].key_prefix: views 'a' and 'b' have no key_prefix: each would delete or overwrite the other's keys"),
        (views("name: a", "name: b", redis="host: r, dedicated: true"), "5: views[1].key_prefix: views 'a' and 'b' have no key_prefix and share the dedicated database: each would delete or overwrite the other's keys"),
        (views("name: a", "name: b, key_prefix: b"), "5: views[1].key_prefix: view 'a' has no key_prefix, so it can write and delete keys of view 'b' under 'b:'"),
        (views("name: a, key_prefix: b", "name: b", redis="host: r, dedicated: true"), "5: views[1].key_prefix: view 'b' owns the whole dedicated database, so it can write and delete keys of view 'a' under 'b:'"),
        (views("name: a, key_prefix: a, mz_timestamp_key: t", "name: b, key_prefix: b, mz_timestamp_key: t"), "5: views[1].mz_timestamp_key: views 'a' and 'b' share the timestamp key 't': each would overwrite the other's time"),
        (views("name: a, key_prefix: a", "name: b, key_prefix: b, mz_timestamp_key: 'a:t'"), "5: views[1].mz_timestamp_key: the timestamp key 'a:t' of view 'b' lies under the prefix 'a:' of view 'a', which would delete it"),
        (views("key_prefix: reconcile"), "4: views[0].key_prefix: 'reconcile:' covers the keys reconcile keeps its own state under"),
        (views("name: a, key_prefix: a", "key_prefix: b"), "5: views[1].name: missing"),
        (BASE + "views:\n- name: a\n", "4: views[0].sql: missing"),
        (LEGACY + "views: [{sql: SELECT 1}]", "8: materialize.sql: given beside views: (config.yaml:15)"),
        (views("name: a", redis="host: r, key_prefix: x"), "2: redis.key_prefix: given beside views: (config.yaml:3)"),
    ],
)  # fmt: skip
def test_views_that_would_harm_each_other(text: str, message: str) -> None:
    """The message says who would delete what."""
    assert refused(text).message == f"config.yaml:{message}"


def test_variables_of_a_single_view_need_a_single_view() -> None:
    """RECONCILE_VIEW__… does not say which of several."""
    assert loaded(views("name: a"), {"RECONCILE_VIEW__KEY_PREFIX": "z"}).views[0].key_prefix == "z:"
    error = refused(views("name: a, key_prefix: a", "name: b, key_prefix: b"), {"RECONCILE_VIEW__BUCKETS": "16"})
    assert error.message == "RECONCILE_VIEW__BUCKETS: there are 2 views, and it does not say which"


# --- URLs


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u@h:7/d?sslmode=require", ("h", 7, "u", "d", "require")),
        ("postgres://h", ("h", 6875, "materialize", "materialize", None)),
        ("postgres://u:p%40@[::1]:7", ("::1", 7, "u", "materialize", None)),
        ("postgres:///d?host=/run/x", ("/run/x", 6875, "materialize", "d", None)),
        ("postgres://a:1,b:2/d", ("localhost", 6875, "materialize", "d", None)),
        ("host=h port=7 user='a b' password='x y' dbname=d", ("h", 7, "a b", "d", None)),
        ("host = h", ("h", 6875, "materialize", "materialize", None)),
    ],
)
def test_materialize_urls(url: str, expected: tuple[object, ...]) -> None:
    """The URL is passed on, and the parts agree with it."""
    source = load(None, {**URLS, "MATERIALIZE_URL": url}).materialize
    assert source.url == Secret(url)
    assert (source.host, source.port, source.user, source.database, source.sslmode) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", ("h", 6379, 0, False, None)),
        ("rediss://u:p@h:7/3", ("h", 7, 3, True, "u")),
        ("redis://:p@h:7?db=4", ("h", 7, 4, False, None)),
        ("redis://:a@b@h", ("h", 6379, 0, False, None)),
        ("unix:///run/r.sock?db=2", ("localhost", 6379, 2, False, None)),
    ],
)
def test_redis_urls(url: str, expected: tuple[object, ...]) -> None:
    """What the URL leaves out is Redis' default, so `db` is always the one used."""
    target = load(None, {**URLS, "REDIS_URL": url}).redis
    assert target.url == Secret(url)
    assert (target.host, target.port, target.db, target.tls, target.username) == expected


@pytest.mark.parametrize(
    ("name", "url"),
    [("MATERIALIZE_URL", u) for u in ("x", "http://h", "postgres://u:hunter2@x@h", "postgres://h:x", "postgres://h:0", "postgres://u:hunter2%@h",
                                      "postgres://u:a/hunter2@h", "postgres://h?x", "postgres://u:a b@h", "host=h hunter2", "host='h", " ", "port=x")]
    + [("REDIS_URL", u) for u in ("x", "http://h", "redis://h/x", "redis://h:x", "redis://:hunter2#@h", "redis://:a/hunter2@h", "redis://:1/2?a=hunter2@h",
                                  "unix://h", "unix://", "redis://h?x", "redis://:%zz@h", "redis://[h", "redis://:hunter2[@h")],
)  # fmt: skip
def test_bad_urls(name: str, url: str) -> None:
    """Named by their variable, never quoted."""
    error = refused(LEGACY, {name: url})
    assert error.message.startswith(f"{name}: ")
    assert "hunter2" not in error.message + str(error.hint)


def test_a_url_wins_over_parts_of_lower_layers() -> None:
    """A port without its host makes no sense; a missing password is filled in."""
    config = loaded(
        LEGACY.replace("6875", "1").replace("6379", "2").replace("db: 0", "db: 3"),
        {"MATERIALIZE_URL": "postgres://m/x", "REDIS_URL": "redis://r", "REDIS_PASSWORD": "s"},
    )
    source, target = config.materialize, config.redis
    assert (source.host, source.port, source.database, source.user) == ("m", 6875, "x", "your-username")
    assert source.password == Secret("your-password")
    assert (target.host, target.port, target.db, target.password) == ("r", 6379, 0, Secret("s"))
    assert config.origins["redis.db"] == "env REDIS_URL"


@pytest.mark.parametrize("name", ["tls_ca_cert", "tls_cert", "tls_key"])
def test_certificates_need_tls(name: str) -> None:
    """Files of certificates beside a server without TLS are a mistake, unless a higher URL has replaced that server."""
    redis = f"redis: {{host: h, {name}: /x.pem"
    error = refused(f"materialize: {{host: h, sql: SELECT 1}}\n{redis}}}\n")
    assert error.message == f"config.yaml:2: redis.{name}: given, but TLS is off"
    assert "rediss://" in str(error.hint)
    with_tls = f"materialize: {{host: h, sql: SELECT 1}}\n{redis}, tls: true}}\n"
    assert getattr(loaded(with_tls).redis, name) == "/x.pem"
    assert getattr(loaded(with_tls, {"REDIS_URL": "rediss://r"}).redis, name) == "/x.pem"
    assert getattr(loaded(with_tls, {"REDIS_URL": "redis://r"}).redis, name) is None
    beside = {"REDIS_URL": "redis://r", f"RECONCILE_REDIS__{name.upper()}": "/y.pem"}
    assert refused(with_tls, beside).message == f"RECONCILE_REDIS__{name.upper()}: given, but TLS is off"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RECONCILE_REDIS__PORT": "1"}, "RECONCILE_REDIS__PORT: REDIS_URL (env REDIS_URL) says this too"),
        ({"REDIS_PASSWORD": "hunter2"}, "REDIS_PASSWORD: REDIS_URL (env REDIS_URL) says this too"),
        ({"RECONCILE_REDIS__TLS": "1"}, "RECONCILE_REDIS__TLS: REDIS_URL (env REDIS_URL) says this too"),
        (
            {"RECONCILE_MATERIALIZE__USER": "w"},
            "RECONCILE_MATERIALIZE__USER: MATERIALIZE_URL (env MATERIALIZE_URL) says this too",
        ),
    ],
)
def test_parts_beside_a_url_must_agree(environ: dict[str, str], message: str) -> None:
    """Of the same layer or above; equal ones are fine."""
    urls = {"MATERIALIZE_URL": "postgres://u:p@m", "REDIS_URL": "redis://:p@r:7/0", "RECONCILE_REDIS__DB": "0"}
    error = refused(LEGACY, {**urls, **environ})
    assert error.message == message


# --- secrets

PASSWORDS = st.builds(
    lambda a, b: f"{a}S3CR3T{b}",
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
    | st.text("$:@/?#%'\"{}[]&=* \n\\,x1-", max_size=8),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
    | st.text("$:@/?#%'\"{}[]&=* \n\\,x1-", max_size=8),
).filter(lambda text: "${S3CR3T" not in text)


def everything(text: str, environ: Mapping[str, str]) -> str:
    """All that can be seen of loading this: an error, or what show makes of the settings."""
    try:
        config = loaded(text, environ)
    except ConfigError as error:
        return f"{error!r} {error} {error.hint}"
    return f"{config!r} {config} {show.render(config)} {json.dumps(show.to_dict(config))}"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(password=PASSWORDS, broken=st.booleans())
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


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://:p@h:7/1", "redis://:***@h:7/1"),
        ("rediss://u:p@q@h", "rediss://u:***@h"),
        ("postgres://u@h/d?sslmode=require&password=p", "postgres://u@h/d?sslmode=require&***"),
        ("host=h user=u password='a b'", "host=h user=u ***"),
        ("unix:///run/r.sock?db=1", "unix:///run/r.sock?db=1"),
        ("what?", "***"),
        ("password='x", "***"),
    ],
)
def test_urls_are_shown_without_their_password(url: str, expected: str) -> None:
    """Host and database help; all that could hide a password does not show."""
    assert show.masked_url(url) == expected


def test_show_lists_every_setting_with_its_origin() -> None:
    """As text and for JSON."""
    config = loaded(LEGACY, {"REDIS_URL": "redis://:p@h/1"})
    rows = {path: (value, origin) for path, value, origin in show.render(config)}
    assert rows["materialize.password"] == ("***", "config.yaml:6")
    assert rows["redis.url"] == ("redis://:***@h/1", "env REDIS_URL")
    assert rows["redis.db"] == ("1", "env REDIS_URL")
    assert rows["redis.tls"] == ("false", "env REDIS_URL")
    assert rows["limits.max_runtime_s"] == ("off", "default")
    assert rows["materialize.cluster"] == ("-", "default")
    assert rows["views.default.deep_every_s"] == ("86400", "default")
    assert rows["views.default.sql"] == ("SELECT key, value FROM your_view", "config.yaml:8")
    assert set(rows) == set(config.origins)
    shown = json.loads(json.dumps(show.to_dict(config)))
    assert shown["views"][0]["mz_timestamp_key"] == "mz_latest_timestamp"
    assert shown["redis"]["url"] == "redis://:***@h/1"
    assert shown["origins"]["redis.url"] == "env REDIS_URL"


def test_loading_the_module_is_cheap() -> None:
    """`reconcile --help` must not pay for YAML or the drivers."""
    code = "import sys, reconcile.config.load, reconcile.config.show; print(sorted({'yaml', 'psycopg', 'redis', 'boto3'} & set(sys.modules)))"
    repository = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, env=dict(os.environ), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_setting_has_a_key_and_every_key_a_line_in_the_manual() -> None:
    """Nothing can be set only in code, and nothing is undocumented."""
    manual = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
    for section, settings_class in CLASSES.items():
        keys = [key for key in schema.SECTIONS[section] if not key.view]
        known = {key.target for key in keys} - ({"relation"} if section == "view" else set())
        assert known == {spec.name for spec in dataclasses.fields(settings_class)}, section
        for key in schema.SECTIONS[section]:
            assert f"`{key.name}`" in manual, (section, key.name)
            if section != "view" and (section, key.name) not in schema.SHORT_NAMES.values():
                suffix = f"__{key.name.upper()}`"
                assert suffix in manual, (section, key.name)
    assert all(f"`{short}`" in manual for short in schema.SHORT_NAMES)


def test_shipped_kubernetes_configuration_loads() -> None:
    """With the variables its secret provides."""
    shipped = Path(__file__).parents[2] / "cron/kubernetes/base/config.yaml"
    if not shipped.exists():
        pytest.skip("not there yet")
    assert load(str(shipped), {name: value for name, value in URLS.items() if name.endswith("_URL")}).views


@pytest.mark.parametrize(
    ("redis", "view", "expected"),
    [
        ("host: r, db: 3", "key_prefix: a", "config.yaml:2: redis.db: a Redis Cluster has only database 0, found 3"),
        ("url: 'redis://r/3'", "key_prefix: a", "a Redis Cluster has only database 0, found 3"),
        ("url: 'unix:///s'", "key_prefix: a", "config.yaml:2: redis.url: a Redis Cluster is reached by host and port"),
        ("host: r", "key: k", "views[0].key_prefix: missing; in a Redis Cluster the keys of a view are told by"),
    ],
)
def test_what_a_cluster_does_not_have(redis: str, view: str, expected: str) -> None:
    """Databases, sockets, and one place to remember all keys in; the place is named."""
    text = f"materialize: {{host: m}}\nredis: {{{redis}, cluster: true}}\nviews: [{{sql: SELECT 1, {view}}}]\n"
    error = refused(text)
    assert expected in error.message
    assert error.hint


def test_a_cluster_with_a_dedicated_database() -> None:
    """Then no prefix is needed; the environment can say both."""
    environ = {"RECONCILE_REDIS__CLUSTER": "true", "RECONCILE_REDIS__DEDICATED": "true"}
    settings = loaded(BASE + "views: [{sql: SELECT 1}]\n", environ)
    assert (settings.redis.cluster, settings.redis.dedicated) == (True, True)
