"""Which left-over keys are the view's own: exactly one subset fits, and it is found or nothing is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconcile.core import digest
from reconcile.core.surplus import MAX_ITEMS, explained

HASHES = st.integers(0, 2**64 - 1)


def added(hashes: list[int]) -> int:
    """The digest, in added-up form, of rows with these hashes."""
    return sum(digest.ONE + one for one in hashes)


@settings(max_examples=300, deadline=None)
@given(st.lists(HASHES, unique=True, max_size=14), st.randoms())
def test_a_subset_that_adds_up_is_found(hashes: list[int], pick: random.Random) -> None:
    """Whatever the split into ours, others', lost and new ones."""
    kinds = [pick.choice(["ours", "strange", "lost", "new"]) for _ in hashes]
    of = {
        kind: [one for one, its in zip(hashes, kinds, strict=True) if its == kind]
        for kind in ("ours", "strange", "lost", "new")
    }
    found = explained(of["ours"] + of["strange"], of["lost"] + of["new"], added(of["ours"] + of["lost"]))
    assert found is not None
    # Numbers that hypothesis likes (0, 1, 2 …) add up in several ways: one of them is found, and no other key.
    assert found <= set(of["ours"] + of["strange"])
    assert len(of["ours"]) - len(of["new"]) <= len(found) <= len(of["ours"]) + len(of["lost"])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 6), st.integers(0, 6), st.integers(0, 2), st.integers(0, 2))
def test_with_real_hashes_it_is_the_only_one(seed: int, ours: int, strange: int, lost: int, new: int) -> None:
    """Hashes are spread over 64 bits: then nothing of somebody else's is ever called the view's own."""
    source = random.Random(seed)

    def some(count: int) -> list[int]:
        return [source.getrandbits(64) for _ in range(count)]

    own, others, gone, fresh = some(ours), some(strange), some(lost), some(new)
    assert explained(own + others, gone + fresh, added(own + gone)) == set(own)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(0, 8))
def test_an_edited_key_explains_nothing(seed: int, ours: int, strange: int) -> None:
    """One of the view's own keys has another value than the one counted: no subset fits, nothing is deleted."""
    source = random.Random(seed)
    own = [source.getrandbits(64) for _ in range(ours)]
    others = [source.getrandbits(64) for _ in range(strange)]
    edited = [source.getrandbits(64), *own[1:]]
    assert explained(edited + others, [], added(own)) is None


@pytest.mark.parametrize(
    ("candidates", "lost", "beyond", "found"),
    [
        ([], [], 0, set()),
        ([5, 7], [], 0, set()),
        ([5, 7], [], added([5, 7]), {5, 7}),
        ([5, 7], [11], added([5, 7]), {5, 7}),
        ([5, 7], [11], added([7, 11]), {7}),
        ([5, 7], [11], added([11]), set()),
        ([5, 7], [11], added([5, 7, 11]), {5, 7}),
        ([2**64 - 1, 2], [], added([2**64 - 1, 2]), {2**64 - 1, 2}),
        ([5], [], added([5, 7]), None),
        ([5], [], -digest.ONE, None),
        ([5, 7], [], added([6]), None),
        ([5], [], 1, None),
    ],
    ids=["nothing", "all strange", "all ours", "ours beside new rows", "one ours, one lost", "only lost", "everything",
         "sums wrap around", "more counted than there is", "less than nothing", "edited", "a sum without a row"],
)  # fmt: skip
def test_table(candidates: list[int], lost: list[int], beyond: int, found: set[int] | None) -> None:
    """The rule's cases, one by one."""
    assert explained(candidates, lost, beyond) == found


def test_93_candidates_of_which_three_are_ours() -> None:
    """The bound on tries lets this through, in either direction."""
    source = random.Random(1)
    many = [source.getrandbits(64) for _ in range(90)]
    few = [source.getrandbits(64) for _ in range(3)]
    assert explained(many + few, [], added(few)) == set(few)
    assert explained(many + few, [], added(many)) == set(many)
    assert explained([*many, *few, 1], [], added(few)) is None  # one more is beyond it


def test_too_many_are_all_or_none() -> None:
    """Beyond the bound nothing is tried one by one."""
    source = random.Random(2)
    many = [source.getrandbits(64) for _ in range(MAX_ITEMS + 1)]
    assert explained(many, [], added(many[:-1])) is None
    assert explained(many, [], added(many)) == set(many)
    assert explained(many, [11], added(many)) == set(many)
    assert explained(many[:60], [], added(many[:30])) is None  # too many tries
