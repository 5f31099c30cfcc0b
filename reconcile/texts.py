"""Text from outside, made safe for terminals, logs and other programs.

Keys, lease owners and server messages may contain anything, such as line breaks that forge a log line or terminal
escape sequences. These functions escape such characters.
"""

from __future__ import annotations

import json
import os
import re

# Control characters except line breaks and tabs, marks that reorder a line, and what no encoding can write.
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]|\r(?!\n)")


def printable(text: str) -> str:
    r"""Return text from outside as part of one line: unprintable characters are escaped as in Python (\x1b, \n)."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def printable_lines(text: str) -> str:
    """Return our own text with its line breaks and tabs kept; other unprintable characters are escaped."""
    return _UNFIT.sub(lambda match: _escaped(match[0]), text)


def plural(count: int, one: str, several: str | None = None) -> str:
    """Return a number with its noun: 1 key, 2,000 keys. several: the plural where it is not one + s."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def to_json(value: object) -> str:
    """Return one line of ASCII JSON, which every stream can print and no terminal interprets."""
    return json.dumps(value).replace("\x7f", "\\u007f")


def environment() -> dict[str, str]:
    """Return the environment decoded as UTF-8 in every locale, as it decides key prefixes. Other bytes: surrogates."""
    if not os.supports_bytes_environ:
        return dict(os.environ)
    return {_utf8(name): _utf8(value) for name, value in os.environb.items()}


def argument(text: str) -> str:
    """Return a command line argument that names something in a server, decoded as UTF-8 in every locale."""
    return _utf8(os.fsencode(text))


def _utf8(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
