"""The stored state as a value: what is written is read back, and damage never passes for a checkpoint."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconcile.core import state as states
from reconcile.core.digest import MAX_BUCKETS
from reconcile.core.state import FORMAT, Identity, Peak, Pending, State, Turn
from reconcile.core.times import MAX_TIMESTAMP
from reconcile.errors import ExitCode, StateError

TIMES = st.integers(0, MAX_TIMESTAMP)
COUNTS = st.integers(0, 2**63)
HEX = st.text("0123456789abcdef", min_size=32, max_size=32)
STATES = st.builds(
    State,
    token=COUNTS,
    as_of=TIMES,
    identity=st.none() | st.builds(Identity, source=HEX, mapping=HEX),
    buckets=st.integers(0, MAX_BUCKETS.bit_length() - 1).map(lambda n: 1 << n),
    keys=COUNTS,
    digest=HEX,
    commit=HEX,
    earlier=st.lists(st.tuples(HEX, COUNTS), max_size=2).map(tuple),
    surplus=COUNTS,
    surplus_names=st.lists(st.binary(max_size=9), max_size=3).map(tuple),
    pending=st.none()
    | st.builds(Pending, kind=st.sampled_from(["snapshot", "delta", "withheld"]), until=TIMES, clean=st.booleans()),
    salt=st.integers(0, 2**64 - 1),
    source_salt=st.just("") | HEX,
    fingerprint_salt=st.just("") | HEX,
    companion=st.text(max_size=20),
    claim=st.text(max_size=20),
    peak=st.builds(Peak, since_ms=COUNTS, keys=COUNTS, before=COUNTS),
    removed=st.lists(st.tuples(COUNTS, COUNTS), max_size=3).map(tuple),
    turn=st.builds(Turn, i=st.integers(0, 3), n=st.just(4), began_ms=COUNTS, done_ms=COUNTS, run_id=HEX),
    updated_at_ms=COUNTS,
)

CHECKPOINT = State(
    token=7,
    as_of=1_755_860_000_000,
    identity=Identity("a" * 32, "b" * 32),
    buckets=16,
    keys=2,
    digest="0" * 32,
    commit="c0ffee",
    pending=Pending("delta", 1_755_860_001_000),
    salt=17,
    companion="abc",
    updated_at_ms=1_755_860_000_500,
)
FIELDS = states.encode(CHECKPOINT)


@given(STATES)
def test_what_is_written_is_read_back(known: State) -> None:
    """Every field survives, and every field is always written, so that writing replaces all of an older state."""
    fields = states.encode(known)
    assert states.decode(fields, "v") == known
    assert fields.keys() == FIELDS.keys()


def test_an_empty_state_survives() -> None:
    """A state without checkpoint (first load under way) is a state, not nothing."""
    known = State(token=3, pending=Pending("snapshot", 5))
    assert states.decode(states.encode(known), "v") == known


@pytest.mark.parametrize("fields", [{}, {"token": "12"}, {"token": "12", "commit": "c0ffee"}])
def test_nothing_but_a_token_is_no_state(fields: dict[str, str]) -> None:
    """Acquiring the first lease writes a token; that is not a checkpoint."""
    assert states.decode(fields, "v") is None


NUMBERS = ["", "x", "-", "1.5", "1e3", "²", "٣", "1_000", " 5", "+5", "-1", "0x10", "9" * 5000, "None", "\ufffd"]
DAMAGE: dict[str, list[str]] = {
    "format": ["x", "-1", "1.0", "²", "0", "9" * 5000, "\ufffd"],
    "token": NUMBERS,
    "as_of": [*NUMBERS[1:], str(MAX_TIMESTAMP + 1)],
    "buckets": [*NUMBERS, "0", "3", "17", str(MAX_BUCKETS * 2)],
    "keys": NUMBERS,
    "digest": ["x", "0" * 31, "0" * 33, "-" + "0" * 31, "g" * 32, "0" * 30 + " 1", "A" * 32],
    "pending": [
        "x", "{", "[]", "7", "true", '"delta"', "{}", '{"kind":"delta"}', '{"until":1}', '{"kind":"other","until":1}',
        '{"kind":"delta","until":null}', '{"kind":"delta","until":"x"}', '{"kind":"delta","until":Infinity}',
        '{"kind":"delta","until":1.5}', '{"kind":"delta","until":-1}', '{"kind":"delta","until":true}',
        '{"kind":["delta"],"until":1}', '{"kind":"delta","until":1}', '{"kind":"delta","until":1,"clean":1}',
        "[" * 100_000, '{"kind":"delta","until":' + "9" * 5000 + "}",
    ],
    "updated_at_ms": NUMBERS,
    "surplus": NUMBERS,
    "salt": ["", "x", "0" * 15, "0" * 17, "g" * 16],
    "source_salt": ["x", "0" * 31, "0" * 33],
    "earlier": ["", "x", "7", "[7]", '[["a"]]', '[["a", -1]]'],
    "peak": ["", "x", "7", "{}x", '{"keys": -1}', '{"other": 1}'],
    "removed": ["", "x", "[[1]]", "[[1, -1]]", '[["x", 1]]'],
    "turn": ["", "x", "{}", '{"run_id": "", "i": 4, "n": 4}', '{"run_id": "", "i": -1}', '{"run_id": "", "other": 1}'],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in DAMAGE.items() for value in values],
    ids=lambda text: text if len(text) < 30 else text[:20] + "…",
)
def test_a_damaged_field_is_corrupt(name: str, value: str) -> None:
    """Exit 5 and how to start over, instead of a run from a wrong place."""
    with pytest.raises(StateError, match="is corrupt") as caught:
        states.decode(FIELDS | {name: value}, "v")
    assert caught.value.exit_code == ExitCode.SAFETY_STOP
    assert "--reset-state" in (caught.value.hint or "")


@pytest.mark.parametrize("name", sorted(FIELDS.keys()))
def test_a_missing_field_is_corrupt(name: str) -> None:
    """Fields do not vanish by themselves."""
    with pytest.raises(StateError, match="is corrupt"):
        states.decode({key: value for key, value in FIELDS.items() if key != name}, "v")


@given(
    st.dictionaries(
        st.sampled_from(sorted(FIELDS)),
        st.one_of(st.text(max_size=30), st.sampled_from([value for values in DAMAGE.values() for value in values])),
    ),
    st.sets(st.sampled_from(sorted(FIELDS))),
)
@settings(max_examples=400)
def test_any_damage_gives_a_state_or_a_state_error(changed: dict[str, str], dropped: set[str]) -> None:
    """Never another exception; and what does decode is written back as something that decodes to the same."""
    fields = {key: value for key, value in (FIELDS | changed).items() if key not in dropped}
    try:
        known = states.decode(fields, "v")
    except StateError:
        return
    if known is not None:
        assert states.decode(states.encode(known), "v") == known


@pytest.mark.parametrize("newer", [FORMAT + 1, FORMAT + 100])
def test_a_newer_format_is_left_alone(newer: int) -> None:
    """Written by a newer reconcile: exit 5 and a word about upgrading, whatever else it says."""
    with pytest.raises(StateError, match="newer reconcile") as caught:
        states.decode({"format": str(newer), "something": "else"}, "v")
    assert "upgrade" in (caught.value.hint or "")


@given(st.lists(st.text(max_size=5), max_size=5), st.lists(st.text(max_size=5), max_size=5))
def test_identities_differ_when_their_parts_do(one: list[str], other: list[str]) -> None:
    """Parts are framed: moving a character from one part to the next gives another identity."""
    assert (states.identity_hash(one) == states.identity_hash(other)) == (one == other)


def test_an_identity_is_stable() -> None:
    """A changed hash would make every stored checkpoint someone else's."""
    assert states.identity_hash(["a", "bc"]) == "5310a58788781ab25d5ad7c3f8503582"
