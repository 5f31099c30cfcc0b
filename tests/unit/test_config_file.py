# ruff: noqa: E501 - tables of messages
"""What a file may not be, and what its values may not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconcile.config import schema
from reconcile.config.load import load
from reconcile.errors import ConfigError
from tests.support.configuration import BASE, LEGACY, loaded, refused


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
        ("redis: {host: {a: {b: {c: d}}}}", "config.yaml:1: redis.host.a.b: nested too deeply", "four levels"),
        ("a: &a\n  <<: *a", "config.yaml:2: '<<' does not merge a mapping", "anchor"),
        ("redis: {<<: x}", "config.yaml:1: '<<' does not merge a mapping", "anchor"),
        ("redis: {password: a, password_file: b}", "config.yaml:1: redis.password_file: config.yaml:1: redis.password gives", "keep"),
        ("limits: {lease_s: 2}", "config.yaml:1: limits.lease_s: unknown key", "did you mean lease?"),
        ("views: [{sql: SELECT 1, deep_every: 1h, compare_every: 1h}]", "config.yaml:1: views[0].compare_every: config.yaml:1: views[0].deep_every gives", "keep one"),
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
        ("view.layout", "xml", "expected one of string, json, hash, found 'xml'"),
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
        ("view.sql", "SELECT 'a", "has an unterminated quote"),
        ("view.sql", "SELECT /* a", "has an unterminated comment"),
        ("view.sql", "SELECT $a$ b", "has an unterminated dollar quote"),
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
    assert getattr(view, schema.spellings("view")[name].key.field) == expected


@pytest.mark.parametrize(
    ("written", "expected"), [("32MB", 32 << 20), ("32 mb", 32 << 20), ("1g", 1 << 30), ("2048K", 2 << 20), ("1MiB", 1 << 20), ("1048576", 1 << 20)]
)  # fmt: skip
def test_sizes(written: str, expected: int) -> None:
    """Powers of 1024 however they are spelled."""
    assert loaded(LEGACY + f"limits: {{memory_max: {written}}}").limits.memory_max_bytes == expected
