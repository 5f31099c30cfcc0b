"""SQL text to tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass

from reconcile_standin.problem import SqlError


@dataclass(frozen=True, slots=True)
class Token:
    """kind: word (folded), ident (was quoted), string, number, param, op, end."""

    kind: str
    text: str
    start: int
    end: int

    def describe(self) -> str:
        """As Materialize's parser names a token it did not expect."""
        if self.kind == "end":
            return "EOF"
        if self.kind == "word" and self.text in _KEYWORDS:
            return self.text.upper()
        if self.kind in ("word", "ident"):
            return f'identifier "{self.text}"'
        if self.kind == "op":
            return _OPERATOR_NAMES.get(self.text, f'operator "{self.text}"')
        return f'{self.kind} "{self.text}"'


# Those that stand where something else was expected.
_KEYWORDS = frozenset(["from", "where", "select", "as", "on", "order", "group", "having", "limit", "union", "set"])
_OPERATOR_NAMES = {
    ",": "comma",
    ";": "semicolon",
    "(": "left parenthesis",
    ")": "right parenthesis",
    "*": "star",
    "=": "equals sign",
    ".": "dot",
}

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*|/\*.*?\*/)
  | (?P<estring>[eE]'(?:[^'\\]|\\.|'')*')
  | (?P<string>'(?:[^']|'')*')
  | (?P<ident>"(?:[^"]|"")*")
  | (?P<param>\$[0-9]+)
  | (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
  | (?P<word>[^\W\d][\w$]*)
  | (?P<op>::|\|\||<=|>=|<>|!=|->>|->|@>|<@|=>|!~\*|!~|~\*|[-+*/%^<>=(),;.\[\]{}~:?|&\#])
    """,
    re.VERBOSE | re.DOTALL,
)

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)|''", re.DOTALL)


def _unescape(match: re.Match[str]) -> str:
    code = match.group(1)
    if code is None:
        return "'"
    if code[0] in "ux" and len(code) > 1:
        return chr(int(code[1:], 16))
    if code[0] in "01234567":
        return chr(int(code, 8))
    return _ESCAPES.get(code, code)


def _text(kind: str, raw: str) -> tuple[str, str]:
    if kind == "estring":
        return "string", _ESCAPE.sub(_unescape, raw[2:-1])
    if kind == "string":
        return "string", raw[1:-1].replace("''", "'")
    if kind == "ident":
        return "ident", raw[1:-1].replace('""', '"')
    if kind == "word":
        return "word", raw.lower()
    return kind, raw


def tokenize(sql: str) -> list[Token]:
    """All tokens of a text, the last of kind 'end'."""
    tokens: list[Token] = []
    position, size = 0, len(sql)
    match_at = _TOKEN.match
    while position < size:
        match = match_at(sql, position)
        if match is None:
            what = "unterminated quoted string" if sql[position] == "'" else f"unexpected character {sql[position]!r}"
            raise SqlError.syntax(what, position)
        kind = match.lastgroup
        assert kind is not None
        if kind != "space":
            name, text = _text(kind, match.group())
            tokens.append(Token(name, text, position, match.end()))
        position = match.end()
    tokens.append(Token("end", "", size, size))
    return tokens
