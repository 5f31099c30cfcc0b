"""Shell completion as bash sees it: commands, options, choices, and the views of the configuration."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.command import PROGRAM

SCRIPT = r"""
source <(reconcile completion bash)
COMP_WORDS=(reconcile "$@")
COMP_CWORD=$#
_reconcile_completion reconcile
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ver"], "verify"),
        (["verify", "--cov"], "--coverage"),
        (["run", "--if-leased", "sk"], "skip"),
        (["run", "--view", "pri"], "prices"),
    ],
)
def test_bash(tmp_path: Path, words: list[str], expected: str) -> None:
    """The one word that fits."""
    (tmp_path / "config.yaml").write_text(
        "redis: {host: redis}\nmaterialize: {host: materialize, user: u}\n"
        "views: [{relation: prices, name: prices, key_prefix: p}, {relation: orders, name: orders, key_prefix: o}]\n"
    )
    path = os.pathsep.join([str(Path(PROGRAM).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", SCRIPT, "bash", *words],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == [expected]
