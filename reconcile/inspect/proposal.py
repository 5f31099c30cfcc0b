"""Propose a configuration for existing relations: key column, layout, and the reasons."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct, field

from reconcile.config.query import parts, quoted
from reconcile.config.settings import MaterializeSettings, RedisSettings, Settings
from reconcile.config.values import Wrong
from reconcile.errors import UsageError
from reconcile.inspect.yaml_text import scalar
from reconcile.source import catalog, query
from reconcile.source import session as sessions
from reconcile.source.catalog import Relation
from reconcile.source.columns import KEY_TYPES
from reconcile.source.query import Column
from reconcile.source.session import Session
from reconcile.stop import Stop

COMPANION_COLUMNS = ["bucket", "rows", "fingerprint"]
_LIKELY_KEYS = ("key", "id")


class Proposed(Struct, frozen=True):
    """A proposed entry of `views:`. comments: what the reader should check."""

    name: str
    relation: str
    key: str
    values: tuple[str, ...]
    layout: str
    comments: tuple[str, ...] = field(default=())


Choose = Callable[[list[tuple[str, str]]], tuple[str, ...]]
"""(name, kind) of the existing relations → names to configure."""


def make(settings: Settings, relations: tuple[str, ...], choose: Choose, stop: Stop) -> str:
    """Return the configuration for these relations, or for those chosen, as YAML. Raises ReconcileError."""
    session = sessions.connect(settings.materialize, stop)
    try:
        chosen = relations or choose([(one.name, one.kind) for one in known_relations(session)])
        return render(settings, propose(session, chosen))
    finally:
        session.close()


def known_relations(session: Session) -> list[Relation]:
    """Return the relations to choose from, without companion views."""
    return [one for one in catalog.relations(session) if not _is_companion(session, one)]


def _is_companion(session: Session, relation: Relation) -> bool:
    if relation.kind != "view":
        return False
    columns = session.columns(query.describe(query.all_of(relation.name)))
    return [column.name for column in columns] == COMPANION_COLUMNS


def propose(session: Session, relations: Sequence[str]) -> list[Proposed]:
    """Return one entry per relation, with distinct names. Raises UsageError for a relation that does not exist."""
    proposed: list[Proposed] = []
    for relation in relations:
        try:
            columns = session.columns(query.describe(query.all_of(quoted(relation))))
        except Wrong as error:
            raise UsageError(f"--relation: {relation!r} {error.problem}", hint=error.hint) from None
        except UsageError as error:
            names = [one.name for one in known_relations(session)]
            own = [catalog.plain_identifier(parts(name)[-1]) for name in names]
            close = [shlex.quote(name) for name in difflib.get_close_matches(relation, [*names, *own], 3)]
            hint = f"did you mean {', '.join(close)}?" if close else f"there are: {', '.join(names[:10]) or 'none'}"
            raise UsageError(f"{relation} cannot be read: {error.message}", hint=hint) from error
        name = _unused(_last(relation), [one.name for one in proposed])
        proposed.append(propose_one(name, relation, columns))
    return proposed


def propose_one(name: str, relation: str, columns: Sequence[Column]) -> Proposed:
    """Propose an entry for these columns. Pure."""
    able = [column.name for column in columns if column.oid in KEY_TYPES]
    if not able:
        raise UsageError(f"{relation} has no column that can be a key", hint="write a query that casts one to text")
    likely = [one for one in able if one in _LIKELY_KEYS] or [one for one in able if one.endswith(("_id", "_key"))]
    key = (likely or able)[0]
    comments = [] if key == "key" else [f"check that {key} is unique: reconcile doctor"]
    values = tuple(column.name for column in columns if column.name != key)
    if not values:
        return Proposed(name, relation, key, (key,), "string", (*comments, "the only column is key and value at once"))
    layout = "string" if len(values) == 1 else "json"
    if layout == "json":
        comments.append("json: one object per key; layout: hash stores a field per column")
    return Proposed(name, relation, key, values, layout, tuple(comments))


def _last(relation: str) -> str:
    """Return the relation's own name as a view name: without quotes and characters that names must not have."""
    part = re.findall(r'"(?:[^"]|"")*"|[^.]+', relation)[-1].strip('"')
    return re.sub(r"[^A-Za-z0-9_-]", "_", part) or "view"


def _unused(name: str, taken: Iterable[str]) -> str:
    names, number = set(taken), 2
    chosen = name
    while chosen in names:
        chosen, number = f"{name}_{number}", number + 1
    return chosen


def render(settings: Settings, proposed: Sequence[Proposed]) -> str:
    """Return the configuration as YAML, without secrets."""
    lines = [
        "# Configuration of reconcile. Next: reconcile config check; reconcile doctor; reconcile run",
        "",
        *materialize_lines(settings.materialize),
        "",
        *redis_lines(settings.redis, given=settings.origins.get("redis.host", "default") != "default"),
        "",
        "views:",
    ]
    for one in proposed:
        lines += _view_lines(one)
    return "\n".join(lines)


def materialize_lines(settings: MaterializeSettings) -> list[str]:
    """Return the section `materialize:`."""
    lines = ["materialize:", f"  host: {scalar(settings.host)}", f"  port: {settings.port}"]
    lines += [f"  user: {scalar(settings.user)}", f"  database: {scalar(settings.database)}"]
    lines += [
        f"  {name}: {scalar(value)}"
        for name in ("sslmode", "sslrootcert", "cluster")
        if (value := getattr(settings, name)) is not None
    ]
    lines.append(
        "  # the password: MATERIALIZE_PASSWORD in the environment, or password_file: /run/secrets/materialize"
    )
    if settings.extra:
        lines.append(f"  # set in the URL, to be set again here: {', '.join(sorted(settings.extra))}")
    return lines


def redis_lines(settings: RedisSettings, *, given: bool) -> list[str]:
    """Return the section `redis:`. given: the address of Redis is known."""
    if not given:
        return ["redis:", "  host: your-redis-host", "  port: 6379"]
    if settings.unix_socket_path is not None:
        lines = ["redis:", f"  unix_socket_path: {scalar(settings.unix_socket_path)}"]
    else:
        lines = ["redis:", f"  host: {scalar(settings.host)}", f"  port: {settings.port}"]
    lines += [f"  db: {settings.db}"] if settings.db else []
    lines += [f"  username: {scalar(settings.username)}"] if settings.username else []
    lines += [f"  {name}: true" for name in ("tls", "cluster", "dedicated") if getattr(settings, name)]
    lines += [
        f"  {name}: {scalar(value)}"
        for name in ("tls_ca_cert", "tls_cert", "tls_key")
        if (value := getattr(settings, name)) is not None
    ]
    lines.append("  # the password: REDIS_PASSWORD in the environment, or password_file: /run/secrets/redis")
    return lines


def _view_lines(one: Proposed) -> list[str]:
    lines = [f"  - name: {scalar(one.name)}", f"    relation: {scalar(one.relation)}"]
    lines += [f"    # {comment}" for comment in one.comments]
    lines.append(f"    key: {scalar(one.key)}")
    if one.layout == "string":
        lines.append(f"    value: {scalar(one.values[0])}")
    else:
        lines += ['    value: "*"', f"    layout: {one.layout}"]
    lines += [
        f"    # Keys in Redis are {one.name}:<{one.key}>. The prefix belongs to this view: of keys there that it did",
        "    # not write, up to ten a day are removed, more only with consent (reconcile snapshot --allow-deletes).",
        f"    key_prefix: {scalar(one.name)}",
        f"    # Makes runs cheap where history is short: reconcile init --companion --view {one.name}",
        "    # companion: …",
    ]
    return lines
