"""How values behave, and that all of the package declares them in one way (docs/adr/0019-values-are-structs.md)."""

from __future__ import annotations

import importlib
import json
import pkgutil
from typing import Any

import pytest
from msgspec import Struct, to_builtins
from msgspec.structs import replace

import reconcile
from reconcile.config.document import Node
from reconcile.config.layers import Given, Layer
from reconcile.config.settings import MaterializeSettings, RedisSettings, Secret, Settings, ViewSettings
from reconcile.config.values import Configured
from reconcile.core import state
from reconcile.core.keys import KeyShape
from reconcile.report.audit import Coverage, SliceCompared
from reconcile.target.names import Names

VIEW = ViewSettings(name="orders", sql="SELECT 1")


def modules() -> list[Any]:
    """All modules of the package but the program itself."""
    names = [one.name for one in pkgutil.walk_packages(reconcile.__path__, "reconcile.")]
    return [importlib.import_module(name) for name in names if not name.endswith("__main__")]


def test_no_module_has_dataclasses() -> None:
    """Each of them would compile its methods at every start."""
    found = {
        f"{module.__name__}.{name}"
        for module in modules()
        for name, one in vars(module).items()
        if isinstance(one, type) and one.__module__ == module.__name__ and hasattr(one, "__dataclass_fields__")
    }
    assert found == set()


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (state.State(), "keys"),
        (state.Pending("delta", 1), "until"),
        (VIEW, "name"),
        (RedisSettings(), "host"),
        (KeyShape("p:", ("id",), ("",)), "prefix"),
        (Names("orders"), "view"),
    ],
)
def test_what_is_frozen_stays_as_it_is(value: Struct, field: str) -> None:
    """It can neither be assigned to nor get new attributes; a changed copy leaves it alone, and equals its like."""
    before = getattr(value, field)
    with pytest.raises(AttributeError):
        setattr(value, field, before)
    with pytest.raises(AttributeError):
        value.nosuch = 1  # type: ignore[attr-defined]
    same = replace(value, **{field: before})
    assert (same is value, same == value, hash(same) == hash(value)) == (False, True, True)
    assert replace(value, **{field: None}) != value


@pytest.mark.parametrize(
    "value",
    [
        MaterializeSettings(password=Secret("hunter2"), extra={"sslpassword": Secret("hunter2")}),
        Settings(redis=RedisSettings(password=Secret("hunter2"))),
        Given("hunter2", "redis.password", "config.yaml:4", Layer.FILE),
        {"redis": Node({"password": Node("hunter2", "config.yaml:4")}, "config.yaml:3")},
    ],
)
def test_secrets_do_not_show(value: object) -> None:
    """Neither as a Secret nor as raw text that a file or a variable held."""
    assert "hunter2" not in f"{value} {value!r}"


def test_defaults_are_not_shared() -> None:
    """Each value has lists and dicts of its own."""
    one, other = Coverage(slices=1), Coverage(slices=1)
    one.compared.append(SliceCompared(0, 1, "verify"))
    assert other.compared == []
    assert MaterializeSettings().extra is not MaterializeSettings().extra


def test_values_of_values_become_plain_json() -> None:
    """To the bottom, in the order of the fields."""
    value = Coverage(slices=2, compared=[SliceCompared(0, 1, "verify")])
    assert (
        json.dumps(to_builtins(value))
        == '{"slices": 2, "compared": [{"slice": 0, "at_ms": 1, "by": "verify"}], "all_by_ms": null}'
    )


def test_a_key_s_default_is_the_field_s() -> None:
    """One table: what a class declares as a key's default is what its instances have; no default: required."""
    for kind in Configured.__subclasses__():
        required = {field for field, key in kind.KEYS.items() if field not in defaults(kind)}
        assert required == {"ViewSettings": {"name", "sql"}, "SentinelSettings": {"hosts", "master"}}.get(
            kind.__name__, set()
        )
        assert {field: key.default for field, key in kind.KEYS.items() if field in defaults(kind)} == {
            field: default for field, default in defaults(kind).items() if field in kind.KEYS
        }


def defaults(kind: type[Struct]) -> dict[str, object]:
    """Field → its default, for those that have one."""
    count = len(kind.__struct_defaults__)
    return dict(zip(kind.__struct_fields__[-count:] if count else (), kind.__struct_defaults__, strict=True))
