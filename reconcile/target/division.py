"""The number of shards a view is cut into, and how to change it while runs of the old shards may still be alive.

`:shards` holds the number; without it the view is whole. A run that takes a shard's lease reads the number afterwards,
and gives the lease back if the view is cut into another number. To change the division, a run first takes over every
old shard as any run would: lease, token and, in a cluster, fences. From then on no run of an old shard can write,
however long it was frozen. Then one transaction, under WATCH of all old states, replaces what is kept of the old shards
by what is kept of the new ones (core.division) and changes the number. docs/adr/0018 has the timeline.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from reconcile.core import digest
from reconcile.core.division import Kept, joined, split
from reconcile.core.ownership import Range
from reconcile.core.records import Manifest, Waiting, fingerprint_records, waiting_records, whole_manifest
from reconcile.core.shards import shards_of
from reconcile.core.state import State
from reconcile.errors import LeaseHeld, LeaseLost, ReconcileError
from reconcile.target import commands as written
from reconcile.target import lease, stored
from reconcile.target.lease import Divided, OldShardHeld, Right
from reconcile.target.names import Names
from reconcile.target.nodes import Nodes
from reconcile.target.packing import Command
from reconcile.target.port import Write
from reconcile.target.translation import checked
from reconcile.target.wire import Wire

ATTEMPTS = 3

Take = Callable[[Names], Right]
"""Acquires one shard and shuts out its earlier runs."""


def acquire(
    nodes: Nodes, names: Names, owned: Range, take: Take, owner: bytes, *, divide: bool
) -> tuple[Right, int | None]:
    """Take the right to write a shard. divide: if the view is cut into another number of shards, change that first.

    Returns that number as well if it was changed. Raises Divided (without `divide`), OldShardHeld, and whatever `take`
    raises.
    """
    before: int | None = None
    for _ in range(ATTEMPTS):
        try:
            return take(names), before
        except Divided as found:
            if not divide:
                raise
            try:
                _change(nodes, names, owned, take, owner, found.n)
                before = found.n
            except Divided:  # another run was quicker
                continue
            except (LeaseHeld, LeaseLost) as error:
                raise OldShardHeld(error.message) from error
    raise OldShardHeld(f"other runs are changing the number of shards of view {names.view}")


def blank_state(owned: Range) -> State:
    """Return the initial state of a view: its claim and new salts."""
    return State(salt=secrets.randbits(64), source_salt=secrets.token_hex(16), claim=owned.encode())


def _change(nodes: Nodes, names: Names, owned: Range, take: Take, owner: bytes, before: int) -> None:
    """Change a view's division from `before` shards to the number in `names`. Raises LeaseHeld, StateError."""
    wire = nodes.wire(nodes.owner_of(names.state))
    old = [replace(names, shard=shard) for shard in shards_of(before)]
    new = [replace(names, shard=shard) for shard in shards_of(names.shard.n)]
    taken: list[tuple[Names, Right]] = []
    try:
        for one in old:
            taken.append((one, take(one)))
        _arm(wire, taken)
        parts = [_kept(wire, one) for one in old]
        found = split(joined(parts, blank_state(owned)), names.shard.n)
        gone = [key for one in old for key in (*one.forgotten, one.fences, one.lease)]
        division: Command = ("SET", names.shards, names.shard.n) if names.shard.n > 1 else ("DEL", names.shards)
        commands: list[Command] = [
            division,
            ("DEL", *gone),
            *(command for pair in zip(new, found, strict=True) for command in _keep(*pair)),
        ]
        if checked(wire.send([("MULTI",), *commands, ("EXEC",)]).replies())[-1] is None:
            raise lease.lost(names.view)
        taken.clear()
    finally:
        for one, _ in taken:
            with contextlib.suppress(ReconcileError):
                lease.release(wire, one, owner)


def _arm(wire: Wire, taken: Sequence[tuple[Names, Right]]) -> None:
    """WATCH all old states, and check that nobody has written them since they were taken over. Raises LeaseLost."""
    replies = wire.send([command for names, _ in taken for command in lease.arming(names)]).checked()
    for (names, right), known in zip(taken, replies[1::2], strict=True):
        if known != [b"%d" % right.token, right.commit.encode()]:
            raise lease.lost(names.view)


def _kept(wire: Wire, names: Names) -> Kept:
    """Return what is stored of a shard. Raises StateError."""
    *replies, manifest = wire.send([*stored.reading(names), ("GET", names.manifest)]).readable()
    found = stored.parse(replies, names, None)
    state = found.state
    if state is None:
        return Kept(None)
    whole = stored.manifest(manifest, names.shard)
    fits = bool(state.digest) and Manifest(state.buckets, state.digest).take(whole)
    return Kept(state, digest.decode_manifest(whole) if fits else None, found.fingerprints, found.surplus)


def _keep(names: Names, kept: Kept) -> list[Command]:
    """Return the commands that store it."""
    assert kept.state is not None
    found: list[Command] = [("DEL", *names.forgotten)]
    found.append(written.state(names, kept.state, 0, lease.new_commit()))
    if kept.manifest is not None:
        write = Write(
            manifest=whole_manifest(kept.manifest),
            fingerprints=fingerprint_records(kept.fingerprints, None),
            surplus=waiting_records(Waiting(kept.surplus), Waiting()),
        )
        found += written.records(names, write)
    return found
