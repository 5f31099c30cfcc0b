"""Transitions of `pending`: whatever happened before, a clean mark never lies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.core import pending
from reconcile.core.pending import Event
from reconcile.core.state import Pending, State

EMPTY = State(salt=1)
DONE = State(salt=1, as_of=10, buckets=1, digest="0" * 32)
EVENTS: list[Event] = ["begin load", "begin snapshot", "begin delta", "begin anew", "complete", "withhold", "lose"]


def with_mark(base: State, mark: Pending | None) -> State:
    return State(salt=1, as_of=base.as_of, buckets=base.buckets, digest=base.digest, pending=mark)


@pytest.mark.parametrize(
    ("state", "event", "mark"),
    [
        (None, "begin load", Pending("snapshot", 20, clean=True)),
        (None, "begin snapshot", Pending("snapshot", 20)),
        (EMPTY, "begin snapshot", Pending("snapshot", 20)),
        (EMPTY, "begin anew", Pending("snapshot", 20, anew=True)),
        (DONE, "begin snapshot", Pending("snapshot", 20, clean=True)),
        (DONE, "begin delta", Pending("delta", 20, clean=True)),
        (DONE, "begin anew", Pending("snapshot", 20, anew=True)),
        (DONE, "lose", Pending("snapshot", 20)),
        (DONE, "withhold", Pending("withheld", 20)),
        (DONE, "complete", None),
        (with_mark(DONE, Pending("withheld", 9)), "begin snapshot", Pending("snapshot", 20, clean=True)),
        (with_mark(DONE, Pending("delta", 9, clean=True)), "begin snapshot", Pending("snapshot", 20, clean=True)),
        (with_mark(DONE, Pending("delta", 9)), "begin snapshot", Pending("snapshot", 20)),
        (with_mark(DONE, Pending("snapshot", 9)), "begin snapshot", Pending("snapshot", 20)),
        (with_mark(EMPTY, Pending("snapshot", 9, clean=True)), "begin snapshot", Pending("snapshot", 20, clean=True)),
        (with_mark(EMPTY, Pending("withheld", 9)), "begin snapshot", Pending("snapshot", 20)),
        (with_mark(DONE, Pending("snapshot", 9, anew=True)), "begin snapshot", Pending("snapshot", 20, anew=True)),
        (with_mark(DONE, Pending("snapshot", 9, anew=True)), "lose", Pending("snapshot", 20, anew=True)),
        (with_mark(DONE, Pending("snapshot", 9, anew=True)), "withhold", Pending("withheld", 20)),
        (with_mark(EMPTY, Pending("snapshot", 9, anew=True)), "begin load", Pending("snapshot", 20, clean=True)),
    ],
)
def test_table(state: State | None, event: Event, mark: Pending | None) -> None:
    """Each transition of the module's picture, and what it says of left-over keys."""
    assert pending.after(state, event, 20) == mark
    assert pending.began_clean(with_mark(DONE, mark)) == (mark is not None and mark.clean)


@given(st.lists(st.sampled_from(EVENTS), max_size=12))
def test_once_lost_clean_comes_back_only_by_completion(events: list[Event]) -> None:
    """Along any history: after a loss, or a beginning on top of unknown keys, nothing is clean until a change was
    complete, a human was asked, or a load began into nothing."""
    state, doubted = DONE, False
    for until, event in enumerate(events, 20):
        state = with_mark(DONE, pending.after(state, event, until))
        if event in ("lose", "begin anew"):
            doubted = True
        elif event in ("complete", "withhold", "begin load"):
            doubted = False
        if doubted:
            assert not pending.began_clean(state)
            assert pending.in_doubt(state) == (state.pending is not None and state.pending.kind == "snapshot")
        if state.pending is not None:
            assert state.pending.until == until
        assert not (pending.began_clean(state) and pending.in_doubt(state))
