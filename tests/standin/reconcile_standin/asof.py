"""The expressions of AS OF and UP TO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from reconcile_standin import syntax as s
from reconcile_standin.problem import SqlError
from reconcile_standin.relations import Analyzer, Names
from reconcile_standin.scope import Scope

if TYPE_CHECKING:
    from reconcile_standin.engine import Engine
    from reconcile_standin.typed import Typed

_END_OF_TIME = 2**64 - 1


class Session(Names, Protocol):
    """What is needed of a session."""

    @property
    def engine(self) -> Engine:
        """Its connection for reading."""
        ...


def evaluate(node: s.Expr, session: Session) -> int:
    """The time an expression means."""
    analyzer = Analyzer(session)
    if isinstance(node, s.Call) and node.name in ("mz_now", "now", "current_timestamp"):
        name = "mz_now" if node.name == "mz_now" else "current_timestamp"
        raise SqlError(f"cannot call {name} in AS OF or UP TO ", "0A000")
    expr = analyzer.expr(node, Scope())
    if analyzer.facts.temporal:
        raise SqlError("cannot call mz_now in AS OF or UP TO ", "0A000")
    if expr.is_constant and expr.value is None:
        raise _unusable("null")
    if expr.unknown or expr.type.name == "text":
        raise _unusable("text")
    return _as_time(expr, session)


def _unusable(what: str) -> SqlError:
    return SqlError(f"can't use {what} as a mz_timestamp for AS OF or UP TO")


def _as_time(expr: Typed, session: Session) -> int:
    value = expr.constant if expr.is_constant else session.engine.all(f"SELECT {expr.sql}")[0][0]
    name = expr.type.name
    if name in ("timestamp", "timestamptz"):
        assert isinstance(value, int)
        return value // 1000
    if not expr.type.is_number and name != "mz_timestamp":
        raise _unusable(name)
    text = value.decode() if isinstance(value, bytes) else str(value)
    try:
        t = int(text)
    except ValueError:
        raise SqlError("decimal cannot be expressed in target primitive type") from None
    if not 0 <= t <= _END_OF_TIME:
        raise SqlError("out of range integral type conversion attempted")
    return t
