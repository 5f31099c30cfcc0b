"""What tests owe each other when several workers run them side by side (pytest-xdist, `make test`).

A test marked `alone` measures time or fills the machine: it comes last, and no other test runs meanwhile. One marked
`long` comes first. Tests that share something dear to make, such as the Lambda zip, run in one worker. Without xdist
only the order remains.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

WORKERS_PER_CPU = 2
"""Tests wait more than they compute; with more workers than this those that look at a clock begin to fail."""
SHARED_FIXTURES = ("lambda_zip", "replays")
ONE_WORKER_PER_MODULE = Path(__file__).parents[1] / "unit"
"""Quick tests: handing them out one by one would cost more than they do."""


def workers() -> int:
    """How many; none where all tests share a Redis server that somebody else runs, because they empty it."""
    return 0 if os.environ.get("RECONCILE_TEST_REDIS_URL") else WORKERS_PER_CPU * (os.cpu_count() or 1)


def check_grouped(item: pytest.Item) -> None:
    """Raise if the test's group did not reach xdist: versions that do not fit, which nobody would notice otherwise."""
    group = item.get_closest_marker("xdist_group")
    if group and item.config.getoption("loadgroup", default=False):
        assert item.nodeid.endswith(f"@{group.args[0]}"), "xdist does not know this pytest: make .venv/.installed"


def is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def arrange(items: list[pytest.Item]) -> None:
    """Bring the longest to the front, those that must be alone to the end, and together what belongs to one worker."""
    items.sort(key=_rank)
    for item in items:
        if group := _group(item):
            item.add_marker(pytest.mark.xdist_group(group))


def _rank(item: pytest.Item) -> int:
    if is_alone(item):
        return 3
    if item.path.is_relative_to(ONE_WORKER_PER_MODULE):
        return 2
    return 0 if item.get_closest_marker("long") or _group(item) else 1


def _group(item: pytest.Item) -> str | None:
    if is_alone(item):
        return "alone"
    if item.path.is_relative_to(ONE_WORKER_PER_MODULE):
        return item.path.stem
    return next((name for name in SHARED_FIXTURES if name in getattr(item, "fixturenames", ())), None)


@contextlib.contextmanager
def turn(item: pytest.Item) -> Iterator[None]:
    """Hold the machine, alone or with others, for as long as the test runs."""
    with Path(__file__).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX if is_alone(item) else fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # not left to close(): a child may have inherited the file
