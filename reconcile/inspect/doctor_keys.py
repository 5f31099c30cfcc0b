"""Doctor's checks of one view in Redis: permissions, state, keys. Read-only."""

from __future__ import annotations

import shlex
from collections.abc import Collection

from reconcile.config.settings import ViewSettings
from reconcile.core import schedule
from reconcile.core.changes import name_of
from reconcile.core.decide import alternation
from reconcile.core.ownership import Range
from reconcile.core.state import Identity, State
from reconcile.core.times import format_duration, format_time, frontier_after
from reconcile.errors import ReconcileError
from reconcile.inspect import keyspace
from reconcile.inspect.findings import Findings
from reconcile.inspect.keyspace import Found
from reconcile.source.query import Mapping
from reconcile.source.session import Session
from reconcile.stop import Stop
from reconcile.target.names import REMEMBERED_SETS, Names
from reconcile.target.port import Target
from reconcile.target.reader import pattern_of
from reconcile.target.survey import Survey
from reconcile.texts import plural

LEGACY_KEY = b"mz_latest_timestamp"
"""The timestamp key in mz-redis-sync's own example."""
LEGACY_ALIVE_MS = 60_000
MAX_TRIED = 1000
"""Keys of the view that are looked for before its first run."""


def check_rights(
    survey: Survey, names: Names, target: Target, view: ViewSettings, user: str, findings: Findings
) -> None:
    """Check every command that runs send, and access to the view's keys."""
    refused = survey.refused(names, target.range, hashes=view.layout == "hash", expiring=view.expires_at is not None)
    on = f" on {refused.where}" if refused.where else ""
    if refused.commands:
        rules = " ".join(f"+{name.lower()}" for name in [*refused.commands, *refused.missed])
        findings.fail(
            "rights",
            f"user {user} may not use{on}: {', '.join(refused.commands)}",
            f"ACL SETUSER {user} {rules} ~reconcile:*",
        )
    elif refused.keys:
        pattern = f"{target.range.prefix.decode()}*"
        findings.fail(
            "rights",
            f"user {user} may not read and write keys like {pattern}{on}",
            f"ACL SETUSER {user} '~{pattern}'",
        )
    elif refused.missed:
        missed = " and ".join(refused.missed)
        findings.warn(
            "rights",
            f"{missed}: not allowed, or not known. Runs do without, but write first loads in small pieces only, and "
            "learn of evictions and restarts from the rolling compare",
            f"ACL SETUSER {user} {' '.join(f'+{name.lower()}' for name in refused.missed)}\n"
            "# unless the server does not have it",
        )
    else:
        findings.ok("rights", f"the {refused.tried} commands that runs use are known and allowed")


def check_state(target: Target, view: ViewSettings, findings: Findings) -> State | None:
    """Report what earlier runs left. Raises StateError."""
    stored = target.stored()
    state = stored.state
    complete = state is not None and stored.has_manifest
    if state is None or (state.as_of is None and not complete):
        findings.ok("state", "not synchronised yet: the first run loads everything")
    elif not complete:
        findings.warn(
            "state",
            "the manifest is missing or does not match the state (evicted, overwritten): the next run that writes "
            "anything has to compare every row",
            f"reconcile snapshot --deep --view {view.name}",
        )
    elif state.surplus:
        findings.warn(
            "state",
            f"{plural(state.surplus, 'key')} that the source lacks wait for consent: runs end with exit code 5",
            f"reconcile snapshot --view {view.name} --allow-deletes\n# if they may go",
        )
    elif state.pending is not None and state.pending.kind == "withheld":
        findings.warn("state", str(state.pending), f"reconcile snapshot --view {view.name} --allow-deletes")
    elif state.pending is not None:
        findings.ok("state", str(state.pending))
    else:
        findings.ok("state", f"{plural(state.keys, 'key')}, {plural(state.buckets, 'bucket')}")
    return state


def check_identity(identity: Identity, state: State, target: Target, view: ViewSettings, findings: Findings) -> None:
    """Check that the checkpoint belongs to the current query, and that no other configuration keeps changing it."""
    if state.identity is None:
        return
    contested = alternation(state, identity, target.now_ms(), view.name)
    if contested is not None:
        findings.fail("identity", f"{contested.message}: its runs end with exit code 5", contested.hint)
    elif identity.mapping != state.identity.mapping:
        findings.ok("identity", "the mapping to keys and values has changed: the next run compares everything")
    elif identity.source != state.identity.source:
        findings.ok(
            "identity", "the query, or what it reads, has changed since the checkpoint: the next run takes a snapshot"
        )


def check_compared(target: Target, state: State, view: ViewSettings, findings: Findings) -> None:
    """Check that losses are noticed: the rolling compare, and evictions since it last ran."""
    turn, counters, now_ms = state.turn, target.counters(), target.now_ms()
    policy = counters.policy or ""
    may_evict = policy.startswith("allkeys") or (view.expires_at is not None and policy.startswith("volatile"))
    evicted = counters.evicted or 0
    if turn.run_id == counters.run_ids:
        evicted -= min(evicted, turn.evicted)
    if may_evict and evicted:
        findings.warn(
            "evicted",
            f"{plural(evicted, 'key')} of this Redis were evicted since the last rolling compare: "
            "some may be the view's",
            f"reconcile snapshot --deep --view {view.name}",
        )
    every_ms = None if view.compare_every_s is None else round(view.compare_every_s * 1000)
    if schedule.overdue(turn, now_ms, every_ms):
        findings.warn(
            "compare",
            f"the last turn ended {format_time(turn.done_ms)}, longer ago than compare_every = "
            f"{format_duration(view.compare_every_s or 0)}: runs are too short, or too far apart",
            f"reconcile snapshot --deep --view {view.name}\n# compares everything now; then give runs more time",
        )
    elif turn.done_ms:
        findings.ok("compare", f"all of Redis was last compared {format_time(turn.done_ms)}")


def check_legacy(
    survey: Survey, target: Target, state: State | None, findings: Findings, *, first: bool, others: Collection[bytes]
) -> None:
    """Report mz-redis-sync's timestamp key, and whether mz-redis-sync still runs.

    first: this is the first view examined. Only for that one is the default key looked for, if none is configured.
    others: timestamp keys of all configured views.
    """
    configured = target.range.timestamp_key
    if not configured and (not first or LEGACY_KEY in others):
        return
    name = configured or LEGACY_KEY
    found, shown = survey.text(name), name_of(name)
    if isinstance(found, ReconcileError):
        if configured:
            findings.fail("timestamp key", f"{shown} cannot be used: {found.message}", f"TYPE {shown}")
        return
    if found is None:
        return
    frontier = int(found) if found.isdigit() else None
    ours = configured and frontier is not None and _is_checkpoint(frontier, state, target.state())
    alive = frontier is not None and abs(frontier - target.now_ms()) < LEGACY_ALIVE_MS
    if ours:
        findings.ok("timestamp key", f"{shown} holds the checkpoint's frontier")
    elif alive:
        findings.warn(
            "timestamp key",
            f"{shown} was written in the last minute: mz-redis-sync still seems to be running; "
            "two writers undo each other's work",
            "stop mz-redis-sync"
            + (f"; if another reconcile writes {shown}, give each a key of its own" if state is not None else ""),
        )
    elif not configured:
        findings.warn(
            "timestamp key",
            f"there is a key {shown}, as mz-redis-sync writes it",
            f"set mz_timestamp_key: {shown} if programs read it, or delete it",
        )
    elif state is None:
        findings.ok("timestamp key", f"{shown} was left by mz-redis-sync; the first run compares everything it wrote")
    else:
        findings.warn(
            "timestamp key",
            f"{shown} does not hold the checkpoint's frontier: something else wrote it",
            "the next run that writes corrects it; find out who else writes it",
        )


def _is_checkpoint(frontier: int, before: State | None, after: State | None) -> bool:
    """Whether this is the checkpoint's frontier. before, after: as read before and after it, as runs may commit."""
    times = [frontier_after(one.as_of) for one in (before, after) if one is not None and one.as_of is not None]
    return bool(times) and min(times) <= frontier <= max(times)


# -- keys --------------------------------------------------------------------------------------------------------------


def check_keys(
    survey: Survey,
    names: Names,
    target: Target,
    view: ViewSettings,
    source: tuple[Session, Mapping] | None,
    stop: Stop,
    findings: Findings,
) -> None:
    """Compare key names under the prefix with the manifest, and find TTLs that no run set."""
    session, mapping = source or (None, None)
    found = keyspace.examine(target, session, mapping, stop)
    where = f"under {target.range.prefix.decode()}" if target.range.prefix else "in this database"
    if target.range.ownership == "remembered":
        where = "that are remembered"
    state = target.state()
    if state is None or (state.as_of is None and state.pending is None):
        _before_first_run(found, where, view, findings)
        if source is not None and target.range.ownership == "remembered":
            _check_in_the_way(target, *source, view, findings)
    elif not found.settled:
        findings.ok(
            "key space", f"{plural(found.held, 'key')} {where}; not judged: a run is under way, or was cut short"
        )
    else:
        _judge(found, where, view, findings)
    if view.expires_at is None and found.held:
        _check_expiry(survey, names, target, where, stop, findings)
    if view.layout == "hash" and mapping is not None and found.held:
        _check_fields(survey, names, target, [column.name for column in mapping.values], where, stop, findings)


def _before_first_run(found: Found, where: str, view: ViewSettings, findings: Findings) -> None:
    if not found.held:
        findings.ok("key space", f"no keys {where} yet")
        return
    findings.warn(
        "key space",
        f"{plural(found.held, 'key')} {where} already, e.g. {_shown(found.some_names)}: the first run takes over "
        "those the view has, leaves the others alone and ends with exit code 5, until you consent to their deletion",
        f"reconcile snapshot --dry-run --view {view.name}\n"
        f"reconcile snapshot --allow-deletes --view {view.name}\n# or choose another key_prefix",
    )


def _check_in_the_way(
    target: Target, session: Session, mapping: Mapping, view: ViewSettings, findings: Findings
) -> None:
    """Look for keys of the view that exist with other content: a view without prefix overwrites none of them, except
    those that mz-redis-sync's timestamp key vouches for.
    """
    if target.stored().legacy_frontier is not None:
        return
    tried, taken = 0, []
    for chunk in session.stream(f"{mapping.mapped()} LIMIT {MAX_TRIED}"):
        rows = {key: row for key, row in mapping.form.rows(chunk) if key is not None and row is not None}
        tried += len(rows)
        there = [key for key, exists in zip(rows, target.exist(list(rows)), strict=True) if exists]
        for page in target.pages(there, unknown=True):
            taken += [key for key, held in page if held != rows[key]]
    if taken:
        findings.warn(
            "key space",
            f"{len(taken):,} of {plural(tried, 'key')} of the view that were tried exist already with other "
            f"content, e.g. {_shown(taken)}: the first run overwrites none of them and ends with exit code 5",
            f"set redis.key_prefix\n# or, if the view may have them: reconcile snapshot --adopt --view {view.name}",
        )


def _judge(found: Found, where: str, view: ViewSettings, findings: Findings) -> None:
    counted = f"{plural(found.held, 'key')} {where}, {found.keys:,} of the view"
    lost = found.lost if view.expires_at is None or found.exact else 0  # expired keys are not lost
    if lost:
        findings.warn(
            "key space",
            f"{counted}: {plural(lost, 'key')} lost" + _examples(found.lost_names),
            f"reconcile snapshot --deep --view {view.name}",
        )
    if found.surplus:
        findings.warn(
            "key space",
            f"{counted}: {plural(found.surplus, 'key')} that the view did not write" + _examples(found.surplus_names),
            f"reconcile verify --view {view.name}\n# then, if they may go: "
            f"reconcile snapshot --deep --allow-deletes --view {view.name}",
        )
    if not lost and not found.surplus:
        findings.ok("key space", counted)


def _examples(names: list[bytes]) -> str:
    return f", e.g. {_shown(names)}" if names else ""


def _shown(names: list[bytes]) -> str:
    return ", ".join(name_of(name) for name in names[: keyspace.MAX_EXAMPLES])


def _check_expiry(survey: Survey, names: Names, target: Target, where: str, stop: Stop, findings: Findings) -> None:
    if target.counters().with_expiry == 0:
        findings.ok("expiry", "no key in this Redis has a TTL")
        return
    found, asked, examples = keyspace.expiring(survey.expiring, target, stop)
    if not found:
        findings.ok("expiry", f"none of {plural(asked, 'key')} {where} has a TTL")
        return
    have = "has" if found == 1 else "have"
    findings.warn(
        "expiry",
        f"{found:,} of {plural(asked, 'key')} {where} {have} a TTL that something else has set, "
        f"e.g. {_shown(examples)}: Redis will delete them although the view has them",
        f"{_listing(names, target.range)} | xargs -r -d '\\n' -n 1 redis-cli PERSIST\n"
        "# and find out who calls EXPIRE; if keys should expire: expires_at: names the column that says when",
    )


def _check_fields(
    survey: Survey, names: Names, target: Target, fields: list[str], where: str, stop: Stop, findings: Findings
) -> None:
    found, asked, examples = keyspace.expiring(lambda page: survey.fields_expiring(page, fields), target, stop)
    if not found:
        return
    have = "has a field" if found == 1 else "have fields"
    findings.warn(
        "expiry",
        f"{found:,} of {plural(asked, 'hash', 'hashes')} {where} {have} with a TTL that something else has set, "
        f"e.g. {_shown(examples)}: Redis will delete these fields although the view has them",
        f"{_listing(names, target.range)} | xargs -r -d '\\n' -I '{{}}' redis-cli HPERSIST '{{}}' FIELDS {len(fields)} "
        f"{shlex.join(fields)}\n# and find out who calls HEXPIRE",
    )


def _listing(names: Names, owned: Range) -> str:
    """Return the shell command that lists the view's keys."""
    if owned.ownership == "remembered":
        any_set = names.remembered_sets[0].decode().rpartition(":")[0]
        return f"for n in $(seq 0 {REMEMBERED_SETS - 1}); do redis-cli SMEMBERS {shlex.quote(any_set)}:$n; done"
    pattern = f" --pattern {shlex.quote(pattern_of(owned.prefix).decode())}" if owned.prefix else ""
    return f"redis-cli --scan{pattern}"
