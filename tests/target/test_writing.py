"""What a Write does, and to whom it is refused: the same on one server and in a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from reconcile.config.settings import LimitSettings
from reconcile.core import digest
from reconcile.core.records import Records, Waiting, waiting_records
from reconcile.core.shards import Shard
from reconcile.core.state import Pending, State
from reconcile.errors import DataError, LeaseHeld, LeaseLost, ReconcileError, StateError, Unavailable
from reconcile.target import lease
from reconcile.target import wire as wires
from reconcile.target.base import Base
from reconcile.target.batch import Applier
from reconcile.target.packing import Command
from reconcile.target.port import Target, Write
from reconcile.target.wire import Ticket, Wire
from tests.target.place import LIMITS, VIEW, Place, content, whole

ROWS = {b"p:%d" % n: b"value %d" % n for n in range(500)}


def write(target: Target, change: Write, until: int = 1) -> None:
    """As runs do: marked first where a write is no single step."""
    applier_of(target, Pending("snapshot", until)).finish(change)


def applier_of(target: Target, pending: Pending, *, dry_run: bool = False, limits: LimitSettings = LIMITS) -> Applier:
    """One that marks the state as it is."""
    base = target.stored().state or State()
    return Applier(target, limits, Write(state=replace(base, pending=pending)), dry_run=dry_run)


def test_a_write_is_data_records_and_state(place: Place) -> None:
    """What is written is what is read, by the run itself and by the next."""
    with place.armed() as target:
        write(target, whole(ROWS, 100))
        assert target.values([b"p:1", b"p:nothing", b"p:499"]) == [b"value 1", None, b"value 499"]
    with place.target() as target:
        stored = target.stored()
        assert stored.state is not None
        assert (stored.state.as_of, stored.state.keys, stored.state.pending) == (100, 500, None)
        assert stored.has_manifest
        manifest = target.manifest(None)
        assert isinstance(manifest, bytes)
        assert digest.total(digest.decode_manifest(manifest)) == int(stored.state.digest, 16)
        assert dict(row for page in target.rows() for row in page) == ROWS
        assert {key for page in target.names() for key in page} == set(ROWS)


@pytest.mark.parametrize("i", [0, 2])
def test_a_shard_stores_the_records_of_its_own_buckets(i: int, place: Place) -> None:
    """A quarter of the bytes; what is read has every bucket, those of other shards empty."""
    shard = Shard(i, 4)
    own = {key: value for key, value in ROWS.items() if shard.owns(key)}
    fingerprints = digest.same_fingerprint(16, 1)
    fingerprints[i], fingerprints[i + 4] = 70, 71
    with place.target(shard=shard) as target:
        target.acquire(30, owner=b"o", reset=False, divide=True)
        target.stored()
        written = replace(whole(own, 100), fingerprints=Records(whole=digest.encode_fingerprints(fingerprints)))
        write(target, written)
        change = Write(manifest=Records(some={i + 8: bytes(16)}), fingerprints=Records(some={i + 4: bytes(8)}))
        write(target, change)
    sizes = [place.do("STRLEN", place.own(f"{name}:{shard}")) for name in ("manifest", "fingerprints")]
    assert sizes == [4 * 16, 4 * 8]
    with place.target(shard=shard) as target:
        stored = target.stored()
        assert stored.has_manifest
        fingerprints[i + 4] = 0
        assert stored.fingerprints == fingerprints
        records = target.manifest(None)
        assert isinstance(records, bytes)
        digests = digest.decode_manifest(records)
        assert [b for b, one in enumerate(digests) if one] == [i, i + 4, i + 12]
        assert target.manifest([i + 4, i + 8]) == {i + 4: records[(i + 4) * 16 : (i + 5) * 16], i + 8: bytes(16)}


def test_deletes_and_puts_and_some_records(place: Place) -> None:
    """A later write changes only what it names."""
    with place.armed() as target:
        write(target, whole(ROWS, 100))
        change = Write(
            puts={b"p:1": b"new"},
            deletes=[b"p:2", b"p:3"],
            manifest=Records(some={3: bytes(16)}),
            fingerprints=Records(whole=bytes(16 * 8)),
            surplus=waiting_records(Waiting({5: digest.row_digest(b"p:x", b"v", 7)}), Waiting()),
            state=replace(content(ROWS, 200)[0], surplus=1),
        )
        write(target, change)
        assert target.values([b"p:1", b"p:2", b"p:4"]) == [b"new", None, b"value 4"]
        assert target.manifest([3, 4]) == {3: bytes(16), 4: target.manifest(None)[4 * 16 : 5 * 16]}  # type: ignore[index]
        stored = target.stored()
        assert stored.fingerprints is not None
        assert list(stored.fingerprints) == [0] * 16
        assert stored.surplus == {5: digest.row_digest(b"p:x", b"v", 7)}
        write(target, Write(surplus=waiting_records(Waiting(), Waiting({5: 1})), fingerprints=Records(whole=b"")))
        stored = target.stored()
        assert (stored.surplus, stored.fingerprints) == ({}, None)
        assert stored.state is not None
        assert stored.state.as_of == 200


def test_only_new_leaves_what_exists(place: Place) -> None:
    """A foreign key is not overwritten, and the outcome tells of it."""
    place.do("SET", "p:7", "foreign")
    with place.armed() as target:
        marked = State(pending=Pending("snapshot", 5, clean=True), salt=7)
        target.send(Write(puts={b"p:1": b"one", b"p:2": b"two"}, only_new=True, state=marked))
        assert target.send(Write(puts={b"p:7": b"ours"}, only_new=True)) is not None
        outcome = target.settle()
        assert outcome is not None
        assert outcome.collided
        assert target.values([b"p:1", b"p:2", b"p:7"]) == [b"one", b"two", b"foreign"]
        assert place.state()[b"pending"] != b""


def test_a_put_replaces_a_key_of_another_type(place: Place) -> None:
    """Its type, its fields and its expiry are gone."""
    place.do("RPUSH", "p:1", "a")
    place.do("SET", "p:2", "b", "EX", 1000)
    with place.armed() as target:
        assert target.values([b"p:1"]) == [None]
        assert target.exist([b"p:1", b"p:9"]) == [True, False]
        write(target, Write(puts={b"p:1": b"1", b"p:2": b"2"}, state=content({}, 1)[0]))
        assert target.values([b"p:1", b"p:2"]) == [b"1", b"2"]
    assert place.do("PTTL", "p:2") == -1


def test_the_timestamp_key_follows_the_checkpoint(place: Place) -> None:
    """It holds as_of + 1 when Redis equals a time, and does not move while it is between two."""
    with place.armed(mz_timestamp_key="mz") as target:
        write(target, replace(whole(ROWS, 100), state=replace(content(ROWS, 100)[0])))
        assert place.do("GET", "mz") == b"101"
        write(target, Write(state=replace(content(ROWS, 200)[0], pending=Pending("delta", 200))))
        assert place.do("GET", "mz") == b"101"


def test_what_counts_is_the_state_read_under_the_lease(place: Place) -> None:
    """Another run has moved on between a first look and the lease; to go back to what was seen is a change."""
    with place.armed(mz_timestamp_key="mz") as target:
        write(target, whole(ROWS, 100))
    place.do("DEL", place.own("lease"))
    with place.target(mz_timestamp_key="mz") as target:
        target.state()
        with place.armed(mz_timestamp_key="mz") as other:
            write(other, whole(ROWS, 200))
        place.do("DEL", place.own("lease"))
        target.acquire(30, owner=lease.new_owner(), reset=False)
        write(target, whole(ROWS, 100))
        assert place.do("GET", "mz") == b"101"


def test_what_mz_redis_sync_left_is_told_until_there_is_a_state(place: Place) -> None:
    """Afterwards the timestamp key is our own writing."""
    place.do("SET", "mz", "77")
    with place.armed(mz_timestamp_key="mz") as target:
        assert target.stored().legacy_frontier == b"77"
        write(target, whole(ROWS, 100))
        assert target.stored().legacy_frontier is None


@pytest.mark.parametrize("key", [b"reconcile:{orders}:lease", b"reconcile:{claims}", b"reconcile:{0}:fence:x", b"mz"])
def test_keys_of_our_own_are_refused(place: Place, key: bytes) -> None:
    """In every write, puts and deletes alike, and nothing of it is written."""
    with place.armed(key_prefix="", dedicated=True, mz_timestamp_key="mz") as target:
        for change in (Write(puts={b"a": b"1", key: b"2"}), Write(deletes=[b"a", key])):
            with pytest.raises(DataError) as refused:
                target.commit(change)
            assert "redis.key_prefix" in str(refused.value.hint)
        with pytest.raises(DataError):
            target.admit({key: b""})
        assert target.exist([b"a"]) == [False]


def test_what_is_refused_leaves_the_write_before_under_way(place: Place) -> None:
    """It is judged, and packed, while Redis is still at work on that one, whose outcome can be had as ever."""
    with place.armed(key_prefix="", dedicated=True) as target:
        applier_of(target, Pending("snapshot", 1)).mark()
        target.send(Write(puts={b"a": b"1"}))
        with pytest.raises(DataError):
            target.send(Write(puts={b"reconcile:{orders}:lease": b""}))
        assert target.settle() is not None
        target.send(Write(puts={b"b": b"2"}))
        target.send(Write(puts={b"c": b"3" * 100_000, b"d": b""}, deletes=[b"a"]))
        target.settle()
        assert target.values([b"a", b"b", b"c", b"d"]) == [None, b"2", b"3" * 100_000, b""]


# -- the lease and the fence ---------------------------------------------------------------------------------------


def test_a_second_run_is_told_who_writes(place: Place) -> None:
    """The holder's name without control characters; the lease goes with its owner."""
    with place.target() as one, place.target() as two:
        one.acquire(30, owner=b"host\x1b[31m:1", reset=False)
        with pytest.raises(LeaseHeld, match=r"host\?\[31m:1 for another"):
            two.acquire(30, owner=b"two", reset=False)
        holder = two.holder()
        assert holder is not None
        assert holder[0] == "host?[31m:1"
        two.release(b"two")
        assert two.holder() is not None
        one.release(b"host\x1b[31m:1")
        assert two.holder() is None
        two.acquire(30, owner=b"two", reset=False)


@pytest.mark.parametrize("times", [1, 99])
def test_a_state_that_is_written_as_the_lease_is_taken(
    times: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when all shards begin at once, and another has just cut the view: no reason to leave the shard to nobody."""
    left, new_commit = times, lease.new_commit

    def meanwhile() -> str:
        nonlocal left
        if left:
            left -= 1
            place.do("HSET", place.own("state"), "commit", f"other{left}")
        return new_commit()

    monkeypatch.setattr(lease, "new_commit", meanwhile)
    with place.target() as target:
        if times > 1:
            with pytest.raises(LeaseHeld):
                target.acquire(30, owner=b"me", reset=False)
            return
        target.acquire(30, owner=b"me", reset=False)
        write(target, whole(ROWS, 100))


def overtaken(
    place: Place, monkeypatch: pytest.MonkeyPatch, due: Callable[[Sequence[Command]], bool], nth: int = 1
) -> None:
    """Another run takes the lease just before the nth send that is `due`; acquiring is refused, and the lease stays."""
    really, key, seen = Wire.send, place.own("lease"), 0

    def sending(wire: Wire, commands: Sequence[Command], **options: Any) -> Ticket:
        nonlocal seen
        if due(commands):
            seen += 1
            if seen == nth:
                place.do("SET", key, "another", "PX", 10_000)
        return really(wire, commands, **options)

    monkeypatch.setattr(Wire, "send", sending)
    with place.target() as target, pytest.raises(LeaseHeld, match="another"):
        target.acquire(30, owner=b"me", reset=False)
    assert place.do("GET", key) == b"another"


def test_a_lease_that_another_run_takes_first(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was free a moment ago: nothing is written, and no token raised over the other's head."""
    key = place.own("lease")
    overtaken(place, monkeypatch, lambda commands: commands[0][:2] == ("SET", key))
    assert place.state() in ({}, [])


def test_a_lease_that_ended_between_two_looks(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never ended, and was removed by another run, which has taken its own by now: that one is left alone."""
    key = place.own("lease")
    place.do("SET", key, "strange")
    overtaken(place, monkeypatch, lambda commands: ("WATCH", key) in commands, nth=2)


@pytest.mark.parametrize("command", [("SET", "x"), ("SET", "x", "EX", 7200), ("RPUSH", "x")])
def test_a_lease_that_never_ends_is_nobodys(place: Place, command: tuple[object, ...]) -> None:
    """Without expiry, with hours to go, or of another type: no run of ours has written it."""
    place.do(str(command[0]), place.own("lease"), *command[1:])
    with place.armed() as target:
        assert target.holder() is not None


def overtake(place: Place) -> None:
    """Another run takes the view over, as after a lease that expired."""
    place.do("DEL", place.own("lease"))
    with place.armed():
        pass


def test_an_overtaken_run_writes_nothing(place: Place) -> None:
    """Neither data nor state."""
    with place.armed() as target:
        write(target, whole(ROWS, 100))
        overtake(place)
        before = place.state()
        with pytest.raises(LeaseLost):
            write(target, Write(puts={b"p:1": b"late"}, deletes=[b"p:2"], state=content(ROWS, 200)[0]))
        assert place.state() == before
        assert place.do("GET", "p:1") == b"value 1"
        assert place.do("EXISTS", "p:2") == 1


def test_the_same_token_with_another_commit_is_another_run(place: Place) -> None:
    """Tokens recur when a replica without our last transactions is promoted: only the commit id tells."""
    with place.armed() as target:
        write(target, whole(ROWS, 100))
        target.values([b"p:1"])
        place.do("HSET", place.own("state"), "commit", "somebody else's")
        with pytest.raises(LeaseLost):
            write(target, Write(puts={b"p:1": b"late"}, state=content(ROWS, 200)[0]))
        assert place.do("GET", "p:1") == b"value 1"


def test_nobody_commits_between_two_transactions_unnoticed(place: Place) -> None:
    """EXEC ends the WATCH; whoever wrote before the next one, with the same token, shows by the commit id."""
    with place.armed() as target:
        write(target, whole(ROWS, 100))
        assert isinstance(target, Base)
        target._home.call("UNWATCH")
        place.do("HSET", place.own("state"), "commit", "somebody else's")
        target._armed._arm(target._home.send(lease.arming(target._names)).replies())
        with pytest.raises(LeaseLost):
            target.commit(Write(state=content(ROWS, 200)[0]))
        assert place.state()[b"as_of"] == b"100"


def test_a_connection_that_broke_is_not_opened_again(place: Place) -> None:
    """Another one would not be under the WATCH: whatever is sent after that reaches nobody."""
    with place.armed() as target:
        write(target, whole(ROWS, 100))
        place.client(place.own("state")).execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        for _ in range(2):
            with pytest.raises(Unavailable):
                target.commit(Write(state=content(ROWS, 200)[0]))
    assert place.state()[b"as_of"] == b"100"


def test_a_ping_fits_between_any_two_steps(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends no WATCH, and its reply is taken for no other; a connection that was closed stays closed."""
    monkeypatch.setattr(wires, "IDLE_S", 0.0)
    send = Wire.send

    def pinging(wire: Wire, commands: Sequence[Command], **options: Any) -> Ticket:
        ticket = send(wire, commands, **options)
        if commands != [("PING",)]:
            wire.stay()
        return ticket

    monkeypatch.setattr(Wire, "send", pinging)
    used = []
    with place.armed() as target:
        used = [target._nodes.wire(node) for node in range(target._nodes.count)]  # type: ignore[attr-defined]
        write(target, whole(ROWS, 100))
        write(target, Write(state=content(ROWS, 200)[0]))
        assert dict(zip(ROWS, target.values(list(ROWS)), strict=True)) == ROWS
        assert sum(wire.kinds["PING"] for wire in used) > 3
    before = sum(wire.kinds["PING"] for wire in used)
    for wire in used:
        wire.stay()
    assert sum(wire.kinds["PING"] for wire in used) == before
    assert place.state()[b"as_of"] == b"200"


def test_commit_ids_are_new_with_every_transaction(place: Place) -> None:
    """And with acquire; the token only grows."""
    seen, tokens = set(), []
    for _ in range(2):
        with place.armed() as target:
            seen.add(place.state()[b"commit"])
            for change in (Write(state=content({}, 5)[0]), Write()):
                target.commit(change)
                seen.add(place.state()[b"commit"])
            tokens.append(target.token)
        place.do("DEL", place.own("lease"))
    assert len(seen) == 6
    assert tokens[1] > tokens[0]


def test_a_lost_token_counter_is_no_way_back(place: Place) -> None:
    """Evicted, or overwritten by something else: the next token is larger all the same."""
    for break_it in (("DEL",), ("SET", "0"), ("RPUSH", "x")):
        with place.armed() as target:
            token = target.token
        for name in ("lease", "token"):
            place.do("DEL", place.own(name))
        if len(break_it) > 1:
            place.do(break_it[0], place.own("token"), break_it[1])
        with place.armed() as target:
            assert target.token > token
        place.do("DEL", place.own("lease"))


def test_reset_forgets_but_keeps_the_right(place: Place) -> None:
    """State and records are gone, keys stay, the token goes on."""
    with place.armed() as target:
        write(target, whole(ROWS, 100))
        token = target.token
    place.do("DEL", place.own("lease"))
    with place.target() as target:
        target.acquire(30, owner=lease.new_owner(), reset=True)
        assert target.token > token
        assert target.stored().state is None
        assert target.manifest(None) == b""
        assert target.exist([b"p:1"]) == [True]


def test_a_state_of_another_type(place: Place) -> None:
    """StateError for who looks and for who would write; reset makes it good."""
    place.do("SET", place.own("state"), "x")
    with place.target() as target:
        with pytest.raises(StateError):
            target.stored()
        with pytest.raises(StateError):
            target.acquire(30, owner=b"a", reset=False)
        target.release(b"a")
        target.acquire(30, owner=b"a", reset=True)
        assert target.stored().state is None


def test_a_command_that_fails_inside_a_transaction_leaves_no_checkpoint_that_lies(place: Place) -> None:
    """Redis applies the rest; the state says at once that every key has to be compared."""
    with place.armed() as target:
        write(target, replace(whole(ROWS, 100), fingerprints=Records(whole=bytes(16 * 8))))
        place.do("DEL", place.own("manifest"))
        place.do("RPUSH", place.own("manifest"), "x")
        change = Write(puts={b"p:1": b"new"}, manifest=Records(some={3: bytes(16)}), state=content(ROWS, 200)[0])
        with pytest.raises(ReconcileError, match="refused one command"):
            write(target, change)
        stored = target.stored()
        assert stored.state is not None
        assert stored.state.pending == Pending("snapshot", 200)
        assert stored.fingerprints is None


def test_remembered_names(single: Place) -> None:
    """The sets follow the keys; only they say which names are ours."""
    single.do("SET", "foreign", "x")
    with single.armed(key_prefix="") as target:
        write(target, Write(puts={b"a": b"1", b"b": b"2"}, state=content({}, 1)[0]))
        write(target, Write(deletes=[b"b"], state=content({}, 2)[0]))
        assert target.remembered([b"foreign", b"a", b"b"]) == [False, True, False]
        assert [key for page in target.names() for key in page] == [b"a"]
        assert [row for page in target.rows() for row in page] == [(b"a", b"1")]
    with single.target() as target:
        assert target.remembered([b"p:1"]) == [True]


def test_reads_travel_between_writes(place: Place) -> None:
    """A scan under way, look-ups and writes share the connection, and each gets its own answers."""
    with place.armed() as target:
        write(target, whole(ROWS, 100))
        found = {}
        for number, page in enumerate(target.rows()):
            found.update(page)
            applier = applier_of(target, Pending("delta", 200))
            applier.put(b"p:new:%d" % number, b"x")
            applier.flush()
            assert target.values([page[0][0]]) == [page[0][1]]
        target.settle()
        assert found.items() >= ROWS.items()
        assert target.exist([b"p:new:0"]) == [True]


def test_a_dry_run_writes_nothing(place: Place) -> None:
    """It counts, and refuses what could not be written."""
    with place.target(key_prefix="", dedicated=True) as target:
        applier = applier_of(target, Pending("snapshot", 1), dry_run=True)
        applier.put_all((b"%d" % n, b"x") for n in range(1000))
        applier.delete(b"gone")
        applier.finish(Write(state=content({}, 1)[0]))
        assert (applier.puts, applier.deletes, applier.marked) == (1000, 1, False)
        applier.put(b"reconcile:{a}:lease", b"")
        with pytest.raises(DataError):
            applier.finish(Write())
    assert place.keys() == set()


def test_a_change_too_large_for_one_batch_is_marked(place: Place) -> None:
    """Until it is complete the state says so, and the keys of the last batch are known to be on the way."""
    limits = replace(LIMITS, batch_max_keys=100)
    with place.armed() as target:
        write(target, whole(ROWS, 100))
        applier = applier_of(target, Pending("delta", 200), limits=limits)
        for n in range(250):
            applier.put(b"p:%d" % n, b"new")
        assert applier.marked
        assert applier.on_the_way(b"p:199")
        assert applier.on_the_way(b"p:249")
        assert not applier.on_the_way(b"p:0")
        target.settle()
        state = target.state()
        assert state is not None
        assert (state.pending, state.as_of) == (Pending("delta", 200), 100)
        applier.finish(Write(state=content(ROWS, 200)[0]))
        state = target.state()
        assert state is not None
        assert (state.pending, state.as_of) == (None, 200)
        assert VIEW.name == target.view


def test_a_checkpoint_moves_without_data(place: Place) -> None:
    """When nothing changed only the time does, the timestamp key's too; no mark is needed for that."""
    with place.armed(mz_timestamp_key="mz") as target:
        write(target, whole(ROWS, 100))
        target.commit(Write(state=content(ROWS, 200)[0]))
        assert place.do("GET", "mz") == b"201"
        place.do("DEL", place.own("lease"))
        with place.armed(mz_timestamp_key="mz") as next_run:
            state = next_run.state()
            assert state is not None
            assert (state.as_of, state.pending) == (200, None)
        with pytest.raises(LeaseLost):
            target.commit(Write(state=content(ROWS, 300)[0]))
        assert place.do("GET", "mz") == b"201"
