"""Whether a query is an object's own rows: what the recorded plans show, and what shows nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reconcile.core.decide import Frontiers
from reconcile.core.keys import KeyShape
from reconcile.source.direct import object_read
from reconcile.source.frontiers import Explained, SourceClock, SourceObject
from reconcile.source.query import Column, Mapping

GET = {
    "Get": {
        "id": {"Global": {"User": 744}},
        "typ": {"column_types": [{"scalar_type": "String", "nullable": True}] * 2, "keys": []},
        "access_strategy": "Persist",
    }
}
"""As recorded (transcript `plan`)."""
MAPPING = Mapping(
    "SELECT key, value FROM v",
    KeyShape("p:", ("key",), ("",)),
    (Column("key", 25),),
    (Column("value", 25),),
    in_order=True,
)


def told(*plans: Any) -> str:
    return json.dumps({"plans": [{"id": "Explained Query", "plan": plan} for plan in plans], "sources": []}, indent=2)


def reading(*objects: SourceObject) -> Explained:
    return Explained(Frontiers(since=1, upper=3, now=2), objects, SourceClock(2))


V = SourceObject("materialize.public.v", "u744", "storage")


def test_the_object_itself() -> None:
    """A name that has to be quoted is."""
    assert object_read(MAPPING, told(GET), reading(V)) == '"materialize"."public"."v"'
    odd = SourceObject('materialize.public.V "w"', "u744", "storage")
    assert object_read(MAPPING, told(GET), reading(odd)) == '"materialize"."public"."V ""w"""'


@pytest.mark.parametrize(
    "plan",
    [
        "",
        "not JSON",
        "[]",
        "{}",
        told(),
        told(GET, GET),
        told({"Filter": {"input": GET, "predicates": []}}),
        told({**GET, "Filter": {}}),
        told({"Get": {"id": {"Local": 0}}}),
        told({"Get": {"id": {"Global": {"System": 744}}}}),
        told({"Get": {"id": {"Global": {"User": 745}}}}),
        told({"Get": "u744"}),
        told(["Get"]),
    ],
)
def test_any_other_plan_shows_nothing(plan: str) -> None:
    """Then the query is followed."""
    assert object_read(MAPPING, plan, reading(V)) is None


@pytest.mark.parametrize(
    "objects",
    [
        (),
        (V, SourceObject("materialize.public.w", "u745", "storage")),
        (SourceObject("materialize.public.v_idx", "u744", "compute"),),
        (SourceObject("materialize.public.a.b", "u744", "storage"),),
        (SourceObject("mz_catalog.mz_tables", "u744", "storage"),),
    ],
)
def test_any_other_object_read(objects: tuple[SourceObject, ...]) -> None:
    """An index, several objects, a name that cannot be told from its place."""
    assert object_read(MAPPING, told(GET), reading(*objects)) is None
