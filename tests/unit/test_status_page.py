"""The page of all views: what needs a human is not among the views that are well."""

from __future__ import annotations

from typing import Any

import pytest

from reconcile.report.status_page import render

WELL = {"view": "prices", "as_of": 1_795_458_494_613, "lag_ms": 10, "keys": 7, "claim": {"problem": None}}


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({}, ["All is well", "synchronised"]),
        ({"surplus": 12}, ["1 needs attention", "keys wait for consent"]),
        ({"pending": "withheld"}, ["1 needs attention", "deletes withheld"]),
        (
            {"claim": {"claimed": True, "problem": "overlaps the claim of stock"}},
            ["1 needs attention", "claims disagree"],
        ),
        ({"claim": {"claimed": False, "problem": "missing: the next run restores it"}}, ["All is well"]),
        ({"pending": "delta"}, ["1 is incomplete", "unfinished"]),
        ({"compare": {"overdue": True}}, ["1 is incomplete", "compare overdue"]),
    ],
)
def test_what_every_run_ends_with_is_not_well(changed: dict[str, Any], shown: list[str]) -> None:
    """Exit 5 at every run is not all well."""
    page = render([WELL | changed], 1_795_458_494_623)
    assert [text for text in shown if text not in page] == []
