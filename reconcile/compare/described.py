"""The view's query as Materialize sees it: columns, plan, identity, companion view. Reads no rows."""

from __future__ import annotations

from msgspec import Struct

from reconcile.config.settings import ViewSettings
from reconcile.core.state import Identity, State, identity_hash
from reconcile.errors import ReconcileError, Unavailable, UsageError
from reconcile.report.run_report import ViewReport
from reconcile.source.columns import describe_mapping
from reconcile.source.companion import CompanionDefinition, describe_companion
from reconcile.source.frontiers import Explained
from reconcile.source.query import Mapping
from reconcile.source.reading import Reading, plan_of
from reconcile.source.session import Session
from reconcile.target.port import Target


class Described(Struct, frozen=True):
    """One view's query. plan: empty if Materialize does not show it. companion: None without a usable one."""

    environment_id: str
    mapping: Mapping
    plan: str
    ownership: str
    companion: CompanionDefinition | None

    def identity(self, explained: Explained) -> Identity:
        """Return the identity that stored content must have."""
        signature = [*self.mapping.signature, self.ownership]
        parts = [self.environment_id, *explained.ids, self.mapping.sql, *self.mapping.columns, self.plan]
        return Identity(source=identity_hash([*parts, *signature]), mapping=identity_hash(signature))


def describe(session: Session, view: ViewSettings, target: Target, report: ViewReport) -> Described:
    """Check the query and its columns, and let the target know these. Raises SchemaError, UsageError, Unavailable."""
    environment_id = session.environment_id()
    mapping = describe_mapping(session, view)
    target.use_columns([column.name for column in mapping.values])
    plan = _plan_of(session, view, report)
    companion = _companion(session, view, mapping, report)
    return Described(environment_id, mapping, plan, target.range.ownership, companion)


def _plan_of(session: Session, view: ViewSettings, report: ViewReport) -> str:
    try:
        return plan_of(session, view.sql)
    except Unavailable:
        raise
    except ReconcileError as error:
        session.stop.check()
        report.warnings.append(
            "Materialize does not show the query's plan, so a plain view that is replaced goes unnoticed: "
            + error.message
        )
        return ""


def _companion(
    session: Session, view: ViewSettings, mapping: Mapping, report: ViewReport
) -> CompanionDefinition | None:
    """Return the configured companion view if its definition is usable; else None, with a warning."""
    if view.companion is None:
        return None
    try:
        definition = describe_companion(session, view.companion)
    except UsageError as error:
        report.warnings.append(f"{error.message}: fingerprints are computed instead")
        return None
    return definition


def proved(session: Session, described: Described, state: State, report: ViewReport) -> CompanionDefinition | None:
    """Return the companion view if it is proved to maintain the fingerprints of this very query.

    session: outside of a reading. An earlier proof is stored in the state, by the companion's identity.
    """
    definition = described.companion
    if definition is None:
        return None
    if state.companion == companion_mark(described) or definition.proved(session, described.mapping):
        return definition
    report.warnings.append(
        f"companion view {definition.name} does not match the query: fingerprints are computed instead; "
        "create it again with the statements of: reconcile init --companion"
    )
    return None


def companion_mark(described: Described) -> str:
    """Return what the state stores of a proved companion view: it, the statement that it stands for, and the query's
    plan. The query alone is not enough: which of its columns make the key is configured."""
    assert described.companion is not None
    companion, mapping = described.companion, described.mapping
    return identity_hash([companion.identity, companion.ours(mapping), described.plan, described.environment_id])


def usable(companion: CompanionDefinition | None, reading: Reading) -> CompanionDefinition | None:
    """Return None for a read at another time than the present: the companion's index keeps a second of history,
    whatever the view keeps.
    """
    return companion if reading.of_the_present else None
