"""EXPLAIN TIMESTAMP AS JSON."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

from reconcile_standin.catalog import DATABASE

if TYPE_CHECKING:
    from reconcile_standin import syntax as s
    from reconcile_standin.plan import Plan
    from reconcile_standin.session import Session

_LEVELS = {"strict serializable": "StrictSerializable", "serializable": "Serializable"}


def explain_timestamp(session: Session, plan: Plan, as_of: s.AsOf | None) -> str:
    """Where and when a SELECT would read; in a transaction this fixes its time."""
    chosen = session.read_time(plan, as_of, wait=False)
    clock, store = session.store.clock, session.store
    inputs = plan.facts.inputs
    upper = store.upper(inputs)
    since = session.since(plan.facts) if as_of is not None else session.determined_since(plan.facts)
    oracle = None if as_of is not None else min(chosen, clock.read_ts)
    context: Any = "NoTimestamp"
    if inputs:
        line = {"timeline": "EpochMilliseconds", "chosen_ts": chosen, "oracle_ts": oracle}
        context = {"TimelineTimestamp": line}
    level = _LEVELS.get(session.variables.get("transaction_isolation"), "StrictSerializable")
    reason: Any = {"IsolationLevel": level} if as_of is None else "QueryAsOf"
    document = {
        "determination": {
            "timestamp_context": context,
            "since": {"elements": [since]},
            "upper": {"elements": [upper] if plan.facts.tables else []},
            "largest_not_in_advance_of_upper": upper - 1,
            "oracle_read_ts": oracle,
            "session_oracle_read_ts": None,
            "real_time_recency_ts": None,
            "constraints": {"lower": [[{"elements": [chosen]}, reason]], "upper": []},
        },
        "sources": [
            {
                "name": f"{DATABASE}.{item.schema}.{item.name} "
                f"({item.id}, {'compute' if item.kind == 'index' else 'storage'})",
                "read_frontier": [store.since(item)],
                # What is made of no table is complete: nothing will ever be written to it.
                "write_frontier": [store.upper([item])] if session.catalog.tables_of(item) else [],
            }
            for item in inputs
        ],
        "session_wall_time": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "respond_immediately": chosen < upper,
    }
    return json.dumps(document, indent=2)
