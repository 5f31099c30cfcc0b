"""Write the statements of a companion view for the configured query: the right number of buckets and a new salt."""

from __future__ import annotations

import logging
import secrets
from typing import Any

from msgspec import Struct

from reconcile.config import query as config_query
from reconcile.config.choice import chosen_views
from reconcile.config.settings import Settings, ViewSettings
from reconcile.config.values import Wrong
from reconcile.core import digest
from reconcile.core.sql import identifier
from reconcile.errors import ReconcileError, Unavailable, UsageError
from reconcile.inspect.yaml_text import scalar
from reconcile.source import catalog, query
from reconcile.source import session as sessions
from reconcile.source.columns import describe_mapping
from reconcile.source.query import Mapping
from reconcile.source.reading import explain
from reconcile.source.session import Session
from reconcile.stop import Stop
from reconcile.target.opening import open_target

logger = logging.getLogger(__name__)

SALT_BYTES = 16


class CompanionStatements(Struct, frozen=True):
    """Statements to run in Materialize, and the line to add to the configuration."""

    view: str
    name: str
    buckets: int
    reason: str
    """Why this number of buckets."""
    ddl: str
    cluster: str
    role: str

    def to_dict(self) -> dict[str, Any]:
        """Return what `init --companion --json` prints."""
        return {
            "status": "done",
            "exit_code": 0,
            "view": self.view,
            "companion": self.name,
            "buckets": self.buckets,
            "cluster": self.cluster,
            "ddl": self.ddl,
        }

    def render(self) -> str:
        """Return the statements with comments, ready for psql."""
        return (
            f"-- Companion view of {self.view}: Materialize keeps its fingerprints up to date, so a run reads only\n"
            f"-- what changed. {self.buckets:,} buckets ({self.reason}). Its salt is a secret: with it,\n"
            "-- anybody who controls some rows could hide changes to others.\n"
            "-- Run this with the database and search_path of the configuration, in the cluster of its sessions.\n"
            f"SET cluster = {identifier(self.cluster)};\n"
            f"{self.ddl}"
            f"-- If another role than {self.role} runs this:\n"
            f"-- GRANT SELECT ON {self.name} TO {identifier(self.role)};\n"
            "--\n"
            "-- Then add to the entry of this view under views: (or set RECONCILE_VIEW__COMPANION):\n"
            f"--     companion: {scalar(self.name)}"
        )


def make_statements(
    settings: Settings, view_name: str | None, name: str | None, buckets: int | None, stop: Stop
) -> CompanionStatements:
    """Examine the query and return the statements; nothing is created. Raises ReconcileError."""
    if name is not None:
        _check_name(name)
    views = chosen_views(settings, (view_name,) if view_name else ())
    if len(views) > 1:
        names = ", ".join(view.name for view in views)
        raise UsageError("a companion view is for one view", hint=f"say which with --view: {names}")
    (view,) = views
    session = sessions.connect(settings.materialize, stop)
    try:
        mapping = describe_mapping(session, view)
        chosen, reason = _buckets(settings, view, session, mapping, buckets, stop)
        _, cluster, role = catalog.version_cluster_role(session)
        name = name or view.companion or _default_name(session, view, mapping)
    finally:
        session.close()
    ddl = query.companion_ddl(mapping, name, chosen, secrets.token_hex(SALT_BYTES))
    return CompanionStatements(view.name, name, chosen, reason, ddl, cluster, role)


def _check_name(name: str) -> None:
    try:
        config_query.parts(name)
    except Wrong as error:
        raise UsageError(f"--companion {name!r} {error.problem}", hint=error.hint) from None


def _buckets(
    settings: Settings, view: ViewSettings, session: Session, mapping: Mapping, asked: int | None, stop: Stop
) -> tuple[int, str]:
    """Return the number of buckets and why. Another one than the state's would make the next run compare everything."""
    if asked is not None:
        return asked, "as asked"
    if view.buckets is not None:
        return view.buckets, "as configured"
    try:
        stored = _stored_buckets(settings, view, stop)
    except Unavailable as error:
        logger.warning("cannot ask Redis how many buckets it has: %s", error.message)
        stored = 0
    if stored:
        return stored, "as stored by the last run"
    rows, _ = catalog.count_rows(session, mapping)
    return digest.choose_buckets(rows, digest.COMPANION_ROWS_PER_BUCKET), f"for {rows:,} rows"


def _stored_buckets(settings: Settings, view: ViewSettings, stop: Stop) -> int:
    target = open_target(settings.redis, view, stop)
    try:
        state = target.state()
    finally:
        target.close()
    return state.buckets if state is not None else 0


def _default_name(session: Session, view: ViewSettings, mapping: Mapping) -> str:
    """Return a name beside the view, if the query reads one; else one from our view's name."""
    fallback = identifier(f"{view.name}_companion")
    try:
        objects = [catalog.find_object(session, source.id) for source in explain(session, mapping).objects]
    except ReconcileError:
        return fallback
    relations = [one if one.on_id is None else catalog.find_object(session, one.on_id) for one in objects if one]
    if len(relations) != 1 or relations[0] is None:
        return fallback
    return relations[0].name.removesuffix('"') + '_companion"'
