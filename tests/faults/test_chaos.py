"""Everything at once, as real processes (chaos/__init__.py)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.chaos.places import KINDS
from tests.faults.chaos.story import Story
from tests.faults.chaos.worlds import new_world
from tests.support.seed import rng
from tests.support.tls import Wallet, make_wallet

FEW, MANY = (1, 25), (3, 40)
"""Rounds, and actions in each: in CI, with --soak."""
STORIES = 100


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Number the stories of each kind of place."""
    metafunc.parametrize("number", range(STORIES if metafunc.config.getoption("--soak") else 1))
    metafunc.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def wallet(tmp_path_factory: pytest.TempPathFactory) -> Wallet:
    return make_wallet(tmp_path_factory.mktemp("tls"))


def test_chaos(kind: str, number: int, wallet: Wallet, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Whatever happens, the next runs make Redis the view; and verify knows whether it is."""
    soak = request.config.getoption("--soak")
    drawn = rng("chaos", kind, number) if soak else random.Random(f"chaos {kind}")
    with new_world(kind, tmp_path, drawn, wallet.server) as world:
        Story(world).tell(*(MANY if soak else FEW))
