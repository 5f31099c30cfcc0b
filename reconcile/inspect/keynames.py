"""What key a person means: reports and redis-cli escape what is not printable, and no shell passes every byte."""

from __future__ import annotations

import contextlib
import re

_HIGH_BYTE = re.compile(rb"\\x([89a-f][0-9a-f])")
_REDIS_CLI = re.compile(rb"\\(?:x([0-9a-f]{2})|([\\\"nrtab]))")
_PYTHON = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U(00(?:0[0-9a-f]|10)[0-9a-f]{4})|([\\'nrt]))")
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b"}


def keys_named(text: str) -> list[bytes]:
    """Return the keys that this text may stand for: as it is, as `name_of` escapes it, as redis-cli does."""
    keys = [text.encode("utf-8", "surrogateescape")]
    if "\\" not in text:
        return keys
    with contextlib.suppress(UnicodeEncodeError):  # an escaped half of a surrogate pair
        keys.append(_PYTHON.sub(_character, text).encode("utf-8", "surrogateescape"))
    keys += [_HIGH_BYTE.sub(_byte, key) for key in keys]
    keys.append(_REDIS_CLI.sub(_byte, keys[0]))
    return list(dict.fromkeys(keys))


def _byte(escape: re.Match[bytes]) -> bytes:
    if escape[1] is not None:
        return bytes([int(escape[1], 16)])
    letter = escape[2].decode()
    return _LETTERS.get(letter, letter).encode()


def _character(escape: re.Match[str]) -> str:
    *numbers, letter = escape.groups()
    if letter is not None:
        return _LETTERS.get(letter, letter)
    return chr(int(next(number for number in numbers if number is not None), 16))
