"""SQL text that config and source have in common."""

from __future__ import annotations


def identifier(name: str) -> str:
    """One name, quoted, so that it means exactly itself."""
    return '"' + name.replace('"', '""') + '"'
