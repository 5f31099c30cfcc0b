"""The oldest versions of the dependencies that pyproject.toml allows."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from functions import build
from tests.platforms import shipped

NEWEST_PYTHON = (3, 12)
"""Of later ones their wheels know nothing."""


@pytest.mark.skipif(sys.version_info[:2] > NEWEST_PYTHON, reason="the oldest versions have no wheels for this Python")
def test_the_oldest_versions_tell_the_whole_story(tmp_path: Path) -> None:
    """With all of them at once, the demo comes to its end."""
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    oldest = [str(requirement).replace(">=", "==") for requirement in map(Requirement, build.dependencies())]
    assert all("==" in pinned for pinned in oldest), oldest
    ours = [str(shipped.ROOT), str(shipped.ROOT / "tests" / "standin")]
    install = [str(programs / "pip"), "install", "--quiet", "--disable-pip-version-check", "--prefer-binary"]
    subprocess.run([*install, *oldest, "-e", ours[0], "-e", ours[1]], check=True, timeout=600)
    told = subprocess.run(
        [str(programs / "reconcile"), "demo"], cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
