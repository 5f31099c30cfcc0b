"""Shards: a large view cut into n pieces, each kept equal by its own runs. Pure.

    shard i/n      the keys with crc32(key) mod n = i; n is a power of two, so that every bucket lies in one shard
    division       how many shards a view is cut into now; 1: it is whole

Each shard has its own state, manifest and lease; core/division.py derives the new ones when the division changes. This
module imports nothing heavy, as the command line parses shards before it knows which command it will run.
"""

from __future__ import annotations

import re
from binascii import crc32
from collections.abc import Mapping

from msgspec import Struct

from reconcile.errors import UsageError

MAX_SHARDS = 16
"""The smallest number of buckets, so that n divides every one."""
COUNT_VARIABLE = "RECONCILE_SHARDS"
"""Number of completions of an Indexed Job of Kubernetes, whose own variable gives only the index."""
_COUNTS = "1, 2, 4, 8 or 16"


class Shard(Struct, frozen=True):
    """The keys with crc32(key) mod n = i."""

    i: int
    n: int

    def owns(self, key: bytes) -> bool:
        """Whether a Redis key belongs to this shard."""
        return crc32(key) & (self.n - 1) == self.i

    def slice(self, i: int, n: int) -> tuple[int, int]:
        """Return slice i of n of this shard as (i, n) of the whole key space."""
        return i * self.n + self.i, n * self.n

    def residues(self, n: int) -> list[int]:
        """Return the values of crc32(key) mod n (a power of two) that keys of this shard can have."""
        step = min(n, self.n)
        return list(range(self.i % step, n, step))

    def __str__(self) -> str:
        return f"{self.i}/{self.n}"


WHOLE = Shard(0, 1)


def shards_of(n: int) -> list[Shard]:
    """Return all n shards, in order."""
    return [Shard(i, n) for i in range(n)]


def shard_of(key: bytes, n: int) -> Shard:
    """Return the shard that a Redis key belongs to, of n."""
    return Shard(crc32(key) & (n - 1), n)


def parse_shard(text: str) -> Shard:
    """Return the shard written as i/n. Raises UsageError."""
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
    """Return the shard that the variables of a parallel job name; None: this is no such job. Raises UsageError."""
    count, index = environ.get(COUNT_VARIABLE), environ.get("JOB_COMPLETION_INDEX")
    if count and not index:
        raise UsageError(
            f"{COUNT_VARIABLE} is set, but JOB_COMPLETION_INDEX is not",
            hint="Kubernetes sets it in Jobs with completionMode: Indexed; elsewhere use --shard i/n",
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
