"""What EXPLAIN TIMESTAMP AS JSON says (shape: transcripts `retain_history`, `transaction_snapshot`)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from reconcile.core.decide import Frontiers
from reconcile.core.times import MAX_TIMESTAMP
from reconcile.errors import ReconcileError

_SOURCE_NAME = re.compile(r"(?P<name>.*) \((?P<id>[a-z]+\d+), (?P<kind>storage|compute)\)")


@dataclass(frozen=True, slots=True)
class SourceObject:
    """One object a query reads. kind 'compute': an index, whose history is its own, usually one second."""

    name: str
    id: str
    kind: str


@dataclass(frozen=True, slots=True)
class Explained:
    """Frontiers of a query and the objects it reads."""

    frontiers: Frontiers
    objects: tuple[SourceObject, ...]

    @property
    def ids(self) -> list[str]:
        return sorted(source.id for source in self.objects)


def parse_explanation(text: str) -> Explained:
    """Raises ReconcileError when the answer has another shape than the recorded one."""
    try:
        explained = json.loads(text)
        return _parse(explained)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReconcileError(
            "Materialize explains its timestamps in a form this version does not know",
            hint="please report this with the version of Materialize",
        ) from error


def _parse(explained: dict[str, Any]) -> Explained:
    determination = explained["determination"]
    since = determination["since"]["elements"]
    upper = determination["upper"]["elements"]
    context = determination["timestamp_context"]
    chosen = context["TimelineTimestamp"]["chosen_ts"] if isinstance(context, dict) else MAX_TIMESTAMP
    objects = []
    for source in explained["sources"]:
        match = _SOURCE_NAME.fullmatch(source["name"])
        objects.append(
            SourceObject(match["name"], match["id"], match["kind"])
            if match
            else SourceObject(source["name"], source["name"], "storage")
        )
    frontiers = Frontiers(
        since=int(since[0]) if since else MAX_TIMESTAMP,
        upper=int(upper[0]) if upper else None,
        now=int(chosen),
    )
    return Explained(frontiers, tuple(objects))
