"""A stand-in for Materialize, for tests and demonstrations: never on the path of a production run.

    with Emulator() as emulator:
        psycopg.connect(emulator.url)

It speaks the PostgreSQL protocol over an embedded SQL engine and behaves, as far as `reconcile` and its users look,
like what tests/conformance has recorded of a real Materialize.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reconcile.emulator.process import Emulator

if TYPE_CHECKING:
    from reconcile.emulator.foreground import serve

__all__ = ["Emulator", "serve"]


def __getattr__(name: str) -> Any:
    # The server needs the `embedded` extra; importing this package must not, and must be quick.
    if name == "serve":
        from reconcile.emulator.foreground import serve

        return serve
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
