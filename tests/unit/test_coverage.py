"""When each slice was last compared, by whom, and when all will have been."""

from __future__ import annotations

from typing import Any

from reconcile.compare.coverage import coverage
from reconcile.core.state import State, Turn
from reconcile.report.audit import PastAudit


def state(**turn: Any) -> State:
    return State(as_of=1, buckets=64, turn=Turn(**turn))


def audit(at_ms: int, subset: str = "0/1", *, fast: bool = False) -> PastAudit:
    return PastAudit(at_ms, "in sync", 1, fast, subset, 0)


def test_nothing_was_compared() -> None:
    """Before the first turn and without an audit nothing is claimed."""
    found = coverage(state(), [], 1000)
    assert (found.slices, found.compared, found.oldest_ms, found.all_by_ms) == (1, [], None, None)


def test_a_turn_under_way() -> None:
    """Slices behind the cursor are of this turn, the others of the last."""
    found = coverage(state(i=3, n=4, began_ms=500, done_ms=100), [], 1000)
    assert [one.at_ms for one in found.compared] == [500, 500, 500, 100]
    assert (found.oldest_ms, found.all_by_ms) == (100, 1500)


def test_the_first_turn_leaves_the_rest_unknown() -> None:
    """Slices it has not reached were never compared."""
    found = coverage(state(i=1, n=4, began_ms=500), [], None)
    assert (found.never, found.oldest_ms, found.all_by_ms) == (3, None, None)


def test_audits_count_where_they_are_later() -> None:
    """A whole verify covers every slice, a subset its own; --fast looks at no key."""
    turn = {"n": 1, "done_ms": 100}
    found = coverage(state(**turn), [audit(300, "1/4"), audit(200), audit(900, fast=True)], 1000)
    assert [(one.slice, one.at_ms, one.by) for one in found.compared] == [
        (0, 200, "verify"),
        (1, 300, "verify"),
        (2, 200, "verify"),
        (3, 200, "verify"),
    ]


def test_subsets_that_nobody_could_have_asked_for() -> None:
    """What something else wrote into the audit is left out."""
    assert coverage(state(), [audit(5, "x"), audit(5, "3/2"), audit(5, "0/3")], None).compared == []


def test_an_incomplete_audit_compared_nothing_for_certain() -> None:
    """Nobody knows which slices hold what it could not judge."""
    assert coverage(state(), [PastAudit(5, "incomplete", 1, False, "0/1", 0)], None).compared == []
