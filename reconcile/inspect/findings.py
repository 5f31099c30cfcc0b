"""Doctor's findings: one line each, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from msgspec import Struct, field

from reconcile.errors import ExitCode, Incomplete, ReconcileError, SafetyStop, Unavailable, UsageError, worst

Level = Literal["ok", "warn", "fail"]


class Finding(Struct, frozen=True):
    """The result of one check.

    fix: SQL or a command, one or more lines, ready to use. exit_code: the exit code of a failed check; OK for other
    levels.
    """

    check: str
    view: str | None
    level: Level
    message: str
    fix: str | None = None
    exit_code: ExitCode = ExitCode.OK

    def to_dict(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "view": self.view,
            "level": self.level,
            "message": self.message,
            "fix": self.fix,
        }


class Findings(Struct):
    """Collects findings in the order of the checks."""

    view: str | None = None
    """The view under examination; None: the check is about a server."""
    found: list[Finding] = field(default_factory=list)

    def ok(self, check: str, message: str) -> None:
        self.found.append(Finding(check, self.view, "ok", message))

    def warn(self, check: str, message: str, fix: str | None = None) -> None:
        self.found.append(Finding(check, self.view, "warn", message, fix))

    def fail(self, check: str, message: str, fix: str | None = None, exit_code: ExitCode = ExitCode.USAGE) -> None:
        self.found.append(Finding(check, self.view, "fail", message, fix, exit_code))

    @property
    def exit_code(self) -> ExitCode:
        return worst([finding.exit_code for finding in self.found])

    def to_dict(self) -> dict[str, Any]:
        """Return what `doctor --json` prints."""
        return {
            "status": "failed" if self.exit_code else "done",
            "exit_code": int(self.exit_code),
            "checks": [finding.to_dict() for finding in self.found],
        }

    @contextmanager
    def checking(self, check: str) -> Iterator[None]:
        """Turn an error inside the block into this check's finding; a warning if something could not be examined.

        Raises Incomplete if doctor itself was stopped.
        """
        try:
            yield
        except Incomplete:
            raise
        except Unavailable as error:
            self.fail(check, error.message, error.hint, ExitCode.UNAVAILABLE)
        except (UsageError, SafetyStop) as error:
            self.fail(check, error.message, error.hint)
        except ReconcileError as error:
            self.warn(check, f"could not be checked: {error.message}", error.hint)

    @contextmanager
    def looking(self, check: str) -> Iterator[None]:
        """Like `checking`, for checks that the role may not be allowed to make: a refusal is only a warning. What stops
        runs is none.
        """
        try:
            yield
        except (Incomplete, Unavailable):
            raise
        except SafetyStop as error:
            self.fail(check, error.message, error.hint)
        except ReconcileError as error:
            self.warn(check, f"could not be checked: {error.message}")


def render(findings: Findings, *, quiet: bool) -> str:
    """Return the findings as text. quiet: only those that are not ok."""
    shown = [finding for finding in findings.found if not quiet or finding.level != "ok"]
    lines = [line for finding in shown for line in _lines(finding)]
    counts = {level: sum(finding.level == level for finding in findings.found) for level in ("ok", "warn", "fail")}
    if not quiet:
        lines.append(f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} to fix")
    return "\n".join(lines)


def _lines(finding: Finding) -> Iterator[str]:
    where = finding.check if finding.view is None else f"{finding.view}: {finding.check}"
    yield f"{finding.level:<4}  {where}: {finding.message}"
    for line in (finding.fix or "").splitlines():
        yield f"        {line}"
