"""What the fences of a cluster notice: a node that lost its last seconds, or a state that did."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from reconcile.core.records import Records
from reconcile.core.state import Pending, State
from reconcile.errors import LeaseLost, StateError, Unavailable
from reconcile.target.port import Write
from tests.target.place import Place, content, whole
from tests.target.test_writing import ROWS, write

FINGERPRINTS = Records(whole=b"\1" * 16 * 8)


def fence_of(place: Place, key: bytes) -> bytes:
    """The fence on the node of a key."""
    client = place.client(key)
    (fence,) = client.scan_iter(b"reconcile:{*}:fence:orders")
    return bytes(fence)


def kept(place: Place, pending: Pending | None = None) -> None:
    """A view with a checkpoint and fingerprints."""
    with place.armed() as target:
        state = replace(content(ROWS, 100)[0], pending=pending)
        write(target, replace(whole(ROWS, 100), state=state, fingerprints=FINGERPRINTS))
    place.do("DEL", place.own("lease"))


def doubted(place: Place) -> bool:
    """Whether the next run has to compare every key: then no fingerprint is known either."""
    with place.armed() as target:
        stored = target.stored()
        assert stored.state is not None
        assert stored.state.as_of == 100
        doubt = stored.state.pending == Pending("snapshot", 100)
        assert doubt == (stored.fingerprints is None)
        return doubt


def lose_tail(place: Place) -> None:
    """A replica without the last writes took over one node."""
    place.do("DEL", "p:1")
    place.do("HSET", fence_of(place, b"p:1"), "mark", "an.earlier.1")


def lose_everything(place: Place) -> None:
    """A node was restarted empty."""
    home = place.client(place.own("state"))
    key = next(key for key in ROWS if place.client(key) is not home)
    place.client(key).flushall()


def lose_list(place: Place) -> None:
    place.do("DEL", place.own("fences"))


def overwrite_list(place: Place) -> None:
    place.do("DEL", place.own("fences"))
    place.do("SET", place.own("fences"), "x")


@pytest.mark.parametrize("pending", [None, Pending("withheld", 100)])
@pytest.mark.parametrize("lose", [lose_tail, lose_everything, lose_list, overwrite_list])
def test_what_a_node_lost_is_noticed(
    clustered: Place, lose: Callable[[Place], None], pending: Pending | None, caplog: pytest.LogCaptureFixture
) -> None:
    """At rest, with deletes withheld too. Without the list of marks nobody can say that it was a node."""
    kept(clustered, pending)
    lose(clustered)
    assert doubted(clustered)
    assert ("does not hold what was last written" in caplog.text) == (lose not in (lose_list, overwrite_list))


@pytest.mark.parametrize("pending", [None, Pending("withheld", 100)])
def test_what_nobody_lost_is_trusted(clustered: Place, pending: Pending | None) -> None:
    """However often the lease is taken."""
    kept(clustered, pending)
    assert not doubted(clustered)
    clustered.do("DEL", clustered.own("lease"))
    assert not doubted(clustered)


def test_a_state_that_lost_its_tail_is_noticed(clustered: Place) -> None:
    """It is older than what the nodes hold."""
    kept(clustered)
    names = [clustered.own(name) for name in ("state", "fences", "manifest")]
    saved = {name: clustered.client(name).dump(name) for name in names}
    with clustered.armed() as target:
        target.commit(Write(state=replace(content(ROWS, 200)[0], pending=Pending("delta", 200))))
        target.commit(Write(puts={b"p:1": b"newer"}, state=content(ROWS, 200)[0]))
    for name, dump in saved.items():
        clustered.client(name).restore(name, 0, dump, replace=True)  # type: ignore[arg-type]
    clustered.do("DEL", clustered.own("lease"))
    assert doubted(clustered)


def test_a_run_that_was_killed_while_it_wrote_is_no_loss(clustered: Place) -> None:
    """What it left belongs to the mark that the state still has: that range is repeated exactly."""
    kept(clustered)
    with clustered.armed() as target:
        target.commit(Write(state=replace(content(ROWS, 100)[0], pending=Pending("delta", 200))))
        target.send(Write(puts={b"p:1": b"newer", b"p:2": b"newer", b"p:3": b"newer"}))
        target.settle()
    clustered.do("DEL", clustered.own("lease"))
    with clustered.armed() as target:
        stored = target.stored()
        assert stored.state is not None
        assert stored.state.pending == Pending("delta", 200)
        assert stored.fingerprints is not None


def test_while_deletes_are_withheld_nothing_is_under_way(clustered: Place) -> None:
    """What was written after the mark of withheld deletes is no range that could be repeated."""
    kept(clustered, Pending("withheld", 100))
    with clustered.armed() as target:
        target.commit(Write(state=replace(content(ROWS, 100)[0], pending=Pending("withheld", 100))))
        target.commit(Write(puts={b"p:1": b"newer"}))
    clustered.do("DEL", clustered.own("lease"))
    assert doubted(clustered)


def test_a_node_that_is_not_what_it_was_takes_nothing(clustered: Place) -> None:
    """The script demands the mark that this run saw there last."""
    kept(clustered)
    with clustered.armed() as target:
        target.commit(Write(state=replace(content(ROWS, 100)[0], pending=Pending("delta", 200))))
        clustered.do("HSET", fence_of(clustered, b"p:1"), "mark", "another")
        with pytest.raises(Unavailable, match="does not hold what was last written"):
            target.commit(Write(puts={b"p:1": b"late"}))
    assert clustered.do("GET", "p:1") == ROWS[b"p:1"]


def test_the_timestamp_key_promises_only_what_is_written(clustered: Place) -> None:
    """It lies on another node than a part of the data, which takes nothing."""
    other = next(key for key in ROWS if clustered.client(key) is not clustered.client(b"mz"))
    with clustered.armed(mz_timestamp_key="mz") as target:
        write(target, whole(ROWS, 100))
        assert clustered.do("GET", "mz") == b"101"
        target.commit(Write(state=replace(content(ROWS, 100)[0], pending=Pending("delta", 200))))
        clustered.do("HSET", fence_of(clustered, other), "mark", "another")
        with pytest.raises(Unavailable, match="does not hold what was last written"):
            target.commit(whole(dict.fromkeys(ROWS, b"late"), 200))
    assert clustered.do("GET", other) == ROWS[other]
    assert clustered.do("GET", "mz") == b"101"


def test_an_overtaken_run_is_refused_by_each_node(clustered: Place) -> None:
    """Though its state's transaction was before."""
    kept(clustered)
    with clustered.armed() as target:
        target.commit(Write(state=replace(content(ROWS, 100)[0], pending=Pending("delta", 200))))
        clustered.do("DEL", clustered.own("lease"))
        with clustered.armed():
            pass
        with pytest.raises(LeaseLost):
            target.commit(Write(puts=dict.fromkeys(ROWS, b"late")))
    assert all(clustered.do("GET", key) == ROWS[key] for key in list(ROWS)[:50])


def test_tokens_are_never_reused(clustered: Place) -> None:
    """The state's node lost counter and state; the fences know the token."""
    kept(clustered)
    with clustered.armed() as target:
        token = target.token
    for name in ("token", "state", "lease"):
        clustered.do("DEL", clustered.own(name))
    with clustered.armed() as target:
        assert target.token > token


def test_data_in_several_steps_needs_a_mark(clustered: Place) -> None:
    """A caller that forgets it is a bug, and nothing is written."""
    kept(clustered)
    with clustered.armed() as target:
        with pytest.raises(AssertionError):
            target.commit(Write(puts={b"p:1": b"x"}, state=State(as_of=200)))
        assert target.values([b"p:1"]) == [ROWS[b"p:1"]]


ODD_FENCES = {
    "another type": (("DEL",), ("SET", "x")),
    "no token": (("HDEL", "token"),),
    "no number": (("HSET", "token", "abc"),),
    "a large number": (("HSET", "token", "9" * 30),),
    "another mark": (("HSET", "mark", "\xff{}"),),
}


@pytest.mark.parametrize("odd", ODD_FENCES)
def test_a_fence_that_something_else_wrote_to(clustered: Place, odd: str) -> None:
    """It is made anew; every key is compared unless the mark is still there; its number is not taken for a token."""
    kept(clustered)
    fence = fence_of(clustered, b"p:1")
    for verb, *arguments in ODD_FENCES[odd]:
        clustered.do(verb, fence, *arguments)
    assert doubted(clustered) is ("number" not in odd)
    clustered.do("DEL", clustered.own("lease"))
    with clustered.armed() as target:
        assert target.token < 100
        write(target, replace(whole(ROWS, 200), state=content(ROWS, 200)[0], fingerprints=FINGERPRINTS))


def test_an_as_of_that_is_no_number_while_a_node_is_in_doubt(clustered: Place) -> None:
    """The state is corrupt then: said as such, by whoever reads it."""
    kept(clustered)
    lose_tail(clustered)
    clustered.do("HSET", clustered.own("state"), "as_of", "abc")
    with clustered.armed() as target, pytest.raises(StateError):
        target.stored()
