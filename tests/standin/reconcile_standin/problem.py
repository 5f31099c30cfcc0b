"""What goes wrong in a statement, in the fields the protocol has for it."""

from __future__ import annotations

EVALUATION = "Evaluation error: "


class SqlError(Exception):
    """An ErrorResponse in waiting. Materialize says XX000 for most of what users get wrong."""

    def __init__(
        self,
        message: str,
        code: str = "XX000",
        *,
        hint: str | None = None,
        detail: str | None = None,
        position: int | None = None,
        severity: str = "ERROR",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.detail = detail
        self.position = position
        self.severity = severity

    @classmethod
    def evaluation(cls, message: str) -> SqlError:
        """An error in the data, found while rows were computed."""
        return cls(f"{EVALUATION}{message}")

    @classmethod
    def syntax(cls, message: str, position: int) -> SqlError:
        """An error of the parser; positions count from one."""
        return cls(message, "42601", position=position + 1)

    @classmethod
    def unsupported(cls, what: str) -> SqlError:
        """Something real Materialize may know and this stand-in does not."""
        return cls(f"{what} is not supported by the stand-in", "0A000")


def canceled() -> SqlError:
    """The answer to a CancelRequest."""
    return SqlError("canceling statement due to user request", "57014")
