"""Which keys each view has claimed: the hash `reconcile:{claims}`, from the view's tag to its range.

A claim comes first, before the lease and before any write, once per process for all of its views. It is never released
or rewritten automatically. Each state holds a copy of its view's claim: a hash that was lost (evicted, deleted) is
rebuilt from the states before a new claim is judged. So losing it gives nobody another view's range.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.exceptions import NoPermissionError, RedisError

from reconcile.core.changes import name_of
from reconcile.core.ownership import Range, contradiction
from reconcile.errors import SafetyStop, Unavailable, UsageError
from reconcile.target.names import ANY_STATE, CLAIMS, Names, tag_of_state
from reconcile.target.nodes import Nodes
from reconcile.target.packing import Command
from reconcile.target.reader import scan
from reconcile.target.translation import checked, of_another_type
from reconcile.target.wire import Wire

ATTEMPTS = 10
SCAN_COUNT = 1000


def overwritten() -> SafetyStop:
    """Return the error for something else in place of the claims."""
    return SafetyStop(
        f"{CLAIMS.decode()} is not a hash: something else wrote to it",
        hint=f"DEL {CLAIMS.decode()}; the next run rebuilds it from the states",
    )


class Claims:
    """The claims of one database, over connections that serve nothing else meanwhile."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    def read(self) -> dict[str, Range]:
        """Return tag (names.tag_of) → range, from the hash and the states; where they differ the state is right.

        Scans all keys of the database. Raises UsageError if the user may not read the hash."""
        (reply,) = self._home.send([("HGETALL", CLAIMS)]).replies()
        return {**self._decoded(reply), **self._of_states()}

    def warning(self, names: Names, owned: Range) -> str | None:
        """Return why the view's claim would be refused, for runs that only warn; None: it would not be, or unknown."""
        (reply,) = self._home.send([("HGETALL", CLAIMS)]).replies()
        if isinstance(reply, NoPermissionError):
            return None
        found = contradiction(names.tag, owned, self._decoded(reply))
        return None if found is None else f"{found.message}; {found.hint}"

    def of_others(self, names: Names) -> dict[str, Range]:
        """Return tag → range of every other view in the hash; empty if the user may not read it."""
        (reply,) = self._home.send([("HGETALL", CLAIMS)]).replies()
        if isinstance(reply, NoPermissionError):
            return {}
        return {tag: one for tag, one in self._decoded(reply).items() if tag != names.tag}

    def claim(self, names: Names, owned: Range) -> None:
        """Claim a range for a view. Raises SafetyStop if another claim is in the way, UsageError if the user may
        not write the hash."""
        for _ in range(ATTEMPTS):
            watched, reply = self._home.send([("WATCH", CLAIMS), ("HGETALL", CLAIMS)]).replies()
            self._checked([watched])
            known = self._decoded(reply)
            of_state = self._of_state(names)
            settled = known.get(names.tag) == owned and of_state in (None, owned.encode())
            # Of a view that is about to exchange one range for another, both count.
            told = {tag: one for tag, one in known.items() if tag != names.tag}
            if not settled:
                known |= self._of_states()
            refusal = self._contradiction(names, owned, known) or contradiction(names.tag, owned, told)
            if refusal is not None:
                self._home.call("UNWATCH")
                raise refusal
            if settled:
                self._home.call("UNWATCH")
                return
            known[names.tag] = owned
            fields = [part for tag, one in known.items() for part in (tag, one.encode())]
            commands: list[Command] = [("MULTI",), ("HSET", CLAIMS, *fields), ("EXEC",)]
            if self._checked(self._home.send(commands).replies())[-1] is not None:
                return
        raise Unavailable("other runs keep changing the claims", hint="the next run tries again")

    def has(self, names: Names, owned: Range) -> bool:
        """Whether the hash has this claim of the view. It only reads, so it may be asked under a fence."""
        (reply,) = self._home.send([("HGET", CLAIMS, names.tag)]).replies()
        self._checked([reply])
        return bool(reply == owned.encode().encode())

    def release(self, names: Names, owner: bytes) -> None:
        """Give up a view's claim. Raises Unavailable if the lease is not this owner's any more: a run that has it now
        may have seen the claim, and go by it before its state has a copy.

        In a cluster the two may be on different nodes; then the lease is only looked at before.
        """
        wire = self._wire_of(names.lease)
        holder = self._checked(wire.send([("WATCH", names.lease), ("GET", names.lease)]).replies())[1]
        commands: list[Command] = [("MULTI",), ("HDEL", CLAIMS, names.tag), ("EXEC",)]
        if holder != owner or self._checked(self._home.send(commands).replies())[-1] is None:
            raise Unavailable(
                f"the claim of view {names.view} stays: to drop it took longer than its lease",
                hint=f"remove the view's schedule, if it has one, then repeat: reconcile drop {names.view}",
            )

    @property
    def _home(self) -> Wire:
        return self._nodes.wire(self._nodes.owner_of(CLAIMS))

    def _wire_of(self, key: bytes) -> Wire:
        return self._nodes.wire(self._nodes.owner_of(key))

    def _of_state(self, names: Names) -> str | None:
        """Return the claim in the view's state: None without a state, empty if the state has none."""
        (reply,) = self._wire_of(names.state).send([("HMGET", names.state, "format", "claim")]).replies()
        if isinstance(reply, RedisError) or reply[0] is None:
            return None
        return (reply[1] or b"").decode("utf-8", "replace")

    def _of_states(self) -> dict[str, Range]:
        found: dict[str, Range] = {}
        for node in range(self._nodes.count):
            wire = self._nodes.wire(node)
            for keys in scan(wire, ANY_STATE, SCAN_COUNT):
                tags = {key: tag for key in keys if (tag := tag_of_state(key)) is not None}
                if not tags:
                    continue
                replies = wire.send([("HGET", key, "claim") for key in tags]).replies()
                found |= self._decoded([part for pair in zip(tags.values(), replies, strict=True) for part in pair])
        return found

    def _decoded(self, reply: Any) -> dict[str, Range]:
        """Return the hash's claims, from its fields and values. Fields that hold something else are ignored."""
        if isinstance(reply, RedisError):
            if of_another_type(reply):
                raise overwritten()
            self._checked([reply])
        found = {}
        for field, text in zip(reply[::2], reply[1::2], strict=True):
            tag = field if isinstance(field, str) else field.decode("utf-8", "replace")
            try:
                found[tag] = Range.decode(text.decode())
            except (ValueError, AttributeError):
                continue
        return found

    def _contradiction(self, names: Names, owned: Range, known: Mapping[str, Range]) -> SafetyStop | None:
        own = known.get(names.tag)
        if (refusal := contradiction(names.tag, owned, known)) is not None or own is None or own == owned:
            return refusal
        return self._outgrown(names, owned)

    def _outgrown(self, names: Names, owned: Range) -> SafetyStop | None:
        """Return the error if a view that remembers its keys would get a range that lacks one of them."""
        wire = self._wire_of(names.state)
        for name in names.remembered_sets:
            for members in scan(wire, b"", SCAN_COUNT, ("SSCAN", name)):
                outside = next((key for key in members if not owned.owns(key)), None)
                if outside is not None:
                    return SafetyStop(
                        f"view {names.view} has written {name_of(outside)} and others, and is now configured for "
                        f"{owned}: keys are not moved",
                        hint=f"give the view a new name, let readers switch, then: reconcile drop {names.view} --keys",
                    )
        return None

    def _checked(self, replies: list[Any]) -> list[Any]:
        for reply in replies:
            if isinstance(reply, NoPermissionError) or str(reply).startswith("NOPERM"):
                raise UsageError(
                    f"user {self._home.user} may not read and write {CLAIMS.decode()}, where "
                    "views record which keys are theirs",
                    hint=f"ACL SETUSER {self._home.user} '~{CLAIMS.decode()}' +watch +hget +hgetall +hset +hdel +multi "
                    "+exec",
                )
        return checked(replies)
