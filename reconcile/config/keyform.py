"""How Redis keys are built from columns: prefixes, separators, templates."""

from __future__ import annotations

import re

from reconcile.config.values import Raw, Wrong
from reconcile.core.keys import KeyShape

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")
_EXAMPLE = "for example user:{tenant}:{id}; {{ and }} stand for braces"


def joined(prefix: str, columns: tuple[str, ...], separator: str) -> KeyShape:
    """Return the columns with the separator between them."""
    return _shape(prefix, columns, (*[separator] * (len(columns) - 1), ""))


def parse_prefix(raw: Raw) -> str:
    """Normalise a prefix as mz-redis-sync does: p and p: both become p:. Raises ValueError; Wrong for only colons."""
    if not isinstance(raw, str) or any(c in raw for c in "\r\n\0"):
        raise ValueError
    bare = raw.rstrip(":")
    if raw and not bare:
        raise Wrong("is nothing but colons", "name a prefix, or leave key_prefix out")
    return bare + ":" if bare else ""


def parse_separator(raw: Raw) -> str:
    """Return the separator if it keeps columns apart. Raises ValueError, Wrong."""
    if not isinstance(raw, str) or not raw or any(c in raw for c in "\r\n\0"):
        raise ValueError
    if raw[0].isalnum() or raw[0] == "%":
        raise Wrong("begins with a letter, a digit or %", "for example ':'")
    return raw


def parse_template(raw: Raw) -> KeyShape:
    """Raises ValueError, Wrong."""
    if not isinstance(raw, str) or not raw or any(c in raw for c in "\r\n\0"):
        raise ValueError
    texts, columns, at = [""], [], 0
    for match in _PIECE.finditer(raw):
        texts[-1] += raw[at : match.start()]
        at = match.end()
        if match[1] is not None:
            columns.append(match[1])
            texts.append("")
        elif len(match[0]) == 2:
            texts[-1] += match[0][0]
        else:
            raise Wrong(f"has a {match[0]!r} without a counterpart", _EXAMPLE)
    texts[-1] += raw[at:]
    if not columns:
        raise Wrong("names no column", _EXAMPLE)
    return _shape(texts[0], tuple(columns), tuple(texts[1:]))


def _shape(prefix: str, columns: tuple[str, ...], literals: tuple[str, ...]) -> KeyShape:
    try:
        return KeyShape(prefix, columns, literals)
    except ValueError as error:
        raise Wrong(str(error), _EXAMPLE) from None


def written(value: object) -> str:
    """Return a template in the form it is configured in."""
    assert isinstance(value, KeyShape)

    def braces(text: str) -> str:
        return text.replace("{", "{{").replace("}", "}}")

    pieces = (f"{{{column}}}{braces(text)}" for column, text in zip(value.columns, value.literals, strict=True))
    return braces(value.prefix) + "".join(pieces)
