"""SQL text shared by config and source."""

from __future__ import annotations


def identifier(name: str) -> str:
    """Quote a name so that it is taken literally."""
    return '"' + name.replace('"', '""') + '"'
