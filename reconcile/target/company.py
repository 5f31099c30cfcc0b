"""Who else Redis works for: the commands it executed, less our own and those with which other runs load.

Runs that load at the same time (shards of one view, several views) are nobody to be spared, and neither are those who
only administer the server. So commands are counted by kind (INFO commandstats). What is left is read and written by
programs that would notice that Redis is busy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from reconcile.target.packing import Arg

Calls = Mapping[str, int]
"""Command, in upper case → how often it was executed."""

CONNECTING = frozenset(["AUTH", "CLIENT", "COMMAND", "HELLO", "PING", "READONLY", "SELECT"])
MONITORING = frozenset(["ACL", "CLUSTER", "CONFIG", "DBSIZE", "INFO", "LATENCY", "MEMORY", "MODULE", "SLOWLOG", "TIME"])
REPLICATION = frozenset(["PSYNC", "REPLCONF", "ROLE"])
RUN = frozenset(["WATCH", "UNWATCH", "MULTI", "EXEC", "EVAL", "UNLINK", "SETRANGE", "GETRANGE", "PEXPIRE"])
"""What every run sends that writes or renews its lease, whatever the layout."""
UNNOTICED = CONNECTING | MONITORING | REPLICATION | RUN
ONCE_EACH = frozenset(["HMGET", "HSET"])
"""Every transaction and every script has one of each: HMGET checks whose state it is, HSET names the commit. (What a
script does is counted as commands too.)"""


CALLS = re.compile(rb"(?m)^cmdstat_([^:|]+)[^:]*:calls=(\d+)")


def calls(infos: Sequence[Any], own: Sequence[Mapping[Arg, int]]) -> Calls | None:
    """Return what the servers have executed for other connections since they started; None if one does not tell.

    infos: their replies to INFO commandstats. own: what this connection to each had sent before."""
    found: Counter[str] = Counter()
    for info, sent in zip(infos, own, strict=True):
        told = CALLS.findall(info) if isinstance(info, bytes) else []
        if not told:
            return None
        for name, number in told:
            found[name.decode("utf-8", "replace").upper()] += int(number)
        found.subtract({str(kind): number for kind, number in sent.items() if kind != "EVAL"})  # unlike what it did
    return found


def for_others(before: Calls, after: Calls, ours: Collection[str]) -> int | None:
    """Return how many commands were executed for others between two looks; None if the counts were reset.

    ours: the commands with which runs write this layout."""
    grown = {kind: after.get(kind, 0) - before.get(kind, 0) for kind in before.keys() | after.keys()}
    transactions = max(0, grown.get("EXEC", 0)) + max(0, grown.get("EVAL", 0))
    total = 0
    for kind in grown.keys() - UNNOTICED - set(ours):
        if grown[kind] < 0:
            return None
        total += max(0, grown[kind] - transactions) if kind in ONCE_EACH else grown[kind]
    return total


class Company:
    """Looks again and again at what the servers do for others."""

    def __init__(self, ask: Callable[[], Callable[[], Calls | None]], ours: Callable[[], Collection[str]]) -> None:
        """ask: asks for the calls, without waiting; what it returns waits. ours: see `for_others`."""
        self._ask = ask
        self._ours = ours
        self._last: Callable[[], Calls | None] = lambda: None

    def look(self) -> None:
        """Look, without waiting for the answer."""
        self._last = self._ask()

    def served(self) -> int | None:
        """Look again; return how many commands of others there were since the last look. None: unknown."""
        before, after = self._last(), self._ask()()
        self._last = lambda: after
        return None if before is None or after is None else for_others(before, after, self._ours())
