"""The companion view, in which Materialize maintains the fingerprints.

The number of buckets and the salt are read from its definition, so a new state, a second Redis target and the shards of
a view can share it. Plans prove that it matches the query: the statement in its definition must have the same plan as
the fingerprint query we would send. Comparing the numbers themselves proves nothing while the view is empty.
"""

from __future__ import annotations

import re

from msgspec import Struct
from msgspec.structs import replace

from reconcile.core.digest import MAX_BUCKETS, MIN_BUCKETS
from reconcile.core.shards import WHOLE
from reconcile.core.state import identity_hash
from reconcile.errors import UsageError
from reconcile.source import query
from reconcile.source.frontiers import parse_explanation
from reconcile.source.query import Mapping
from reconcile.source.reading import plan_of
from reconcile.source.session import Session

_STATEMENT = re.compile(r"\bAS\s+(SELECT\b.*?);?\s*\Z", re.DOTALL)
_BUCKETS = re.compile(r"%\s*(\d+)\s*::\s*[\w.\"]+\s+AS\s+\"?bucket\b")
_SALT = re.compile(r"\bseahash\"?\s*\((?:[\w.\"\s]*\()?\s*'([0-9a-f]{32})'")
_AGAIN = "create it again with the statements of: reconcile init --companion"


class CompanionDefinition(Struct, frozen=True):
    """The definition of a companion view.

    salt: 32 hexadecimal characters. identity: changes if the view is replaced, or made of other objects.
    """

    name: str
    buckets: int
    salt: str
    identity: str
    statement: str
    """Its SELECT, with the current names of what it reads."""

    def ours(self, mapping: Mapping) -> str:
        """Return the statement that we would send in place of reading it."""
        return replace(mapping, shard=WHOLE).fingerprints(self.buckets, self.salt)

    def proved(self, session: Session, mapping: Mapping) -> bool:
        """Whether Materialize plans it exactly as the fingerprints of this query. Call outside of a reading.

        Also False if plans are not shown: then only comparing all fingerprints at one time can tell.
        """
        try:
            plans = [plan_of(session, one, planning=True) for one in (self.statement, self.ours(mapping))]
        except UsageError:
            return False
        return plans[0] == plans[1]


def describe_companion(session: Session, name: str) -> CompanionDefinition:
    """Read a companion view's definition. Call outside of a reading, which keeps to the schemas of its first statement.

    Raises UsageError if there is no such view, or `companion_ddl` did not make it.
    """
    try:
        ((_, text),) = session.fetch(f"SHOW CREATE VIEW {name}", planning=True)
        ((explained,),) = session.fetch(query.current_of(f"SELECT * FROM {name}"), planning=True)
    except UsageError as error:
        raise UsageError(f"companion view {name}: {error.message}", hint=_AGAIN) from error
    definition = str(text or b"", "utf-8")
    ids = parse_explanation(str(explained or b"", "utf-8")).ids
    statement = _STATEMENT.search(definition)
    buckets = _BUCKETS.search(definition)
    salt = _SALT.search(definition, buckets.end()) if buckets is not None else None
    if statement is None or buckets is None or salt is None:
        raise UsageError(f"companion view {name} does not have the form of this version", hint=_AGAIN)
    count = int(buckets[1])
    if not MIN_BUCKETS <= count <= MAX_BUCKETS or count & (count - 1):
        raise UsageError(
            f"companion view {name} was made for {count} buckets, not a power of two from {MIN_BUCKETS} to "
            f"{MAX_BUCKETS}",
            hint=_AGAIN,
        )
    return CompanionDefinition(name, count, salt[1], identity_hash([definition, *ids]), statement[1])
