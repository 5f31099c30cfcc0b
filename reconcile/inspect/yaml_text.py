"""Write text for a configuration file that reads back unchanged."""

from __future__ import annotations

import re

_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*|[0-9]{1,3}(\.[0-9]{1,3}){3}")
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n", "none", ".inf", ".nan"})


def scalar(text: str) -> str:
    """Return the text plain if that is unambiguous, else quoted; always on one line."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    if text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    return '"' + "".join(_escaped(one) for one in text) + '"'


def _escaped(one: str) -> str:
    if one in '"\\':
        return f"\\{one}"
    return one if one.isprintable() else f"\\U{ord(one):08x}"
