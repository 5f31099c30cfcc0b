"""Doctor's checks of Redis. Data is only looked at; what has to be tried is tried on a scratch key of our own."""

from __future__ import annotations

import secrets
from typing import Any

from reconcile.config.settings import Settings, ViewSettings
from reconcile.core.changes import MAX_EXAMPLES, name_of
from reconcile.core.state import State
from reconcile.core.times import frontier_after
from reconcile.runs.doctor_source import report_clock
from reconcile.runs.findings import Findings
from reconcile.runs.sweep import short
from reconcile.stop import Stop
from reconcile.target import connection, store
from reconcile.target import keyspace as keyspaces
from reconcile.target.connection import Command, ErrorReply, Wire
from reconcile.target.keyspace import Keyspace

SCRATCH_MS = 10_000
FULL_FRACTION = 0.9
"""Of maxmemory: from here on Redis is about to refuse writes, or to evict."""
COUNTED_ONCE = 200_000
"""A scan may name a key twice; so many names are remembered to count each once."""
LEGACY_KEY = b"mz_latest_timestamp"
"""What mz-redis-sync's own example calls its timestamp key."""
LEGACY_ALIVE_MS = 60_000

Info = dict[str, str]


def open_target(settings: Settings, stop: Stop, findings: Findings) -> Wire | None:
    """Connection and everything about the server that does not depend on the view; None: nothing more to look at."""
    wire = None
    with findings.checking("redis"):
        wire = connection.connect(settings.redis, stop)
        info = read_info(wire)
        findings.ok("redis", _server_name(info))
        _check_role(wire, info, findings)
        _check_eviction(info, findings)
        _check_persistence(info, findings)
        _check_clock(wire, findings)
    return wire


def read_info(wire: Wire) -> Info:
    """INFO as a dict; empty where it is refused. Managed services leave fields out: nothing may rest on one."""
    (reply,) = wire.pipeline([("INFO",)])
    if not isinstance(reply, bytes):
        return {}
    lines = reply.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def _server_name(info: Info) -> str:
    for field, name in (("valkey_version", "Valkey"), ("dragonfly_version", "Dragonfly"), ("redis_version", "Redis")):
        if field in info:
            return f"{name} {info[field]}"
    return "it answers, but does not tell its version (INFO)"


def _check_role(wire: Wire, info: Info, findings: Findings) -> None:
    if wire.cluster:
        wire.identity()
        findings.ok("role", wire.cluster)
    elif info.get("role") == "slave":
        primary = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
        findings.fail("role", "this Redis is a replica", f"connect to its primary, {primary}")
    elif info.get("redis_mode") == "cluster" or info.get("cluster_enabled") == "1":
        findings.fail("role", "this is a node of a Redis Cluster", "set redis.cluster: true")
    elif "role" in info:
        findings.ok("role", "primary, not a cluster")


def _check_eviction(info: Info, findings: Findings) -> None:
    """allkeys-* takes any key away, our state's included, and tells nobody."""
    limit = _number(info, "maxmemory")
    policy = info.get("maxmemory_policy", "")
    if limit is None or not policy:
        findings.ok("eviction", "Redis does not tell its policy")
        return
    evicted = _number(info, "evicted_keys") or 0
    if limit and policy.startswith("allkeys"):
        findings.warn(
            "eviction",
            f"maxmemory-policy {policy} removes keys silently when memory is short ({evicted:,} so far): "
            "they are missing until a deep snapshot finds them",
            "CONFIG SET maxmemory-policy noeviction\n# and in redis.conf, or the service's parameter group",
        )
        return
    used = _number(info, "used_memory") or 0
    if limit and used > FULL_FRACTION * limit:
        findings.warn(
            "eviction",
            f"{used / limit:.0%} of maxmemory is in use; with {policy} Redis will refuse writes when it is full",
            "raise maxmemory, or make room",
        )
        return
    findings.ok("eviction", f"{policy}, maxmemory {'off' if not limit else f'{limit:,} bytes'}")


def _check_persistence(info: Info, findings: Findings) -> None:
    """What a restart brings back is consistent: data and checkpoint are written together, and lost together."""
    if info.get("loading") == "1":
        findings.warn("persistence", "Redis is loading its data: writes wait")
    failed = [field for field in ("rdb_last_bgsave_status", "aof_last_write_status") if info.get(field) == "err"]
    if failed:
        findings.warn(
            "persistence",
            f"{', '.join(failed)}: err; Redis may refuse writes (MISCONF)",
            "see Redis' own log: usually its disk is full or not writable",
        )
    elif info.get("aof_enabled") == "1":
        findings.ok("persistence", "append-only file")
    elif "aof_enabled" in info:
        findings.ok("persistence", "no append-only file: after a crash the next run brings back what was lost")


def _check_clock(wire: Wire, findings: Findings) -> None:
    (reply,) = wire.pipeline([("TIME",)])
    if isinstance(reply, list) and len(reply) == 2:
        theirs_ms = int(reply[0]) * 1000 + int(reply[1]) // 1000
        report_clock("redis clock", "Redis", theirs_ms, findings)


# -- one view ----------------------------------------------------------------------------------------------------


def check_view(wire: Wire, settings: Settings, view: ViewSettings, findings: Findings, *, quick: bool) -> None:
    """Rights, state and keys of one view."""
    keyspace = Keyspace(
        view=view.name,
        prefix=view.key_prefix.encode(),
        dedicated=settings.redis.dedicated,
        mz_timestamp_key=view.mz_timestamp_key.encode() if view.mz_timestamp_key else None,
    )
    with findings.checking("rights"):
        _check_rights(wire, keyspace, settings.redis.username, findings)
        if wire.cluster:
            _check_scripts(wire, keyspace)
    state = None
    with findings.checking("state"):
        state = _check_state(wire, keyspace, findings)
    with findings.checking("timestamp key"):
        _check_legacy(wire, keyspace, state, findings)
    if not quick:
        with findings.checking("key space"):
            _check_key_space(wire, keyspace, state, findings)


def _check_rights(wire: Wire, keyspace: Keyspace, username: str | None, findings: Findings) -> None:
    """Every command that runs send, on a scratch key, in one transaction: it leaves nothing behind, whatever happens.

    Under the prefix only commands that cannot change anything are tried, on a name nobody has.
    """
    scratch = keyspace.state.removesuffix(b"state") + b"doctor"
    tried = _scratch_commands(scratch)
    if wire.cluster:
        tried.append(("EVAL", "return redis.call('HMGET', KEYS[1], 'token', 'mark')", 1, scratch))
    outside: list[Command] = [
        ("SCAN", 0, "COUNT", 1),
        ("DBSIZE",),
        ("INFO", "server"),
        ("WATCH", scratch),
        ("UNWATCH",),
    ]
    replies = wire.pipeline([("MULTI",), *tried, ("EXEC",), *outside])
    queued = zip(tried, replies[1 : 1 + len(tried)], strict=True)
    after = zip(outside, replies[2 + len(tried) :], strict=True)
    refused = {str(command[0]): reply for command, reply in [*queued, *after] if isinstance(reply, ErrorReply)}
    if not refused and isinstance(replies[1 + len(tried)], ErrorReply):
        raise connection.translate(replies[1 + len(tried)])
    no_permission = {name: error for name, error in refused.items() if _is_permission(error)}
    user = username or "default"
    if no_permission:
        rules = " ".join(f"+{name.lower()}" for name in no_permission)
        findings.fail(
            "rights",
            f"user {user} may not use: {', '.join(no_permission)}",
            f"ACL SETUSER {user} {rules} ~{_state_pattern(keyspace)}",
        )
        return
    for error in refused.values():
        raise connection.translate(error)
    names = {command[0] for command in [*tried, *outside]}
    _check_prefix_rights(wire, keyspace, user, len(names), findings)


def _check_scripts(wire: Wire, keyspace: Keyspace) -> None:
    """In a cluster data is written by scripts that not every service carries out. Raises UsageError."""
    from reconcile.target.cluster_fence import try_script

    try_script(wire, keyspace)


def _scratch_commands(key: bytes) -> list[Command]:
    """What runs send, with the scratch key as its only key, gone at the end."""
    strings: list[Command] = [("SET", key, "1", "PX", SCRATCH_MS), ("SETRANGE", key, 0, "1"), ("INCR", key)]
    strings += [("GETRANGE", key, 0, 1), ("MSETNX", key, "1"), ("MSET", key, "1"), ("PEXPIRE", key, SCRATCH_MS)]
    strings += [(name, key) for name in ("GET", "MGET", "STRLEN", "EXISTS", "PTTL", "TYPE", "UNLINK")]
    hashes: list[Command] = [("HSET", key, "f", "1"), ("HGET", key, "f"), ("HGETALL", key), ("DEL", key)]
    sets: list[Command] = [("SADD", key, "m"), ("SISMEMBER", key, "m"), ("SSCAN", key, 0), ("SREM", key, "m")]
    return [*strings, *hashes, *sets, ("DEL", key)]


def _check_prefix_rights(wire: Wire, keyspace: Keyspace, user: str, commands: int, findings: Findings) -> None:
    nobody = keyspace.prefix + b"reconcile-doctor-" + secrets.token_hex(8).encode()
    # SET … XX writes only to a key that exists: this one does not.
    replies = wire.pipeline([("GET", nobody), ("SET", nobody, "", "XX"), ("UNLINK", nobody)])
    refused = [reply for reply in replies if isinstance(reply, ErrorReply)]
    if any(_is_permission(error) for error in refused):
        pattern = f"{keyspace.prefix.decode()}*" if keyspace.prefix else "*"
        findings.fail(
            "rights",
            f"user {user} may not read and write keys like {pattern}",
            f"ACL SETUSER {user} '~{pattern}'",
        )
        return
    for error in refused:
        raise connection.translate(error)
    findings.ok("rights", f"the {commands} commands that runs use are known and allowed")


def _is_permission(error: ErrorReply) -> bool:
    return str(error).upper().startswith(("NOPERM", "NO PERMISSION")) or "has no permissions" in str(error)


def _state_pattern(keyspace: Keyspace) -> str:
    return keyspace.state.removesuffix(b"state").decode() + "*"


def _check_state(wire: Wire, keyspace: Keyspace, findings: Findings) -> State | None:
    """What earlier runs left. Raises StateError."""
    stored = store.read_stored(wire, keyspace)
    state = stored.state
    if state is None or (state.as_of is None and not stored.has_manifest):
        findings.ok("state", "nothing was synchronised yet: the first run loads everything")
    elif not stored.has_manifest:
        findings.warn(
            "state",
            "the manifest is missing or not this state's (evicted, or overwritten): the next run compares everything",
        )
    elif state.pending is not None and state.pending.kind == "withheld":
        findings.warn("state", str(state.pending), f"reconcile snapshot --view {keyspace.view} --allow-deletes")
    elif state.pending is not None:
        findings.ok("state", str(state.pending))
    else:
        findings.ok("state", f"{state.keys:,} keys, {state.buckets:,} buckets")
    return state


def _check_legacy(wire: Wire, keyspace: Keyspace, state: State | None, findings: Findings) -> None:
    """mz-redis-sync's timestamp key: what it left, and whether it still runs beside us."""
    name = keyspace.mz_timestamp_key or LEGACY_KEY
    (reply,) = wire.pipeline([("GET", name)])
    shown = name_of(name)
    if isinstance(reply, ErrorReply):
        if keyspace.mz_timestamp_key is not None:
            findings.fail(
                "timestamp key", f"{shown} cannot be used: {connection.translate(reply).message}", f"TYPE {shown}"
            )
        return
    if reply is None:
        return
    frontier = int(reply) if reply.isdigit() else None
    ours = state is not None and state.as_of is not None and frontier == frontier_after(state.as_of)
    alive = frontier is not None and abs(frontier - store.now_ms()) < LEGACY_ALIVE_MS
    if ours:
        findings.ok("timestamp key", f"{shown} holds the checkpoint's frontier")
    elif alive and state is None:
        findings.warn(
            "timestamp key",
            f"{shown} was written in the last minute: mz-redis-sync seems to be running still; "
            "two writers undo each other's work",
            "stop mz-redis-sync before the first run",
        )
    elif keyspace.mz_timestamp_key is None:
        findings.warn(
            "timestamp key",
            f"there is a key {shown}, as mz-redis-sync writes it",
            f"set mz_timestamp_key: {shown} if programs read it, or delete it",
        )
    elif state is None:
        findings.ok("timestamp key", f"{shown} was left by mz-redis-sync; the first run compares everything it wrote")


def _check_key_space(wire: Wire, keyspace: Keyspace, state: State | None, findings: Findings) -> None:
    """Keys where ours are that the view did not put there: they will be removed, so better hear of them now."""
    if keyspace.ownership == "remembered":
        findings.ok("key space", "no prefix: the view's keys are remembered one by one (a prefix costs less memory)")
        return
    where = f"under {keyspace.prefix.decode()}" if keyspace.prefix else "in this dedicated database"
    found, examples = _count_keys(wire, keyspace)
    if state is None or state.as_of is None:
        if not found:
            findings.ok("key space", f"no keys {where} yet")
            return
        findings.warn(
            "key space",
            f"{found:,} keys {where} already, e.g. {', '.join(examples)}: the first run removes those the view lacks",
            "reconcile snapshot --dry-run\n# or choose another key_prefix",
        )
    elif found > state.keys and state.pending is None:
        findings.warn(
            "key space",
            f"{found - state.keys:,} more keys {where} than the view put there: the next deep snapshot removes them",
            f"reconcile verify --view {keyspace.view}",
        )
    else:
        findings.ok("key space", f"{found:,} keys {where}, {state.keys:,} of the view")


def _count_keys(wire: Wire, keyspace: Keyspace) -> tuple[int, list[str]]:
    """How many owned keys there are, with some names."""
    seen: set[Any] = set()
    found = 0
    examples: list[str] = []
    for keys in keyspaces.scan_keys(wire, keyspace):
        fresh = [key for key in dict.fromkeys(keys) if short(key) not in seen]
        if len(seen) < COUNTED_ONCE:
            seen.update(map(short, fresh))
        found += len(fresh)
        if len(examples) < MAX_EXAMPLES:
            examples += [name_of(key) for key in fresh[: MAX_EXAMPLES - len(examples)]]
    return found, examples


def _number(info: Info, field: str) -> int | None:
    value = info.get(field, "")
    return int(value) if value.isdigit() else None
