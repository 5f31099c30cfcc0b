"""Shards: a view whose key space is cut into n parts, each kept equal by runs of its own. Pure.

    shard i/n      the keys with crc32(key) mod n = i; n a power of two, so that every bucket lies in one shard
    division       how many shards a view is cut into now; 1: it is whole

Each shard has a state, a manifest and a lease of its own: core/division.py has what becomes of them when the division
changes. Nothing heavy is imported here: the command line parses shards before it knows what it is to do.
"""

from __future__ import annotations

import re
from binascii import crc32
from collections.abc import Mapping
from dataclasses import dataclass

from reconcile.errors import UsageError

MAX_SHARDS = 16
"""The smallest number of buckets, so that n divides every one."""
COUNT_VARIABLE = "RECONCILE_SHARDS"
"""How many completions an Indexed Job of Kubernetes has: its own variable tells only which one this is."""
_COUNTS = "1, 2, 4, 8 or 16"


@dataclass(frozen=True, slots=True)
class Shard:
    """The keys with crc32(key) mod n = i."""

    i: int
    n: int

    def owns(self, key: bytes) -> bool:
        """Whether a Redis key is of this shard."""
        return crc32(key) & (self.n - 1) == self.i

    def slice(self, i: int, n: int) -> tuple[int, int]:
        """Slice i of n of this shard, as a slice of the whole key space."""
        return i * self.n + self.i, n * self.n

    def residues(self, n: int) -> list[int]:
        """The values of crc32(key) mod n (a power of two) that keys of this shard can have."""
        step = min(n, self.n)
        return list(range(self.i % step, n, step))

    def __str__(self) -> str:
        return f"{self.i}/{self.n}"


WHOLE = Shard(0, 1)


def shards_of(n: int) -> list[Shard]:
    """All shards of a division."""
    return [Shard(i, n) for i in range(n)]


def shard_of(key: bytes, n: int) -> Shard:
    """The shard that has a key."""
    return Shard(crc32(key) & (n - 1), n)


def parse_shard(text: str) -> Shard:
    """i/n. Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None:
        raise UsageError(f"{text!r} is not a shard", hint="write i/n, such as 0/4")
    i, n = int(match[1]), int(match[2])
    if n not in (1, 2, 4, 8, MAX_SHARDS):
        raise UsageError(f"a view cannot be cut into {n} shards", hint=f"n is {_COUNTS}")
    if i >= n:
        raise UsageError(f"there is no shard {i} of {n}", hint=f"they are 0/{n} to {n - 1}/{n}")
    return Shard(i, n)


def shard_of_platform(environ: Mapping[str, str]) -> Shard | None:
    """The shard that a parallel job's variables name; None: this is none. Raises UsageError."""
    count, index = environ.get(COUNT_VARIABLE), environ.get("JOB_COMPLETION_INDEX")
    if count and not index:
        raise UsageError(
            f"{COUNT_VARIABLE} is set, but JOB_COMPLETION_INDEX is not",
            hint="Kubernetes sets that in a Job with completionMode: Indexed; elsewhere say --shard i/n",
        )
    named = f"JOB_COMPLETION_INDEX of {COUNT_VARIABLE}"
    if not count:
        count, index = environ.get("CLOUD_RUN_TASK_COUNT"), environ.get("CLOUD_RUN_TASK_INDEX")
        named = "CLOUD_RUN_TASK_INDEX of CLOUD_RUN_TASK_COUNT"
    if not count or not index:
        return None
    try:
        return parse_shard(f"{index}/{count}")
    except UsageError as error:
        raise UsageError(f"{named}: {error.message}", hint=error.hint) from None
