"""Whose keys are whose, and how a view lets go of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from reconcile.config.settings import Secret
from reconcile.core.ownership import Range
from reconcile.core.state import State
from reconcile.errors import LeaseHeld, LeaseLost, SafetyStop, UsageError
from reconcile.stop import Stop
from reconcile.target import opening
from reconcile.target.claims import Claims
from reconcile.target.dropping import drop
from reconcile.target.names import CLAIMS, Names
from reconcile.target.port import Write
from tests.target.place import Place, content, whole
from tests.target.test_writing import ROWS, write

ORDERS = Names("orders")
PREFIX = Range("prefix", b"p:")


@contextlib.contextmanager
def claims(place: Place) -> Iterator[Claims]:
    nodes = opening.open_nodes(place.settings, Stop())
    try:
        yield Claims(nodes)
    finally:
        for wire in nodes.opened():
            wire.close()


def kept(place: Place, owned: Range, view: str = "orders") -> None:
    """A view that has claimed its range and written."""
    with claims(place) as ours:
        ours.claim(Names(view), owned)
    mine = replace(place, view=replace(place.view, name=view, key_prefix=owned.prefix.decode()))
    with mine.armed(mz_timestamp_key=owned.timestamp_key.decode() or None) as target:
        rows = {owned.prefix + b"%d" % n: b"x" for n in range(100)}
        change = whole(rows, 100)
        assert change.state is not None
        write(target, replace(change, state=replace(change.state, claim=owned.encode())))
    place.do("DEL", f"reconcile:{{{view}}}:lease")


def test_a_claim_is_made_once_and_found_again(place: Place) -> None:
    """Claiming the same range again changes nothing; another view elsewhere is fine."""
    with claims(place) as ours:
        ours.claim(ORDERS, PREFIX)
        ours.claim(ORDERS, PREFIX)
        ours.claim(Names("users", "stage"), Range("prefix", b"q:"))
        assert ours.read() == {"orders": PREFIX, "stage.users": Range("prefix", b"q:")}
        place.do("SET", place.own("lease"), "me")
        ours.release(ORDERS, b"me")
        assert set(ours.read()) == {"stage.users"}


@pytest.mark.parametrize("other", [Range("prefix", b"p:x:"), Range("prefix", b"p"), Range("dedicated"), PREFIX])
def test_overlaps_stop(place: Place, other: Range) -> None:
    """Both views are named, and nothing is claimed; who only looks is warned."""
    with claims(place) as ours:
        ours.claim(ORDERS, PREFIX)
        with pytest.raises(SafetyStop, match=r"users and orders would write the same keys"):
            ours.claim(Names("users"), other)
        warned = ours.warning(Names("users"), other)
        assert warned is not None
        assert "would write the same keys" in warned
        assert ours.warning(ORDERS, PREFIX) is None
        assert set(ours.read()) == {"orders"}


def test_a_view_keeps_its_range(place: Place) -> None:
    """The same name with another prefix stops."""
    with claims(place) as ours:
        ours.claim(ORDERS, PREFIX)
        with pytest.raises(SafetyStop, match="now configured for"):
            ours.claim(ORDERS, Range("prefix", b"q:"))


def test_a_lost_hash_lets_no_stranger_win(place: Place) -> None:
    """It is made again from the states, which outrank it."""
    kept(place, PREFIX)
    place.do("DEL", CLAIMS)
    with claims(place) as ours:
        with pytest.raises(SafetyStop):
            ours.claim(Names("users"), Range("prefix", b"p:u:"))
        place.do("HSET", CLAIMS, "users", Range("prefix", b"p:u:").encode())
        with pytest.raises(SafetyStop):
            ours.claim(Names("third"), Range("prefix", b"p:u:3"))
        place.do("HSET", CLAIMS, "orders", Range("prefix", b"else:").encode())
        with pytest.raises(SafetyStop, match="now configured for"):
            ours.claim(ORDERS, Range("prefix", b"else:"))


def test_remembered_names_may_move_into_a_range_that_has_them_all(single: Place) -> None:
    """Only then."""
    remembered = Range("remembered")
    with claims(single) as ours:
        ours.claim(ORDERS, remembered)
        with single.armed(key_prefix="") as target:
            state = replace(content({}, 1)[0], claim=remembered.encode())
            write(target, Write(puts={b"p:1": b"x", b"p:2": b"y"}, state=state))
        with pytest.raises(SafetyStop, match="has written"):
            ours.claim(ORDERS, Range("prefix", b"p:1"))
        ours.claim(ORDERS, PREFIX)
        assert ours.read()["orders"] == remembered  # until the state says it too
        with pytest.raises(SafetyStop, match="would write the same keys"):
            ours.claim(Names("users"), PREFIX)
        single.do("HSET", single.own("state"), "claim", PREFIX.encode())
        assert ours.read()["orders"] == PREFIX


def test_two_views_that_claim_at_once(place: Place) -> None:
    """One of them sees the other."""
    with claims(place) as one, claims(place) as two:
        original = two._contradiction

        def meanwhile(*given: object) -> SafetyStop | None:
            two._contradiction = original  # type: ignore[method-assign]
            one.claim(ORDERS, PREFIX)
            return original(*given)  # type: ignore[arg-type]

        two._contradiction = meanwhile  # type: ignore[method-assign]
        with pytest.raises(SafetyStop):
            two.claim(Names("users"), PREFIX)


def test_without_the_right_to_claims(single: Place) -> None:
    """A run that writes is told the rule that it lacks; one that looks lives without."""
    single.do("ACL", "SETUSER", "narrow", "on", ">pw", "~p:*", "+@all")
    narrow = replace(single.settings, username="narrow", password=Secret("pw"))
    mine = replace(single, settings=narrow)
    with claims(mine) as ours:
        with pytest.raises(UsageError) as refused:
            ours.claim(ORDERS, PREFIX)
        assert "ACL SETUSER narrow '~reconcile:{claims}'" in str(refused.value.hint)
        assert ours.warning(ORDERS, PREFIX) is None
    single.do("ACL", "DELUSER", "narrow")


@pytest.mark.parametrize("keys", [True, False])
def test_drop_leaves_nothing_but_the_token(place: Place, keys: bool) -> None:
    """State, records, fences and claim go; keys and timestamp key only when that is said; others' keys stay."""
    owned = Range("prefix", b"p:", b"mz")
    kept(place, owned)
    place.do("SET", "foreign", "x")
    dropped = drop(place.settings, "orders", Stop(), keys=keys, lease_s=30)
    assert dropped.range == owned
    assert dropped.keys == (100 if keys else None)
    rest = {b"foreign", place.own("token")}
    assert place.keys() == (rest if keys else rest | {b"mz"} | {b"p:%d" % n for n in range(100)})


def test_drop_shuts_out_a_frozen_run(place: Place) -> None:
    """It wakes up after its keys were deleted, and writes nothing."""
    with claims(place) as ours:
        ours.claim(ORDERS, PREFIX)
    with place.armed() as target:
        write(target, whole(ROWS, 100))
        with pytest.raises(LeaseHeld):
            drop(place.settings, "orders", Stop(), keys=True, lease_s=30)
        place.do("DEL", place.own("lease"))
        assert drop(place.settings, "orders", Stop(), keys=True, lease_s=30).keys == len(ROWS)
        with pytest.raises(LeaseLost):
            target.commit(Write(state=State()))
    assert place.keys() == {place.own("token")}


def test_drop_of_remembered_keys(single: Place) -> None:
    """Only those that the view remembers."""
    single.do("SET", "foreign", "x")
    with claims(single) as ours:
        ours.claim(ORDERS, Range("remembered"))
    with single.armed(key_prefix="") as target:
        write(target, Write(puts={b"%d" % n: b"x" for n in range(3000)}, state=content({}, 1)[0]))
    single.do("DEL", single.own("lease"))
    assert drop(single.settings, "orders", Stop(), keys=True, lease_s=30).keys == 3000
    assert single.keys() == {b"foreign", single.own("token")}


def test_drop_of_a_stranger(place: Place) -> None:
    """Says who is known."""
    kept(place, PREFIX)
    with pytest.raises(UsageError, match="those that have: orders"):
        drop(place.settings, "nobody", Stop(), keys=True, lease_s=30)
