"""What runs of a story may do to keys without consent: a model in plain Python, which knows what was configured, what
was lost and which runs came to their end, and takes from the state only whether something is unfinished."""

from __future__ import annotations

import json
from binascii import crc32
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reconcile.core.guard import HANDFUL, WINDOW_MS
from reconcile.core.shards import Shard
from tests.faults.story_view import Configured, Content

DAY_MS = 86_400_000


@dataclass
class Part:
    """What is known of one shard."""

    mapping: Any = None
    """Of the keys that are there; None: nothing has been written."""
    checkpoint: Any = None
    """Source of the last checkpoint; None: not known."""
    source: Any = None
    """The same; None also if the guard is not judged."""
    names: frozenset[bytes] = frozenset()
    """The view's keys at the last checkpoint."""
    at_ms: int = 0
    explains: bool = False
    """Whether a change that began clean is unfinished: keys in its buckets count as the view's own."""
    unseen: bool = False
    """Whether no run has come to its end since a first contact, another mapping or a lost manifest."""
    inherited: Mapping[str, str] = field(default_factory=dict)
    """What its first run finds in place of a state: what another number of shards has left."""


def in_shard(key: bytes, shard: Shard) -> bool:
    return crc32(key) % shard.n == shard.i


class Oracle:
    """Which deletes are allowed."""

    def __init__(self) -> None:
        self.parts: dict[Shard, Part] = {Shard(0, 1): Part()}
        self.removed: list[tuple[int, int]] = []
        """When, and how many, keys of others were removed."""
        self.most_shards = 1
        self._began: tuple[Part, Mapping[str, str]] = (Part(), {})
        """What was known of a shard as its run began, and its state."""

    def divide(self, shards: Sequence[Shard], state_of: Callable[[Shard], Mapping[str, str]]) -> None:
        """Another number of shards takes over; what holds of one of them is then said of all."""
        if self.parts.keys() == set(shards):
            return
        old = list(self.parts.values())
        left = joined([state_of(shard) for shard in self.parts])
        mappings = {part.mapping for part in old}
        for_all = Part(
            mapping=mappings.pop() if len(mappings) == 1 else "several",
            explains=any(part.explains for part in old),
            unseen=any(part.unseen for part in old),
            inherited=left,
        )
        self.parts = {shard: replace(for_all) for shard in shards}
        self.most_shards = max(self.most_shards, len(shards))

    def forget(self) -> None:
        """Something else has changed Redis: the guard is not judged until the next checkpoint."""
        for part in self.parts.values():
            part.source = None

    def begins(self, shard: Shard, state: Mapping[str, str], held: Content, configured: Configured) -> bool:
        """Note what a run finds. Return whether it may take keys for the view's own that nothing shows to be."""
        part = self.parts[shard]
        state, part.inherited = state if state.get("digest") else part.inherited, {}
        self._began = replace(part), state
        same = part.mapping == configured.mapping
        known = bool(state.get("digest"))
        empty = not known and configured.ownership != "remembered" and not any(in_shard(key, shard) for key in held)
        if not (empty or (known and same and "manifest" in state)):
            part.unseen = True
        unfinished = pending_of(state) not in ("", "withheld")
        continues = unfinished and part.explains and same
        if unfinished:
            part.explains = continues
        else:
            records = known and bool(state.get("as_of")) and "manifest" in state and "fingerprints" in state
            part.explains = (records and same) or empty
        return continues

    def ends(
        self, shard: Shard, after: Mapping[str, str], held: Content, configured: Configured, now_ms: int, *, done: bool
    ) -> None:  # fmt: skip
        """Note what a run has left. done: it said that it has reached the present."""
        part, (known, before) = self.parts[shard], self._began
        if not done and all(after.get(name) == before.get(name) for name in ("as_of", "pending", "mapping")):
            self.parts[shard] = known  # it wrote nothing
            return
        reached = done or (after.get("as_of") and after.get("as_of") != before.get("as_of"))
        if after.get("digest"):
            part.mapping = configured.mapping
        if reached or not pending_of(after):
            part.unseen = part.unseen and not reached
            part.explains = part.explains and bool(pending_of(after))
        if pending_of(after) == "withheld":
            part.explains = False
        if reached:
            part.checkpoint = part.source = configured.source
            part.at_ms = now_ms
            part.names = frozenset(key for key in held if in_shard(key, shard))

    def check_own(self, shard: Shard, held: Content, configured: Configured, now_ms: int) -> None:
        """The view's keys that have gone since the checkpoint are no more than the guard allows."""
        part = self.parts[shard]
        if part.source is None or configured.expires or now_ms - part.at_ms > WINDOW_MS:
            return
        left, most = part.names & held.keys(), max(HANDFUL, configured.fraction * len(part.names))
        gone = len(part.names) - len(left)
        now = sum(in_shard(key, shard) for key in held)
        if part.source != configured.source:
            assert gone <= most, f"{gone} of {len(part.names)} keys of a view that was replaced went without consent"
        if gone > HANDFUL:
            assert len(part.names) - now <= most, f"of {len(part.names)} keys only {now} are left, without consent"

    def check_foreign(self, shard: Shard, gone: Sequence[bytes], told: str, continues: bool, now_ms: int) -> None:
        """Keys of others are removed only as a handful a day, and by name; or where a change was cut short."""
        if not gone or continues:
            return
        assert not self.parts[shard].unseen, f"removed before all was seen: {gone}"
        self.removed.append((now_ms, len(gone)))
        today = sum(count for at, count in self.removed if at > now_ms - DAY_MS + 5000)
        assert today <= HANDFUL * self.most_shards, f"{today} keys of others were removed in a day"
        assert all(key.decode() in told for key in gone), f"removed and not told: {gone}"


def joined(states: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What is known of a state that is made of those of all shards."""
    known = [state for state in states if state.get("digest") and "manifest" in state]
    if len({state["mapping"] for state in known}) != 1:
        return {}
    found = {name: value for name, value in known[0].items() if all(name in state for state in states)}
    if len(known) < len(states) or len({(state["as_of"], state["source"], state["pending"]) for state in known}) > 1:
        mark = {"kind": "snapshot", "until": min(int(state["as_of"] or 0) for state in known), "clean": False}
        anew = any('"anew": true' in state["pending"] for state in known)
        found["pending"] = json.dumps({**mark, "anew": True} if anew else mark)
        found["as_of"] = str(mark["until"] or "")
    return found


def pending_of(state: Mapping[str, str]) -> str:
    """The kind of what is unfinished."""
    mark = state.get("pending")
    return str(json.loads(mark)["kind"]) if mark else ""
