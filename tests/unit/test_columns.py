"""Which columns of a query become keys and values, and which cannot."""

from __future__ import annotations

import pytest

from reconcile.core.keys import KeyShape
from reconcile.errors import ExitCode, SchemaError
from reconcile.source.columns import KEY_TYPES, VALUE_TYPES, map_columns
from reconcile.source.query import BYTEA, Column, Mapping
from tests.support.mappings import KEY, SQL, VALUE, mapping, shaped

TEXT, INT8, BOOL = 25, 20, 16


def columns(*named: tuple[str, int]) -> list[Column]:
    return [Column(name, oid) for name, oid in named]


def test_columns_are_found_by_name() -> None:
    """In any order, with any names the configuration maps."""
    mapped = map_columns(SQL, columns(("body", BYTEA), ("id", INT8)), shaped("p:", "id", ""), ["body"], view="v")
    assert mapped == mapping(Column("id", INT8), Column("body", BYTEA), "p:")
    assert mapped.columns == ["id 20", "body 17"]


def test_all_other_columns_are_meant_by_a_star() -> None:
    """All but those of the key and the time of expiry, in the order of the query."""
    found = columns(("b", TEXT), ("id", INT8), ("until", 1184), ("a", 3802), ("tenant", TEXT))
    mapped = map_columns(
        SQL, found, shaped("", "tenant", ":", "id", ""), ["*"], layout="json", expires_at="until", view="v"
    )
    assert [column.name for column in mapped.values] == ["b", "a"]
    assert [column.name for column in mapped.keys] == ["tenant", "id"]
    assert mapped.expires_at == Column("until", 1184)


PLAIN = shaped("", "key", "")


@pytest.mark.parametrize(
    ("given_columns", "message", "hint"),
    [
        (
            columns(("k", TEXT), ("value", TEXT)),
            "no column 'key', which `key:` (or `key_template:`) names; its columns are: k, value",
            'AS "key"',
        ),
        (columns(("key", TEXT)), "no column 'value', which `value:` names; its columns are: key", "`value:`"),
        (columns(), "no column 'value', which `value:` names; its columns are: none", 'AS "value"'),
        (columns(("Key", TEXT), ("value", TEXT)), "no column 'key'", "key_template"),
        (columns(("key", TEXT), ("key", TEXT), ("value", TEXT)), "several columns 'key'", "give them different names"),
        (
            columns(("key", TEXT), ("value", TEXT), ("x", TEXT), ("y", INT8)),
            "unused columns: x, y",
            "json or hash",
        ),
        (columns(("key", 701), ("value", TEXT)), "cannot be a Redis key (double precision)", "cast it"),
        (columns(("key", 3802), ("value", TEXT)), "cannot be a Redis key (jsonb)", '"key"::text'),
        (columns(("key", TEXT), ("value", 1009)), "cannot be a Redis value (oid 1009)", 'to_jsonb("value")'),
    ],
)
def test_columns_that_cannot_be_mapped(given_columns: list[Column], message: str, hint: str) -> None:
    """Exit 2 with what the query has and how to change it."""
    with pytest.raises(SchemaError) as caught:
        map_columns(SQL, given_columns, PLAIN, view="orders")
    assert message in caught.value.message
    assert "orders" in caught.value.message
    assert hint in (caught.value.hint or "")
    assert "cannot be a Redis key" not in message or "to_jsonb" not in (caught.value.hint or "")
    assert caught.value.exit_code == ExitCode.USAGE


ROW = columns(("key", TEXT), ("value", TEXT), ("raw", BYTEA), ("at", 1184), ("n", INT8), ("?column?", INT8))


@pytest.mark.parametrize(
    ("key", "values", "layout", "expires_at", "message"),
    [
        (PLAIN, ["value", "n"], "string", None, "layout string stores one"),
        (PLAIN, [], "hash", None, "no value column"),
        (PLAIN, ["value", "value"], "hash", None, "names column 'value' twice"),
        (PLAIN, ["?column?"], "json", None, "without a name"),
        (PLAIN, ["raw"], "json", None, "JSON cannot hold"),
        (shaped("", "raw", ":", "n", ""), ["value"], "string", None, "one of several in a key"),
        (PLAIN, ["value"], "string", "n", "`expires_at:` names, is bigint"),
        (PLAIN, ["value"], "string", "until", "no column 'until', which `expires_at:` names"),
    ],
)
def test_layouts_and_columns_that_do_not_fit(
    key: KeyShape, values: list[str], layout: str, expires_at: str | None, message: str
) -> None:
    """Refused when the view is described, before anything is read."""
    wanted = {*key.columns, *values, expires_at}
    with pytest.raises(SchemaError) as caught:
        map_columns(
            SQL, [c for c in ROW if c.name in wanted], key, values, layout=layout, expires_at=expires_at, view="v"
        )
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("oid", sorted(KEY_TYPES))
def test_key_types_are_value_types(oid: int) -> None:
    """Whatever can be a key can be a value; floats, intervals and jsonb have no one text form and cannot be keys."""
    assert oid in VALUE_TYPES
    assert not {700, 701, 1186, 3802} & KEY_TYPES.keys()


def test_the_signature_holds_what_digests_depend_on() -> None:
    """Keys, kinds of columns, layout, field names, types in JSON and expiry change stored digests; the name of a single
    value and the rest of the query do not."""
    base = mapping(prefix="p:").signature
    assert mapping(Column("other", INT8), Column("else", INT8), prefix="p:", sql="SELECT 1").signature == base
    at = Column("at", 1184)
    two, swapped = (VALUE, KEY), (KEY, VALUE)
    others = [
        mapping(prefix="q:"),
        mapping(Column("key", BYTEA), prefix="p:"),
        mapping(value=Column("value", BYTEA), prefix="p:"),
        Mapping(SQL, shaped("p:", "key", ":x"), (KEY,), (VALUE,)),
        Mapping(SQL, shaped("p:", "key", ":", "value", ""), (KEY, VALUE), (VALUE,)),
        Mapping(SQL, shaped("p:", "key", ""), (KEY,), (VALUE,), "string", at),
        Mapping(SQL, shaped("p:", "key", ""), (KEY,), (VALUE,), "json"),
        Mapping(SQL, shaped("p:", "key", ""), (KEY,), (Column("value", INT8),), "json"),
        Mapping(SQL, shaped("p:", "key", ""), (KEY,), (VALUE, Column("n", INT8)), "json"),
        Mapping(SQL, shaped("p:", "key", ""), (KEY,), (Column("value", INT8), Column("n", 25)), "json"),
        Mapping(SQL, shaped("p:", "key", ""), (KEY,), (Column("value", 3802),), "json"),
        Mapping(SQL, shaped("p:", "key", ""), (KEY,), (VALUE,), "hash"),
        Mapping(SQL, shaped("p:", "key", ""), (KEY,), two, "hash"),
        Mapping(SQL, shaped("p:", "key", ""), (KEY,), swapped, "hash"),
    ]
    signatures = [tuple(each.signature) for each in others]
    assert len({tuple(base), *signatures}) == len(others) + 1
