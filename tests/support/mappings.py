"""Mappings as tests need them most: one key column, one value column, layout string."""

from __future__ import annotations

from reconcile.core.keys import KeyShape
from reconcile.source.query import TEXT, Column, Mapping

KEY, VALUE = Column("key", TEXT), Column("value", TEXT)


SALT = "0123456789abcdef0123456789abcdef"
"""For fingerprints that nobody has a reason to forge."""


def string_mapping(sql: str, prefix: str = "", key: Column = KEY, value: Column = VALUE) -> Mapping:
    """One column of text or bytea under another."""
    return Mapping(sql, KeyShape(prefix, (key.name,), ("",)), (key,), (value,))
