"""init's proposals: keys, layouts and text that reads back as it was."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from reconcile.config.settings import MaterializeSettings, RedisSettings, Secret, Settings, ViewSettings
from reconcile.errors import UsageError
from reconcile.inspect import migration
from reconcile.inspect.proposal import propose_one, render
from reconcile.inspect.yaml_text import scalar
from reconcile.source.query import Column

TEXT, JSONB = 25, 3802


def columns(*names: str) -> list[Column]:
    return [Column(name, TEXT) for name in names]


@pytest.mark.parametrize(
    ("found", "key", "layout"),
    [
        (columns("value", "key"), "key", "string"),
        (columns("name", "id"), "id", "string"),
        (columns("price", "product_id", "currency"), "product_id", "json"),
        (columns("a", "b"), "a", "string"),
        ([Column("payload", JSONB), Column("b", TEXT)], "b", "string"),
        (columns("only"), "only", "string"),
    ],
)
def test_key_and_layout(found: list[Column], key: str, layout: str) -> None:
    """A column that is called like a key is one; several values make an object."""
    proposed = propose_one("v", "public.v", found)
    assert (proposed.key, proposed.layout) == (key, layout)


def test_no_column_can_be_a_key() -> None:
    """jsonb is none."""
    with pytest.raises(UsageError, match="no column that can be a key"):
        propose_one("v", "v", [Column("a", JSONB)])


@given(st.text(min_size=1))
def test_scalars_read_back(text: str) -> None:
    """Whatever a name is made of, YAML reads it back as that text."""
    if any(0xD800 <= ord(one) <= 0xDFFF for one in text):
        return
    assert yaml.safe_load(f"a: {scalar(text)}") == {"a": text}


def test_secrets_are_not_copied() -> None:
    """Passwords stay where they are; the file says how to give them."""
    settings = Settings(
        materialize=MaterializeSettings(host="mz", password=Secret("hidden-1")),
        redis=RedisSettings(host="cache", password=Secret("hidden-2")),
        views=(ViewSettings(name="v", sql="SELECT key, value FROM v", key_prefix="v:"),),
        origins={"redis.host": "file"},
    )
    texts = [render(settings, [propose_one("v", "public.v", columns("key", "value"))]), migration.render(settings, "x")]
    for text in texts:
        assert "hidden" not in text
        parsed = yaml.safe_load(text)
        assert (parsed["materialize"]["host"], parsed["redis"]["host"]) == ("mz", "cache")
        assert parsed["views"][0]["name"] == "v"


def test_migration_tells_of_first_contact() -> None:
    """Under a prefix unexplained keys wait for consent; without, mz-redis-sync's timestamp key or a flag adopts."""
    view = ViewSettings(name="v", sql="SELECT key, value FROM v", key_prefix="v:", mz_timestamp_key="t")
    told = migration.render(Settings(views=(view,)), "old.yaml")
    assert "exit code 5" in told
    assert "--allow-deletes" in told
    assert yaml.safe_load(told)["views"] == [
        {"name": "v", "sql": "SELECT key, value FROM v", "key_prefix": "v:", "mz_timestamp_key": "t"}
    ]
    bare = replace(view, key_prefix="")
    adopted = migration.render(Settings(views=(bare,)), "old.yaml")
    assert "if t is there" in adopted
    assert "--adopt" not in adopted
    unproved = replace(bare, mz_timestamp_key=None)
    assert "--adopt" in migration.render(Settings(views=(unproved,)), "old.yaml")
