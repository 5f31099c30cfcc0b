"""What the tests are told does not reach the programs they start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import environment

REAL = "postgres://real:6875/materialize"
OTHER = "postgres://other:6875/materialize"


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ({}, None),
        ({"MATERIALIZE_URL": REAL}, REAL),
        ({environment.SOURCE_URL: REAL}, REAL),
        ({"MATERIALIZE_URL": OTHER, environment.SOURCE_URL: REAL}, REAL),
        ({"MATERIALIZE_URL": REAL, environment.SOURCE_URL: ""}, REAL),
    ],
)
def test_the_tests_have_a_name_of_their_own_for_their_source(given: dict[str, str], source: str | None) -> None:
    """The product's name is understood too; it is gone either way."""
    environ = {**given, "MATERIALIZE_PASSWORD_FILE": "x", "PATH": "/bin"}
    environment.separate(environ)
    assert environ.pop(environment.SOURCE_URL, None) == source
    assert environ == {"PATH": "/bin"}


def test_a_started_program_finds_nothing_that_the_product_reads() -> None:
    """Whatever this very test run was started with."""
    code = "import os; print(*os.environ)"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    others = [name for name in names if not name.startswith("RECONCILE_TEST_")]
    assert [name for name in others if name.startswith(("RECONCILE_", "MATERIALIZE_", "REDIS_", "PG"))] == []
