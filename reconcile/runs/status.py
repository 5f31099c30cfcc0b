"""What Redis says about each view: checkpoint, age, lease, last audit. Reads Redis only."""

from __future__ import annotations

import json
from typing import Any

from reconcile.config.settings import Settings
from reconcile.core.state import Pending
from reconcile.core.times import MAX_TIMESTAMP, format_time
from reconcile.runs.entry import chosen_views
from reconcile.stop import Stop
from reconcile.texts import printable


def read_status(settings: Settings, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """One JSON-ready dict per view. Raises AccessError, StateError, Unavailable, UsageError."""
    from reconcile.target import connection

    views = chosen_views(settings, names)
    wire = connection.connect(settings.redis, Stop())
    try:
        with wire.bounded():
            return [_view_status(wire, settings, view.name) for view in views]
    finally:
        wire.close()


def _view_status(wire: Any, settings: Settings, name: str) -> dict[str, Any]:
    from reconcile.target import lease, store
    from reconcile.target.keyspace import Keyspace

    keyspace = Keyspace(name, b"", False)
    state = store.read_state(wire, keyspace)
    holder = lease.holder_of(wire, keyspace)
    audit = wire.call("HGET", keyspace.audit, "report")
    as_of = state.as_of if state is not None else None
    timed = as_of is not None and as_of != MAX_TIMESTAMP
    return {
        "view": name,
        "as_of": as_of,
        "as_of_text": None if as_of is None else format_time(as_of),
        "lag_ms": max(0, store.now_ms() - as_of) if timed and as_of is not None else None,
        "updated_at_ms": state.updated_at_ms if state is not None else None,
        "keys": state.keys if state is not None else None,
        "buckets": state.buckets if state is not None else None,
        "pending": None if state is None or state.pending is None else state.pending.kind,
        "lease": None if holder is None else {"owner": holder[0], "left_ms": holder[1]},
        "audit": _audit(audit),
    }


def _audit(stored: bytes | None) -> dict[str, Any] | None:
    """What the last verify left; None when there was none, or something else wrote there."""
    try:
        audit = json.loads(stored or b"null")
    except ValueError:
        return None
    return audit if isinstance(audit, dict) and {"at_ms", "verdict"} <= set(audit) else None


def render(statuses: list[dict[str, Any]]) -> str:
    """A few lines per view, for people."""
    return "\n".join(line for status in statuses for line in _lines(status))


def _lines(status: dict[str, Any]) -> list[str]:
    if status["as_of"] is None:
        lines = [f"{status['view']}: nothing was synchronised yet"]
    else:
        lag = "constant" if status["lag_ms"] is None else f"{status['lag_ms'] / 1000:.1f} s behind the clock"
        lines = [
            f"{status['view']}: {status['keys']:,} keys as of {status['as_of']} ({status['as_of_text']}), {lag}",
            f"  last written {format_time(status['updated_at_ms'])}, {status['buckets']:,} buckets",
        ]
    if status["pending"]:
        lines.append(f"  {Pending(status['pending'], 0)}")
    if status["lease"]:
        owner, left_s = printable(status["lease"]["owner"]), status["lease"]["left_ms"] / 1000
        lines.append(f"  being written by {owner} ({left_s:.1f} s lease left)")
    if status["audit"]:
        verdict = printable(str(status["audit"]["verdict"]))
        lines.append(f"  last verify {format_time(status['audit']['at_ms'])}: {verdict}")
    return lines
