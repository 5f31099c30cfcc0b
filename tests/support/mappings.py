"""Mappings as tests need them most: one key column, one value column, layout string."""

from __future__ import annotations

from reconcile.core.keys import KeyShape
from reconcile.source.query import TEXT, Column, Mapping

SQL = "SELECT key, value FROM v"
KEY, VALUE = Column("key", TEXT), Column("value", TEXT)


SALT = "0123456789abcdef0123456789abcdef"
"""For fingerprints that nobody has a reason to forge."""


def string_mapping(sql: str, prefix: str = "", key: Column = KEY, value: Column = VALUE) -> Mapping:
    """One column of text or bytea under another."""
    return Mapping(sql, KeyShape(prefix, (key.name,), ("",)), (key,), (value,))


def shaped(prefix: str, *rest: str) -> KeyShape:
    """prefix, column, literal, column, literal …"""
    return KeyShape(prefix, rest[::2], rest[1::2])


def mapping(key: Column = KEY, value: Column = VALUE, prefix: str = "", sql: str = SQL) -> Mapping:
    """The same of a query that does not matter."""
    return string_mapping(sql, prefix, key, value)
