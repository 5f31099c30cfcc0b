"""A server's statistics: INFO and DBSIZE → Counters."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from reconcile.target.port import Counters


def parse(info: Any, size: Any) -> Counters:
    """Return the counters of one server. info, size: the replies; an error if INFO or DBSIZE was refused."""
    text = _text(info)
    fields = _fields(text)
    number = partial(_number, fields)
    expiring = [int(found) for found in re.findall(r"(?m)^db\d+:.*\bexpires=(\d+)", text)]
    return Counters(
        run_ids=fields.get("run_id", ""),
        uptime_s=number("uptime_in_seconds"),
        evicted=number("evicted_keys"),
        expired=number("expired_keys"),
        policy=fields.get("maxmemory_policy") or None,
        keys=size if isinstance(size, int) else None,
        with_expiry=sum(expiring) if "# Keyspace" in text else None,
        used_bytes=number("used_memory"),
        max_bytes=number("maxmemory"),
    )


def _text(info: Any) -> str:
    return info.decode("utf-8", "replace") if isinstance(info, bytes) else ""


def _fields(text: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))


def _number(fields: dict[str, str], name: str) -> int | None:
    return int(fields[name]) if fields.get(name, "").isdigit() else None


def joined(nodes: list[Counters]) -> Counters:
    """Return the counters of a cluster: sums over its nodes; None if one node does not give the number."""
    if len(nodes) == 1:
        return nodes[0]

    def total(name: str) -> int | None:
        found = [getattr(node, name) for node in nodes]
        return None if None in found else sum(found)

    policies = {node.policy for node in nodes}
    uptimes = [node.uptime_s for node in nodes if node.uptime_s is not None]
    return Counters(
        run_ids=" ".join(node.run_ids for node in nodes),
        uptime_s=min(uptimes) if len(uptimes) == len(nodes) else None,
        policy=policies.pop() if len(policies) == 1 else None,
        evicted=total("evicted"),
        expired=total("expired"),
        keys=total("keys"),
        with_expiry=total("with_expiry"),
        used_bytes=total("used_bytes"),
        max_bytes=total("max_bytes"),
    )
