"""A companion view that matches the query."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Companion:
    """A companion view, checked against the query.

    identity: hash of the ids of its objects and the query's, and of the number of buckets; the state stores it once
    checked.
    """

    name: str
    buckets: int
    identity: str
