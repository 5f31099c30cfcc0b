"""Past audits beside the state: bounded, the newest first, and whatever else may be written there does no harm."""

from __future__ import annotations

import json

import pytest

from reconcile.compare.audits import HISTORY, LAST, noted, remembered
from reconcile.report.audit import MAX_HISTORY, PastAudit


def audit(at_ms: int) -> PastAudit:
    return PastAudit(at_ms, "in sync", 5, fast=False, subset="0/1", drift=0)


def test_history_is_bounded() -> None:
    """The newest MAX_HISTORY, and the last one by itself."""
    fields: dict[str, str] = {}
    for at_ms in range(MAX_HISTORY + 10):
        fields = noted(fields, audit(at_ms))
    assert [one.at_ms for one in remembered(fields)] == list(range(MAX_HISTORY + 9, 9, -1))
    assert json.loads(fields[LAST])["at_ms"] == MAX_HISTORY + 9


@pytest.mark.parametrize("text", ["", "null", "{", "[1, {}, null]", '{"at_ms": "x"}', "[" * 100_000])
def test_what_something_else_wrote(text: str) -> None:
    """It is no audit, and the next one is noted all the same."""
    assert remembered({HISTORY: text}) == []
    assert remembered({LAST: text}) == []
    assert remembered(noted({HISTORY: text, LAST: text}, audit(1))) == [audit(1)]
