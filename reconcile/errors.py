"""Every way a run can fail, as one tree. The exit codes are an interface: README lists them.

ReconcileError                 1  a bug, unless a leaf says otherwise
├── UsageError                 2  command line or configuration; refused credentials; missing view or column
│   ├── ConfigError               a configuration file or environment variable, with its place
│   ├── SchemaError               the query cannot be mapped: missing column, unsupported type
│   ├── AccessError               credentials or privileges refused
│   └── ResultTooLarge            the source refuses a result of this size
│       └── FellBehind         6  … of changes, since they were not read fast enough
├── SafetyStop                 5  a human decides; nothing disputed was deleted
│   ├── DataError                 NULL key, one key with several rows, a value Redis refuses
│   ├── EvaluationFailed          the view has rows that cannot be computed
│   └── StateError                stored state is corrupt or written by a newer format
├── Unavailable                6  Materialize or Redis cannot be reached, or cannot work now
│   ├── ConnectionLimit           Materialize takes no more connections
│   └── LeaseLost                 another run took over this view; this one wrote nothing after that
├── Incomplete                 4  time ran out or a signal came; what was committed stays
├── LeaseHeld                  7  another run works on this view
└── HistoryLost                8  the source can no longer be read at the checkpoint's time
"""

from __future__ import annotations

import enum
from collections.abc import Iterable


class ExitCode(enum.IntEnum):
    """Exit codes of the process. Callers must treat unknown codes as failure."""

    OK = 0
    BUG = 1
    USAGE = 2
    DRIFT = 3
    INCOMPLETE = 4
    SAFETY_STOP = 5
    UNAVAILABLE = 6
    LEASE_HELD = 7
    HISTORY_LOST = 8


INTERRUPTED = 130
"""128 + SIGINT, as in shells: interrupted before there was anything to save."""

# Several views in one run give several codes; the first of these that occurs is the run's.
_PRIORITY = (2, 5, 1, 8, 7, 6, 4, 3, 0)


def worst(codes: Iterable[ExitCode], *, verify: bool = False) -> ExitCode:
    """Return the exit code for several views; OK for none.

    verify: drift in one view outranks another view's failure. Elsewhere DRIFT means that a dry run found changes, which
    outranks only OK.
    """
    found = set(codes)
    if verify and ExitCode.DRIFT in found:
        return ExitCode.DRIFT
    return min(found, key=_PRIORITY.index, default=ExitCode.OK)


class ReconcileError(Exception):
    """Base class; raised itself only for an unexpected failure."""

    exit_code: ExitCode = ExitCode.BUG

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def kind(self) -> str:
        """Stable machine-readable name, e.g. 'config_error'."""
        name = type(self).__name__
        return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


class UsageError(ReconcileError):
    """The command or configuration cannot be carried out as given."""

    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """The configuration is not usable."""


class SchemaError(UsageError):
    """The query's columns cannot be mapped to Redis keys and values."""


class ResultTooLarge(UsageError):  # noqa: N818
    """The source refuses a result of this size, however the read is split."""


class FellBehind(ResultTooLarge):
    """Materialize ended a subscription whose changes were not read fast enough."""

    exit_code = ExitCode.UNAVAILABLE


class AccessError(UsageError):
    """Credentials or privileges were refused."""


class SafetyStop(ReconcileError):  # noqa: N818 - a decision, not a defect
    """Going on could destroy data; a human decides."""

    exit_code = ExitCode.SAFETY_STOP


class DataError(SafetyStop):
    """The view's rows cannot be stored as they are."""

    past = False
    """Whether it was so at the checkpoint, and may be right by now."""


class EvaluationFailed(SafetyStop):
    """The view has rows that cannot be computed (division by zero), now or in the history a delta reads."""


class StateError(SafetyStop):
    """The state stored in Redis cannot be used."""


class Unavailable(ReconcileError):  # noqa: N818
    """Materialize or Redis cannot be reached, or cannot work now; the next run may succeed."""

    exit_code = ExitCode.UNAVAILABLE


class ConnectionLimit(Unavailable):
    """Materialize takes no more connections at the moment."""


class Incomplete(ReconcileError):  # noqa: N818
    """Time ran out or a signal came; what was committed stays."""

    exit_code = ExitCode.INCOMPLETE


class LeaseHeld(ReconcileError):  # noqa: N818
    """Another run works on this view."""

    exit_code = ExitCode.LEASE_HELD


class LeaseLost(Unavailable):
    """Another run took over this view; this one wrote nothing after that."""


class HistoryLost(ReconcileError):  # noqa: N818
    """The source can no longer be read at the checkpoint's time."""

    exit_code = ExitCode.HISTORY_LOST
