# ruff: noqa: E501 - tables of messages
"""Several views: what would harm each other is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.configuration import BASE, LEGACY, loaded, refused, views


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
        (views("key_prefix: reconcile"), "4: views[0].key_prefix: 'reconcile:' covers the keys of reconcile's own state"),
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
    assert error.message == "RECONCILE_VIEW__BUCKETS: there are 2 views, and it does not name one"


@pytest.mark.parametrize(
    ("redis", "view", "expected"),
    [
        ("host: r, db: 3", "key_prefix: a", "config.yaml:2: redis.db: a Redis Cluster has only database 0, found 3"),
        ("url: 'redis://r/3'", "key_prefix: a", "a Redis Cluster has only database 0, found 3"),
        (
            "url: 'unix:///s'",
            "key_prefix: a",
            "config.yaml:2: redis.unix_socket_path: a Redis Cluster is reached by host and port",
        ),
        ("host: r", "key: k", "views[0].key_prefix: missing; in a Redis Cluster a view's keys are recognised"),
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


# --- keys, values, layouts


@pytest.mark.parametrize(
    ("entry", "prefix", "columns", "literals"),
    [
        ("key: id", "", ("id",), ("",)),
        ("key: [tenant, id], key_prefix: u", "u:", ("tenant", "id"), (":", "")),
        ("key: [tenant, id], separator: '/'", "", ("tenant", "id"), ("/", "")),
        ("key_template: 'user:{tenant}:{id}'", "user:", ("tenant", "id"), (":", "")),
        ("key_template: '{id}.json'", "", ("id",), (".json",)),
        ("key_template: '{{u}}:{id}'", "{u}:", ("id",), ("",)),
    ],
)
def test_keys_of_columns(entry: str, prefix: str, columns: tuple[str, ...], literals: tuple[str, ...]) -> None:
    """A template and a list of columns come to the same form."""
    (view,) = loaded(views(entry)).views
    assert (view.key_prefix, view.key_columns, view.key_literals) == (prefix, columns, literals)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("value: [a, b], layout: hash", ("a", "b")),
        ("value: '*', layout: json", ("*",)),
        ("value: [key, b], layout: hash", ("key", "b")),
        ("value: 'a,b'", ("a,b",)),
    ],
)
def test_values_of_columns(entry: str, expected: tuple[str, ...]) -> None:
    """One, several, or all."""
    assert loaded(views(entry)).views[0].value_columns == expected


@pytest.mark.parametrize(
    ("entry", "sql"),
    [
        ("key: [a, b], value: [c, a], layout: hash, expires_at: t", 'SELECT "a", "b", "c", "t" FROM "v"'),
        ("key_template: 'x{a}', value: c", 'SELECT "a", "c" FROM "v"'),
        ("value: '*', layout: json", 'SELECT * FROM "v"'),
    ],
)
def test_a_relation_is_read_for_its_columns(entry: str, sql: str) -> None:
    """Those of the key, the value and the expiry, each once."""
    text = f"materialize: {{host: m}}\nredis: {{host: r}}\nviews: [{{relation: v, {entry}}}]"
    assert loaded(text).views[0].sql == sql


@pytest.mark.parametrize(
    ("entry", "message", "hint"),
    [
        ("value: [a, b]", "value: the layout 'string' holds one column", "layout: json"),
        ("value: '*', layout: string", "layout: the layout 'string' holds one column", "layout: hash"),
        ("layout: xml", "layout: expected one of string, json, hash, found 'xml'", "words"),
        ("value: [a, '*'], layout: json", "value: '*' beside other columns", "alone"),
        ("value: [a, a], layout: json", "value: names a column twice", "once"),
        ("value: [], layout: json", "value: expected a column, or a list of them, found an empty list", "tenant"),
        ("value: [true], layout: json", "value: expected a column, or a list of them", "tenant"),
        ("key: [a, a]", "key: names a column twice", "once"),
        ("key: {a: b}", "key: expected a column, or a list of them, found a mapping", "tenant"),
        ("key: 'user:{id}'", "key: a template, not a column", "key_template"),
        ("key_template: 'user:'", "key_template: names no column", "{id}"),
        ("key_template: 'user:{id'", "key_template: has a '{' without a counterpart", "braces"),
        ("key_template: '{a}{b}'", "key_template: has nothing between column 'a' and the next", "braces"),
        ("key_template: '{a}:{a}'", "key_template: names column 'a' twice", "braces"),
        ("key: a, key_template: '{a}'", "key_template: views[0].key (config.yaml:4) is given too", "keep one"),
        ("key_prefix: a, key_template: '{a}'", "key_template: views[0].key_prefix (config.yaml:4) is given too", "keep one"),
        ("separator: ''", "separator: expected text on one line, found an empty text", "':'"),
        ("expires_at: key", "expires_at: 'key' is a column of the key", "timestamptz"),
        ("key_prefix: ':'", "key_prefix: is nothing but colons", "name a prefix, or leave key_prefix out"),
        ("mz_timestamp_key: 'reconcile:{x}:state'", "mz_timestamp_key: 'reconcile:{x}:state' is reserved for", "reconcile:"),
        ("host: h", "host: unknown key", "belongs to materialize"),
        ("schema: s", "schema: unknown key", "known here"),
    ],
)  # fmt: skip
def test_bad_keys_and_values(entry: str, message: str, hint: str) -> None:
    """Named with their place, and with what is possible."""
    entry = entry if entry.startswith("separator") or "key" in entry.split(":")[0] else "key: key, " + entry
    error = refused(views(entry if "separator" not in entry else "key: [a, b], " + entry))
    assert error.message.startswith(f"config.yaml:4: views[0].{message}")
    assert hint in str(error.hint)


def test_defaults_of_all_views() -> None:
    """An entry's own value wins, and another way of saying it replaces them."""
    text = views("name: a, key_prefix: a", "name: b, key_template: 'b{x}', layout: json") + (
        "view_defaults: {layout: hash, value: [v, w], key: [k, l], separator: '/', compare_every: off}\n"
    )
    a, b = loaded(text).views
    assert (a.layout, a.key_columns, a.key_literals, a.compare_every_s) == ("hash", ("k", "l"), ("/", ""), None)
    assert (b.layout, b.value_columns, b.key_columns) == ("json", ("v", "w"), ("x",))


@pytest.mark.parametrize(
    "name", ["name: n", "sql: SELECT 1", "relation: v", "key_prefix: p", "mz_timestamp_key: t", "companion: c"]
)
def test_what_each_view_has_to_say_itself(name: str) -> None:
    """A name or a prefix for all of them makes no sense."""
    error = refused(views("name: a") + f"view_defaults: {{{name}}}\n")
    assert error.message == f"config.yaml:5: view_defaults.{name.split(':')[0]}: every view needs its own"


def test_a_view_without_a_name_is_called_after_its_timestamp_key() -> None:
    """Two files of mz-redis-sync stay apart; two keys that differ in special characters only do too."""
    names = [
        loaded(views(f"mz_timestamp_key: '{key}'")).views[0].name
        for key in ("plain_key", "a:b", "a.b", "{a}", "x" * 90)
    ]
    assert names[0] == "plain_key"
    assert all(
        name.startswith(start) for name, start in zip(names[1:], ["a-b-", "a-b-", "-a--", "x" * 55], strict=True)
    )
    assert len(set(names)) == 5
    assert all(len(name) <= 64 for name in names)
    assert loaded(views("key: id")).views[0].name == "default"


def test_former_names_of_keys() -> None:
    """digest_view and deep_every still work."""
    (view,) = loaded(views("digest_view: d, deep_every: 1h")).views
    assert (view.companion, view.compare_every_s) == ("d", 3600.0)
