"""The right to write one view: a short lease, and a fencing token that makes it safe.

The lease (a string with an expiry) keeps runs from overlapping; it is renewed while a run works (renewal.py). The token
(a counter that never goes back) is written into the state at each acquire, together with a new commit id, and every
write of a run is a transaction that WATCHes the state (fence.py):

    1. A acquires, token 1 in state.       2. A is frozen; the lease expires.
    3. B acquires, token 2 in state.       4. A wakes, MULTI … EXEC under WATCH state: refused. Data included.

Writes do not WATCH the lease itself: its expiry would abort sound transactions.
"""

from __future__ import annotations

import os
import secrets
import socket
import uuid
from typing import Any

from msgspec import Struct
from redis.exceptions import RedisError

from reconcile.core import state as states
from reconcile.core.times import span
from reconcile.errors import LeaseHeld, LeaseLost, StateError
from reconcile.target.names import Names
from reconcile.target.packing import Command
from reconcile.target.translation import checked, of_another_type, printable, translate
from reconcile.target.wire import Wire

LONGEST_MS = 3_600_000
"""Longer than any run's lease. One with more time left, without an expiry, or of another type counts as free."""

ATTEMPTS = 3

TOKEN_DIGITS = 15
"""No counter of ours gets that long, and scripts (with their floating point) can tell such numbers apart."""


class Right(Struct, frozen=True):
    """The result of acquiring: the token, the id of the transaction that wrote it, and the replies to `arming`."""

    token: int
    commit: str
    armed: list[Any]


class Divided(Exception):  # noqa: N818 - no error: the caller takes another way
    """The view is cut into n shards; the one asked for belongs to another division."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.n = n


class OldShardHeld(LeaseHeld):
    """The division cannot change now: another run works on an old shard, or is changing the division itself."""


def new_owner() -> bytes:
    """Return a unique name for the holder of a lease."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}".encode()


def number(stored: bytes | None) -> int:
    """Return a stored token; 0 for anything else, since every later token would have to be larger."""
    return int(stored) if stored is not None and stored.isdigit() and len(stored) <= TOKEN_DIGITS else 0


def new_commit() -> str:
    """Return a random name for a transaction."""
    return secrets.token_hex(8)


def arming(names: Names) -> list[Command]:
    """Return commands that read whose state it is, and make the next transaction fail if anybody writes it."""
    return [("WATCH", names.state), ("HMGET", names.state, "token", "commit")]


def acquire(wire: Wire, names: Names, lease_s: float, *, owner: bytes, reset: bool) -> Right:
    """Take the lease and write a new token into the state. reset: forget what is stored of earlier runs.

    Raises LeaseHeld, Divided, StateError (the state is no hash). After any other error the lease may have been taken.
    """
    _make_way(wire, names)
    for _ in range(ATTEMPTS):
        right = _take(wire, names, max(1, round(lease_s * 1000)), owner, reset=reset)
        if right is not None:
            return right
        # Another run has taken over; or the lease is still ours, and it cut the view and so wrote this state.
        if wire.call("GET", names.lease) != owner:
            break
    raise held(wire, names)


def _take(wire: Wire, names: Names, lease_ms: int, owner: bytes, *, reset: bool) -> Right | None:
    """Try to acquire; None: the state was written meanwhile."""
    taken, token, _, known, holder, division = wire.send(
        [
            ("SET", names.lease, owner, "NX", "PX", lease_ms),
            ("INCR", names.token),
            *arming(names),
            ("GET", names.lease),
            ("GET", names.shards),
        ]
    ).replies()
    checked([taken, holder])
    if holder != owner:
        wire.call("UNWATCH")
        raise held(wire, names)
    if (n := division_of(division, names.view)) != names.shard.n:
        wire.call("UNWATCH")
        release(wire, names, owner)
        raise Divided(n)
    if isinstance(known, RedisError) and not reset:
        raise _not_a_state(known, names)
    counted = number(b"%d" % token) if isinstance(token, int) else 0
    chosen = max(counted, number(known[0]) + 1 if isinstance(known, list) else 1)
    commit = new_commit()
    commands: list[Command] = [("MULTI",)]
    if reset:
        commands.append(("DEL", *names.forgotten))
    if chosen != token:  # the counter was lost (evicted, restored, overwritten): never reuse a token
        if isinstance(token, RedisError) and not str(token).startswith(("WRONGTYPE", "value is not", "increment")):
            raise translate(token)
        commands.append(("SET", names.token, chosen))
    commands += [("HSET", names.state, "token", chosen, "commit", commit), ("EXEC",)]
    replies = wire.send([*commands, *arming(names)]).replies()
    done, armed = replies[: len(commands)], replies[len(commands) :]
    if checked(done)[-1] is None:
        wire.call("UNWATCH")
        return None
    checked(done[-1])
    return Right(chosen, commit, armed)


def division_of(reply: bytes | RedisError | None, view: str) -> int:
    """Return the number of shards a view is cut into. Raises StateError for anything that reconcile does not write."""
    if isinstance(reply, RedisError) and not of_another_type(reply):
        raise translate(reply)
    if reply is None:
        return 1
    if reply not in (b"2", b"4", b"8", b"16"):
        raise StateError(
            f"the number of shards of view {view} in Redis is not 2, 4, 8 or 16: something else wrote to its key",
            hint="while no run works on the view, delete the key that ends in :shards; then run reconcile snapshot, "
            "with --shard i/n if it was cut",
        )
    return int(reply)


def _make_way(wire: Wire, names: Names) -> None:
    """Remove a lease that no run can have made. Before one is taken, this also shows whether WATCH and MULTI work."""
    replies = wire.send(
        [("WATCH", names.lease), ("MULTI",), ("GET", names.lease), ("PTTL", names.lease), ("EXEC",)]
    ).replies()
    checked(replies)
    if replies[-1] is None:
        wire.call("UNWATCH")
        return
    holder, left_ms = replies[-1]
    strange = isinstance(holder, RedisError) or left_ms == -1 or left_ms > LONGEST_MS
    if not strange:
        if holder is not None:
            raise _held(names, holder, left_ms)
        return
    again = wire.send([("WATCH", names.lease), ("PTTL", names.lease)]).checked()[1]
    if again == -1 or again > LONGEST_MS or isinstance(holder, RedisError):
        wire.send([("MULTI",), ("DEL", names.lease), ("EXEC",)]).checked()
    else:
        wire.call("UNWATCH")


def release(wire: Wire, names: Names, owner: bytes) -> None:
    """Delete the lease if this owner holds it."""
    _, holder = wire.send([("WATCH", names.lease), ("GET", names.lease)]).checked()
    if holder == owner:
        wire.send([("MULTI",), ("DEL", names.lease), ("EXEC",)]).checked()
    else:
        wire.call("UNWATCH")


def holder(wire: Wire, names: Names) -> tuple[str, int] | None:
    """Return the lease's (owner, milliseconds left); None when it is free, or no run can have made it."""
    owner, left_ms = wire.send([("GET", names.lease), ("PTTL", names.lease)]).replies()
    if of_another_type(owner):
        return None
    owner, left_ms = checked([owner, left_ms])
    if owner is None or left_ms == -1 or left_ms > LONGEST_MS:
        return None
    return printable(owner.decode("utf-8", "replace")), int(left_ms)


def held(wire: Wire, names: Names) -> LeaseHeld:
    """Return the error of a run that finds another run at work."""
    found = holder(wire, names)
    return _held(names, found[0].encode(), found[1]) if found else _held(names, b"another run", -1)


def _held(names: Names, owner: bytes, left_ms: int) -> LeaseHeld:
    who = printable(owner.decode("utf-8", "replace"))
    left = f" for another {span(left_ms)} unless renewed" if left_ms >= 0 else ""
    return LeaseHeld(
        f"view {names.view} is being written by {who}{left}",
        hint="try again when that run has ended; if it was killed, its lease expires by itself",
    )


def lost(view: str) -> LeaseLost:
    """Return the error of a run that was overtaken."""
    return LeaseLost(
        f"another run took over view {view}; this one wrote nothing after that",
        hint="this process was paused for longer than its lease, or Redis no longer has the view's state: it was "
        "emptied, replaced, or evicts keys (maxmemory-policy; reconcile doctor tells)",
    )


def _not_a_state(error: RedisError, names: Names) -> Exception:
    if of_another_type(error):
        return states.corrupt(names.view, "it is not a hash")
    return translate(error)
