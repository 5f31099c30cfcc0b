"""The SQL of a view: cut it to one statement; quote the names of relations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from reconcile.config.values import Raw, Wrong
from reconcile.core.sql import identifier

# Whole tokens, so that a ';' inside a string, a quoted name or a comment is not taken for the end of a statement.
_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*)
    | (?P<block>/\*)
    | (?P<string>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*")
    | (?P<dollar>\$(?P<tag>[A-Za-z_][A-Za-z0-9_]*)?\$)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<open>['"])
    | (?P<end>;)
    | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_BEGINNINGS = ("select", "with", "values", "table", "(")
_PART = re.compile(r'"((?:[^"\0]|"")+)"|([^\W\d][\w$]*)')


def cut(sql: str) -> str:
    """Return the one query in `sql`, without a trailing ';' and comments. Raises Wrong if there is none, or more than
    one.
    """
    begin = end = None
    ended = False
    for kind, start, stop in _tokens(sql):
        if kind == "space":
            continue
        if kind == "end":
            ended = True
            continue
        if ended and begin is not None:
            raise Wrong(
                "holds more than one statement", "give one query; for several, use several entries under views:"
            )
        begin = start if begin is None else begin
        end = stop
    if begin is None:
        raise Wrong("is empty", 'give a query such as "SELECT key, value FROM your_view"')
    text = sql[begin:end]
    if not text.lower().startswith(_BEGINNINGS):
        raise Wrong("is not a query", "begin with SELECT or WITH; to read a whole view use relation: with its name")
    return text


def _tokens(sql: str) -> Iterator[tuple[str, int, int]]:
    at = 0
    while at < len(sql):
        match = _TOKEN.match(sql, at)
        assert match is not None, "the last alternative matches any character"
        kind, stop = match.lastgroup or "other", match.end()
        if kind == "tag" or match["dollar"]:
            kind, stop = "string", sql.find(match["dollar"], stop) + len(match["dollar"])
            if stop < match.end():
                raise Wrong("has an unterminated dollar quote", f"close it with {match['dollar']}")
        elif kind == "block":
            kind, stop = "space", _block_end(sql, at)
        elif kind == "open":
            raise Wrong("has an unterminated quote", "close it, or double a quote that stands for itself")
        yield kind, at, stop
        at = stop


def _block_end(sql: str, at: int) -> int:
    depth = 0
    for match in re.finditer(r"/\*|\*/", sql[at:]):
        depth += 1 if match.group() == "/*" else -1
        if depth == 0:
            return at + match.end()
    raise Wrong("has an unterminated comment", "close it with */")


def parts(relation: str) -> tuple[str, ...]:
    """Return the names in 'db.schema.view': unquoted ones folded to lower case as in SQL, "Quoted" ones as they are."""
    found: list[str] = []
    at = 0
    text = relation.strip()
    while (match := _PART.match(text, at)) is not None:
        quoted, plain = match.groups()
        found.append(plain.lower() if quoted is None else quoted.replace('""', '"'))
        at = match.end()
        if text[at : at + 1] != ".":
            break
        at += 1
    if at != len(text) or not 1 <= len(found) <= 3 or text.endswith("."):
        raise Wrong(
            "is not the name of a view",
            'write view, schema.view or database.schema.view; "Double Quotes" around unusual names',
        )
    return tuple(found)


def parse_sql(raw: Raw) -> str:
    """Return one query. Raises ValueError, Wrong."""
    if not isinstance(raw, str):
        raise ValueError
    return cut(raw.removeprefix("\ufeff"))


def parse_relation(raw: Raw) -> str:
    """Return the name of a relation. Raises ValueError, Wrong."""
    if not isinstance(raw, str):
        raise ValueError
    parts(raw)
    return raw.strip()


def quoted(relation: str) -> str:
    """Quote a relation's name for use in a statement: public.V → "public"."v"."""
    return ".".join(identifier(name) for name in parts(relation))


def reading(relation: str, columns: Sequence[str]) -> str:
    """Return a query for these columns of a relation; '*': all. Names are exact, as Materialize reports them."""
    chosen = "*" if "*" in columns else ", ".join(identifier(name) for name in dict.fromkeys(columns))
    return f"SELECT {chosen} FROM {quoted(relation)}"  # noqa: S608 - every part is quoted
