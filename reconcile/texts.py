"""Text that comes from elsewhere, and text that goes to a terminal, a log or another program.

Keys, the lease's owner and what servers say may hold anything: a line break that forges a line, or an escape sequence
that the reader's terminal obeys. What is shown to people has such characters escaped.
"""

from __future__ import annotations

import json
import os
import re

# Control characters but line breaks and tabs, the marks that reorder a line, and what no encoding can write.
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]|\r(?!\n)")


def printable(text: str) -> str:
    """Text from elsewhere as a part of one line: whatever is not printable is escaped as in Python (\\x1b, \\n)."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def printable_lines(text: str) -> str:
    """Text of our own making, whose line breaks and tabs are meant: the rest of what could do harm is escaped."""
    return _UNFIT.sub(lambda match: _escaped(match[0]), text)


def to_json(value: object) -> str:
    """One line of ASCII: every stream can print it, and no terminal obeys it."""
    return json.dumps(value).replace("\x7f", "\\u007f")


def environment() -> dict[str, str]:
    """The environment as UTF-8, whatever the locale: it decides which keys a prefix means. Other bytes: surrogates."""
    if not os.supports_bytes_environ:
        return dict(os.environ)
    return {_utf8(name): _utf8(value) for name, value in os.environb.items()}


def argument(text: str) -> str:
    """An argument of the command line that names something in a server, as UTF-8, whatever the locale."""
    return _utf8(os.fsencode(text))


def _utf8(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
