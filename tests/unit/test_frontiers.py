# ruff: noqa: E501 - recorded messages
"""What EXPLAIN TIMESTAMP says about a query."""

from __future__ import annotations

import json

import pytest

from reconcile.core.decide import Frontiers
from reconcile.core.times import MAX_TIMESTAMP
from reconcile.errors import ExitCode, ReconcileError
from reconcile.source.frontiers import SourceObject, parse_explanation

T1, T2, T12 = 1_755_860_001_000, 1_755_860_009_500, 1_755_860_012_345

RETAINED = """{
  "determination": {
    "timestamp_context": {
      "TimelineTimestamp": {
        "timeline": "EpochMilliseconds",
        "chosen_ts": <T12>,
        "oracle_ts": <T12>
      }
    },
    "since": {
      "elements": [
        <T1>
      ]
    },
    "upper": {
      "elements": [
        <T12+1>
      ]
    },
    "largest_not_in_advance_of_upper": <T12>,
    "oracle_read_ts": <T12>,
    "session_oracle_read_ts": null,
    "real_time_recency_ts": null,
    "constraints": {
      "lower": [
        [
          {
            "elements": [
              <T12>
            ]
          },
          {
            "IsolationLevel": "StrictSerializable"
          }
        ]
      ],
      "upper": []
    }
  },
  "sources": [
    {
      "name": "materialize.s.v (u21, storage)",
      "read_frontier": [
        <T1>
      ],
      "write_frontier": [
        <T12+1>
      ]
    }
  ],
  "session_wall_time": "<wall clock>",
  "respond_immediately": true
}"""
"""Transcript `retain_history`, with numbers for its symbolic times."""

CONSTANT = {
    "determination": {
        "timestamp_context": "NoTimestamp",
        "since": {"elements": [0]},
        "upper": {"elements": []},
        "largest_not_in_advance_of_upper": MAX_TIMESTAMP,
        "oracle_read_ts": None,
        "session_oracle_read_ts": None,
        "real_time_recency_ts": None,
        "constraints": {"lower": [], "upper": []},
    },
    "sources": [],
    "session_wall_time": "<wall clock>",
    "respond_immediately": True,
}


def source(name: str, read: list[int], written: list[int]) -> dict[str, object]:
    return {"name": name, "read_frontier": read, "write_frontier": written}


def explanation() -> dict[str, object]:
    text = RETAINED.replace("<T12+1>", str(T12 + 1)).replace("<T12>", str(T12)).replace("<T1>", str(T1))
    loaded: dict[str, object] = json.loads(text)
    return loaded


def test_the_recorded_explanation() -> None:
    """since, upper and the present time; the object read, by name and id."""
    explained = parse_explanation(json.dumps(explanation()))
    assert explained.frontiers == Frontiers(since=T1, upper=T12 + 1, now=T12)
    assert explained.objects == (SourceObject("materialize.s.v", "u21", "storage"),)
    assert explained.ids == ["u21"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("materialize.s.v_key (u39, compute)", SourceObject("materialize.s.v_key", "u39", "compute")),
        (
            "materialize.s.v_digest_by_bucket (u57, compute)",
            SourceObject("materialize.s.v_digest_by_bucket", "u57", "compute"),
        ),
        (
            'materialize."my (odd, name)".v (u7, storage)',
            SourceObject('materialize."my (odd, name)".v', "u7", "storage"),
        ),
        ("mz_catalog.mz_objects (s461, storage)", SourceObject("mz_catalog.mz_objects", "s461", "storage")),
        ("m.my (odd,\nname).v (u8, storage)", SourceObject("m.my (odd,\nname).v", "u8", "storage")),
        ("u9 (u9, storage)", SourceObject("u9", "u9", "storage")),
        ("in some new form", SourceObject("in some new form", "in some new form", "storage")),
    ],
)
def test_objects_are_named_as_recorded(name: str, expected: SourceObject) -> None:
    """'compute' tells an index (transcript `index_trap`); a form that is not known still identifies the object."""
    text = json.dumps(explanation() | {"sources": [{"name": name, "read_frontier": [], "write_frontier": []}]})
    assert parse_explanation(text).objects == (expected,)


@pytest.mark.parametrize(("present", "ahead_ms"), [(T12, 0), (T2, T12 - T2), (None, 0)])
def test_how_long_a_read_would_wait(present: int | None, ahead_ms: int) -> None:
    """Until the time that everything in the schema can be read at; a serializable session asks no oracle."""
    told = explanation()
    told["determination"]["timestamp_context"]["TimelineTimestamp"]["oracle_ts"] = present  # type: ignore[index]
    assert parse_explanation(json.dumps(told)).ahead_ms == ahead_ms


def test_ids_do_not_depend_on_their_order() -> None:
    """The identity of a checkpoint is the same however the server lists what is read."""
    sources = [source(f"m.s.t{n} (u{n}, storage)", [T1], [T12 + 1]) for n in (3, 1, 2)]
    assert parse_explanation(json.dumps(explanation() | {"sources": sources})).ids == ["u1", "u2", "u3"]


def test_a_constant_query_has_the_last_time_there_is() -> None:
    """No timestamp, no sources, an upper without elements: complete, never changes."""
    explained = parse_explanation(json.dumps(CONSTANT))
    assert explained.frontiers == Frontiers(since=0, upper=None, now=MAX_TIMESTAMP)
    assert explained.objects == ()


def test_a_finished_object_has_no_upper() -> None:
    """A source that ended: upper without elements; its since is empty when nothing can be read."""
    finished = explanation() | {"sources": [source("m.s.v (u21, storage)", [], [])]}
    assert parse_explanation(json.dumps(finished)).frontiers == Frontiers(since=MAX_TIMESTAMP, upper=None, now=T12)


def test_frontiers_are_those_of_what_the_query_reads() -> None:
    """Inside a transaction the determination is that of the whole schema (see frontiers.py): a table beside the view,
    with a second of history, or a source that is stuck, says nothing about the view."""
    determination = explanation()["determination"]
    assert isinstance(determination, dict)
    neighbours = {"since": {"elements": [T12 - 1000]}, "upper": {"elements": [T1 + 1]}}
    explained = parse_explanation(json.dumps(explanation() | {"determination": determination | neighbours}))
    assert explained.frontiers == Frontiers(since=T1, upper=T12 + 1, now=T12)


def test_several_objects_are_readable_where_all_are() -> None:
    """since is the latest, upper the earliest; an object that is complete does not bound the upper."""
    sources = [
        source("m.s.a (u1, storage)", [T1], [T12 + 1]),
        source("m.s.b (u2, storage)", [T1 + 5], [T12 - 3]),
        source("m.s.c (u3, compute)", [T1 + 1], []),
    ]
    explained = parse_explanation(json.dumps(explanation() | {"sources": sources}))
    assert explained.frontiers == Frontiers(since=T1 + 5, upper=T12 - 3, now=T12)


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "7", '"text"', "{}", '{"determination": null}', '{"determination": {}}', "{",
        json.dumps(CONSTANT | {"sources": None}), json.dumps(CONSTANT | {"sources": [{}]}), json.dumps(CONSTANT | {"sources": ["v"]}),
        json.dumps(CONSTANT | {"sources": [source("v (u1, storage)", ["x"], [])]}),  # type: ignore[list-item]
        json.dumps(CONSTANT | {"sources": [{"name": "v (u1, storage)", "read_frontier": [1]}]}),
        json.dumps(CONSTANT | {"determination": CONSTANT["determination"] | {"timestamp_context": {"Other": 1}}}),  # type: ignore[operator]
        json.dumps(CONSTANT | {"sources": [source("v (u1, storage)", [1], [None])]}),  # type: ignore[list-item]
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_an_unknown_shape_is_said_so(text: str) -> None:
    """EXPLAIN TIMESTAMP is not a stable interface: a new form is reported as such, not as a traceback."""
    with pytest.raises(ReconcileError, match="this version cannot read") as caught:
        parse_explanation(text)
    assert caught.value.exit_code == ExitCode.BUG
