"""Follow an object itself where the query gives its rows as they are.

Newer versions of Materialize then send what changed without reading the rest of the object first, which they do for any
query, be it `SELECT * FROM v` (docs/adr/0021). The plan shows it, however the query is written; a plan in another form
than the recorded one (transcript `plan`) shows nothing, and the query is followed.
"""

from __future__ import annotations

import json
from typing import Any

from reconcile.source.frontiers import Explained
from reconcile.source.query import Mapping, identifier

_NAME_PARTS = 3
"""Database, schema and name. EXPLAIN TIMESTAMP quotes nothing: with more dots, some are part of a name."""


def object_read(mapping: Mapping, plan: str, explained: Explained) -> str | None:
    """Return the quoted name of the object to SUBSCRIBE to in the query's stead; None if there is none."""
    if not mapping.sends_columns or len(explained.objects) != 1:
        return None
    (only,) = explained.objects
    parts = only.name.split(".")
    if only.kind != "storage" or only.id != _got(plan) or len(parts) != _NAME_PARTS:
        return None
    return ".".join(identifier(part) for part in parts)


def _got(plan: str) -> str | None:
    """Return the id of the object of which the plan is to get the rows, and nothing else."""
    try:
        document: Any = json.loads(plan)
        (planned,) = document["plans"]
        ((step, read),) = planned["plan"].items()
        ((kind, number),) = read["id"]["Global"].items()
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return f"u{number}" if (step, kind) == ("Get", "User") else None
