# ruff: noqa: E501 - tables of messages
"""Flags, environment, file, defaults: who wins, and what a wrong one is told."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from reconcile.config.load import load
from reconcile.config.settings import LimitSettings, Secret
from reconcile.errors import ConfigError
from tests.support.configuration import BASE, LEGACY, URLS, loaded, refused


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
        "limits.memory_max": "config.yaml:3",
        "limits.batch_max_bytes": "default",
        "limits.batch_max_keys": "default",
        "limits.max_runtime": "flag",
        "limits.lease": "env RECONCILE_LIMITS__LEASE",
        "limits.jobs": "default",
        "limits.writes_per_second": "default",
        "limits.latency_max": "default",
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


def test_without_a_file_the_way_to_one_is_shown(folder: Path) -> None:
    """What somebody sees who has just installed it."""
    with pytest.raises(ConfigError) as refusal:
        load(None, {})
    assert refusal.value.message == "no configuration file: materialize.host: missing"
    assert "reconcile init > config.yaml" in str(refusal.value.hint)


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
    assert [(v.max_delete_fraction, v.compare_every_s) for v in config.views] == [(0.3, None), (1.0, 86_400.0)]
    assert refused(text, overrides={"views.bb.buckets": 16}).hint == "did you mean b?"


def test_secrets_from_files(folder: Path) -> None:
    """One trailing newline goes; paths in the file are relative to it; a loser's file is never read."""
    (folder / "deep").mkdir()
    (folder / "deep/pw").write_text("a\n")
    (folder / "url").write_text("redis://r:7/2\n")
    (folder / "deep/c.yaml").write_text(
        "materialize: {host: m, sql: SELECT 1, password_file: pw}\nredis: {host: r, password_file: none}"
    )
    config = load("deep/c.yaml", {"REDIS_URL_FILE": "url", "REDIS_PASSWORD": "direct"})
    assert config.materialize.password == Secret("a")
    assert (config.redis.port, config.redis.db, config.redis.password) == (7, 2, Secret("direct"))
    assert (config.redis.host, config.origins["redis.port"]) == ("r", "env REDIS_URL_FILE")
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
        ({"RECONCILE_REDIS__PORT": "x"}, "RECONCILE_REDIS__PORT: expected a whole number from 1 to 65535, found 'x'", "digits only"),
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
    """They are named by their dotted path, or as they are typed on the command line."""
    assert refused(LEGACY, overrides={"redis.prot": 1}).message == "flag redis.prot: unknown setting"
    assert refused(LEGACY, overrides={"redis.port": 0}).message == (
        "flag redis.port: expected a whole number from 1 to 65535, found '0'"
    )
    refusal = refused(LEGACY, overrides={"limits.max_runtime_s": 0.05}).message
    assert refusal == "flag --max-runtime: expected a duration from 1s to 7d or off, found '0.05'"
    assert loaded(LEGACY, overrides={"redis.password": Secret("x")}).redis.password == Secret("x")


@pytest.mark.parametrize("name", ["REDIS_PASSWORD", "RECONCILE_VIEW__KEY_PREFIX", "RECONCILE_VIEW__SQL", "REDIS_URL"])
def test_variables_that_are_not_utf8(name: str) -> None:
    """Refused by name; nothing of what they hold is said. Those nobody asks for do not matter."""
    error = refused(LEGACY, {name: "hunter2\udce9"})
    assert error.message == f"{name}: not UTF-8"
    assert "hunter2" not in str(error.hint)
    assert loaded(LEGACY, {"OTHER": "\udce9"}).views
    error = refused(LEGACY.replace("your-password", "${SECRET}"), {"SECRET": "hunter2\udce9"})
    assert error.message == "config.yaml:6: materialize.password: the environment variable SECRET is not UTF-8"


def test_the_environment_is_utf8_whatever_the_locale() -> None:
    """A prefix in a variable is the same key under de_DE.ISO-8859-1 as anywhere else."""
    code = "from reconcile.config.load import load; print(ascii(load(None).views[0].key_prefix))"
    for locale in ("C.UTF-8", "C", "POSIX", "de_DE.ISO-8859-1"):
        environ = {
            **URLS,
            "RECONCILE_VIEW__KEY_PREFIX": "日本",
            "LC_ALL": locale,
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
        }
        done = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True, cwd=Path.cwd()
        )
        assert done.stdout == ascii("日本:") + "\n"


@pytest.mark.parametrize("way", ["REDIS_PASSWORD", "REDIS_PASSWORD_FILE"])
def test_a_password_that_ends_in_a_newline(folder: Path, way: str) -> None:
    """Redis would say WRONGPASS, and nobody would see why."""
    (folder / "pw").write_text("hunter2\n\n")
    error = refused(LEGACY, {way: "pw" if way.endswith("FILE") else "hunter2\n"})
    assert error.message == f"{way}: the password ends in a newline"
    assert "printf" in str(error.hint)


def test_a_byte_order_mark_before_a_query() -> None:
    """Windows editors leave it in files that variables are filled from."""
    assert load(None, {**URLS, "RECONCILE_VIEW__SQL": "\ufeffSELECT 2"}).views[0].sql == "SELECT 2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("%(asctime)s %(levl)s", "not a usable log format: unknown field 'levl'"),
        ("%(message)d", "not a usable log format: does not fit a log record"),
        ("plain", "is not a %-style log format"),
    ],
)
def test_log_formats_are_tried(text: str, message: str) -> None:
    """A record of our own is formatted, so that not every line of the log becomes a traceback."""
    error = refused(LEGACY + f"logging: {{format: '{text}'}}\n")
    assert error.message == f"config.yaml:15: logging.format: {message}"


@pytest.mark.parametrize(
    ("section", "name", "hint"),
    [
        ("redis", "sql", "it belongs to materialize:"),
        ("materialize", "dedicated", "it belongs to redis:"),
        ("materialize", "key_prefix", "it belongs to redis:"),
        ("logging", "lease", "it belongs to limits:"),
    ],
)
def test_keys_in_the_wrong_section(section: str, name: str, hint: str) -> None:
    """Say where they belong."""
    assert refused(f"{section}: {{{name}: x}}").hint == hint
