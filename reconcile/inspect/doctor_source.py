"""Doctor's checks of Materialize: connection and cluster, and one view's columns, access and keys. Read-only."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from reconcile.config.settings import Settings, ViewSettings
from reconcile.core.changes import MAX_EXAMPLES, name_of
from reconcile.core.sql import identifier
from reconcile.errors import AccessError
from reconcile.inspect.findings import Findings
from reconcile.source import catalog
from reconcile.source import session as sessions
from reconcile.source.columns import VALUE_TYPES, describe_mapping
from reconcile.source.query import Mapping
from reconcile.source.session import Session
from reconcile.stop import Stop
from reconcile.texts import plural

_NEEDS = re.compile(
    r"The '(?P<role>.+)' role needs (?P<privilege>[A-Z, ]+) privileges? on (?P<kind>[A-Z ]+) (?P<name>.+)"
)


def open_source(settings: Settings, stop: Stop, findings: Findings) -> Session | None:
    """Connect; check version and cluster. None if nothing more can be checked."""
    session = None
    with findings.checking("materialize"):
        session = sessions.connect(settings.materialize, stop)
        version, cluster, role = catalog.version_cluster_role(session)
        findings.ok("materialize", f"Materialize {version}, as {role}, cluster {cluster}")
        _check_encryption(session, settings, findings)
        _check_cluster(session, cluster, findings)
    return session


def connect_again(settings: Settings, stop: Stop, closing: contextlib.ExitStack, findings: Findings) -> Session | None:
    """Open another session for the remaining views, to be closed with `closing`."""
    with findings.checking("materialize"):
        session = sessions.connect(settings.materialize, stop)
        closing.callback(session.close)
        return session
    return None


def _check_encryption(session: Session, settings: Settings, findings: Findings) -> None:
    sslmode = settings.materialize.sslmode or "prefer"
    # Given sslrootcert, libpq treats "require" as "verify-ca".
    checked = sslmode in ("verify-ca", "verify-full") or (sslmode == "require" and settings.materialize.sslrootcert)
    if session.exposed:
        findings.warn(
            "encryption",
            "the connection to Materialize is not encrypted: password and rows can be read in transit",
            "set materialize.sslmode to require; to verify-full with sslrootcert, to be sure of the server",
        )
    elif session.encrypted and not checked:
        findings.warn(
            "encryption",
            f"encrypted, but with sslmode {sslmode} anyone could impersonate Materialize and learn the password",
            "set materialize.sslmode: verify-full, and materialize.sslrootcert to the file of its authority",
        )


def _check_cluster(session: Session, cluster: str, findings: Findings) -> None:
    """Check the cluster: Materialize only warns of a wrong one at connect, and the first query fails."""
    with findings.looking("cluster"):
        replicas = catalog.cluster_replicas(session, cluster)
        if replicas is None:
            findings.fail(
                "cluster",
                f"there is no cluster {cluster}",
                "set materialize.cluster to one of those listed by: SHOW CLUSTERS",
            )
        elif replicas == 0:
            findings.fail(
                "cluster",
                f"cluster {cluster} has no replicas: queries wait or fail",
                f"ALTER CLUSTER {identifier(cluster)} SET (REPLICATION FACTOR 1);",
            )
        else:
            findings.ok("cluster", f"{cluster} has {plural(replicas, 'replica')}")


def open_mapping(session: Session, view: ViewSettings, findings: Findings) -> Mapping | None:
    """Return the view's columns if they can be stored and the view can be read; None if nothing more can be checked."""
    with findings.checking("columns"), _granting(findings):
        mapping = describe_mapping(session, view)
        used = [*mapping.keys, *mapping.values, *([mapping.expires_at] if mapping.expires_at else [])]
        findings.ok("columns", ", ".join(f"{column.name} {VALUE_TYPES[column.oid]}" for column in used))
        with findings.checking("access"), _granting(findings):
            session.fetch(catalog.first_row(mapping))
            findings.ok("access", "the view can be read")
            return mapping
    return None


@contextlib.contextmanager
def _granting(findings: Findings) -> Iterator[None]:
    """Turn a refusal by Materialize inside the block into a finding with the GRANT that resolves it."""
    try:
        yield
    except AccessError as error:
        findings.fail("access", error.message, grant_for(error))


def grant_for(error: AccessError) -> str | None:
    """Return the statement that grants the missing privilege, or Materialize's own words if they cannot be parsed."""
    match = _NEEDS.fullmatch(error.hint or "")
    if match is None:
        return error.hint
    kind = match["kind"].strip()
    on = f"{kind} " if kind in ("SCHEMA", "CLUSTER", "DATABASE") else ""
    # The message quotes a qualified name as a whole.
    name = ".".join(identifier(part) for part in match["name"].strip('"').split("."))
    return f"GRANT {match['privilege']} ON {on}{name} TO {identifier(match['role'])};"


def check_keys(session: Session, mapping: Mapping, findings: Findings) -> tuple[int, bool]:
    """Check for NULL keys and keys with several rows. Returns the number of rows, and whether each has a key."""
    rows, keyless = catalog.count_rows(session, mapping)
    columns = [identifier(column.name) for column in mapping.keys]
    if keyless:
        condition = " AND ".join(f"{column} IS NOT NULL" for column in columns)
        findings.fail(
            "keys",
            f"{keyless:,} of {plural(rows, 'row')} have no key (NULL): runs stop with exit code 5",
            f"add to the query: WHERE {condition}",
        )
    found = session.fetch(f"{catalog.repeated_keys(mapping)} LIMIT {MAX_EXAMPLES}")
    repeated = [(name, int(count or 0)) for name, count in found if name is not None]
    if repeated:
        names = ", ".join(f"{name_of(name)} ({count} rows)" for name, count in repeated)
        more = ", …" if len(repeated) >= MAX_EXAMPLES else ""
        key = ", ".join(columns)
        findings.fail(
            "keys",
            f"some keys have several rows: {names}{more}: runs stop with exit code 5",
            f"make the key unique in the query, e.g. SELECT DISTINCT ON ({key}) … ORDER BY {key}, <what decides>",
        )
    if not keyless and not repeated:
        findings.ok("keys", f"{plural(rows, 'row')}, each with a unique key")
    return rows, not keyless
