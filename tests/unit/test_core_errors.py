"""Errors as an interface: exit codes, kinds, and which code a run of several views exits with."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from reconcile import errors
from reconcile.errors import ExitCode, ReconcileError, worst

PRIORITY = [ExitCode(code) for code in (2, 5, 1, 8, 7, 6, 4, 3, 0)]
"""docs/report.md; 3 before all others in a verify."""


def all_errors() -> list[type[ReconcileError]]:
    found: list[type[ReconcileError]] = []
    queue = [ReconcileError]
    while queue:
        one = queue.pop(0)
        found.append(one)
        # Adapters have leaves of their own (functions.event); the tree drawn is that of reconcile.errors.
        queue += [leaf for leaf in one.__subclasses__() if leaf.__module__ == errors.__name__]
    return found


def test_every_exit_code_has_a_place_in_the_priority() -> None:
    """A code that is added must be ranked, or a run that meets it would end in a traceback."""
    assert sorted(PRIORITY) == sorted(ExitCode)
    assert all(worst([code]) is code for code in ExitCode)


def test_no_codes_is_success() -> None:
    """A run of no views did nothing wrong."""
    assert worst([]) is ExitCode.OK


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(PRIORITY, 2)))
def test_the_worse_of_two_codes_wins(one: ExitCode, other: ExitCode) -> None:
    """Whatever the order of the views."""
    assert worst([one, other]) is one
    assert worst([other, one]) is one


@pytest.mark.parametrize("other", PRIORITY)
def test_drift_that_verify_found_is_never_hidden(other: ExitCode) -> None:
    """Another view's trouble is told in its own part of the report."""
    assert worst([other, ExitCode.DRIFT], verify=True) is ExitCode.DRIFT
    assert worst([ExitCode.DRIFT, other], verify=True) is ExitCode.DRIFT
    assert worst([other], verify=True) is other


def test_the_worst_of_many_codes_wins() -> None:
    """More codes, and repeated ones, change nothing."""
    for n in range(1, len(PRIORITY) + 1):
        codes = PRIORITY[-n:] * 3
        random.Random(n).shuffle(codes)
        assert worst(codes) is PRIORITY[-n]


@pytest.mark.parametrize(
    ("name", "code", "kind"),
    [
        ("ReconcileError", 1, "reconcile_error"),
        ("UsageError", 2, "usage_error"),
        ("ConfigError", 2, "config_error"),
        ("SchemaError", 2, "schema_error"),
        ("ResultTooLarge", 2, "result_too_large"),
        ("FellBehind", 6, "fell_behind"),
        ("AccessError", 2, "access_error"),
        ("SafetyStop", 5, "safety_stop"),
        ("DataError", 5, "data_error"),
        ("EvaluationFailed", 5, "evaluation_failed"),
        ("StateError", 5, "state_error"),
        ("Unavailable", 6, "unavailable"),
        ("LeaseLost", 6, "lease_lost"),
        ("Incomplete", 4, "incomplete"),
        ("LeaseHeld", 7, "lease_held"),
        ("HistoryLost", 8, "history_lost"),
    ],
)
def test_each_error_has_its_code_and_kind(name: str, code: int, kind: str) -> None:
    """Scripts rely on the code, programs on the kind."""
    error = getattr(errors, name)("something", hint="do this")
    assert (int(error.exit_code), error.kind) == (code, kind)
    assert (error.message, error.hint, str(error)) == ("something", "do this", "something")


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """Every error is drawn once, with the code it has; a line without number inherits its parent's."""
    drawn: dict[str, int] = {}
    parent_code = 1
    for text in (errors.__doc__ or "").splitlines():
        words = text.replace("│", " ").replace("├──", " ").replace("└──", " ").split()
        if not words or not hasattr(errors, words[0]):
            continue
        if len(words) > 1 and words[1].isdigit():
            parent_code = int(words[1])
        drawn[words[0]] = parent_code
    assert drawn == {one.__name__: int(one.exit_code) for one in all_errors()}


def test_every_error_says_in_one_sentence_what_it_means() -> None:
    """The class docstring is what documentation quotes."""
    for one in all_errors():
        assert one.__doc__, one
        assert one.__doc__.strip().endswith("."), one


def test_the_help_lists_every_exit_code() -> None:
    """`reconcile --help` is where people look first."""
    text = (Path(errors.__file__).parent / "cli" / "entry.py").read_text()
    listed = text[text.index("Exit codes:") :].split('"""')[0]
    for code in ExitCode:
        assert f"{int(code)} " in listed, code
