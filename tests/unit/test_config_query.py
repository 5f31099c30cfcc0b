"""SQL of views, names of relations, variables inside the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.config import document, query
from reconcile.config.settings import Secret
from reconcile.config.values import Wrong
from tests.support.configuration import BASE, loaded, refused


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
    assert query.reading(relation, ["id", 'x"y']) == f'SELECT "id", "x""y" FROM {expected}'


@pytest.mark.parametrize("relation", ["", ".", "a.", ".a", "a..b", "a b", "a;b", 'a"', '"a', "a.b.c.d", "1a", "a-b"])
def test_bad_relations(relation: str) -> None:
    """Nothing that is not a name gets into a statement."""
    with pytest.raises(Wrong):
        query.quoted(relation)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a${A}b", "a1b"), ("${A}${A}", "11"), ("${E}", ""), ("${E:-d}", "d"), ("${U:-}", ""), ("${U:-a b:c}", "a b:c"),
        ("${A:?m}", "1"), ("$${A}", "${A}"), ("$A", "$A"), ("$$", "$$"), ("$$$", "$$$"), ("x$", "x$"), ("${N}", "${A}"),
    ],
)  # fmt: skip
def test_interpolation(text: str, expected: str) -> None:
    """Replaced once, in one pass."""
    assert document.expand(text, {"A": "1", "E": "", "N": "${A}"}) == expected


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
        {"H": "a.b", "P": "7", "W": "x, db: 5}\n# ${H}"},
    )
    assert (config.materialize.host, config.materialize.port) == ("a.b", 7)
    assert config.redis.password == Secret("x, db: 5}\n# ${H}")
    assert config.redis.db == 0
