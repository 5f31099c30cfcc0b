"""Doctor's checks of the Redis servers, independent of views. Read-only."""

from __future__ import annotations

from reconcile.config.settings import LOCAL_NAMES, RedisSettings
from reconcile.inspect.findings import Findings
from reconcile.stop import Stop
from reconcile.target.survey import Info, Survey, open_survey
from reconcile.texts import plural

FULL_FRACTION = 0.9
"""Share of maxmemory above which Redis is about to refuse writes, or to evict."""


def open_redis(settings: RedisSettings, stop: Stop, findings: Findings) -> Survey | None:
    """Connect and check the servers; None if nothing more can be checked."""
    survey = None
    with findings.checking("redis"):
        survey = open_survey(settings, stop)
        nodes = survey.info()
        findings.ok("redis", _server_name(nodes))
        check_encryption(settings, findings)
        _check_role(survey, nodes, findings)
        _check_eviction(nodes, findings)
        _check_persistence(nodes, findings)
    return survey


def _server_name(nodes: list[Info]) -> str:
    for field, name in (("valkey_version", "Valkey"), ("dragonfly_version", "Dragonfly"), ("redis_version", "Redis")):
        versions = sorted({info[field] for info in nodes if field in info})
        if versions:
            return f"{name} {', '.join(versions)}" + (f" on {len(nodes)} primaries" if len(nodes) > 1 else "")
    return "it answers, but INFO does not give its version"


def check_encryption(settings: RedisSettings, findings: Findings) -> None:
    """Check whether someone on the path could read the password, or impersonate Redis."""
    host = settings.host.lower()
    local = settings.unix_socket_path is not None or host in LOCAL_NAMES or host.startswith("127.") or host == "::1"
    if settings.tls and settings.tls_verify != "full":
        accepted = "any server's certificate" if settings.tls_verify == "none" else "a certificate for any other name"
        findings.warn(
            "redis encryption",
            f"encrypted, but redis.tls_verify: {settings.tls_verify} accepts {accepted}: anyone on the path could "
            "impersonate Redis",
            "set redis.tls_verify: full, and redis.tls_ca_cert to the file of your authority",
        )
    elif not settings.tls and settings.password is not None and not local:
        findings.warn(
            "redis encryption",
            "the connection to Redis is not encrypted: password and values can be read in transit",
            "set redis.tls: true (or a rediss:// URL)",
        )


def _check_role(survey: Survey, nodes: list[Info], findings: Findings) -> None:
    info = nodes[0]
    if survey.cluster:
        survey.check_whole()
        findings.ok("role", f"Redis Cluster of {plural(len(nodes), 'primary', 'primaries')}, every slot is served")
    elif info.get("role") == "slave":
        primary = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
        findings.fail("role", "this Redis is a replica", f"connect to its primary, {primary}")
    elif info.get("redis_mode") == "cluster" or info.get("cluster_enabled") == "1":
        findings.fail("role", "this is a node of a Redis Cluster", "set redis.cluster: true")
    elif "role" in info:
        findings.ok("role", "primary, not a cluster")


def _check_eviction(nodes: list[Info], findings: Findings) -> None:
    """Check the eviction policy: allkeys-* removes any key, the state included, silently."""
    known = [info for info in nodes if number(info, "maxmemory") is not None and info.get("maxmemory_policy")]
    if not known:
        findings.ok("eviction", "Redis does not report its policy")
        return
    policies = sorted({info["maxmemory_policy"] for info in known})
    evicted = sum(number(info, "evicted_keys") or 0 for info in known)
    limited = [info for info in known if number(info, "maxmemory")]
    if any(info["maxmemory_policy"].startswith("allkeys") for info in limited):
        findings.warn(
            "eviction",
            f"when memory is short, maxmemory-policy {', '.join(policies)} removes keys silently, reconcile's own "
            f"included ({evicted:,} so far); they are missing until the rolling compare finds out",
            "CONFIG SET maxmemory-policy noeviction\n# and in redis.conf, or the service's parameter group",
        )
        return
    fullest = max(
        ((number(info, "used_memory") or 0) / (number(info, "maxmemory") or 1) for info in limited), default=0
    )
    if fullest > FULL_FRACTION:
        findings.warn(
            "eviction",
            f"{fullest:.0%} of maxmemory is in use; with {policies[0]} Redis "
            + ("refuses writes" if fullest >= 1 else "will refuse writes when it is full"),
            "raise maxmemory, or make room",
        )
        return
    limit = sum(number(info, "maxmemory") or 0 for info in limited)
    findings.ok("eviction", f"{', '.join(policies)}, maxmemory {f'{limit:,} bytes' if limit else 'off'}")


def _check_persistence(nodes: list[Info], findings: Findings) -> None:
    """Check persistence. After a restart data and checkpoint are consistent: they are written and lost together."""
    if any(info.get("loading") == "1" for info in nodes):
        findings.warn("persistence", "Redis is loading its data: writes wait")
    fields = ("rdb_last_bgsave_status", "aof_last_write_status")
    failed = [field for field in fields if any(info.get(field) == "err" for info in nodes)]
    if failed:
        findings.warn(
            "persistence",
            f"{', '.join(failed)}: err; Redis may refuse writes (MISCONF)",
            "see Redis' own log: usually its disk is full or not writable",
        )
    elif all(info.get("aof_enabled") == "1" for info in nodes):
        findings.ok("persistence", "append-only file")
    elif any("aof_enabled" in info for info in nodes):
        findings.ok("persistence", "no append-only file: after a crash the next run restores what was lost")


def number(info: Info, field: str) -> int | None:
    """Return a counter of INFO; None if it is missing."""
    value = info.get(field, "")
    return int(value) if value.isdigit() else None
