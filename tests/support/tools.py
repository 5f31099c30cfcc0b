"""Programs that are no Python packages; tests/platforms/install-tools.sh installs them."""

from __future__ import annotations

import os
import shutil

import pytest


def require(*names: str) -> str:
    """The path of the first of these programs that is there. Without one the test is skipped, in CI it fails."""
    for name in names:
        if found := shutil.which(name):
            return found
    message = f"no {names[0]} on the PATH (tests/platforms/install-tools.sh installs it)"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
