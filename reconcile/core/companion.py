"""A companion view that is known to match the query."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Companion:
    """identity: what the state remembers as 'checked': ids of its objects and the query's, number of buckets."""

    name: str
    buckets: int
    identity: str
