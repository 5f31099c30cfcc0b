"""The ACL rules that docs/operations.md lists, to be tried as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

_DOCUMENT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
USER, PASSWORD = "reconcile", "password"
RULES: list[str] = re.search(r"ACL SETUSER reconcile ([^*]*\*[^*]*\*[^*]*?)\n\n", _DOCUMENT)[1].split()  # type: ignore[index]
"""Of a user that keeps a view with the prefix `p:`."""


def more_rules(before: str) -> list[str]:
    """The rules that the document gives after these words."""
    found = re.search(re.escape(before) + r" `([^`]*)`", _DOCUMENT)
    assert found is not None, before
    return found[1].split()
