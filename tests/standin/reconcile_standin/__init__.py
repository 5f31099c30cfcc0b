"""A stand-in for Materialize, for tests and demonstrations: never on the path of a production run.

    with StandIn() as standin:
        psycopg.connect(standin.url)

It speaks the PostgreSQL protocol over an embedded SQL engine and behaves, as far as `reconcile` and its users look,
like what tests/conformance has recorded of a real Materialize.
"""

from __future__ import annotations

from reconcile_standin.child import StandIn

__all__ = ["StandIn"]
